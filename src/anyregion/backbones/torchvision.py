"""torchvision's models as encoders: ResNets, ConvNeXts, ViTs, and any chain of stages."""

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
    return list(torchvision.models.list_models(module=torchvision.models))


def build(name: str, size: int) -> Encoder:
    """An encoder with random weights, drawn from torch's global seed.

    A ViT's position embeddings are made for `size`, the side of its images.

    Raises:
        InputError: a size that is no multiple of a ViT's patch, or a family that cannot be read at
            two depths.
    """
    full_name = f"{LIBRARY}/{name}"
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        patch_grid(size, size, (patch, patch))
        vit = torchvision.models.get_model(name, weights=None, image_size=size)
        vit.heads = nn.Identity()
        return Encoder(full_name, vit, run_vit, size=size)
    # auxiliary classifiers that need `init_weights` would only be warned about
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    body = torchvision.models.get_model(name, weights=None, **options)
    if isinstance(body, torchvision.models.ResNet):
        body.fc = nn.Identity()
        return Encoder(full_name, body, run_resnet, size=size)
    # Swin's maps have their channels last
    chain = isinstance(getattr(body, "features", None), nn.Sequential)
    if not chain or isinstance(body, torchvision.models.SwinTransformer):
        raise _unsupported(full_name)
    for part in ("classifier", "avgpool"):
        if hasattr(body, part):
            setattr(body, part, nn.Identity())
    stages = _intermediate_stages(full_name, body, size)
    return Encoder(full_name, body, partial(run_features, intermediate_stages=stages), size=size)


def run_resnet(body: nn.Module, images: Tensor, intermediate: bool) -> Tensor:
    """`(B, 3, H, W)` to `layer4`'s output, or `layer3`'s."""
    # torchvision's own forward, up to the stage that is read
    net: Any = body
    x: Tensor = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    x = net.layer3(net.layer2(net.layer1(x)))
    return x if intermediate else net.layer4(x)


def run_vit(body: nn.Module, images: Tensor, intermediate: bool) -> Tensor:
    """`(B, 3, H, W)` to the patches behind the last norm, or two thirds up without a norm."""
    vit: Any = body
    rows, columns = patch_grid(images.shape[2], images.shape[3], (vit.patch_size, vit.patch_size))
    x: Tensor = vit.conv_proj(images).flatten(2).transpose(1, 2)  # (B, rows * columns, D)
    x = torch.cat([vit.class_token.expand(len(x), -1, -1), x], dim=1)
    pos_embed = resize_pos_embed(vit.encoder.pos_embedding, (rows, columns), prefix=1)
    x = vit.encoder.dropout(x + pos_embed)
    layers = list(vit.encoder.layers)
    for layer in layers[: intermediate_depth(len(layers)) if intermediate else None]:
        x = layer(x)
    if not intermediate:
        x = vit.encoder.ln(x)
    return x[:, 1:].transpose(1, 2).reshape(len(x), -1, rows, columns)  # (B, D, rows, columns)


def run_features(
    body: nn.Module, images: Tensor, intermediate: bool, *, intermediate_stages: int
) -> Tensor:
    """A body whose `features` are stages in a row: behind the last, or behind some of them."""
    net: Any = body
    x = images
    for stage in list(net.features)[: intermediate_stages if intermediate else None]:
        x = stage(x)
    return x


def _intermediate_stages(full_name: str, body: nn.Module, size: int) -> int:
    """How many of a body's stages to run for a map of half the last stride, by trying."""
    net: Any = body
    x, rows = torch.zeros(1, 3, size, size), []
    with eval_mode(body):
        for stage in net.features:
            x = stage(x)
            rows.append(x.shape[2] if x.ndim == 4 else 0)
    # an extent that was rounded up may be one short of twice the next
    finer = [i for i, extent in enumerate(rows) if extent >= 2 * rows[-1] - 1 and extent > rows[-1]]
    if not all(rows) or rows != sorted(rows, reverse=True) or not finer:
        raise _unsupported(full_name)
    return finer[-1] + 1


def _unsupported(full_name: str) -> InputError:
    return InputError(
        f"{full_name}: cannot be read at two depths here. Of torchvision, ResNets (ResNeXt, Wide "
        "ResNet), ConvNeXts and ViTs can, and others that are stages in a row; timm has most others"
    )
