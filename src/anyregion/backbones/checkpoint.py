"""An encoder as a folder: `backbone.safetensors` and `backbone.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anyregion.backbones.encoder import Encoder
from anyregion.errors import CheckpointError, InputError
from anyregion.files import read_json, write_json, writing
from anyregion.torch_utils.weights import fingerprint, read_state_dict, write_tensors

WEIGHTS, ABOUT = "backbone.safetensors", "backbone.json"
FORMAT = "anyregion.backbone/1"
Triple = tuple[float, float, float]
# transformers' own file; timm's models on the hub have it in their configuration
_STATED = (
    ("preprocessor_config.json", "", ("image_mean", "image_std")),
    ("config.json", "pretrained_cfg", ("mean", "std")),
)


@dataclass(frozen=True)
class SavedBackbone:
    """What `backbone.json` states.

    Attributes:
        name: `torchvision/resnet18`.
        size: side of the images that it was trained with, in pixels.
        mean, std: by which they were normalised, RGB in 0 to 1.
        fingerprint: of the weights.
        about: whatever else was said of it.
    """

    name: str
    size: int
    mean: Triple
    std: Triple
    fingerprint: str
    about: Mapping[str, Any]


def save_encoder(
    encoder: Encoder, folder: str | Path, *, size: int | None = None, **about: Any
) -> None:
    """Write the encoder's weights under its library's own names, and what it is.

    Args:
        folder: made if it is missing; each file is written whole or not at all.
        size: side of the images that it was trained with, in pixels; None for `encoder.size`.
        about: more to state, in plain JSON (`origin="r2o, 100 epochs"`).

    Raises:
        AnyRegionError: it cannot be written.
    """
    folder = Path(folder)
    state = encoder.body.state_dict()
    write_tensors(folder / WEIGHTS, state, {"format": FORMAT, "name": encoder.name})
    with writing(folder):
        write_json(
            folder / ABOUT,
            {
                "format": FORMAT,
                "name": encoder.name,
                "size": size or encoder.size,
                "mean": list(encoder.mean),
                "std": list(encoder.std),
                "fingerprint": fingerprint(state.items()),
                "about": about,
            },
            indent=2,
        )


def find_saved(where: str | Path) -> Path | None:
    """The folder with `backbone.json`: `where` itself, or `model/` of a run; else None."""
    folder = Path(where).expanduser()
    return next((f for f in (folder, folder / "model") if (f / ABOUT).is_file()), None)


def read_saved(folder: Path) -> tuple[SavedBackbone, dict[str, Tensor]]:
    """What a folder states, and its weights, checked against each other.

    Raises:
        CheckpointError: files missing, malformed, or not of one another.
    """
    about = read_about(folder)
    state = read_state_dict(folder / WEIGHTS)
    if fingerprint(state.items()) != about.fingerprint:
        raise CheckpointError(
            f"{folder}: {WEIGHTS} is not the one that {ABOUT} was written for, or was changed since"
        )
    return about, state


def read_about(folder: Path) -> SavedBackbone:
    """What `backbone.json` states.

    Raises:
        CheckpointError: it is missing or malformed.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {ABOUT}: not a folder made by save_encoder")
    try:
        content = read_json(path)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not of the format {FORMAT!r}")
    name, size, about = content.get("name"), content.get("size"), content.get("about", {})
    mark = content.get("fingerprint")
    if not isinstance(name, str) or not re.fullmatch(r"(torchvision|timm)/[\w.]{1,100}", name):
        raise CheckpointError(f"{path}: name {str(name)[:100]!r} is no backbone's")
    if type(size) is not int or not 1 <= size <= 8192:
        raise CheckpointError(f"{path}: size {str(size)[:20]!r} is not 1 to 8192 pixels")
    if not isinstance(mark, str) or not isinstance(about, dict):
        raise CheckpointError(f"{path}: fingerprint or about is missing")
    mean, std = _triple(path, content, "mean"), _triple(path, content, "std")
    if not all(value > 0 for value in std):
        raise CheckpointError(f"{path}: std {std} is not above 0")
    return SavedBackbone(name, size, mean, std, mark, about)


def read_normalisation(folder: Path) -> tuple[Triple, Triple] | None:
    """Mean and deviation that a Hugging Face folder states for its images; None where it does not.

    Raises:
        CheckpointError: what is stated is malformed.
    """
    for name, part, keys in _STATED:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read_json(path)
        except InputError as error:
            raise CheckpointError(str(error)) from None
        found = content.get(part) if part and isinstance(content, dict) else content
        if isinstance(found, dict) and all(found.get(key) is not None for key in keys):
            mean, std = (_triple(path, found, key) for key in keys)
            if not all(value > 0 for value in std):
                raise CheckpointError(f"{path}: std {std} is not above 0")
            return mean, std
    return None


def _triple(path: Path, content: Mapping[str, Any], key: str) -> Triple:
    values = content.get(key)
    if isinstance(values, list) and len(values) == 3 and all(_is_number(v) for v in values):
        return float(values[0]), float(values[1]), float(values[2])
    raise CheckpointError(f"{path}: {key} is not three numbers")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6
