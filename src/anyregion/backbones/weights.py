"""Loading of weights into an encoder: any known layout, below any prefix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anyregion.backbones.checkpoint import find_backbone_folder, read_backbone, read_mean_std
from anyregion.backbones.encoder import Encoder
from anyregion.backbones.key_maps import PARTS, QKV, key_maps
from anyregion.backbones.pos_embed import resize_pos_embed
from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import compare_shapes, read_state_dict

CLASSIFIER = frozenset(
    {"fc", "_fc", "head", "heads", "head_dist", "classifier", "fc_norm", "attn_pool"}
)
"""First parts of the keys that belong to a classifier: they are not loaded."""
_LAYOUT_CLASSIFIERS = {"huggingface": frozenset({"pooler", "layernorm"})}
FOLLOWERS = frozenset(
    {"target", "target_network", "_fpn", "encoder_k", "momentum_encoder", "student", "mean"}
)
"""Where a file holds two copies of a backbone, the one below such a word is passed over.

R2O's and MoCo's targets follow the network that learns; of DINO's two, the teacher is the one that
people use.
"""
TENSORFLOW_MEAN = (127 / 255, 127 / 255, 127 / 255)
TENSORFLOW_STD = (128 / 255, 128 / 255, 128 / 255)
"""What EfficientNet-Lite was trained with, where its weights are TensorFlow's."""


@dataclass(frozen=True)
class _Location:
    """A layout and a prefix under which a file holds some of the weights, and how many."""

    layout: str
    prefix: str
    hits: int


def load_weights(encoder: Encoder, path: Path) -> None:
    """Load a file or a backbone's folder into an encoder.

    Known are torchvision's and timm's keys; R2O's published training checkpoints (the online
    network); Hugging Face's and detectron2's keys; TensorFlow's of EfficientNet-Lite0; this
    package's folders and training checkpoints; each below any prefix (`backbone.`, `encoder_q.`).
    A ViT's position embeddings are resized to its grid. What belongs to a classifier is ignored.
    Mean and deviation become those that a folder states; a file states none.

    Args:
        path: a file of tensors; or a folder with `backbone.json`, a run that holds one as
            `model/`, or a Hugging Face folder with `model.safetensors`.

    Raises:
        CheckpointError: no such file; broken, or with pickled code; two backbones in it; weights
            missing, unexpected or of another shape.
    """
    mean_std = None
    if path.is_dir():
        folder = find_backbone_folder(path)
        if folder is not None:
            info, state = read_backbone(folder)
            load_state(encoder, state, str(folder))
            encoder.mean, encoder.std = info.mean, info.std
            return
        if not (path / "model.safetensors").is_file():
            raise CheckpointError(
                f"{path}: a folder with neither backbone.json nor model.safetensors"
            )
        mean_std = read_mean_std(path)
        path = path / "model.safetensors"
    elif not path.exists():
        raise CheckpointError(
            f"{path}: there is no such file; weights are `random`, `pretrained`, or a path"
        )
    load_state(encoder, read_state_dict(path), str(path))
    if mean_std is not None:
        encoder.mean, encoder.std = mean_std


