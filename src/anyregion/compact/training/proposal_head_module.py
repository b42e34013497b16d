"""A dense head that finds things of any kind: for every cell a box, and how good it is.

One stage, no anchors, as FCOS (arXiv 1904.01355, section 3), with the predicted intersection over
union as the score (arXiv 2006.04388, section 3.1): there are no classes. A second score serves
points: there something is known to lie, and the question is only which size is meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.grid_boxes import LEVELS
from anyregion.compact.training.frozen_maps import Projection, block


@dataclass(frozen=True)
class ProposalHeadConfig:
    """Sizes of a `ProposalHeadModule`.

    Attributes:
        width: channels everywhere.
        depth: convolutions shared by all levels, before the predictions.
    """

    width: int = 48
    depth: int = 1


class ProposalHeadModule(nn.Module):
    """Frozen maps of one image to a box and a score for each cell of four strides."""

    def __init__(self, config: ProposalHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ProposalHeadConfig()
        width = config.width
        self.from_last = Projection(("stride32", "last"), width)
        self.from_16 = Projection(("stride16",), width)
        self.from_8 = Projection(("stride8",), width)
        self.smooth = nn.ModuleList(block(width, width, stride=s) for s in (1, 1, 1, 2))
        self.tower = nn.Sequential(*(block(width, width) for _ in range(config.depth)))
        self.levels = nn.Parameter(torch.zeros(len(LEVELS), width))
        self.predict = nn.Conv2d(width, 6, 1)
        with torch.no_grad():
            self.predict.weight.mul_(0.1)
            start = torch.tensor(
                [0.7, 0.7, 0.7, 0.7, -4.0, 0.0]
            )  # a box of some cells, and no thing
            nn.init.zeros_(self.predict.bias).add_(start)  # type: ignore[arg-type]

    def forward(
        self, images: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Predict at every cell of each image.

        Args:
            images: per image the eyes' maps, `(h, w, channels)` each.

        Returns:
            Per image boxes `(cells, 4)`, xyxy in pixels of the network's input, not clipped, and
            two columns `(cells,)` of logits of their intersection over union with a thing: where
            there may be none, and provided that one lies there. Level by level, and within it as
            in `centres`.
        """
        return [self._predict(maps) for maps in images]

    def _predict(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        deep = self.smooth[2](self.from_last(maps))
        wider = self.smooth[3](deep)
        middle = self.smooth[1](_joined(self.from_16(maps), deep))
        fine = self.smooth[0](_joined(self.from_8(maps), middle))
        boxes, scores, given = [], [], []
        for i, (stride, cells) in enumerate(zip(LEVELS, (fine, middle, deep, wider), strict=True)):
            x = cells + self.levels[i][None, :, None, None]
            found = self.predict(x + self.tower(x))[0].flatten(1).T
            at = centres(cells.shape[2], cells.shape[3], stride, cells.device)
            reach = F.softplus(found[:, :4]) * (2 * stride)
            boxes.append(torch.cat([at - reach[:, :2], at + reach[:, 2:]], dim=1))
            scores.append(found[:, 4])
            given.append(found[:, 5])
        return torch.cat(boxes), torch.cat(scores), torch.cat(given)


def centres(rows: int, columns: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of the cells of one level, row by row, `(rows * columns, 2)` x and y."""
    y = (torch.arange(rows, device=device) + 0.5) * stride
    x = (torch.arange(columns, device=device) + 0.5) * stride
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], 2).flatten(0, 1)


def _joined(own: Tensor, coarser: Tensor) -> Tensor:
    return own + F.interpolate(coarser, scale_factor=2, mode="nearest")
