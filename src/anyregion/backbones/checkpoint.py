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

WEIGHTS, DESCRIPTION = "backbone.safetensors", "backbone.json"
FORMAT = "anyregion.backbone/1"
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class BackboneInfo:
    """The contents of `backbone.json`.

    Attributes:
        name: `torchvision/resnet18`.
        size: side of the images that it was trained with, in pixels.
        mean, std: by which they were normalised, RGB in 0 to 1.
        fingerprint: of the weights.
        about: whatever else `save_encoder` was given.
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
    """Write the encoder's weights under its library's own names, and a description.

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
            folder / DESCRIPTION,
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


def find_backbone_folder(path: str | Path) -> Path | None:
    """The folder with `backbone.json`: `path` itself, or `model/` of a run; else None."""
    folder = Path(path).expanduser()
    return next((f for f in (folder, folder / "model") if (f / DESCRIPTION).is_file()), None)


def read_backbone(folder: Path) -> tuple[BackboneInfo, dict[str, Tensor]]:
    """A folder's description and its weights, checked against each other.

    Raises:
        CheckpointError: files missing, malformed, or not of one another.
    """
    info = _read_info(folder)
    state = read_state_dict(folder / WEIGHTS)
    # other weights under this description would load, and be judged under a wrong name
    if fingerprint(state.items()) != info.fingerprint:
        raise CheckpointError(
            f"{folder}: {WEIGHTS} is not the one that {DESCRIPTION} was written for, or was "
            "changed since"
        )
    return info, state


def read_mean_std(folder: Path) -> tuple[Triple, Triple] | None:
    """Mean and deviation that a Hugging Face folder states for its images; None where it does not.

    Raises:
        CheckpointError: what is stated is malformed.
    """
    # transformers has a file of its own; timm's models on the hub state them in the configuration
    for name, keys in (
        ("preprocessor_config.json", ("image_mean", "image_std")),
        ("config.json", ("mean", "std")),
    ):
        path = folder / name
        if not path.is_file():
            continue
        content = _read_json(path)
        if name == "config.json" and isinstance(content, dict):
            content = content.get("pretrained_cfg")
        if isinstance(content, dict) and all(content.get(key) is not None for key in keys):
            return _mean_std(path, content, *keys)
    return None


def _read_info(folder: Path) -> BackboneInfo:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {DESCRIPTION}: not a folder made by save_encoder")
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not of the format {FORMAT!r}")
    name, size, about = content.get("name"), content.get("size"), content.get("about", {})
    digest = content.get("fingerprint")
    # a name goes into a message and into a library's registry: nothing but a name passes
    if not isinstance(name, str) or not re.fullmatch(r"(torchvision|timm)/[\w.]{1,100}", name):
        raise CheckpointError(f"{path}: name {str(name)[:100]!r} is no backbone's")
    if type(size) is not int or not 1 <= size <= 8192:
        raise CheckpointError(f"{path}: size {str(size)[:20]!r} is not 1 to 8192 pixels")
    if not isinstance(digest, str) or not isinstance(about, dict):
        raise CheckpointError(f"{path}: fingerprint or about is missing")
    mean, std = _mean_std(path, content, "mean", "std")
    return BackboneInfo(name, size, mean, std, digest, about)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except InputError as error:
        raise CheckpointError(str(error)) from None


def _mean_std(
    path: Path, content: Mapping[str, Any], mean_key: str, std_key: str
) -> tuple[Triple, Triple]:
    triples: list[Triple] = []
    for key in (mean_key, std_key):
        values = content.get(key)
        # a bool is an int to isinstance; NaN and infinity are not below 1e6
        if (
            not isinstance(values, list)
            or len(values) != 3
            or not all(type(value) in (int, float) and abs(value) < 1e6 for value in values)
        ):
            raise CheckpointError(f"{path}: {key} is not three numbers")
        triples.append((float(values[0]), float(values[1]), float(values[2])))
    mean, std = triples
    if not all(value > 0 for value in std):
        raise CheckpointError(f"{path}: std {std} is not above 0")
    return mean, std
