"""The mask head in torch, and what it shares with the proposal head: stored maps to cells.

Names of submodules are keys of saved weights: they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from anyregion.compact.image_encoder import CHANNELS, MapName
from anyregion.data.region_dataset import RegionDataset

# images over which the channels' means and deviations are taken: each has thousands of cells
MEASURED_IMAGES = 64

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MaskHeadConfig:
    """Sizes of a `MaskHeadModule`.

    Attributes:
        coarse, fine: channels at half of the side, and at the full side; multiples of 16 are what
            a processor's convolutions are fastest with.
        depth, fine_depth: convolutions at half of the side, and at the full side.
        attention: layers of attention among the cells at half of the side.
        side: cells along a side of the mask, a multiple of 4.
        margin: how much of its width and height a box is enlarged on each side.
        dropout: chance, in training, of losing a channel of what is seen of a box: a few thousand
            masks are easily learned by heart.
    """

    coarse: int = 48
    fine: int = 32
    depth: int = 2
    fine_depth: int = 3
    attention: int = 1
    side: int = 28
    margin: float = 0.1
    dropout: float = 0.1


class MaskHeadModule(nn.Module):
    """Boxes on stored maps to mask logits, and how good each mask is.

    Coarse cells say what the object is, fine cells and the pixels where it ends. A mask of 28 x 28
    cells bounds the mean intersection over union on COCO's photographs at 0.986 only, so that the
    work is better spent on telling the object from the rest.

    What is known of a cell is projected once an image, cropped, and added up, so that convolutions
    have few channels; they are normalised over the batch, which inference folds into them.
    """

    def __init__(self, config: MaskHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskHeadConfig()
        coarse, fine, side = config.coarse, config.fine, config.side
        self.from_last = Projection(("stride32", "last"), coarse)
        self.from_16 = Projection(("stride16",), coarse)
        self.from_8 = Projection(("stride8",), fine)
        self.dropout = nn.Dropout2d(config.dropout)
        # what is known of a cell from where in the box it lies
        self.coarse_places = nn.Parameter(torch.zeros(coarse, side // 2, side // 2))
        self.fine_places = nn.Parameter(torch.zeros(fine, side, side))
        self.deep = nn.ModuleList(ConvBlock(coarse, coarse) for _ in range(config.depth))
        self.attention = nn.ModuleList(PooledAttention(coarse) for _ in range(config.attention))
        self.to_fine = nn.Conv2d(coarse, fine + 1, 1)
        self.pixels = ConvBlock(12, fine)
        self.compare = nn.Conv2d(3, fine, 1)
        self.fine = nn.ModuleList(ConvBlock(fine, fine) for _ in range(config.fine_depth))
        self.logits = nn.Conv2d(fine, 1, 1)
        self.quality = nn.Sequential(nn.Linear(coarse + fine + 3, 64), nn.SiLU(), nn.Linear(64, 1))
        # what is added to something begins at nothing
        for block in (*self.deep[1:], *self.fine[1:]):
            nn.init.zeros_(block.norm.weight)

    def forward(
        self,
        maps: Sequence[Mapping[str, Tensor]],
        frames: Sequence[Tensor],
        boxes: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Decode boxes of several images.

        Args:
            maps: per image the stored maps, `(h, w, channels)` each.
            frames: per image the network's input, `(1, 3, H, W)`.
            boxes: per image `(n, 4)`, xyxy in pixels of the network's input.

        Returns:
            Mask logits `(N, side, side)` over the enlarged boxes, and the logits of each mask's
            intersection over union with the true one, `(N,)`.
        """
        # cropped image by image, since maps differ in size, and decoded together
        crops = [self._crop(*image) for image in zip(maps, frames, boxes, strict=True)]
        return self._decode(*(torch.cat(parts) for parts in zip(*crops, strict=True)))

    def _crop(
        self, maps: Mapping[str, Tensor], frame: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps and pixels in the enlarged boxes, on grids of the mask's side S or parts of it."""
        side = self.config.side
        wide = enlarged(boxes, self.config.margin)
        rois = torch.cat([torch.zeros_like(wide[:, :1]), wide], dim=1)  # (n, 5): image 0, xyxy
        # joined before they are cropped: an image has fewer cells than its crops
        last = F.interpolate(self.from_last(maps), scale_factor=2, mode="bilinear")
        deep = roi_align(last + self.from_16(maps), rois, side // 2, 1 / 16, 1, aligned=True)
        low = roi_align(self.from_8(maps), rois, side, 1 / 8, 1, aligned=True)  # (n, fine, S, S)
        rgb = roi_align(frame, rois, 2 * side, 1.0, 1, aligned=True)  # (n, 3, 2 S, 2 S)
        return self.dropout(deep), self.dropout(low), rgb, boxes

    def _decode(
        self, deep: Tensor, low: Tensor, rgb: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        x: Tensor = deep + self.coarse_places  # (N, coarse, S/2, S/2)
        for layer in self.deep:
            x = F.relu(x + layer(x))
        for layer in self.attention:
            x = layer(x)
        guess = F.interpolate(self.to_fine(x), scale_factor=2, mode="bilinear")
        # the four pixels of a cell are its channels
        seen = low + self.pixels(F.pixel_unshuffle(rgb, 2)) + self.fine_places  # (N, fine, S, S)
        y = seen + guess[:, :-1] + self.compare(_compare(guess[:, -1:], seen))
        for layer in self.fine:
            y = F.relu(y + layer(y))
        logits = self.logits(y)[:, 0]  # (N, S, S)
        inside = logits.detach().sigmoid()
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-3).log() / 4
        certainty = (2 * inside - 1).abs().mean(dim=(1, 2))
        # detached: the quality's loss is not to change the masks
        summary = [
            x.mean(dim=(2, 3)).detach(), y.mean(dim=(2, 3)).detach(), extent, certainty[:, None]
        ]  # fmt: skip
        return logits, self.quality(torch.cat(summary, dim=1))[:, 0]


class ConvBlock(nn.Module):
    """A 3 x 3 convolution, normalised over the batch."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, cells: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(cells))
        return normed


class PooledAttention(nn.Module):
    """Attention of each cell to the means of 2 x 2 cells: those that look alike meet.

    Pre-norm, with the two-layer network that follows in a transformer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 16)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Cells `(N, width, h, w)` to as many."""
        count, width, rows, columns = cells.shape
        x: Tensor = cells.flatten(2).transpose(1, 2)  # (N, T, width)
        pooled = F.avg_pool2d(cells, 2).flatten(2).transpose(1, 2)  # (N, T/4, width)
        query = self.query(self.norm(x)).reshape(count, rows * columns, self.heads, -1)
        projected = self.key_value(self.norm(pooled))
        projected = projected.reshape(count, rows * columns // 4, 2, self.heads, -1)
        key, value = projected.permute(2, 0, 3, 1, 4)  # (N, heads, T/4, width / heads)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(count, rows * columns, width))
        x = x + self.mix(x)
        return x.transpose(1, 2).reshape(count, width, rows, columns)


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
        return self.project({name: maps[name][None] for name in self.names})

    def project(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Maps of `B` images of one size, `(B, h, w, channels)`, to `(B, width, h, w)`."""
        weight, bias = self.on_raw_channels()
        parts = torch.split(weight, [CHANNELS[name] for name in self.names], dim=1)
        # map by map: putting their channels side by side would copy them all
        first, *others = (
            F.linear(maps[n], part) for n, part in zip(self.names, parts, strict=True)
        )
        return (sum(others, first) + bias).permute(0, 3, 1, 2)

    def on_raw_channels(self) -> tuple[Tensor, Tensor]:
        """The weight and bias that do the same to channels that are not standardised."""
        weight = self.linear.weight * self.factor
        return weight, self.linear.bias - weight @ self.shift


class CellAttention(nn.Module):
    """Pre-norm self-attention among cells: those that look alike meet, however far apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 16)
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Cells `(N, width, h, w)` to as many."""
        count, width, rows, columns = cells.shape
        x: Tensor = cells.flatten(2).transpose(1, 2)  # (N, T, width)
        projected = self.ask(self.norm(x)).reshape(count, rows * columns, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (N, heads, T, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.answer(mixed.transpose(1, 2).reshape(count, rows * columns, width))
        x = x + self.mix(x)
        return x.transpose(1, 2).reshape(count, width, rows, columns)


def _compare(guess: Tensor, features: Tensor) -> Tensor:
    """How like the inside and the outside each cell is: objects are often of one look.

    Inside and outside are the means of the features in a first guess of the mask and around it.

    Shapes: logits `(N, 1, h, w)` and features `(N, width, h, w)` to `(N, 3, h, w)`, the guess's
    probability first.
    """
    inside = guess.sigmoid()
    comparisons = [inside]
    for share in (inside, 1 - inside):
        mean = (features * share).sum((2, 3), keepdim=True) / (share.sum((2, 3), keepdim=True) + 1)
        comparisons.append(((features - mean) ** 2).mean(dim=1, keepdim=True))
    return torch.cat(comparisons, dim=1)


def enlarged(boxes: Tensor, margin: float) -> Tensor:
    """Boxes grown by `margin` of their width and height on each side."""
    grow = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - grow, boxes[:, 2:] + grow], dim=1)


def as_tensors(maps: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The four maps of one image, `(h, w, channels)` each, float32 tensors."""
    return {name: torch.from_numpy(np.asarray(maps[name], dtype=np.float32)) for name in CHANNELS}


def standardised(head: M, images: Sequence[tuple[RegionDataset, int]]) -> M:
    """A fresh head whose projections know the channels of the data it will learn from.

    Means and deviations are taken over some of `images`, each a data set and a position.
    """
    measured = images[:: -(-len(images) // MEASURED_IMAGES)]
    statistics = channel_statistics(measured)
    for part in head.modules():
        if isinstance(part, Projection):
            part.set_statistics(statistics)
    # the layout in which a processor's convolutions are fastest
    return head.to(memory_format=torch.channels_last)


def channel_statistics(images: Sequence[tuple[RegionDataset, int]]) -> dict[str, Tensor]:
    """Per map the mean and the deviation of each channel over all cells, `(2, channels)`."""
    # of each channel the number of cells, the sum and the sum of squares
    sums = {name: torch.zeros(3, width, dtype=torch.float64) for name, width in CHANNELS.items()}
    for dataset, image in images:
        features = dataset.reader.read(image)
        for name in CHANNELS:
            cells = np.asarray(features[name], dtype=np.float64).reshape(-1, CHANNELS[name])
            total = np.stack([np.full(len(cells[0]), len(cells)), cells.sum(0), (cells**2).sum(0)])
            sums[name] += torch.from_numpy(total)
    statistics: dict[str, Tensor] = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count.clamp_min(1)
        deviation = (squares / count.clamp_min(1) - mean**2).clamp_min(0).sqrt()
        statistics[name] = torch.stack([mean, deviation]).float()
    return statistics
