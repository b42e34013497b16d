"""Files of weights: read without ever running what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from anyregion.errors import CheckpointError, InputError

_WRAPPERS = ("model", "state_dict")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file or of one that `torch.save` wrote.

    A dictionary wrapped in another, as trainers write it (`model`, `state_dict`), is unwrapped.
    The tensors are on the CPU, in the type that the file has.

    Raises:
        InputError: no such file.
        CheckpointError: truncated or broken, pickled code or objects, or no named tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named tensors")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: holds no named tensors")
    return state


def compare_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """What is missing, unexpected or of another shape in `found`, in one line; None if nothing."""
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing {_few(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"unexpected {_few(unexpected)}")
    other = [
        f"{name} {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        for name, tensor in found.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if other:
        problems.append(f"of another size {_few(other)}")
    return "; ".join(problems) or None


def _few(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not safetensors ({error})") from None


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: not tensors alone: it carries pickled code or objects, or is no checkpoint. "
            f"Nothing of it was run ({reason})"
        ) from None
    # what torch raises for broken bytes depends on where they break
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: truncated or broken ({reason})") from None
