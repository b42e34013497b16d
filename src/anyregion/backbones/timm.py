"""Encoders of timm: ResNets, ConvNeXts, plain ViTs, and whatever gives intermediate maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from anyregion.backbones.pos_embed import intermediate_depth, patch_grid
from anyregion.errors import InputError

LIBRARY = "timm"
_CLASSIFIER = ("head", "fc", "classifier", "fc_norm", "attn_pool", "head_dist")


def names() -> list[str]:
    """The models that timm can build."""
    found: list[str] = timm.list_models()
    return found


def build(name: str, size: int, *, pretrained: bool = False) -> Encoder:
    """An encoder with random weights, drawn from torch's global seed, or with timm's own.

    Args:
        name: timm's own, with a tag of weights or without (`resnet50.a1_in1k`).
        size: side of its images; a ViT's position embeddings are made for it.
        pretrained: download. mean and std are then those of the weights, else ImageNet's.

    Raises:
        InputError: a size that does not fit, or a family that cannot be read at two depths.
    """
    full = f"{LIBRARY}/{name}"
    sized = size_arguments(full, name, size)
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **sized)
    if not hasattr(body, "forward_intermediates"):
        raise _unreadable(full)
    if patch := patch_size(body):
        patch_grid(size, size, patch)
    for part in _CLASSIFIER:
        if isinstance(getattr(body, part, None), nn.Module):
            setattr(body, part, nn.Identity())
    mean, std = (IMAGENET_MEAN, IMAGENET_STD)
    if pretrained:
        mean, std = tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])
    return Encoder(full, body, _reader(full, body), size=size, mean=mean, std=std)


def run_intermediates(
    body: nn.Module, images: Tensor, intermediate: bool, *, intermediate_index: int, last_index: int
) -> Tensor:
    """`(B, 3, H, W)` to the map of one of timm's intermediate layers; no deeper layer is run."""
    timm_body: Any = body
    if patch := patch_size(body):
        patch_grid(images.shape[2], images.shape[3], patch)
    found: Tensor = timm_body.forward_intermediates(
        images,
        indices=[intermediate_index if intermediate else last_index],
        norm=not intermediate and isinstance(body, timm.models.VisionTransformer),
        stop_early=True,
        intermediates_only=True,
    )[0]
    return found


def run_efficientnet(
    body: nn.Module, images: Tensor, intermediate: bool, *, intermediate_index: int, last_index: int
) -> Tensor:
    """As `run_intermediates`, but the last map is the widened one that its classifier sees."""
    if intermediate:
        return run_intermediates(
            body, images, True, intermediate_index=intermediate_index, last_index=last_index
        )
    timm_body: Any = body
    found: Tensor = timm_body.forward_features(images)
    return found


def patch_size(body: nn.Module) -> tuple[int, int] | None:
    """A plain ViT's patch; None for others."""
    if not isinstance(body, timm.models.VisionTransformer):
        return None
    rows, columns = body.patch_embed.patch_size
    return int(rows), int(columns)


def _reader(full: str, body: nn.Module) -> Any:
    listed: Any = getattr(body, "feature_info", None) or []
    info = listed if isinstance(listed, list) else listed.get_dicts()
    strides = [stage["reduction"] for stage in info]
    if not strides:
        raise _unreadable(full)
    last = len(strides) - 1
    finer = [i for i, stride in enumerate(strides) if 2 * stride == strides[-1]]
    if len(set(strides)) == 1 and last:
        intermediate = intermediate_depth(len(strides)) - 1
    elif finer:
        intermediate = finer[-1]
    else:
        raise _unreadable(full)
    run = run_efficientnet if isinstance(body, timm.models.EfficientNet) else run_intermediates
    return partial(run, intermediate_index=intermediate, last_index=last)


def size_arguments(full: str, name: str, size: int) -> dict[str, Any]:
    """How this model is told its input size, found by building it without memory."""
    options: tuple[dict[str, Any], ...] = (
        {"img_size": size, "dynamic_img_size": True},
        {"img_size": size},
    )
    for arguments in options:
        try:
            with torch.device("meta"):
                timm.create_model(name, num_classes=0, **arguments)
        except TypeError:  # no such argument: a convolutional network takes any size
            continue
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(f"{full}: cannot be built for {size} pixels ({error})") from None
        return arguments
    return {}


def _unreadable(full: str) -> InputError:
    return InputError(
        f"{full}: cannot be read at two depths here: timm gives no intermediate maps of it at its "
        "stride and at half of it. ResNets, ConvNeXts, ViTs and most others can"
    )
