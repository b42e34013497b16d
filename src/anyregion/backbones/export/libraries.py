"""Exports for torchvision and timm, from either."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.export.comparison import (
    Export,
    difference,
    features,
    noise,
    plain_copy,
    written_file,
)
from anyregion.backbones.key_maps import family_of, key_maps
from anyregion.backbones.weights import CLASSIFIER
from anyregion.errors import CheckpointError, InputError
from anyregion.torch_utils.weights import read_state_dict

_VIT_SIZES = {"b": "base", "l": "large", "h": "huge"}


def export_torchvision(encoder: Encoder, out: Path) -> Export:
    """For `torchvision.models`: all but the classifier. Raises as `export_encoder`."""
    import torchvision

    architecture = torchvision_name(encoder)
    state = renamed(encoder, "torchvision")
    sized = {"image_size": encoder.size} if architecture.startswith("vit_") else {}
    ours = features(encoder, noise(encoder))
    with written_file(out, state, tensors_alone=True) as temporary:
        with torch.device("meta"):
            model = torchvision.models.get_model(architecture, weights=None, **sized)
        missing, unexpected = _load(model, read_state_dict(temporary), out)
        other = [name for name in missing if name.split(".")[0] not in CLASSIFIER]
        if other or unexpected:
            raise CheckpointError(
                f"{out}: torchvision's {architecture} lacks {(other or unexpected)[0]}"
            )
        theirs = _torchvision_map(model, noise(encoder))
        share = difference(ours, theirs, f"{out}: torchvision's {architecture}")
    arguments = "".join(f", {key}={value}" for key, value in sized.items())
    return Export(
        path=out,
        format="torchvision",
        architecture=architecture,
        opened=f"torchvision.models.get_model({architecture!r}{arguments})"
        f".load_state_dict({_reader(out)}, strict=False)",
        difference=share,
        settings={},
    )


def export_timm(encoder: Encoder, out: Path) -> Export:
    """For `timm.create_model(..., num_classes=0)`, strictly. Raises as `export_encoder`."""
    architecture = timm_name(encoder)
    sized = timm_arguments(encoder, architecture)
    model = timm_model(architecture, sized)
    state = completed(renamed(encoder, "timm"), model.state_dict(), f"timm/{architecture}")
    image = noise(encoder)
    ours = timm_features(encoder, image)
    with written_file(out, state, tensors_alone=True) as temporary:
        missing, unexpected = _load(model, read_state_dict(temporary), out)
        if missing or unexpected:
            raise CheckpointError(f"{out}: timm's {architecture} lacks {(missing + unexpected)[0]}")
        with eval_mode(model):
            theirs = as_map(model.forward_features(image), ours, model)
        share = difference(ours, theirs, f"{out}: timm's {architecture}")
    arguments = "".join(f", {key}={value}" for key, value in sized.items())
    return Export(
        path=out,
        format="timm",
        architecture=architecture,
        opened=f"timm.create_model({architecture!r}, num_classes=0{arguments})"
        f".load_state_dict({_reader(out)})",
        difference=share,
        settings={},
    )


def torchvision_name(encoder: Encoder) -> str:
    """What torchvision calls this architecture.

    Raises:
        InputError: it does not have it.
    """
    import torchvision

    library, _, model = encoder.name.partition("/")
    if library == "torchvision":
        return model
    plain = model.split(".")[0]
    if match := re.match(r"(?:vit|deit)_(base|large|huge)_patch(\d+)_\d+$", plain):
        plain = f"vit_{match[1][0]}_{match[2]}"
    known = torchvision.models.list_models(module=torchvision.models)
    if plain not in known or family_of("timm", encoder.body.state_dict()) is None:
        offered = [n for n in known if n.startswith(("resne", "wide_", "convnext", "vit_"))]
        raise InputError(
            f"{encoder.name}: torchvision has no such architecture; of timm's it has those of "
            f"{', '.join(offered)}"
        )
    return plain


def timm_name(encoder: Encoder) -> str:
    """What timm calls this architecture.

    Raises:
        InputError: it does not have it under names that translate.
    """
    import timm

    library, _, model = encoder.name.partition("/")
    if library == "timm":
        return model.split(".")[0]
    if match := re.fullmatch(r"vit_(b|l|h)_(\d+)", model):
        model = f"vit_{_VIT_SIZES[match[1]]}_patch{match[2]}_224"
    if not timm.is_model(model) or family_of("torchvision", encoder.body.state_dict()) is None:
        raise InputError(
            f"{encoder.name}: timm has no such architecture with the same layers; of torchvision's "
            "it has the ResNets (ResNeXt, Wide ResNet), the ConvNeXts and the ViTs"
        )
    return model


def renamed(encoder: Encoder, layout: str) -> dict[str, Tensor]:
    """The weights in the names of a layout that the encoder's family has.

    Raises:
        InputError: it has none.
    """
    own = plain_copy(encoder)
    names = key_maps(encoder.name.partition("/")[0], own).get(layout)
    if names is None:
        raise InputError(f"{encoder.name}: its weights have no names in {layout}")
    return {theirs: _layer_scale(theirs, own[mine]) for mine, theirs in names.items()}


def completed(state: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """With the norms that stand before a classifier, neutral: an encoder leaves them out.

    Raises:
        InputError: something else is missing.
    """
    found = dict(state)
    for name in wanted.keys() - state.keys():
        kind = name.rpartition(".")[2]
        if wanted[name].ndim != 1 or "norm" not in name or kind not in ("weight", "bias"):
            raise InputError(
                f"{where}: it also wants {name}, which belongs to its classifier and was left out"
            )
        make = torch.ones if kind == "weight" else torch.zeros
        found[name] = make(wanted[name].shape)
    return found


def timm_arguments(encoder: Encoder, architecture: str) -> dict[str, Any]:
    """How timm's model is told the size it was trained at; nothing for convolutional ones."""
    from anyregion.backbones.timm import size_arguments

    return size_arguments(f"timm/{architecture}", architecture, encoder.size)