def load_state(encoder: Encoder, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors under any known keys; messages say that they are from `source`.

    Raises:
        CheckpointError: as `load_weights`.
    """
    target = encoder.body.state_dict()
    maps = key_maps(encoder.name.partition("/")[0], target)
    location = _locate(maps, state, f"{source}, for {encoder.name}")
    loaded: dict[str, Tensor] = {}
    used: set[str] = set()
    for key, file_key in maps[location.layout].items():
        parts = [location.prefix + file_key.replace(QKV, part) for part in PARTS]
        file_keys = parts if QKV in file_key else parts[:1]
        if all(name in state for name in file_keys):
            used |= set(file_keys)
            tensor = state[file_keys[0]]
            if len(file_keys) > 1:  # query, key and value are rows of one matrix, in this order
                tensor = torch.cat([state[name] for name in file_keys])
            loaded[key] = _reshape(encoder.body, key, tensor, target[key], source)
    ignored = CLASSIFIER | _LAYOUT_CLASSIFIERS.get(location.layout, frozenset())
    # the file's other tensors join in, so that the comparison below names them
    for name, tensor in state.items():
        key = name.removeprefix(location.prefix)
        if not name.startswith(location.prefix) or name in used or key.split(".")[0] in ignored:
            continue
        # one layout's key may be another's for something else
        loaded[f"{key} (as {location.layout} names it)" if key in target else key] = tensor
    for key, tensor in target.items():
        if key.endswith("num_batches_tracked"):  # older files and detectron2's have none
            loaded.setdefault(key, torch.zeros_like(tensor))
    if problem := compare_shapes(loaded, target):
        raise CheckpointError(f"{source}: not the weights of {encoder.name}: {problem}")
    # a file in half precision loads into float32
    encoder.body.load_state_dict({key: loaded[key].to(target[key].dtype) for key in target})
    if location.layout == "tensorflow":
        encoder.mean, encoder.std = TENSORFLOW_MEAN, TENSORFLOW_STD


def _locate(
    maps: Mapping[str, Mapping[str, str]], state: Mapping[str, Tensor], source: str
) -> _Location:
    """The layout and prefix under which most of the weights are."""
    locations = []
    for layout, keys in maps.items():
        file_keys = [key.replace(QKV, PARTS[0]) for key in keys.values()]
        for prefix in _prefixes(file_keys, state):
            hits = sum(prefix + key in state for key in file_keys)
            locations.append(_Location(layout, prefix, hits))
    most = max((location.hits for location in locations), default=0)
    if not most:
        expected, actual = next(iter(next(iter(maps.values())))), next(iter(state))
        raise CheckpointError(
            f"{source}: none of its names is known: wanted is {expected}, it holds {actual}"
        )
    # layouts come with the library's own first, so of equal ones its own is taken
    best = [location for location in locations if location.hits == most]
    best = [location for location in best if location.layout == best[0].layout]
    if len(best) > 1:
        best = [b for b in best if not FOLLOWERS & set(b.prefix.split("."))] or best
    if len(best) > 1:
        prefixes = ", ".join(repr(location.prefix) for location in best[:4])
        raise CheckpointError(
            f"{source}: holds several backbones, below {prefixes}: save the wanted one alone"
        )
    return best[0]


def _prefixes(keys: Iterable[str], state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the first, the middle and the last of some keys, wherever they occur."""
    anchors = [key for key in keys if not key.endswith("num_batches_tracked")]
    # three: a file may lack one of them
    anchors = [anchors[0], anchors[len(anchors) // 2], anchors[-1]]
    return sorted(
        {
            name[: len(name) - len(anchor)]
            for name in state
            for anchor in anchors
            if name == anchor or name.endswith(f".{anchor}")
        }
    )


def _reshape(body: nn.Module, key: str, tensor: Tensor, target: Tensor, source: str) -> Tensor:
    """A tensor in the shape of `target`, where its kind allows; else as it is."""
    kind = key.rpartition(".")[2]
    if tensor.shape == target.shape:
        return tensor
    if kind in ("gamma", "layer_scale") and tensor.numel() == target.numel():
        return tensor.reshape(target.shape)  # torchvision's have two axes of length 1 more
    if kind not in ("pos_embed", "pos_embedding"):
        return tensor
    if tensor.ndim != 3 or tensor.shape[::2] != target.shape[::2]:
        return tensor  # (1, tokens, D) of another width D
    prefix = getattr(body, "num_prefix_tokens", 1)
    if getattr(body, "no_embed_class", False):
        prefix = 0
    side = math.isqrt(target.shape[1] - prefix)
    try:
        return resize_pos_embed(tensor, (side, side), prefix=prefix)
    except ValueError as error:
        raise CheckpointError(f"{source}: {key} cannot be resized: {error}") from None
