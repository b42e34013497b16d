"""Exports for torchvision and timm, from either."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.export.common import (
    Export,
    compare_features,
    cpu_features,
    noise_image,
    rename_state,
    write_checked,
)
from anyregion.backbones.key_maps import family_of
from anyregion.backbones.weights import CLASSIFIER
from anyregion.errors import CheckpointError, InputError
from anyregion.torch_utils.weights import read_state_dict

_VIT_SIZES = {"b": "base", "l": "large", "h": "huge"}


def export_torchvision(encoder: Encoder, out: Path) -> Export:
    """For `torchvision.models`: all but the classifier. Raises as `export_encoder`."""
    import torchvision

    architecture = torchvision_name(encoder)
    arguments = {"image_size": encoder.size} if architecture.startswith("vit_") else {}
    with torch.device("meta"):  # its weights come from the file; the classifier has none
        model = torchvision.models.get_model(architecture, weights=None, **arguments)
    export = Export(
        path=out,
        format="torchvision",
        architecture=architecture,
        usage=f"torchvision.models.get_model({architecture!r}{_options(arguments)})"
        f".load_state_dict({_load_call(out)}, strict=False)",
    )
    image = noise_image(encoder)
    expected = cpu_features(encoder, image)
    state = rename_state(encoder, "torchvision")
    return _write(
        export, state, model, expected, lambda: _torchvision_features(model, image, expected)
    )


def export_timm(encoder: Encoder, out: Path) -> Export:
    """For `timm.create_model(..., num_classes=0)`, strictly. Raises as `export_encoder`."""
    architecture = timm_name(encoder)
    model, arguments = create_timm(encoder, architecture)
    export = Export(
        path=out,
        format="timm",
        architecture=architecture,
        usage=f"timm.create_model({architecture!r}, num_classes=0{_options(arguments)})"
        f".load_state_dict({_load_call(out)})",
    )
    image = noise_image(encoder)
    expected = timm_features(encoder, image)

    def features() -> Tensor:
        with eval_mode(model):
            return tokens_to_map(model.forward_features(image), expected, model)

    # `num_classes=0` keeps the last norm of a ConvNeXt, which an encoder does not have
    return _write(export, timm_state(encoder, architecture, model), model, expected, features)


def _write(
    export: Export,
    state: dict[str, Tensor],
    model: nn.Module,
    expected: Tensor,
    features: Callable[[], Tensor],
) -> Export:
    """Write `state`, load the file into the library's `model`, compare its features."""
    name = f"{export.path}: {export.format}'s {export.architecture}"
    with write_checked(export.path, state, safetensors=True) as temporary:
        back = read_state_dict(temporary)
        try:
            result = model.load_state_dict(back, strict=False, assign=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{export.path}: {reason}") from None
        missing = result.missing_keys
        if export.format == "torchvision":
            missing = [key for key in missing if key.split(".")[0] not in CLASSIFIER]
        if wrong := [*missing, *result.unexpected_keys]:
            raise CheckpointError(f"{name} lacks {wrong[0]}")
        return replace(export, difference=compare_features(expected, features(), name))


def _options(arguments: dict[str, Any]) -> str:
    return "".join(f", {key}={value}" for key, value in arguments.items())


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
    # timm names a ViT by its patch and image size, torchvision by its patch alone
    if match := re.match(r"(?:vit|deit)_(base|large|huge)_patch(\d+)_\d+$", plain):
        plain = f"vit_{match[1][0]}_{match[2]}"
    models = torchvision.models.list_models(module=torchvision.models)
    if plain not in models or family_of("timm", encoder.body.state_dict()) is None:
        offered = [n for n in models if n.startswith(("resne", "wide_", "convnext", "vit_"))]
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
    # a name in common is not enough: torchvision's `efficientnet_b0` has other layers than timm's
    if not timm.is_model(model) or family_of("torchvision", encoder.body.state_dict()) is None:
        raise InputError(
            f"{encoder.name}: timm has no such architecture with the same layers; of torchvision's "
            "it has the ResNets (ResNeXt, Wide ResNet), the ConvNeXts and the ViTs"
        )
    return model


def create_timm(encoder: Encoder, architecture: str) -> tuple[Any, dict[str, Any]]:
    """timm's own model without a classifier, and how it was told the size that the encoder was
    trained at (nothing for convolutional ones). The caller's generator is left as it is."""
    import timm

    from anyregion.backbones.timm import size_arguments

    arguments = size_arguments(architecture, encoder.size)
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    return model, arguments


def timm_state(encoder: Encoder, architecture: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights under timm's keys, with the norms that stand before a classifier: an encoder
    leaves them out, so they are neutral.

    Raises:
        InputError: something else that timm's model has is missing.
    """
    state = rename_state(encoder, "timm")
    full = model.state_dict()
    for key in full.keys() - state.keys():
        kind = key.rpartition(".")[2]
        if full[key].ndim != 1 or "norm" not in key or kind not in ("weight", "bias"):
            raise InputError(
                f"timm/{architecture}: it also wants {key}, which belongs to its classifier and "
                "was left out"
            )
        state[key] = (torch.ones if kind == "weight" else torch.zeros)(full[key].shape)
    return state


def timm_features(encoder: Encoder, image: Tensor) -> Tensor:
    """What timm's `forward_features` is to give: the encoder's map for families that are known
    here; for others of timm's, whatever its own gives."""
    # `forward_features` of other families may end before or behind the encoder's last map
    library = encoder.name.partition("/")[0]
    if library != "timm" or family_of(library, encoder.body.state_dict()):
        return cpu_features(encoder, image)
    body: Any = copy.deepcopy(encoder.body).cpu().float()
    with eval_mode(body):
        features: Tensor = body.forward_features(image)
    return features


def tokens_to_map(tokens: Tensor, like: Tensor, model: Any) -> Tensor:
    """Tokens `(B, prefix + n, D)` as a map `(B, D, h, w)`, where `like` is one."""
    if tokens.ndim == 3 and like.ndim == 4:
        prefix = getattr(model, "num_prefix_tokens", 1)
        return tokens[:, prefix:].transpose(1, 2).reshape(like.shape)
    return tokens


def _torchvision_features(model: Any, image: Tensor, like: Tensor) -> Tensor:
    """The last map as torchvision's own forward pass computes it; its classifier has no weights.

    `like` is a map of the same shape.
    """
    if hasattr(model, "features"):
        with eval_mode(model):
            features: Tensor = model.features(image)
        return features
    outputs: list[Tensor] = []
    last = model.encoder if hasattr(model, "encoder") else model.layer4
    # a hook sees the map inside torchvision's own forward, which the check is about
    handle = last.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    for part in ("fc", "heads"):
        if hasattr(model, part):
            setattr(model, part, nn.Identity())
    with eval_mode(model):
        model(image)
    handle.remove()
    return tokens_to_map(outputs[0], like, model)


def _load_call(out: Path) -> str:
    if out.suffix == ".safetensors":
        return f"safetensors.torch.load_file({out.name!r})"
    return f"torch.load({out.name!r}, weights_only=True)"
