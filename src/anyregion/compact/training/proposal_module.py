"""The proposal head in torch: stored maps to boxes of objects, without a prompt and at points.

Names of submodules are keys of saved weights: they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.proposal_head import LEVELS
from anyregion.compact.training.modules import CellAttention, Projection


@dataclass(frozen=True)
class ProposalHeadConfig:
    """Sizes of a `ProposalHeadModule`.

    Attributes:
        width: channels, a multiple of 8.
        fine: channels at stride 8, where three quarters of the cells are.
        depth, fine_depth: blocks before the branches of boxes and of scores, of the coarser levels,
            which share them, and at stride 8.
        bins: into which the distance of a box's side from its cell is divided, a stride each.
        attention: layers of self-attention among the cells at stride 32.
    """

    width: int = 96
    fine: int = 48
    depth: int = 1
    fine_depth: int = 0
    bins: int = 16
    attention: int = 1


class CellPredictions(NamedTuple):
    """What a `ProposalHeadModule` says at each cell of one image, level by level, row by row.

    Attributes:
        boxes: `(cells, 4)`, xyxy in pixels of the network's input, not clipped.
        scores: `(cells,)`, logits of the box's intersection over union with an object.
        point_boxes, point_scores: the same, provided that an object lies at the cell.
        distances: `(cells, 4, bins)`, logits of the distances of `boxes` (see `distance_losses`).
    """

    boxes: Tensor
    scores: Tensor
    point_boxes: Tensor
    point_scores: Tensor
    distances: Tensor


class ProposalHeadModule(nn.Module):
    """Stored maps of images to boxes and scores for each cell of four strides.

    One stage, no anchors. A path down and one up again join the levels (arXiv 1803.01534, section
    3.1), by depthwise convolutions, which cost a core least for what they bring; all levels share a
    tower. The distances of a box's sides are means over bins, and the score is the intersection
    over union that is predicted (arXiv 2006.04388, section 3): there are no classes.

    A second box and score serve points, at which something is known to lie: the question is only
    what. Every cell of an object learns these, in `boxes` only those that do it best.
    """

    def __init__(self, config: ProposalHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ProposalHeadConfig()
        width, fine = config.width, config.fine
        self.from_last = Projection(("stride32", "last"), width)
        self.from_16 = Projection(("stride16",), width)
        self.from_8 = Projection(("stride8",), fine)
        self.attention = nn.ModuleList(CellAttention(width) for _ in range(config.attention))
        self.to_fine, self.from_fine = Pointwise(width, fine), Pointwise(fine, width)
        # kernels of 5 pay where cells are few
        self.down = nn.ModuleList(MixBlock(*size) for size in ((fine, 3), (width, 5), (width, 5)))
        self.shrink = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
            for channels in (fine, width, width)
        )
        self.up = nn.ModuleList(MixBlock(width, 5) for _ in LEVELS[1:])
        self.levels = nn.Parameter(torch.zeros(len(LEVELS) - 1, width))
        self.coarse_outputs = Outputs(width, config.depth, config.bins)
        self.fine_outputs = Outputs(fine, config.fine_depth, config.bins)
        self.bins: Tensor
        self.register_buffer("bins", torch.arange(config.bins).float(), persistent=False)

    def forward(self, images: Sequence[Mapping[str, Tensor]]) -> list[CellPredictions]:
        """Predict at every cell of each image.

        Args:
            images: per image the stored maps, `(h, w, channels)` each.
        """
        # images of one size go together, which is a third faster
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, maps in enumerate(images):
            groups.setdefault(tuple(maps["stride32"].shape), []).append(i)
        predictions: dict[int, CellPredictions] = {}
        for members in groups.values():
            stacked = {name: torch.stack([images[i][name] for i in members]) for name in images[0]}
            # unbound: the gradient of each row alone would be as large as all of them
            rows = zip(*(part.unbind() for part in self.predict(stacked)), strict=True)
            predictions |= {i: CellPredictions(*row) for i, row in zip(members, rows, strict=True)}
        return [predictions[i] for i in range(len(images))]

    def predict(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Predict for `B` images of one size; see `CellPredictions`, with a first axis `B`.

        Args:
            maps: `(B, h, w, channels)` each.
        """
        stride32 = self.from_last.project(maps)  # (B, width, h, w)
        for layer in self.attention:
            stride32 = layer(stride32)
        # down: what things are; to the finer levels
        stride32 = self.down[2](stride32)
        stride16 = self.down[1](self.from_16.project(maps) + _enlarged(stride32))
        stride8 = self.from_8.project(maps) + _enlarged(self.to_fine(stride16))
        stride8 = self.down[0](stride8)
        # up again: where they end
        stride16 = self.up[0](stride16 + self.from_fine(self.shrink[0](stride8)))
        stride32 = self.up[1](stride32 + self.shrink[1](stride16))
        stride64 = self.up[2](self.shrink[2](stride32))
        levels = (stride8, stride16, stride32, stride64)
        parts = [self._predict_level(i, cells) for i, cells in enumerate(levels)]
        boxes, scores, point_boxes, point_scores, distances = (
            torch.cat(part, dim=1) for part in zip(*parts, strict=True)
        )
        return boxes, scores, point_boxes, point_scores, distances

    def _predict_level(self, level: int, cells: Tensor) -> tuple[Tensor, ...]:
        stride, bins = LEVELS[level], self.config.bins
        if level:
            cells = cells + self.levels[level - 1][None, :, None, None]
        sides, scores = (self.coarse_outputs if level else self.fine_outputs)(cells)
        at = centres(cells.shape[2], cells.shape[3], stride, cells.device)
        distances = sides[..., : 4 * bins].unflatten(2, (4, bins))
        reach = (distances.softmax(dim=3) * self.bins).sum(dim=3) * stride
        point_reach = F.softplus(sides[..., 4 * bins :]) * (2 * stride)
        boxes, point_boxes = (
            torch.cat([at - r[..., :2], at + r[..., 2:]], dim=2) for r in (reach, point_reach)
        )
        return boxes, scores[..., 0], point_boxes, scores[..., 1], distances


