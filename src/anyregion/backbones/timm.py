"""timm's models as encoders: ResNets, ConvNeXts, ViTs, and whatever has intermediate maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Run
from anyregion.backbones.pos_embed import intermediate_depth, patch_grid
from anyregion.errors import InputError

LIBRARY = "timm"
_CLASSIFIER = ("head", "fc", "classifier", "fc_norm", "attn_pool", "head_dist")


def names() -> list[str]:
    """The models that timm can build."""
    return list(timm.list_models())


def build(name: str, size: int, *, pretrained: bool = False) -> Encoder:
    """An encoder with random weights, drawn from torch's global seed, or with timm's own.

    Args:
        name: timm's own, with a tag of weights or without (`resnet50.a1_in1k`).
        size: side of its images; a ViT's position embeddings are made for it.
        pretrained: download. mean and std are then those of the weights, else ImageNet's.

    Raises:
        InputError: a size that does not fit, or a family that cannot be read at two depths.
    """
    # convolutional models have no `img_size`; those with windows have no `dynamic_img_size`
    arguments = size_arguments(name, size)
    body: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
    if not hasattr(body, "forward_intermediates"):
        raise _unsupported(name)
    if isinstance(body, timm.models.VisionTransformer):
        patch_grid(size, size, body.patch_embed.patch_size)
    # `num_classes=0` leaves pooling heads and their norms, which the last map does not need
    for part in _CLASSIFIER:
        if isinstance(getattr(body, part, None), nn.Module):
            setattr(body, part, nn.Identity())
    mean, std = (IMAGENET_MEAN, IMAGENET_STD)
    if pretrained:
        mean, std = tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])
    run = _run_function(name, body)
    return Encoder(f"{LIBRARY}/{name}", body, run, size=size, mean=mean, std=std)


def run_intermediates(
    body: nn.Module, images: Tensor, intermediate: bool, *, intermediate_index: int, last_index: int
) -> Tensor:
    """`(B, 3, H, W)` to the map of one of timm's intermediate layers; no deeper layer is run.

    An EfficientNet's last map is the widened one that its classifier sees.
    """
    timm_body: Any = body
    if not intermediate and isinstance(body, timm.models.EfficientNet):
        last: Tensor = timm_body.forward_features(images)
        return last
    if isinstance(body, timm.models.VisionTransformer):
        patch_grid(images.shape[2], images.shape[3], body.patch_embed.patch_size)
    features: Tensor = timm_body.forward_intermediates(
        images,
        indices=[intermediate_index if intermediate else last_index],
        norm=not intermediate and isinstance(body, timm.models.VisionTransformer),
        stop_early=True,
        intermediates_only=True,
    )[0]
    return features


def _run_function(name: str, body: nn.Module) -> Run:
    """How a body is read: its last stage, and the last one of half that stride (or, where all
    strides are one, as a ViT's, the one two thirds up)."""
    info: Any = getattr(body, "feature_info", None) or []
    stages = info if isinstance(info, list) else info.get_dicts()
    strides = [stage["reduction"] for stage in stages]
    if not strides:
        raise _unsupported(name)
    last = len(strides) - 1
    # several stages may share a stride: the deepest of them is read
    finer = [i for i, stride in enumerate(strides) if 2 * stride == strides[-1]]
    if len(set(strides)) == 1 and last:
        intermediate = intermediate_depth(len(strides)) - 1
    elif finer:
        intermediate = finer[-1]
    else:
        raise _unsupported(name)
    return partial(run_intermediates, intermediate_index=intermediate, last_index=last)


def size_arguments(name: str, size: int) -> dict[str, Any]:
    """How this model is told its input size, by trying to build it without memory."""
    options: tuple[dict[str, Any], ...] = (
        {"img_size": size, "dynamic_img_size": True},
        {"img_size": size},
    )
    for arguments in options:
        try:
            # on the meta device even the largest ViT takes no memory
            with torch.device("meta"):
                timm.create_model(name, num_classes=0, **arguments)
        except TypeError:  # no such argument: a convolutional network takes any size
            continue
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{LIBRARY}/{name}: cannot be built for {size} pixels ({error})"
            ) from None
        return arguments
    return {}


def _unsupported(name: str) -> InputError:
    return InputError(
        f"{LIBRARY}/{name}: cannot be read at two depths here: timm gives no intermediate maps of "
        "it at its stride and at half of it. ResNets, ConvNeXts, ViTs and most others can"
    )
