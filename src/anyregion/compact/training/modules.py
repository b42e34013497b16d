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
        coarse, fine: channels at half of the side, and at the full side.
        semantic: channels that stride 32 and the last convolution are projected to.
        colours: channels that the pixels become.
        edges: channels of the pixels at twice the side, for things that are thin; 0 for none.
        depth: convolutions at half of the side, after the first.
        attention: layers of self-attention among the cells at half of the side.
        fine_depth: convolutions at the full side, after the first.
        side: cells along a side of the mask; even.
        margin: how much of its width and height a box is enlarged on each side.
        dropout: chance, in training, of losing a channel of what is seen of a box: a few thousand
            masks are easily learned by heart.
    """

    coarse: int = 64
    fine: int = 40
    semantic: int = 48
    colours: int = 16
    edges: int = 16
    depth: int = 1
    attention: int = 2
    fine_depth: int = 3
    side: int = 28
    margin: float = 0.1
    dropout: float = 0.1


class MaskHeadModule(nn.Module):
    """Boxes on stored maps to mask logits, and how good each mask is.

    Coarse cells say what the object is, fine cells and the pixels where it ends. A mask of 28 x 28
    cells bounds the mean intersection over union on COCO's photographs at 0.986 only, so that the
    work is better spent on telling the object from the rest.
    """

    def __init__(self, config: MaskHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskHeadConfig()
        coarse, fine, colours = config.coarse, config.fine, config.colours
        self.from_last = Projection(("stride32", "last"), config.semantic)
        self.from_16 = Projection(("stride16",), coarse)
        self.from_8 = Projection(("stride8",), fine)
        self.dropout = nn.Dropout2d(config.dropout)
        self.first = conv_block(config.semantic + coarse + 3, coarse)
        self.deep = nn.ModuleList(conv_block(coarse, coarse) for _ in range(config.depth))
        self.attention = nn.ModuleList(CellAttention(coarse) for _ in range(config.attention))
        self.context = nn.Linear(coarse, coarse)
        self.to_fine = nn.Conv2d(coarse, fine + 1, 1)
        self.pixels = conv_block(6, colours, stride=2)
        self.edges: nn.Sequential | None = None
        if config.edges:
            last = conv_block(config.edges, colours, stride=2)
            self.edges = nn.Sequential(conv_block(6, config.edges), last)
        self.join = conv_block(2 * fine + colours + 3, fine)
        self.fine = nn.ModuleList(conv_block(fine, fine) for _ in range(config.fine_depth))
        self.logits = nn.Conv2d(fine, 1, 1)
        self.quality = nn.Sequential(nn.Linear(coarse + fine + 3, 64), nn.SiLU(), nn.Linear(64, 1))
        # what is added to something begins at nothing
        for block in (*self.deep, *self.fine, *([] if self.edges is None else [self.edges[1]])):
            nn.init.zeros_(block[1].weight)

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
        last = roi_align(self.from_last(maps), rois, side // 2, 1 / 32, 1, aligned=True)
        mid = roi_align(self.from_16(maps), rois, side // 2, 1 / 16, 1, aligned=True)
        low = roi_align(self.from_8(maps), rois, side, 1 / 8, 1, aligned=True)  # (n, fine, S, S)
        rgb = roi_align(frame, rois, 2 * side, 1.0, 2, aligned=True)  # (n, 3, 2 S, 2 S)
        deep = self.dropout(torch.cat([last, mid], dim=1))  # (n, semantic + coarse, S/2, S/2)
        return deep, self.dropout(low), rgb, boxes

    def _decode(
        self, deep: Tensor, low: Tensor, rgb: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        x: Tensor = self.first(torch.cat([deep, self._positions(deep)], dim=1))
        for layer in self.deep:
            x = x + layer(x)
        for layer in self.attention:
            x = layer(x)
        x = x + self.context(x.mean(dim=(2, 3)))[:, :, None, None]  # (N, coarse, S/2, S/2)
        guess = F.interpolate(self.to_fine(x), scale_factor=2, mode="bilinear")
        rgb = torch.cat([rgb, self._positions(rgb)], dim=1)
        colours = self.pixels(rgb)  # (N, colours, S, S)
        if self.edges is not None:
            colours = colours + self.edges(rgb)
        y = self.join(_compare(guess, torch.cat([low, colours], dim=1)))  # (N, fine, S, S)
        for layer in self.fine:
            y = y + layer(y)
        logits = self.logits(y)[:, 0]  # (N, S, S)
        inside = logits.detach().sigmoid()
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-3).log() / 4
        certainty = (2 * inside - 1).abs().mean(dim=(1, 2))
        # detached: the quality's loss is not to change the masks
        summary = [
            x.mean(dim=(2, 3)).detach(), y.mean(dim=(2, 3)).detach(), extent, certainty[:, None]
        ]  # fmt: skip
        return logits, self.quality(torch.cat(summary, dim=1))[:, 0]

    def _positions(self, cells: Tensor) -> Tensor:
        """Per cell x and y, -1 and 1 at the box's own sides, and whether it lies in the box."""
        side = cells.shape[-1]
        reach = 1 + 2 * self.config.margin
        at = ((torch.arange(side, device=cells.device) + 0.5) / side * 2 - 1) * reach
        x, y = at[None, :].expand(side, side), at[:, None].expand(side, side)
        inside = ((x.abs() < 1) & (y.abs() < 1)).to(cells.dtype)
        positions = torch.stack([x, y, inside])  # (3, side, side)
        return positions[None].expand(cells.shape[0], 3, side, side)


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
        cells = torch.cat([maps[name] for name in self.names], dim=-1)  # (B, h, w, total)
        return F.linear(cells, *self.on_raw_channels()).permute(0, 3, 1, 2)

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


def conv_block(width_in: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, normalised in groups of 8 channels, and SiLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(width // 8, width),
        nn.SiLU(),
    )


def _compare(guess: Tensor, features: Tensor) -> Tensor:
    """The coarser cells, the features, and how like the inside and the outside each cell is.

    The last channel of `guess` is a first guess of the mask. Inside and outside are the means of
    the features in it and around it: objects are often of one colour and texture.

    Shapes: `(N, width + 1, h, w)` and `(N, other, h, w)` to `(N, width + other + 3, h, w)`.
    """
    coarser, inside = guess[:, :-1], guess[:, -1:].sigmoid()
    comparisons = [inside]
    for share in (inside, 1 - inside):
        mean = (features * share).sum((2, 3), keepdim=True) / (share.sum((2, 3), keepdim=True) + 1)
        comparisons.append(((features - mean) ** 2).mean(dim=1, keepdim=True))
    return torch.cat([coarser, features, *comparisons], dim=1)


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