class Outputs(nn.Module):
    """Cells of a level to the logits of distances, the reaches of point boxes, and two scores.

    Takes `(B, width, h, w)` and gives `(B, h * w, 4 * bins + 4)` and `(B, h * w, 2)`.
    """

    def __init__(self, width: int, depth: int, bins: int) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(MixBlock(width, 3) for _ in range(depth)))
        self.boxes = nn.Sequential(MixBlock(width, 3), Pointwise(width, 4 * bins + 4))
        self.scores = nn.Sequential(MixBlock(width, 3), Pointwise(width, 2))
        with torch.no_grad():
            # training begins at a box of some cells, and no object
            start = torch.cat([(-0.3 * torch.arange(bins)).repeat(4), torch.full((4,), 0.7)])
            for branch, bias in ((self.boxes, start), (self.scores, torch.tensor([-4.0, 0.0]))):
                outputs = branch[1]
                outputs.weight.mul_(0.1)  # type: ignore[operator]
                outputs.bias.copy_(bias)  # type: ignore[operator]

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tower(cells)
        sides, scores = (b(x).flatten(2).transpose(1, 2) for b in (self.boxes, self.scores))
        return sides, scores


class MixBlock(nn.Module):
    """Depthwise convolution, norm over groups of channels, ReLU, 1 x 1, beside a shortcut."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.norm = nn.GroupNorm(width // 8, width)
        self.mix = Pointwise(width, width)

    def forward(self, cells: Tensor) -> Tensor:
        """Cells `(B, width, h, w)` to as many."""
        mixed: Tensor = self.mix(F.relu(self.norm(self.across(cells))))
        return cells + mixed


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that is trained as a matrix product, on a processor twice as fast."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Cells `(B, width_in, h, w)` to `(B, width, h, w)`."""
        if not self.training:
            return super().forward(input)
        # in the layout of `channels_last` neither permutation moves anything
        cells = F.linear(input.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias)
        return cells.permute(0, 3, 1, 2)


def centres(rows: int, columns: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of the cells of one level, row by row, `(rows * columns, 2)` x and y."""
    y = (torch.arange(rows, device=device) + 0.5) * stride
    x = (torch.arange(columns, device=device) + 0.5) * stride
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], 2).flatten(0, 1)


def _enlarged(cells: Tensor) -> Tensor:
    return F.interpolate(cells, scale_factor=2)
