"""R2O's published training checkpoints, read into and written from the networks of this package.

A published file is `{"config", "epoch", "steps", "model", "optimizer", "amp"}`. Below `model`, each
name may begin with `module.`; the trunk of the target is there a second time, as `_fpn.*`. The
optimiser's state and the configuration are not read.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from anyregion.backbones.key_maps import count_blocks, family_of, resnet_depth
from anyregion.errors import CheckpointError
from anyregion.r2o.model import Networks
from anyregion.torch_utils.weights import (
    compare_shapes,
    is_safetensors,
    load_tensors,
    read_state_dict,
)

# how a published name begins, what stands for it in `Networks`, and the parts that may follow;
# "projetion" is published so
Rule: TypeAlias = tuple[str, str, Mapping[str, str]]
_TRUNK = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_HEAD = {"l1": "hidden", "bn1": "norm", "l2": "output"}
_FROM_PUBLISHED: tuple[Rule, ...] = (
    ("predictor.predictor.", "predictor.", _HEAD),
    ("online_network.encoder.", "online.encoder.body.", _TRUNK),
    ("online_network.projetion.", "online.projector.", _HEAD),
    ("target_network.encoder.", "target.encoder.body.", _TRUNK),
    ("target_network.projetion.", "target.projector.", _HEAD),
)
_TO_PUBLISHED: tuple[Rule, ...] = tuple(
    (own, published, {part: number for number, part in parts.items()})
    for published, own, parts in _FROM_PUBLISHED
)
_DUPLICATE = "_fpn."


@dataclass(frozen=True)
class R2OSizes:
    """Architecture and widths of a checkpoint, from its tensors' shapes.

    Attributes:
        backbone: torchvision's name, `resnet50`.
        width: of the encoder's output.
        hidden, out: of projector and predictor.
    """

    backbone: str
    width: int
    hidden: int
    out: int


@dataclass(frozen=True, eq=False)
class PublishedCheckpoint:
    """A published training checkpoint.

    Attributes:
        state: in the names of `Networks`.
        sizes: as the shapes state them.
        epoch, steps: how long it was trained; None where the file does not say.
    """

    state: dict[str, Tensor]
    sizes: R2OSizes
    epoch: int | None
    steps: int | None


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to those of `Networks`. `module.` and the second trunk `_fpn.*` are dropped.

    Raises:
        CheckpointError: a name that is not of the published layout.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    renamed = {
        name: _renamed(name, _FROM_PUBLISHED) for name in plain if not name.startswith(_DUPLICATE)
    }
    if unknown := [name for name, key in renamed.items() if key is None]:
        raise CheckpointError(
            f"not the names of a published R2O checkpoint: {', '.join(unknown[:4])}"
        )
    return {key: plain[name] for name, key in renamed.items() if key is not None}


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Names of `Networks` with a torchvision ResNet, each with its published one, less `module.`.

    Raises:
        CheckpointError: a name that has no published one (another backbone).
    """
    renamed = {name: _renamed(name, _TO_PUBLISHED) for name in names}
    if unknown := [name for name, published in renamed.items() if published is None]:
        raise CheckpointError(
            "published R2O checkpoints are of ResNets only; they have no name for "
            f"{', '.join(unknown[:4])}"
        )
    return {name: published for name, published in renamed.items() if published is not None}


def sizes_of(state: Mapping[str, Tensor]) -> R2OSizes:
    """Architecture and widths from the shapes of a state in the names of `Networks`.

    Raises:
        CheckpointError: parts are missing, or the backbone is no plain ResNet that is known.
    """
    body = "online.encoder.body."
    trunk = {n.removeprefix(body): t for n, t in state.items() if n.startswith(body)}
    if family_of("torchvision", trunk) is None:
        raise CheckpointError("holds no ResNet as the online network's encoder")
    bottleneck = "layer1.0.conv3.weight" in trunk
    blocks = count_blocks(trunk, ("layer1", "layer2", "layer3", "layer4"))
    depth = resnet_depth(blocks, bottleneck=bottleneck)
    heads = ("online.projector.hidden.weight", "online.projector.output.weight")
    if depth is None or any(name not in state or state[name].ndim != 2 for name in heads):
        raise CheckpointError(
            f"holds {'bottleneck' if bottleneck else 'basic'} blocks, {blocks} of them, which is "
            "no ResNet that is known, or a projector is missing"
        )
    hidden, width = state[heads[0]].shape
    return R2OSizes(f"resnet{depth}", width=width, hidden=hidden, out=state[heads[1]].shape[0])


def read_published(path: str | Path) -> PublishedCheckpoint:
    """Read a published training checkpoint. Nothing in it but tensors and numbers is opened.

    Raises:
        CheckpointError: missing, truncated, of another layout, or with objects beside the tensors.
            A file of the authors may hold its configuration as such an object: then save its
            `model` alone, where the file is trusted.
    """
    path = Path(path)
    state = read_state_dict(path)
    try:
        renamed = from_published(state)
        sizes = sizes_of(renamed)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return PublishedCheckpoint(renamed, sizes, *_progress(path))


def load_networks(networks: Networks, checkpoint: PublishedCheckpoint) -> None:
    """Load a checkpoint into networks of its sizes, every tensor of it.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    if problem := compare_shapes(checkpoint.state, networks.state_dict()):
        raise CheckpointError(
            f"published checkpoint (a {checkpoint.sizes.backbone}, heads "
            f"{checkpoint.sizes.hidden} and {checkpoint.sizes.out} wide) does not fit: {problem}"
        )
    networks.load_state_dict(checkpoint.state)


def _renamed(name: str, rules: Iterable[Rule]) -> str | None:
    """A name by the first rule that it follows; None if it follows none."""
    for before, after, parts in rules:
        match = re.fullmatch(re.escape(before) + r"(\w+)\.(.+)", name)
        if match is not None and match[1] in parts:
            return f"{after}{parts[match[1]]}.{match[2]}"
    return None


def _progress(path: Path) -> tuple[int | None, int | None]:
    """Epoch and steps of a file that `read_state_dict` has read already."""
    if is_safetensors(path):
        return None, None
    # the tensors are not needed again; files of before torch 1.6 cannot be mapped
    content = load_tensors(path, mapped=zipfile.is_zipfile(path))
    values = [content.get(key) for key in ("epoch", "steps")]
    epoch, steps = (value if type(value) is int else None for value in values)
    return epoch, steps
