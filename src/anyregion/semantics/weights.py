"""Weights from files, without ever running code that a file carries."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anyregion.errors import CheckpointError, InputError

_BROKEN = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError,
    struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What `torch.load` raises for cut or foreign files."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from what `torch.save` wrote, onto the CPU.

    A dict nested under `state_dict` or `model` is unwrapped, and so is the `module.` that data
    parallel training puts before every name.

    Raises:
        InputError: no such file.
        CheckpointError: truncated or foreign data, pickled code, a TorchScript archive.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: broken or truncated safetensors ({error})") from None
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: a TorchScript archive; reading it would run the code in it. Name the model "
            "of a hub instead (openai/clip-vit-base-patch32), or, where you trust the file, save "
            "its weights once: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds pickled objects other than tensors, which could run code; it was not "
            "loaded. Save the state dict alone, or use safetensors"
        ) from None
    except _BROKEN as error:
        raise CheckpointError(f"{path}: broken or truncated ({error})") from None
    return _tensors_of(loaded, path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not a state dict")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
