"""Encoders of torchvision: ResNets, ConvNeXts, plain ViTs, and whatever is a chain of stages."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.pos_embed import intermediate_depth, patch_grid, resize_pos_embed
from anyregion.errors import InputError

LIBRARY = "torchvision"


def names() -> list[str]:
    """The classifiers that torchvision can build."""
    found: list[str] = torchvision.models.list_models(module=torchvision.models)
    return found


def build(name: str, size: int) -> Encoder:
    """An encoder with random weights, drawn from torch's global seed.

    Args:
        name: torchvision's own.
        size: side of its images; a ViT's position embeddings are made for it.

    Raises:
        InputError: a size that is no multiple of a ViT's patch, or a family that cannot be read at
            two depths.
    """
    full = f"{LIBRARY}/{name}"
    if name.startswith("vit_"):
        return _vit(full, name, size)
    body = torchvision.models.get_model(name, weights=None, **_plain_output(name))
    if isinstance(body, torchvision.models.ResNet):
        body.fc = nn.Identity()
        return Encoder(full, body, run_resnet, size=size)
    return Encoder(full, *_stages(full, body, size), size=size)


def run_resnet(body: nn.Module, images: Tensor, intermediate: bool) -> Tensor:
    """`(B, 3, H, W)` to `layer4`'s output, or `layer3`'s."""
    net: Any = body
    x: Tensor = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    x = net.layer3(net.layer2(net.layer1(x)))
    return x if intermediate else net.layer4(x)


def run_vit(body: nn.Module, images: Tensor, intermediate: bool) -> Tensor:
    """`(B, 3, H, W)` to the patches behind the last norm, or two thirds up without a norm."""
    vit: Any = body
    rows, columns = patch_grid(images.shape[2], images.shape[3], (vit.patch_size, vit.patch_size))
    x: Tensor = vit.conv_proj(images).flatten(2).transpose(1, 2)
    x = torch.cat([vit.class_token.expand(len(x), -1, -1), x], dim=1)
    x = vit.encoder.dropout(
        x + resize_pos_embed(vit.encoder.pos_embedding, (rows, columns), prefix=1)
    )
    layers = list(vit.encoder.layers)
    for layer in layers[: intermediate_depth(len(layers)) if intermediate else None]:
        x = layer(x)
    if not intermediate:
        x = vit.encoder.ln(x)
    return x[:, 1:].transpose(1, 2).reshape(len(x), -1, rows, columns)


def run_features(
    body: nn.Module, images: Tensor, intermediate: bool, *, intermediate_stages: int
) -> Tensor:
    """A body whose `features` are stages in a row: behind the last, or behind some of them."""
    net: Any = body
    x = images
    for stage in list(net.features)[: intermediate_stages if intermediate else None]:
        x = stage(x)
    return x


def _plain_output(name: str) -> dict[str, Any]:
    # their auxiliary classifiers would only be warned about
    return {"init_weights": True} if name in ("googlenet", "inception_v3") else {}


def _vit(full: str, name: str, size: int) -> Encoder:
    patch = int(name.rsplit("_", 1)[1])
    patch_grid(size, size, (patch, patch))
    body = torchvision.models.get_model(name, weights=None, image_size=size)
    body.heads = nn.Identity()
    return Encoder(full, body, run_vit, size=size)


def _stages(full: str, body: nn.Module, size: int) -> tuple[nn.Module, Any]:
    """The body without its classifier, and how it is read: half the last stride is sought."""
    stages = getattr(body, "features", None)
    # Swin's maps have their channels last
    if not isinstance(stages, nn.Sequential) or isinstance(
        body, torchvision.models.SwinTransformer
    ):
        raise _unreadable(full)
    for part in ("classifier", "avgpool"):
        if hasattr(body, part):
            setattr(body, part, nn.Identity())
    x, rows = torch.zeros(1, 3, size, size), []
    with eval_mode(body):
        for stage in stages:
            x = stage(x)
            rows.append(x.shape[2] if x.ndim == 4 else 0)
    finer = [i for i, extent in enumerate(rows) if extent >= 2 * rows[-1] - 1 and extent > rows[-1]]
    if not all(rows) or rows != sorted(rows, reverse=True) or not finer:
        raise _unreadable(full)
    return body, partial(run_features, intermediate_stages=finer[-1] + 1)


def _unreadable(full: str) -> InputError:
    return InputError(
        f"{full}: cannot be read at two depths here. Of torchvision, ResNets (ResNeXt, Wide "
        "ResNet), ConvNeXts and ViTs can, and others that are stages in a row; timm has most others"
    )
