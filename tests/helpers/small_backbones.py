"""Small encoders, and weights no two of which are alike.

Fresh ones hide what is lost: all norms are 1, all means 0, and layer scales nearly so.
"""

from __future__ import annotations

from functools import partial

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.timm import run_intermediates
from anyregion.backbones.torchvision import run_features, run_vit


@torch.no_grad()
def scrambled(module: nn.Module, seed: int = 0) -> None:
    """Move every parameter and BatchNorm buffer of a module."""
    chance = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=chance))
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=chance))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=chance))
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(7)


def small_vits() -> tuple[Encoder, Encoder]:
    """The same ViT of torchvision and of timm, 64 px, 64 wide, 6 blocks."""
    first = torchvision.models.VisionTransformer(64, 16, 6, 2, 64, 192)
    first.heads = nn.Identity()
    second = timm.create_model("test_vit", num_classes=0, img_size=64)
    read = partial(run_intermediates, intermediate_index=3, last_index=5)
    return (
        Encoder("torchvision/vit_small", first, run_vit, size=64),
        Encoder("timm/vit_small", second, read, size=64),
    )


def small_convnexts() -> tuple[Encoder, Encoder]:
    """The same ConvNeXt of torchvision and of timm, 8 to 64 wide."""
    widths, depths = (8, 16, 32, 64), (1, 2, 1, 1)
    settings = [
        CNBlockConfig(width, after, depth)
        for width, after, depth in zip(widths, (*widths[1:], None), depths, strict=True)
    ]
    first = torchvision.models.ConvNeXt(settings)
    first.classifier = nn.Identity()
    second = timm.models.ConvNeXt(depths=depths, dims=widths, num_classes=0)
    second.head = nn.Identity()
    return (
        Encoder(
            "torchvision/convnext_small",
            first,
            partial(run_features, intermediate_stages=6),
            size=64,
        ),
        Encoder(
            "timm/convnext_small",
            second,
            partial(run_intermediates, intermediate_index=2, last_index=3),
            size=64,
        ),
    )
