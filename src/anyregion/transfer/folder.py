"""The folder of a network on a backbone: the backbone's own folder, a head, and what both are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anyregion.backbones.checkpoint import read_backbone, save_encoder
from anyregion.backbones.encoder import Encoder
from anyregion.backbones.loading import load_encoder
from anyregion.errors import CheckpointError, InputError
from anyregion.files import read_json, write_json, writing
from anyregion.torch_utils.weights import fingerprint, read_state_dict, write_tensors

BACKBONE = "backbone"


def save_folder(
    folder: Path,
    encoder: Encoder,
    state: Mapping[str, Tensor],
    content: Mapping[str, Any],
    *,
    head: str,
    description: str,
    transferred_to: str,
) -> None:
    """Write a backbone, the weights `head`, and the JSON `description` (`content` has `format`).

    Raises:
        AnyRegionError: it cannot be written.
    """
    save_encoder(encoder, folder / BACKBONE, transferred_to=transferred_to)
    write_tensors(folder / head, dict(state), {"format": content["format"]})
    with writing(folder):
        stated = {**content, "fingerprint": fingerprint(state.items())}
        write_json(folder / description, stated, indent=2)


def find_folder(
    folder: str | Path, description: str, format_name: str
) -> tuple[Path, dict[str, Any]]:
    """The folder that holds a description, or a run's `model/`, and what it says.

    Raises:
        CheckpointError: none there, malformed, or of another format.
    """
    root = Path(folder).expanduser()
    place = next((f for f in (root, root / "model") if (f / description).is_file()), None)
    if place is None:
        raise CheckpointError(f"{root}: no {description}, here or in model/")
    try:
        content = read_json(place / description)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or content.get("format") != format_name:
        raise CheckpointError(f"{place / description}: not of the format {format_name!r}")
    return place, content


def read_parts(
    place: Path, content: Mapping[str, Any], *, head: str, description: str
) -> tuple[Encoder, dict[str, Tensor]]:
    """The backbone and the head's weights that a description was written for.

    Raises:
        CheckpointError: files are missing, malformed, or not of one another.
    """
    state = read_state_dict(place / head)
    if fingerprint(state.items()) != content.get("fingerprint"):
        raise CheckpointError(f"{place}: {head} is not the one that {description} was written for")
    read_backbone(place / BACKBONE)  # so that a folder without one is not taken for a name
    return load_encoder(place / BACKBONE), state
