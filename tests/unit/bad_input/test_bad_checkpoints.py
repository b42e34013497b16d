"""Checkpoints, case by case: an error that names the file, and none of its code is run."""

from __future__ import annotations

import gzip
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion import CheckpointError
from anyregion.cli.main import main


class Payload:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('opened').touch()",))


def adapter_state(**more: Any) -> dict[str, Any]:
    from anyregion.regionspot.adapter import Adapter, AdapterConfig

    config = AdapterConfig(token_width=16, feature_width=32, embed_width=24, heads=4)
    return {"model": {f"model.{n}": t for n, t in Adapter(config).state_dict().items()} | more}


def saved(content: Any, *, old: bool = False) -> bytes:
    """As `torch.save` writes it; `old`: as before torch 1.6."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def safe(tensors: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


def photograph() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


def misshapen() -> bytes:
    import torch

    return saved(adapter_state(**{"model.projector.bias": torch.ones(3)}))


def script() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


REFUSED_CHECKPOINTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pickled code among tensors": (
        lambda: saved(adapter_state(**{"model.to_clip.weight": Payload()})),
        "could run code",
    ),
    "pickled code alone": (lambda: pickle.dumps(Payload()), "could run code"),
    "a pickled class": (lambda: pickle.dumps(OrderedDict(), 3), "broken or truncated"),
    "a pickled path": (lambda: pickle.dumps(Path(), 5), "could run code"),
    "truncated": (lambda: saved(adapter_state())[:-500], "broken or truncated"),
    "truncated, of old torch": (lambda: saved(adapter_state(), old=True)[:-500], "truncated"),
    "truncated safetensors": (lambda: safe({"a": saved_tensor()})[:-4], "truncated"),
    "zero bytes": (lambda: b"", "is no checkpoint: it is empty"),
    "text": (lambda: b"not a checkpoint", "is no checkpoint: it is text"),
    "text of pickle's opcodes": (lambda: b"hello, these are notes", "checkpoint: it is text"),
    "a cut character": (lambda: "ä".encode() * 600, "checkpoint: it is text"),
    "a pickle of protocol 0": (lambda: pickle.dumps(Payload(), 0), "checkpoint: it is text"),
    "a photograph": (photograph, "is no checkpoint: it is a picture"),
    "a packed archive": (lambda: gzip.compress(b"weights"), "unpack it first"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "not fetched"),
    "noise": (lambda: bytes(range(1, 256)), "is no checkpoint: it begins as no file"),
    "another zip": (zipped, "is no checkpoint: it is a ZIP archive without"),
    "TorchScript": (script, "TorchScript"),
    "a list": (lambda: saved([1, 2]), "holds a list"),
    "no tensors": (lambda: saved({"model": {"a": 1}}), "no named tensors"),
    "another layout": (lambda: saved({"model": {"w": saved_tensor()}}), "not RegionSpot's layout"),
    "many unknown parts": (
        lambda: saved({"model": {f"w{i}": saved_tensor() for i in range(7)}}),
        r"unknown \['w0', 'w1', 'w2', 'w3'\] and 3 more",
    ),
    "unknown part": (
        lambda: saved(adapter_state(**{"model.teacher.weight": saved_tensor()})),
        "teacher",
    ),
    "other sizes": (misshapen, r"projector\.bias is \(3,\), not \(24,\)"),
}


def saved_tensor() -> Any:
    import torch

    return torch.ones(2)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("case", REFUSED_CHECKPOINTS)
def test_checkpoint_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from anyregion.regionspot.checkpoint import convert_checkpoint

    monkeypatch.chdir(tmp_path)
    content, reason = REFUSED_CHECKPOINTS[case]
    path = tmp_path / "model.pth"
    path.write_bytes(content())
    with pytest.raises(CheckpointError, match=reason) as caught:
        convert_checkpoint(path, tmp_path / "out", vlm="some/clip")
    assert "model.pth" in str(caught.value)
    assert not (tmp_path / "opened").exists()  # nothing of it ran
    assert not (tmp_path / "out").exists()  # and nothing was written


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from anyregion.torch_utils.weights import read_state_dict

    (tmp_path / "weights.pth").write_bytes(safe({"a": saved_tensor()}))
    assert read_state_dict(tmp_path / "weights.pth")["a"].tolist() == [1, 1]
    (tmp_path / "weights.safetensors").write_bytes(saved({"a": saved_tensor()}))
    with pytest.raises(CheckpointError, match="not safetensors"):
        read_state_dict(tmp_path / "weights.safetensors")


def test_the_command_names_the_file_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pickled, folder = tmp_path / "pickled.pth", tmp_path / "folder"
    pickled.write_bytes(pickle.dumps(Payload(), 4))  # of which torch would warn
    folder.mkdir()
    for path, reason in ((pickled, "could run code"), (folder, "is a folder, no checkpoint")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert main(["convert", str(path), str(tmp_path / "out")]) == 1
        printed = capfd.readouterr().err
        assert reason in printed
        assert len(printed.splitlines()) == 1
