"""Checkpoints, case by case: an error that names the file, and none of its code is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyregion import CheckpointError


class Payload:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('opened').touch()",))


def adapter_state(**more: Any) -> dict[str, Any]:
    from anyregion.regionspot.adapter import Adapter, AdapterConfig

    config = AdapterConfig(token_width=16, feature_width=32, embed_width=24, heads=4)
    return {"model": {f"model.{n}": t for n, t in Adapter(config).state_dict().items()} | more}


def saved(content: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
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
    "truncated": (lambda: saved(adapter_state())[:-500], "broken or truncated"),
    "zero bytes": (lambda: b"", "broken or truncated"),
    "text": (lambda: b"not a checkpoint", "could run code|broken or truncated"),
    "another zip": (zipped, "broken or truncated"),
    "TorchScript": (script, "TorchScript"),
    "a list": (lambda: saved([1, 2]), "holds a list"),
    "no tensors": (lambda: saved({"model": {"a": 1}}), "no named tensors"),
    "another layout": (lambda: saved({"model": {"w": saved_tensor()}}), "not RegionSpot's layout"),
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
