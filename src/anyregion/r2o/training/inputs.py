"""Pixels as the networks take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyregion.backbones.encoder import IMAGENET_MEAN, IMAGENET_STD
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.r2o.label_store import LabelStore

ONE_VALUE = "more than 1 value per channel"
"""What torch says where a BatchNorm cannot count: an image alone, of one cell."""


def read_again(store: LabelStore, image: int) -> Pixels:
    """The pixels of an image of the training.

    Raises:
        InputError: its file is gone, or has become unreadable since its label map was made.
    """
    try:
        return read_image(store.path(image))
    except InputError as error:
        raise InputError(
            f"{error}. It could be read when the label maps were made. The same command goes on "
            "from the last checkpoint, without the image if it is gone"
        ) from None


def normalised(
    pixels: Sequence[Pixels],
    device: torch.device,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    channels_last: bool = False,
) -> Tensor:
    """Images of one size as `(B, 3, S, S)` float32, less the mean, over the deviation.

    Args:
        mean, std: of values from 0 to 1, those that the encoder expects.
        channels_last: memory lies pixel by pixel; else channel by channel.
    """
    stacked = torch.from_numpy(np.stack(pixels)).to(device).float()
    images = (stacked / 255 - stacked.new_tensor(mean)) / stacked.new_tensor(std)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return images.permute(0, 3, 1, 2).contiguous(memory_format=memory)
