"""The region head in torch: features of regions in, embeddings in the space of the texts out.

RegionSpot's idea at a small size: a token that knows where the region is (its box, the means of
several maps in it) attends to the cells of the image, and is projected into the space of the texts.
Each region attends on its own, so an answer does not depend on the other regions. The result is
added to the training-free answer (ConSE): without that residual the open vocabulary is lost.

Names of submodules are keys of saved weights: they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.conse import WIDTH
from anyregion.compact.image_encoder import CHANNELS
from anyregion.errors import InputError

_FREQUENCIES = 4
_GEOMETRY = 7  # numbers of `geometry` before the Fourier features
_RELATION = 8  # numbers of `relation`


@dataclass(frozen=True)
class RegionHeadConfig:
    """Sizes of a `RegionHeadModule`.

    Attributes:
        width: of the region's token.
        layers: of the decoder, 0 to 6; 0 leaves the image around the region out.
        heads: of the attention.
        expansion: hidden width of the feed-forward parts over `width`.
        dropout: in training.
        residual: add the result to the training-free answer; False is an ablation.
        fine: use the finer maps too; False, the last convolution alone, is an ablation.
        adapter: hidden width of a small network beside it all, from `pooled` to what is added to
            the answer; the rest is frozen then. 0 for none.
        adapter_dropout: in the adapter, in training.
        channels: of the image encoder's maps of strides 8, 16 and 32, and of the last convolution.
    """

    width: int = 192
    layers: int = 2
    heads: int = 4
    expansion: int = 3
    dropout: float = 0.15
    residual: bool = True
    fine: bool = True
    adapter: int = 0
    adapter_dropout: float = 0.5
    channels: tuple[int, ...] = tuple(CHANNELS.values())

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # JSON has lists
        if len(self.channels) != len(CHANNELS) or min(self.channels) < 1:
            raise InputError(f"channels are those of four maps, not {self.channels}")
        if self.width % self.heads:
            raise InputError(f"width {self.width} does not divide into {self.heads} heads")
        if not 0 <= self.layers <= 6:
            raise InputError(f"the decoder has 0 to 6 layers, not {self.layers}")

    @property
    def pooled(self) -> int:
        """How many numbers `RegionFeatures.pooled` has."""
        return 4 * sum(self.channels[:3]) + self.channels[3]

    @property
    def memory(self) -> int:
        """How many numbers `RegionFeatures.memory` has of a cell."""
        return sum(self.channels[2:])


class RegionHeadModule(nn.Module):
    """See the module's text; sizes in `RegionHeadConfig`."""

    def __init__(self, config: RegionHeadConfig) -> None:
        super().__init__()
        self.config = config
        width, deep = config.width, config.width * config.expansion
        self.seen = nn.LayerNorm(config.pooled)
        self.token = nn.Linear(config.pooled + WIDTH + _GEOMETRY * (1 + 2 * _FREQUENCIES), width)
        if config.layers:
            self.around = nn.LayerNorm(config.memory)
            self.memory = nn.Linear(config.memory, width)
        self.layers = nn.ModuleList(RegionHeadLayer(config) for _ in range(config.layers))
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, deep)
        self.linear2 = nn.Linear(deep, width)
        self.norm2 = nn.LayerNorm(width)
        self.projector = nn.Linear(width, WIDTH)
        self.gain = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(config.dropout)
        # near zero: training begins at the training-free answer
        if config.residual:
            nn.init.normal_(self.projector.weight, std=1e-3)
            nn.init.zeros_(self.projector.bias)
        if config.adapter:
            self.requires_grad_(False)
            added = nn.Linear(config.adapter, WIDTH)
            nn.init.zeros_(added.weight)  # training begins at the frozen part's answer
            nn.init.zeros_(added.bias)
            self.adapter = nn.Sequential(
                nn.LayerNorm(config.pooled, elementwise_affine=False),
                nn.Linear(config.pooled, config.adapter),
                nn.GELU(),
                nn.Dropout(config.adapter_dropout),
                added,
            )

    def train(self, mode: bool = True) -> RegionHeadModule:
        """See `nn.Module`; what is frozen beside an adapter drops nothing out."""
        super().train(mode)
        if self.config.adapter:
            for name, part in self.named_children():
                part.train(mode and name == "adapter")
        return self

    def forward(self, images: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Embed the regions of several images.

        Args:
            images: of each image `pooled`, `conse`, `boxes`, `memory`, `cells` and `shape`, as in
                `RegionFeatures` (the order of `region_head.INPUTS`); or `pooled` alone, for what
                the adapter adds.

        Returns:
            Per image `(N, 384)`, not normalised.
        """
        embeddings = []
        for image in images:
            if len(image) == 1:
                embeddings.append(self.adapter(image[0]))
                continue
            pooled, conse, boxes, memory, cells, shape = image
            added = self.adapter(pooled) if self.config.adapter else None
            if not self.config.fine:
                last = self.config.channels[-1]
                pooled = F.pad(pooled[:, -last:], (self.config.pooled - last, 0))
            # cosines of 384 numbers are small next to what the LayerNorm gives: the same order
            token = torch.cat([self.seen(pooled), conse * 5, geometry(boxes, shape)], -1)
            hidden = self.token(token)  # (N, W)
            if len(self.layers):
                around = self.memory(self.around(memory))  # (T, W)
                relations = relation(boxes, cells)  # (N, T, 8)
                for layer in self.layers:
                    hidden = layer(hidden, around, relations)
            inner = self.linear2(self.dropout(F.gelu(self.linear1(self.norm1(hidden)))))
            learned = self.projector(self.norm2(self.dropout(hidden + inner)))  # (N, 384)
            answer = conse * self.gain + learned if self.config.residual else learned
            embeddings.append(answer if added is None else answer + added)
        return embeddings


class RegionHeadLayer(nn.Module):
    """Pre-norm cross-attention to the image, biased by where each cell lies, and feed-forward."""

    def __init__(self, config: RegionHeadConfig) -> None:
        super().__init__()
        width, deep = config.width, config.width * config.expansion
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.near1 = nn.Linear(_RELATION, 32)
        self.near2 = nn.Linear(32, config.heads)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, deep)
        self.linear2 = nn.Linear(deep, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, memory: Tensor, relations: Tensor) -> Tensor:
        """`hidden` `(N, W)`, `memory` `(T, W)`, `relations` `(N, T, 8)`."""
        heads, width = self.heads, hidden.shape[-1]
        query = self.query(self.norm1(hidden)).reshape(-1, heads, width // heads).transpose(0, 1)
        key, value = (
            x.reshape(-1, heads, width // heads).transpose(0, 1)  # (heads, T, W / heads)
            for x in self.key_value(memory).chunk(2, dim=-1)
        )
        bias = self.near2(F.gelu(self.near1(relations))).permute(2, 0, 1)  # (heads, N, T)
        weights = (query @ key.transpose(1, 2) * (width // heads) ** -0.5 + bias).softmax(-1)
        mixed = (weights @ value).transpose(0, 1).reshape(-1, width)  # (N, W)
        hidden = hidden + self.dropout(self.out(mixed))
        inner = self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(hidden)))))
        out: Tensor = hidden + self.dropout(inner)
        return out


def geometry(boxes: Tensor, shape: Tensor) -> Tensor:
    """Centre, sides and their logarithms, and Fourier features of these, `(N, 63)`."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-4)
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    aspect = (sides[:, :1] * shape[1]) / (sides[:, 1:] * shape[0])
    plain = torch.cat([centres, sides, sides.log() / 5, aspect.log() / 3], dim=-1)  # (N, 7)
    octaves = torch.pi * 2.0 ** torch.arange(_FREQUENCIES, device=boxes.device)
    waves = (plain[:, :, None] * octaves).flatten(1)  # (N, 28)
    return torch.cat([plain, waves.sin(), waves.cos()], dim=-1)


def relation(boxes: Tensor, cells: Tensor) -> Tensor:
    """Where each cell lies, from each box and in units of its sides, `(N, T, 8)`."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-4)[:, None]
    away = (cells[None] - (boxes[:, None, 2:] + boxes[:, None, :2]) / 2) / sides  # (N, T, 2)
    inside = (away.abs() <= 0.5).all(dim=-1, keepdim=True).to(away.dtype)
    outside = (away.abs() - 0.5).clamp(min=0).square().sum(dim=-1, keepdim=True).add(1e-12).sqrt()
    signed = away.sign() * torch.log1p(away.abs() * 4) / 2
    close = (-2 * away.square().sum(dim=-1, keepdim=True)).exp()
    return torch.cat([signed, signed.abs(), inside, torch.log1p(2 * outside), close, 1 - close], -1)
