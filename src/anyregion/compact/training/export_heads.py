"""The localising heads as ONNX graphs with float16 weights, for inference without torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim

from anyregion.compact.image_encoder import CHANNELS
from anyregion.compact.training.frozen_maps import Projection
from anyregion.compact.training.mask_head_module import MaskHeadModule
from anyregion.compact.training.onnx_export import export, rounded
from anyregion.compact.training.proposal_head_module import ProposalHeadModule

_EXAMPLE = (4, 6)  # rows and columns at stride 32 of the maps that are traced

M = TypeVar("M", bound=nn.Module)


def rounded_head(module: M) -> M:
    """A copy with the weights that its graph stores (see `rounded`).

    The standardisation of channels is folded into the projections first.
    """
    folded = copy.deepcopy(module)
    with torch.no_grad():
        for part in folded.modules():
            if isinstance(part, Projection):
                weight, bias = part.on_raw_channels()
                part.linear.weight.copy_(weight)
                part.linear.bias.copy_(bias)
                part.shift.zero_()
                part.factor.fill_(1.0)
    return rounded(folded)


def export_mask_head(head: MaskHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.mask_head.MaskHead` runs."""
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    tall, wide = _EXAMPLE[0] * 32, _EXAMPLE[1] * 32
    shapes: list[dict[int, Any]] = [
        {0: Dim(f"rows_{s}", min=2, max=2048), 1: Dim(f"columns_{s}", min=2, max=2048)}
        for s in (8, 16)
    ]
    export(
        _OneImageMasks(rounded_head(head)),
        (*_example_maps(), torch.zeros(1, 3, tall, wide), torch.tensor([[8.0, 8, 72, 40]] * 3)),
        names=(*(str(name) for name in CHANNELS), "frame", "boxes"),
        outputs=("inside", "scores", "margin"),
        shapes=(
            *shapes,
            *({0: rows, 1: columns} for _ in range(2)),
            {2: Dim("frame_rows", min=32, max=16384), 3: Dim("frame_columns", min=32, max=16384)},
            {0: Dim("boxes", min=1, max=65536)},
        ),
        path=path,
    )


def export_proposal_head(finder: ProposalHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.proposal_head.ProposalHead` runs."""
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    export(
        _OneImageFinder(rounded_head(finder)),
        _example_maps(),
        names=tuple(str(name) for name in CHANNELS),
        outputs=("boxes", "scores", "point_scores"),
        shapes=tuple({0: f * rows, 1: f * columns} for f in (4, 2, 1, 1)),
        path=path,
    )


class _OneImageMasks(nn.Module):
    def __init__(self, head: MaskHeadModule) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, stride8: Tensor, stride16: Tensor, stride32: Tensor, last: Tensor,
        frame: Tensor, boxes: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        maps = {"stride8": stride8, "stride16": stride16, "stride32": stride32, "last": last}
        logits, quality = self.head([maps], [frame], [boxes])
        return logits.sigmoid(), quality.sigmoid(), torch.tensor(self.head.config.margin)


class _OneImageFinder(nn.Module):
    def __init__(self, finder: ProposalHeadModule) -> None:
        super().__init__()
        self.finder = finder

    def forward(
        self, stride8: Tensor, stride16: Tensor, stride32: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = {"stride8": stride8, "stride16": stride16, "stride32": stride32, "last": last}
        boxes, scores, given = self.finder([maps])[0]
        return boxes, scores.sigmoid(), given.sigmoid()


def _example_maps() -> tuple[Tensor, ...]:
    rows, columns = _EXAMPLE
    return tuple(
        torch.rand(rows * f, columns * f, width)
        for f, width in zip((4, 2, 1, 1), CHANNELS.values(), strict=True)
    )
