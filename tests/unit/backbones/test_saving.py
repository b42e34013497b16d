"""Encoders as folders: there and back, and folders that are not to be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anyregion.backbones.loading import build_encoder, load_encoder, save_encoder
from anyregion.errors import AnyRegionError, CheckpointError, InputError
from tests.helpers.small_backbones import scrambled

Content = dict[str, Any]


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/test_vit", "timm/convnext_atto"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    encoder = build_encoder(name, size=64).eval()
    scrambled(encoder)
    encoder.mean = (0.4, 0.5, 0.6)
    save_encoder(encoder, tmp_path / "run" / "model", origin="nowhere", epochs=3)
    images = torch.rand(1, 3, 64, 64)
    for where in (tmp_path / "run" / "model", str(tmp_path / "run")):
        again = load_encoder(where).eval()
        assert torch.equal(again(images), encoder(images))
        assert torch.equal(again.intermediate(images), encoder.intermediate(images))
        assert (again.name, again.size, again.mean) == (name, 64, (0.4, 0.5, 0.6))
    other = load_encoder(tmp_path / "run", size=96)
    assert other(torch.rand(1, 3, 96, 96)).shape[2:] == ((6, 6) if "vit" in name else (3, 3))


def test_what_is_written(tmp_path: Path) -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    save_encoder(encoder, tmp_path, size=80, origin="nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "backbone.json",
        "backbone.safetensors",
    ]
    about = json.loads((tmp_path / "backbone.json").read_text())
    assert (about["name"], about["size"]) == ("torchvision/resnet18", 80)
    assert about["about"] == {"origin": "nowhere"}
    assert about["std"] == [0.229, 0.224, 0.225]
    with safe_open(tmp_path / "backbone.safetensors", framework="pt") as file:
        assert "layer4.1.bn2.weight" in file.keys()  # noqa: SIM118
        assert not [name for name in file.keys() if name.startswith("fc")]  # noqa: SIM118


def test_a_folder_as_weights_of_a_name(tmp_path: Path) -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    save_encoder(encoder, tmp_path / "model")
    for weights in (tmp_path, tmp_path / "model", tmp_path / "model" / "backbone.safetensors"):
        again = load_encoder("timm/resnet18", size=64, weights=weights)
        assert torch.equal(again.body.conv1.weight, encoder.body.conv1.weight)
    with pytest.raises(CheckpointError, match="timm/resnet34"):
        load_encoder("timm/resnet34", size=64, weights=tmp_path)
    with pytest.raises(InputError, match="has its own weights"):
        load_encoder(tmp_path, weights=tmp_path)


def test_a_name_goes_to_build_encoder() -> None:
    assert load_encoder("torchvision/resnet18").size == 224
    with pytest.raises(InputError, match="LIBRARY/MODEL"):
        load_encoder("nowhere/at/all")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_encoder(build_encoder("timm/test_vit", size=64), folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other/9"), "not of the format"),
        (lambda c: c.update(name="os/system"), r"name 'os/system' is no backbone's"),
        (lambda c: c.update(name="timm/../../etc"), "is no backbone's"),
        (lambda c: c.update(name=7), "is no backbone's"),
        (lambda c: c.update(size=-1), "1 to 8192"),
        (lambda c: c.update(size=10**9), "1 to 8192"),
        (lambda c: c.update(size="64"), "1 to 8192"),
        (lambda c: c.update(mean=[0.5, 0.5]), "mean is not three numbers"),
        (lambda c: c.update(std=[1, 1, "x"]), "std is not three numbers"),
        (lambda c: c.update(std=[1, 1, 0]), "not above 0"),
        (lambda c: c.pop("fingerprint"), "fingerprint"),
        (lambda c: c.update(fingerprint="0" * 32), "not the one that"),
        (lambda c: c.update(about=[1]), "about"),
    ],
)
def test_a_description_that_is_wrong(
    change: Callable[[Content], Any], message: str, saved: Path, tmp_path: Path
) -> None:
    content = json.loads((saved / "backbone.json").read_text())
    change(content)
    (tmp_path / "backbone.json").write_text(json.dumps(content))
    (tmp_path / "backbone.safetensors").write_bytes((saved / "backbone.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path)


def test_a_description_of_another_network(saved: Path, tmp_path: Path) -> None:
    content = json.loads((saved / "backbone.json").read_text())
    content["name"] = "timm/resnet18"
    (tmp_path / "backbone.json").write_text(json.dumps(content))
    (tmp_path / "backbone.safetensors").write_bytes((saved / "backbone.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="none of its names is known"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "null", "1e999", '{"format": "anyregion.backbone/1"}'])
def test_a_description_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "backbone.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"backbone\.json"):
        load_encoder(tmp_path)


def test_weights_that_were_changed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "backbone.json").write_bytes((saved / "backbone.json").read_bytes())
    with pytest.raises(CheckpointError, match="no such file"):
        load_encoder(tmp_path)
    weights = load_file(saved / "backbone.safetensors")
    weights["cls_token"] += 1
    save_file(weights, tmp_path / "backbone.safetensors")
    with pytest.raises(CheckpointError, match="was changed since"):
        load_encoder(tmp_path)
    (tmp_path / "backbone.safetensors").write_bytes(b"not at all")
    with pytest.raises(CheckpointError, match="is no checkpoint: it is text"):
        load_encoder(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without backbone\.json"):
        load_encoder(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AnyRegionError, match="cannot be written"):
        save_encoder(build_encoder("timm/test_vit", size=64), tmp_path / "file" / "model")