def timm_model(architecture: str, arguments: dict[str, Any]) -> Any:
    """timm's own model without a classifier; the caller's generator is left as it is."""
    import timm

    with torch.random.fork_rng(devices=[]):
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)


def timm_features(encoder: Encoder, image: Tensor) -> Tensor:
    """What timm's `forward_features` is to give: the encoder's map for families that are known
    here; for others of timm's, whatever its own gives."""
    library = encoder.name.partition("/")[0]
    if family_of(library, encoder.body.state_dict()) or library != "timm":
        return features(encoder, image)
    body: Any = copy.deepcopy(encoder.body).cpu().float()
    with eval_mode(body):
        found: Tensor = body.forward_features(image)
    return found


def as_map(tokens: Tensor, like: Tensor, model: Any) -> Tensor:
    """Tokens `(B, prefix + n, D)` as a map, where `like` is one."""
    if tokens.ndim == 3 and like.ndim == 4:
        prefix = getattr(model, "num_prefix_tokens", 1)
        return tokens[:, prefix:].transpose(1, 2).reshape(like.shape)
    return tokens


def _load(model: nn.Module, state: dict[str, Tensor], out: Path) -> tuple[list[str], list[str]]:
    try:
        found = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{out}: {str(error).splitlines()[-1].strip()}") from None
    return list(found.missing_keys), list(found.unexpected_keys)


def _torchvision_map(model: Any, image: Tensor) -> Tensor:
    """The last map as torchvision's own forward pass computes it; its classifier has no weights."""
    seen: list[Tensor] = []
    if hasattr(model, "features"):
        with eval_mode(model):
            found: Tensor = model.features(image)
        return found
    last = model.encoder if hasattr(model, "encoder") else model.layer4
    handle = last.register_forward_hook(lambda _m, _i, output: seen.append(output))
    for part in ("fc", "heads"):
        if hasattr(model, part):
            setattr(model, part, nn.Identity())
    with eval_mode(model):
        model(image)
    handle.remove()
    if seen[0].ndim == 4:
        return seen[0]
    side = int((seen[0].shape[1] - 1) ** 0.5)
    return seen[0][:, 1:].transpose(1, 2).reshape(len(image), -1, side, side)


def _layer_scale(name: str, tensor: Tensor) -> Tensor:
    """torchvision's have two axes of length 1 more."""
    kind = name.rpartition(".")[2]
    if kind == "layer_scale":
        return tensor.reshape(-1, 1, 1)
    return tensor.reshape(-1) if kind in ("gamma", "layer_scale_parameter") else tensor


def _reader(out: Path) -> str:
    if out.suffix == ".safetensors":
        return f"safetensors.torch.load_file({out.name!r})"
    return f"torch.load({out.name!r}, weights_only=True)"
