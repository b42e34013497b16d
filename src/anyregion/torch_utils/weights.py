"""State dicts: read without running what is in the file, compared, written, hashed. Needs torch."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyregion.errors import AnyRegionError, CheckpointError
from anyregion.files import atomic_path, order_metadata, writing

# what `torch.load` raises for cut or foreign files depends on where they break
_BROKEN = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError,
    struct.error, zipfile.BadZipFile, NotImplementedError, MemoryError,
)  # fmt: skip
# bytes that any archive may unpack to, however small it is
LARGEST_UNPACKED = 2**30
_WRAPPERS = ("model", "state_dict")
_SNIFFED = 512  # bytes of a file's beginning that say what it is
_OTHER_KINDS: Mapping[str, tuple[bytes, ...]] = {
    "a picture": (b"\xff\xd8\xff", b"\x89PNG", b"GIF8"),
    "a packed archive: unpack it first": (b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ"),
    "a pointer of Git LFS: the file itself was not fetched": (b"version https://git-lfs",),
}
# what a configuration says of its file and the library; names with an underscore do so too
_BOOKKEEPING = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of one that `torch.save` wrote, onto the CPU.

    A dict nested under `model` or `state_dict`, as trainers write it, is unwrapped, and so is the
    `module.` that data-parallel training puts before every name.

    Safetensors are read under any name.

    Raises:
        CheckpointError: no such file, no checkpoint, truncated or broken, pickled code or objects,
            a TorchScript archive, or no named tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder, no checkpoint" if path.is_dir() else "there is no such file"
        raise CheckpointError(f"{path}: {problem}")
    content = _safetensors(path) if is_safetensors(path) else _torch_file(path)
    # published RegionSpot checkpoints are {"model": ...}, Lightning's {"state_dict": ...}
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def compare_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """What is missing, unexpected or of another shape in `state`, in one line; None if nothing."""
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"missing {_few(missing)}")
    if unexpected := sorted(state.keys() - expected.keys()):
        problems.append(f"unexpected {_few(unexpected)}")
    mismatched = [
        f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if mismatched:
        problems.append(f"of another size: {_few(mismatched)}")
    return "; ".join(problems) or None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a `.safetensors` file, whole or not at all; equal tensors and metadata, equal bytes.

    Raises:
        AnyRegionError: it cannot be written: no permission, a full disk, a file in the way.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with writing(path), atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
            order_metadata(temporary)
        except SafetensorError as error:  # what the library makes of an `OSError`
            raise AnyRegionError(f"{path}: cannot be written ({error})") from None


def fingerprint(tensors: Iterable[tuple[str, Tensor]], *settings: object) -> str:
    """A hash of named tensors in any order (names, shapes, types, every byte), and of settings.

    Args:
        tensors: as `state_dict().items()` gives them.
        settings: what else changes a model's outputs; hashed by their `repr`.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        # the bytes as they are: bfloat16 has no numpy type
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def config_json(config: Any) -> str:
    """A `transformers` configuration as sorted JSON, without paths, versions and precision.

    Two with the same weights may still differ here in activation, heads, the norms' eps: those
    are other models. Copies of one model in two folders are equal.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            items = ((str(key), item) for key, item in value.items())
            return {
                key: plain(item)
                for key, item in items
                if key not in _BOOKKEEPING and not key.startswith("_")
            }
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(config.to_dict()), sort_keys=True, default=str)


def _few(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest


def is_safetensors(path: Path) -> bool:
    """Whether a file is to be read as safetensors; else as one of `torch.save`.

    Raises:
        CheckpointError: it begins like neither, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    # an archive, or a pickle that states its protocol (of torch before 1.6)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return path.suffix == ".safetensors"  # which torch takes for that too: refused there
    # eight bytes that say how long the JSON behind them is
    if start[4:9] == b"\0\0\0\0{":
        return True
    kinds = (kind for kind, signs in _OTHER_KINDS.items() if start.startswith(signs))
    if not start:
        problem = "is empty"
    elif (kind := next(kinds, None)) is not None:
        problem = f"is {kind}"
    elif _is_text(start):
        problem = "is text"
    else:
        problem = "begins as no file of torch.save or safetensors does"
    raise CheckpointError(f"{path} is no checkpoint: it {problem}")


def _is_text(start: bytes) -> bool:
    # the last character may be cut
    text = start.decode("utf-8", errors="ignore")
    return len(start) - len(text.encode()) < 4 and all(c.isprintable() or c.isspace() for c in text)


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not safetensors ({error})") from None


def load_tensors(path: Path, *, mapped: bool = False) -> Any:
    """What `torch.save` wrote, onto the CPU, without unpickling anything but tensors.

    Args:
        mapped: leave the tensors on the disk; for ZIP archives.
    """
    with warnings.catch_warnings():
        # of a pickle's protocol, whether it is read or refused
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _torch_file(path: Path) -> Any:
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path}: a TorchScript archive; reading it would run the code in it. Name the model "
            "of a hub instead (openai/clip-vit-base-patch32), or, where you trust the file, save "
            "its weights once: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')"
        )
    try:
        return load_tensors(path)
    except pickle.UnpicklingError:
        # torch's own text advises to load it all the same
        raise CheckpointError(
            f"{path}: holds more than tensors: pickled objects, which could run code. It was not "
            "loaded; save the state dict alone, or use safetensors"
        ) from None
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: broken or truncated ({reason})") from None


def _is_torchscript(path: Path) -> bool:
    """Whether a ZIP archive holds code; one that unpacks to very much more than it is, is refused.

    `torch.save` compresses nothing; archives that were packed again are read while they are small,
    or a quarter of their tensors' size.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise CheckpointError(
                    f"{path}: broken or truncated (a ZIP archive without its end)"
                )
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _BROKEN as error:
        raise CheckpointError(f"{path}: a broken ZIP archive ({error})") from None
    if not any(Path(entry.filename).name == "data.pkl" for entry in entries):
        raise CheckpointError(
            f"{path} is no checkpoint: it is a ZIP archive without the data.pkl of torch.save"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(4 * path.stat().st_size, LARGEST_UNPACKED):
        raise CheckpointError(
            f"{path}: {path.stat().st_size:,} bytes that unpack to {unpacked:,}, as torch.save "
            "writes none. It was not loaded; save the state dict anew"
        )
    return any(entry.filename.endswith("/constants.pkl") for entry in entries)
