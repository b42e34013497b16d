"""The eyes' maps as tensors, and pieces that both heads on top of them are built of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.image_encoder import CHANNELS, MapName
from anyregion.data.features import FeatureReader

MEASURED_IMAGES = 64
"""Images over which the channels' means and deviations are taken."""

M = TypeVar("M", bound=nn.Module)


def as_maps(features: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The four maps of one image, `(h, w, channels)` each, float32 tensors."""
    return {
        name: torch.from_numpy(np.asarray(features[name], dtype=np.float32)) for name in CHANNELS
    }


def channel_statistics(images: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Per map the mean and the deviation of each channel over all cells, `(2, channels)`."""
    sums = {name: torch.zeros(3, width, dtype=torch.float64) for name, width in CHANNELS.items()}
    for features in images:
        for name in CHANNELS:
            cells = np.asarray(features[name], dtype=np.float64).reshape(-1, CHANNELS[name])
            total = np.stack([np.full(len(cells[0]), len(cells)), cells.sum(0), (cells**2).sum(0)])
            sums[name] += torch.from_numpy(total)
    found: dict[str, Tensor] = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count.clamp_min(1)
        deviation = (squares / count.clamp_min(1) - mean**2).clamp_min(0).sqrt()
        found[name] = torch.stack([mean, deviation]).float()
    return found


class Projection(nn.Module):
    """Standardised channels of some maps of one size, to fewer: `(1, width, h, w)`."""

    def __init__(self, names: tuple[MapName, ...], width: int) -> None:
        super().__init__()
        self.names = names
        total = sum(CHANNELS[name] for name in names)
        self.shift: Tensor
        self.factor: Tensor
        self.register_buffer("shift", torch.zeros(total))
        self.register_buffer("factor", torch.ones(total))
        self.linear = nn.Linear(total, width)

    def set_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Take over the mean and deviation of each channel (see `channel_statistics`)."""
        mean, deviation = torch.cat([statistics[name] for name in self.names], dim=1)
        self.shift.copy_(mean)
        # a channel that was all but silent in these images must not shout in others
        self.factor.copy_(1 / torch.maximum(deviation, deviation.median() / 10).clamp_min(1e-6))

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        cells = torch.cat([maps[name] for name in self.names], dim=-1)
        return F.linear(cells, *self.on_raw_channels()).permute(2, 0, 1)[None]

    def on_raw_channels(self) -> tuple[Tensor, Tensor]:
        """The weight and bias that do the same to channels that are not standardised."""
        weight = self.linear.weight * self.factor
        return weight, self.linear.bias - weight @ self.shift


def standardise(module: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Let every `Projection` in a module take over the channels' statistics."""
    for part in module.modules():
        if isinstance(part, Projection):
            part.set_statistics(statistics)


def prepared(head: M, reader: FeatureReader, images: Sequence[int]) -> M:
    """A fresh head that knows the channels of the data it will learn from.

    Args:
        head: with its first weights.
        reader: its frozen maps.
        images: those that are learned from; means and deviations are taken over some of them.
    """
    few = images[:: -(-len(images) // MEASURED_IMAGES)]
    standardise(head, channel_statistics(reader.read(i) for i in few))
    # the layout in which a processor's convolutions are fastest
    return head.to(memory_format=torch.channels_last)


def block(width_in: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, normalised in groups of 8 channels, and SiLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(width // 8, width),
        nn.SiLU(),
    )
