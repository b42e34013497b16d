"""An image network without its classifier, read at two depths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.images import Pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Run: TypeAlias = Callable[[nn.Module, Tensor, bool], Tensor]
"""`run(body, images, intermediate)`: `(B, C, h, w)`, the intermediate feature map or the last."""


@dataclass(frozen=True)
class Grid:
    """Channels and extent of a feature map.

    Attributes:
        channels: `C` of `(B, C, h, w)`.
        height_width: rows and columns.
    """

    channels: int
    height_width: tuple[int, int]


class Encoder(nn.Module):
    """A backbone: `encoder(images)` is its last feature map, `encoder.intermediate(images)` one
    before.

    ResNets and ConvNeXts are read behind their fourth stage (stride 32) and their third (stride
    16). A plain ViT has one stride: both are read there, the intermediate one two thirds up.

    Args:
        name: `torchvision/resnet50`, `timm/vit_small_patch16_224`.
        body: the library's own module, under the library's own parameter names, without what only
            its classifier needs.
        run: how it is read.
        size: side of the images that it is built for, in pixels.
        mean, std: of RGB in 0 to 1, by which the images are to be normalised.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        run: Run,
        *,
        size: int = 224,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.size = size
        self.mean, self.std = mean, std
        # a function beside the body, not a wrapper around it: the library's keys stay as they are
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` normalised images to `(B, C, h, w)`.

        Raises:
            InputError: a ViT's images whose sides are no multiple of its patch.
        """
        return self._run(self.body, images, False)

    def intermediate(self, images: Tensor) -> Tensor:
        """`(B, 3, H, W)` to `(B, C, h, w)`. What lies deeper is not run: it costs nothing, and
        its BatchNorms do not see the images."""
        return self._run(self.body, images, True)

    def grid(self, size: int | tuple[int, int], *, intermediate: bool = False) -> Grid:
        """Channels and extent of a feature map of images of `size`, by running a blank one.

        The BatchNorms' running statistics stay as they are.
        """
        # run, not computed: a padding or a patch of another size would make any formula wrong
        height, width = (size, size) if isinstance(size, int) else size
        parameter = next(self.parameters())
        blank = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
        with eval_mode(self):
            features = self._run(self.body, blank, intermediate)  # (1, C, h, w)
        return Grid(features.shape[1], (features.shape[2], features.shape[3]))


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; afterwards every module is as before."""
    # part by part: a caller may have put some BatchNorms alone into evaluation mode
    training = [part for module in modules for part in module.modules() if part.training]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def normalize(
    pixels: Sequence[Pixels],
    device: torch.device,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    channels_last: bool = False,
) -> Tensor:
    """Images of one size as a `(B, 3, S, S)` float32 batch, less the mean, over the deviation.

    Args:
        mean, std: of values from 0 to 1, those that the encoder expects.
        channels_last: memory lies pixel by pixel; else channel by channel.
    """
    # bytes travel to the device, a quarter of what floats would be
    images = torch.from_numpy(np.stack(pixels)).to(device).float()  # (B, S, S, 3)
    images = (images / 255 - images.new_tensor(mean)) / images.new_tensor(std)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return images.permute(0, 3, 1, 2).contiguous(memory_format=memory)
