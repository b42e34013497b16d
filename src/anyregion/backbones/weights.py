"""Weights of other hands into an encoder: any known layout, below any prefix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anyregion.backbones.checkpoint import find_saved, read_normalisation, read_saved
from anyregion.backbones.encoder import Encoder
from anyregion.backbones.key_maps import PARTS, QKV, key_maps
from anyregion.backbones.pos_embed import resize_pos_embed
from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import compare_shapes, read_state_dict

CLASSIFIER = frozenset(
    {"fc", "_fc", "head", "heads", "head_dist", "classifier", "fc_norm", "attn_pool"}
)
"""First parts of the names of what is left aside."""
_CLASSIFIER_THERE = {"huggingface": frozenset({"pooler", "layernorm"})}
FOLLOWERS = frozenset(
    {"target", "target_network", "_fpn", "encoder_k", "momentum_encoder", "student", "mean"}
)
"""Where a file holds two copies of a backbone, that below one of these words is not the one meant.

R2O's and MoCo's targets follow what learned; of DINO's two, the teacher is the one that is used.
"""
TENSORFLOW_MEAN = (127 / 255, 127 / 255, 127 / 255)
TENSORFLOW_STD = (128 / 255, 128 / 255, 128 / 255)
"""What EfficientNet-Lite was trained with, where its weights are TensorFlow's."""


@dataclass(frozen=True)
class _Place:
    """A layout and a prefix under which a file holds some of the weights."""

    layout: str
    prefix: str
    hits: int


def load_weights(encoder: Encoder, path: Path) -> None:
    """Load a file or one of our folders into an encoder.

    Known are torchvision's and timm's names; R2O's published training checkpoints (the online
    network); Hugging Face's and detectron2's names; TensorFlow's of EfficientNet-Lite0; our own
    folders and training checkpoints; each below any prefix (`backbone.`, `encoder_q.`). A ViT's
    position embeddings are resized to its grid. What belongs to a classifier is left aside.
    Mean and deviation become those that a folder states; a file states none.

    Args:
        encoder: gets the weights.
        path: a file of tensors; or a folder with `backbone.json`, a run that holds one as
            `model/`, or a Hugging Face folder with `model.safetensors`.

    Raises:
        CheckpointError: no such file; broken, or with pickled code; two backbones in it; weights
            missing, unexpected or of another shape.
    """
    stated = None
    if path.is_dir():
        folder = find_saved(path)
        if folder is not None:
            about, state = read_saved(folder)
            fit_state(encoder, state, str(folder))
            encoder.mean, encoder.std = about.mean, about.std
            return
        if not (path / "model.safetensors").is_file():
            raise CheckpointError(
                f"{path}: a folder with neither backbone.json nor model.safetensors"
            )
        stated = read_normalisation(path)
        path = path / "model.safetensors"
    elif not path.exists():
        raise CheckpointError(
            f"{path}: there is no such file; weights are `random`, `pretrained`, or a path"
        )
    fit_state(encoder, read_state_dict(path), str(path))
    if stated is not None:
        encoder.mean, encoder.std = stated


def fit_state(encoder: Encoder, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors under any known names.

    Args:
        encoder: gets them.
        state: the tensors.
        where: they are from, for messages.

    Raises:
        CheckpointError: as `load_weights`.
    """
    own = encoder.body.state_dict()
    library = encoder.name.partition("/")[0]
    layouts = key_maps(library, own)
    place = _place(layouts, state, f"{where}, for {encoder.name}")
    names = layouts[place.layout]
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for mine, theirs in names.items():
        parts = [place.prefix + theirs.replace(QKV, part) for part in PARTS]
        wanted = parts if QKV in theirs else parts[:1]
        if all(name in state for name in wanted):
            used |= set(wanted)
            tensor = state[wanted[0]] if len(wanted) == 1 else torch.cat([state[n] for n in wanted])
            found[mine] = _shaped(encoder.body, mine, tensor, own[mine], where)
    aside = CLASSIFIER | _CLASSIFIER_THERE.get(place.layout, frozenset())
    for name, tensor in state.items():
        rest = name.removeprefix(place.prefix)
        if name.startswith(place.prefix) and name not in used and rest.split(".")[0] not in aside:
            # a name of theirs may be one of ours that means something else
            found[rest if rest not in own else f"{rest} (as {place.layout} names it)"] = tensor
    for mine, tensor in own.items():
        if mine.endswith("num_batches_tracked"):  # older files and detectron2's have none
            found.setdefault(mine, torch.zeros_like(tensor))
    if problem := compare_shapes(found, own):
        raise CheckpointError(f"{where}: not the weights of {encoder.name}: {problem}")
    encoder.body.load_state_dict({name: found[name].to(own[name].dtype) for name in own})
    if place.layout == "tensorflow":
        encoder.mean, encoder.std = TENSORFLOW_MEAN, TENSORFLOW_STD


def _place(
    layouts: Mapping[str, Mapping[str, str]], state: Mapping[str, Tensor], where: str
) -> _Place:
    """Where most of the weights are."""
    places = [
        _Place(layout, prefix, sum(prefix + name in state for name in wanted))
        for layout, names in layouts.items()
        for wanted in [[name.replace(QKV, PARTS[0]) for name in names.values()]]
        for prefix in _prefixes(wanted, state)
    ]
    most = max((place.hits for place in places), default=0)
    best = [place for place in places if place.hits == most]
    if not most:
        ours, theirs = next(iter(layouts.values())), next(iter(state))
        raise CheckpointError(
            f"{where}: none of its names is known: wanted is {next(iter(ours))}, it holds {theirs}"
        )
    best = [place for place in best if place.layout == best[0].layout]
    if len(best) > 1:
        best = [p for p in best if not FOLLOWERS & set(p.prefix.split("."))] or best
    if len(best) > 1:
        listed = ", ".join(repr(place.prefix) for place in best[:4])
        raise CheckpointError(
            f"{where}: holds several backbones, below {listed}: save the wanted one alone"
        )
    return best[0]


def _prefixes(wanted: Iterable[str], state: Mapping[str, Tensor]) -> list[str]:
    """What stands before a few of the wanted names, wherever they occur."""
    anchors = [name for name in wanted if not name.endswith("num_batches_tracked")]
    chosen = {anchors[0], anchors[len(anchors) // 2], anchors[-1]}
    return sorted(
        {
            name[: len(name) - len(anchor)]
            for name in state
            for anchor in chosen
            if name == anchor or name.endswith(f".{anchor}")
        }
    )


def _shaped(body: nn.Module, name: str, tensor: Tensor, ours: Tensor, where: str) -> Tensor:
    if tensor.shape == ours.shape:
        return tensor
    if name.rpartition(".")[2] in ("gamma", "layer_scale") and tensor.numel() == ours.numel():
        return tensor.reshape(ours.shape)
    places = name.rpartition(".")[2] in ("pos_embed", "pos_embedding")
    if not places or tensor.ndim != 3 or tensor.shape[::2] != ours.shape[::2]:
        return tensor
    prefix = getattr(body, "num_prefix_tokens", 1)
    if getattr(body, "no_embed_class", False):
        prefix = 0
    side = math.isqrt(ours.shape[1] - prefix)
    try:
        return resize_pos_embed(tensor, (side, side), prefix=prefix)
    except ValueError as error:
        raise CheckpointError(f"{where}: {name} cannot be resized: {error}") from None
