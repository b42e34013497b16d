"""Nothing is sent anywhere, and nothing is written outside our own cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMANDS = {
    "recognize": ["recognize", "photo.png", "--box", "1,1,50,50", "--vocabulary", "cat,dog"],
    "auto": ["recognize", "photo.png", "--regions", "auto", "--vocabulary", "coco", "--masks"],
    "exemplars": ["recognize", "photo.png", "--box", "1,1,50,50", "--exemplars", "shown"],
    "models": ["models"],
    "doctor": ["doctor"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_opens_no_socket_and_writes_to_no_other_folder(name: str, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    (work / "shown" / "cat").mkdir(parents=True)
    Image.new("RGB", (64, 64), "gray").save(work / "photo.png")
    Image.new("RGB", (64, 64), "gray").save(work / "shown" / "cat" / "1.png")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "ANYREGION"))}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    # some of a sandbox's kernels trace no process
    traced = [strace, "-f", "-qq", "-e", "trace=socket,connect", "-o", str(tmp_path / "calls")]
    if subprocess.run([*traced, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    done = subprocess.run(
        [*traced, sys.executable, "-m", "anyregion", *COMMANDS[name]],
        cwd=work, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    # sockets of the machine itself (names of users, say) are no network
    assert [c for c in calls if "socket(" in c and "AF_UNIX" not in c] == []
    files = [p.relative_to(home) for p in home.rglob("*") if p.is_file()]
    assert [p for p in files if p.parts[:2] != (".cache", "anyregion")] == []


def test_a_users_own_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from anyregion.compact.assets import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
