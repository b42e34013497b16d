"""From a box to a mask: a small decoder over cells of the frozen maps and over the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from anyregion.compact.training.frozen_maps import Projection, block


@dataclass(frozen=True)
class MaskHeadConfig:
    """Sizes of a `MaskHeadModule`.

    Attributes:
        coarse, fine: channels at half of the side, and at the full side.
        semantic: channels that stride 32 and the last convolution are projected to.
        colours: channels that the pixels become.
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
    depth: int = 1
    attention: int = 2
    fine_depth: int = 2
    side: int = 28
    margin: float = 0.1
    dropout: float = 0.1


class MaskHeadModule(nn.Module):
    """Boxes of frozen maps to mask logits, and how good each mask is.

    Coarse cells say what the thing is, fine cells and the pixels where it ends. A mask of 28 x 28
    cells bounds the mean intersection over union on COCO's photographs at 0.986 only, so that the
    work is better spent on telling the thing from the rest.
    """

    def __init__(self, config: MaskHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskHeadConfig()
        coarse, fine, colours = config.coarse, config.fine, config.colours
        self.from_last = Projection(("stride32", "last"), config.semantic)
        self.from_16 = Projection(("stride16",), coarse)
        self.from_8 = Projection(("stride8",), fine)
        self.dropout = nn.Dropout2d(config.dropout)
        self.first = block(config.semantic + coarse + 3, coarse)
        self.deep = nn.ModuleList(block(coarse, coarse) for _ in range(config.depth))
        self.attention = nn.ModuleList(CellAttention(coarse) for _ in range(config.attention))
        self.context = nn.Linear(coarse, coarse)
        self.to_fine = nn.Conv2d(coarse, fine + 1, 1)
        self.pixels = block(6, colours, stride=2)
        self.join = block(2 * fine + colours + 3, fine)
        self.fine = nn.ModuleList(block(fine, fine) for _ in range(config.fine_depth))
        self.logits = nn.Conv2d(fine, 1, 1)
        self.quality = nn.Sequential(nn.Linear(coarse + fine + 3, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(
        self,
        maps: Sequence[Mapping[str, Tensor]],
        frames: Sequence[Tensor],
        boxes: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Decode boxes of several images.

        Args:
            maps: per image the eyes' maps, `(h, w, channels)` each.
            frames: per image the network's input, `(1, 3, H, W)`.
            boxes: per image `(n, 4)`, xyxy in pixels of the network's input.

        Returns:
            Mask logits `(N, side, side)` over the enlarged boxes, and the logits of each mask's
            intersection over union with what was meant, `(N,)`.
        """
        crops = [self._crop(*image) for image in zip(maps, frames, boxes, strict=True)]
        return self._decode(*(torch.cat(parts) for parts in zip(*crops, strict=True)))

    def _crop(
        self, maps: Mapping[str, Tensor], frame: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        side = self.config.side
        wide = enlarged(boxes, self.config.margin)
        rois = torch.cat([torch.zeros_like(wide[:, :1]), wide], dim=1)
        last = roi_align(self.from_last(maps), rois, side // 2, 1 / 32, 1, aligned=True)
        mid = roi_align(self.from_16(maps), rois, side // 2, 1 / 16, 1, aligned=True)
        low = roi_align(self.from_8(maps), rois, side, 1 / 8, 1, aligned=True)
        rgb = roi_align(frame, rois, 2 * side, 1.0, 2, aligned=True)
        deep = self.dropout(torch.cat([last, mid], dim=1))
        return deep, self.dropout(low), rgb, boxes

    def _decode(
        self, deep: Tensor, low: Tensor, rgb: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        x: Tensor = self.first(torch.cat([deep, self._places(deep)], dim=1))
        for layer in self.deep:
            x = x + layer(x)
        for layer in self.attention:
            x = layer(x)
        x = x + self.context(x.mean(dim=(2, 3)))[:, :, None, None]
        guess = F.interpolate(self.to_fine(x), scale_factor=2, mode="bilinear")
        colours = self.pixels(torch.cat([rgb, self._places(rgb)], dim=1))
        y = self.join(_compared(guess, torch.cat([low, colours], dim=1)))
        for layer in self.fine:
            y = y + layer(y)
        logits = self.logits(y)[:, 0]
        inside = logits.detach().sigmoid()
        extent = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-3).log() / 4
        sure = (2 * inside - 1).abs().mean(dim=(1, 2))
        about = [x.mean(dim=(2, 3)).detach(), y.mean(dim=(2, 3)).detach(), extent, sure[:, None]]
        return logits, self.quality(torch.cat(about, dim=1))[:, 0]

    def _places(self, cells: Tensor) -> Tensor:
        """Per cell x and y, -1 and 1 at the box's own sides, and whether it lies in the box."""
        side = cells.shape[-1]
        reach = 1 + 2 * self.config.margin
        at = ((torch.arange(side, device=cells.device) + 0.5) / side * 2 - 1) * reach
        x, y = at[None, :].expand(side, side), at[:, None].expand(side, side)
        inside = ((x.abs() < 1) & (y.abs() < 1)).to(cells.dtype)
        places = torch.stack([x, y, inside])
        return places[None].expand(cells.shape[0], 3, side, side)


class CellAttention(nn.Module):
    """Cells that look alike find each other, however far apart: pre-norm self-attention."""

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
        x: Tensor = cells.flatten(2).transpose(1, 2)
        asked = self.ask(self.norm(x)).reshape(count, rows * columns, 3, self.heads, -1)
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value)
        x = x + self.answer(found.transpose(1, 2).reshape(count, rows * columns, width))
        x = x + self.mix(x)
        return x.transpose(1, 2).reshape(count, width, rows, columns)


def _compared(guess: Tensor, seen: Tensor) -> Tensor:
    """What the coarser cells say, what is seen here, and how like the inside and the outside it is.

    The last channel of `guess` is a first guess of the mask. Inside and outside are the means of
    what is seen in it and around it: things are often of one colour and texture.

    Args:
        guess: `(N, width + 1, h, w)`.
        seen: `(N, other, h, w)`.

    Returns:
        `(N, width + other + 3, h, w)`.
    """
    said, inside = guess[:, :-1], guess[:, -1:].sigmoid()
    ways = [inside]
    for share in (inside, 1 - inside):
        mean = (seen * share).sum((2, 3), keepdim=True) / (share.sum((2, 3), keepdim=True) + 1)
        ways.append(((seen - mean) ** 2).mean(dim=1, keepdim=True))
    return torch.cat([said, seen, *ways], dim=1)


def enlarged(boxes: Tensor, margin: float) -> Tensor:
    """Boxes grown by `margin` of their width and height on each side."""
    grow = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - grow, boxes[:, 2:] + grow], dim=1)
