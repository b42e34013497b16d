"""`anyregion doctor`: problems first, and of the extras only those that are installed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anyregion.cli import doctor
from anyregion.cli.main import main

ROOT = Path(__file__).parents[3]
CORE = [Requirement("numpy>=1.26")]
EXTRAS = {
    "serve": ["starlette>=1.3.1", "uvicorn>=0.30"],
    "torch": ["protobuf>=5", "torch>=2.10", "transformers>=5"],
    "train": ["protobuf>=5", "torch>=2.10", "transformers>=5", "jsonargparse[signatures]>=4.49"],
}
COMPLETE = {"numpy": "2.0"}
SERVE = {"starlette": "1.4", "uvicorn": "0.31"}
TORCH = {"protobuf": "6", "torch": "2.15.0+cpu", "transformers": "6.0.dev0"}


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`doctor.examine()` where some packages are installed."""

    def with_packages(**versions: str) -> dict[str, Any]:
        extras = {e: [Requirement(line) for line in lines] for e, lines in EXTRAS.items()}
        monkeypatch.setattr(doctor, "requirements", lambda: (CORE, extras))
        monkeypatch.setattr(doctor, "package_version", versions.get)
        return doctor.examine()

    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "_torch_devices", list)
    monkeypatch.setattr(doctor, "_try_model", lambda: ("ok", None))
    monkeypatch.setattr(doctor, "FREE_BYTES", 0)
    return with_packages


def test_this_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_torch_devices", list)
    assert main(["doctor"]) == 0
    assert "built-in model" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    assert report["packages"]["numpy"]
    assert {"torch", "dev"} <= set(report["extras"])


def test_says_first_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: Any) -> Any:
        raise OSError("asset is not there")

    monkeypatch.setattr("anyregion.factory.load_recognizer", broken)
    monkeypatch.setattr(doctor, "_torch_devices", list)
    assert main(["doctor"]) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "problem: the built-in model does not work: asset is not there"
    assert second == "     do: pip install --force-reinstall anyregion"


def test_an_extra_that_is_not_installed_is_no_problem(examine: Any) -> None:
    # protobuf is there, as a dependency of something else
    report = examine(**COMPLETE, protobuf="6")
    assert report["problems"] == []
    assert report["installed"] == []
    assert list(report["packages"]) == ["numpy"]
    assert report["extras"]["torch"] == ["torch", "transformers"]


def test_an_extra_that_no_table_has_is_passed_over(
    examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(doctor.LEADING, "serve")
    assert examine(**COMPLETE, **SERVE)["installed"] == []


def test_complete_extras_are_listed(examine: Any) -> None:
    report = examine(**COMPLETE, **SERVE, **TORCH)
    assert report["problems"] == []
    assert report["installed"] == ["serve", "torch"]
    assert "jsonargparse" not in report["packages"]


@pytest.mark.parametrize(
    ("versions", "what", "action"),
    [
        ({"starlette": "1.4"},
         "uvicorn is missing, which anyregion[serve] needs", "anyregion[serve]"),
        ({**SERVE, "starlette": "0.9"},
         "starlette is 0.9; anyregion[serve] needs", "starlette>=1.3.1"),
        # [torch] is a part of [train], which was meant
        ({"torch": "2.15", "protobuf": "6", "jsonargparse": "4.50"},
         "transformers is missing, which anyregion[train] needs", "anyregion[train]"),
    ],
    ids=["missing", "old", "nested"],
)  # fmt: skip
def test_an_incomplete_extra(
    examine: Any, versions: dict[str, str], what: str, action: str
) -> None:
    report = examine(**COMPLETE, **versions)
    (problem,) = report["problems"]
    assert problem["what"].startswith(what)
    assert problem["action"] == f"pip install '{action}'"
    assert report["works"] is True, "the core does"


@pytest.mark.parametrize("versions", [{}, {"numpy": "1.25.2"}], ids=["missing", "old"])
def test_an_incomplete_core_does_not_work(examine: Any, versions: dict[str, str]) -> None:
    report = examine(**versions)
    assert [p["core"] for p in report["problems"]] == [True]
    assert report["works"] is False
    assert report["model"] == "not tried: the core is not complete"


def test_a_full_disk_and_an_unused_gpu(
    examine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES", 1 << 62)
    monkeypatch.setattr(doctor, "_torch_devices", lambda: ["cpu"])
    monkeypatch.setattr(doctor, "_DRIVER", tmp_path / "version")
    (tmp_path / "version").touch()
    disk, device = (p["what"] for p in examine(**COMPLETE)["problems"])
    assert "MB are free" in disk
    assert "torch sees no GPU" in device
    monkeypatch.setattr(doctor, "_torch_devices", lambda: ["cpu", "cuda:0"])
    assert len(examine(**COMPLETE)["problems"]) == 1


def test_every_extra_has_a_package_that_it_stands_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert doctor.LEADING.keys() == extras.keys()
    for extra, lines in extras.items():
        names = {canonicalize_name(Requirement(line).name) for line in lines}
        assert doctor.LEADING[extra] in names, extra
