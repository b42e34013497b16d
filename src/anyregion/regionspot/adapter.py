"""The only part of RegionSpot that learns (section 3.2): tokens in, word-space embeddings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.errors import InputError

Attention: TypeAlias = Literal["mutual", "independent"]


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes and choices of the adapter; the defaults are the published ones.

    Attributes:
        token_width: width of the localizer's tokens.
        feature_width: `D`, width of the VLM's feature map.
        embed_width: `E`, width of the words.
        layers, heads, feedforward, dropout: of the decoder.
        attention: `mutual`, as published: the regions of an image attend to each other, so an
            answer depends on what else was asked; `independent`: each region on its own.
        use_features: attend to the VLM's feature map (False is the paper's ablation).
    """

    feature_width: int
    embed_width: int
    token_width: int = 256
    layers: int = 3
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    attention: Attention = "mutual"
    use_features: bool = True

    def __post_init__(self) -> None:
        if self.feature_width % self.heads:
            raise InputError(f"width {self.feature_width} does not divide into {self.heads} heads")
        if not 1 <= self.layers <= 6:
            raise InputError(f"the decoder has 1 to 6 layers, not {self.layers}")
        if self.attention not in ("mutual", "independent"):
            raise InputError(f"attention must be mutual or independent, not {self.attention!r}")


class Adapter(nn.Module):
    """`to_clip` -> post-norm decoder -> `projector`; parameter names are the published ones."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.to_clip = nn.Linear(config.token_width, config.feature_width)
        self.decoder = Decoder(config)
        self.projector = nn.Linear(config.feature_width, config.embed_width)

    def forward(
        self,
        tokens: Tensor,
        features: Tensor | None,
        *,
        groups: Tensor | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Embed the regions of a batch of images, `(B, R, E)`, not normalised.

        Args:
            tokens: `(B, R, token_width)`.
            features: `(B, T, D)`; may be None where the configuration leaves features out.
            groups: `(B, R)` integers; regions of one image attend to each other only within a
                group (the candidates of one rank, or the rows that are no padding). None is one
                group. Without meaning where attention is independent.
            weights: a list to append each layer's cross-attention to, `(B, heads, R, T)`.

        Raises:
            InputError: features missing where the configuration needs them.
        """
        if self.config.use_features and features is None:
            raise InputError("this adapter attends to the feature map, and none was given")
        allowed = None if groups is None else (groups[:, :, None] == groups[:, None, :])[:, None]
        memory = features if self.config.use_features else None
        hidden = self.decoder(self.to_clip(tokens), memory, allowed, weights)
        embedded: Tensor = self.projector(hidden)
        return embedded


class Decoder(nn.Module):
    """The layers, and the LayerNorm after the last."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.feature_width)

    def forward(
        self,
        hidden: Tensor,
        features: Tensor | None,
        allowed: Tensor | None,
        weights: list[Tensor] | None,
    ) -> Tensor:
        """Shapes as in `Adapter.forward`; `allowed` is `(B, 1, R, R)` bool or None."""
        for layer in self.layers:
            hidden = layer(hidden, features, allowed, weights)
        normed: Tensor = self.norm(hidden)
        return normed


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each added, then normalised (post-norm).

    `torch.nn.TransformerDecoderLayer` computes the same for the published settings, and its
    parameters have the same names. This one also does without features or mutual attention, and
    gives the cross-attention's weights.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        width, heads = config.feature_width, config.heads
        self.independent = config.attention == "independent"
        self.self_attn = nn.MultiheadAttention(width, heads, config.dropout, batch_first=True)
        if config.use_features:
            self.multihead_attn = nn.MultiheadAttention(
                width, heads, config.dropout, batch_first=True
            )
            self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        features: Tensor | None,
        allowed: Tensor | None,
        weights: list[Tensor] | None,
    ) -> Tensor:
        """Shapes as in `Decoder.forward`."""
        if self.independent:
            attended = _attend_to_itself(self.self_attn, hidden)
        else:
            attended = _attend(self.self_attn, hidden, hidden, allowed, None)
        hidden = self.norm1(hidden + self.dropout(attended))
        if features is not None:
            attended = _attend(self.multihead_attn, hidden, features, None, weights)
            hidden = self.norm2(hidden + self.dropout(attended))
        inner = self.linear2(self.dropout(F.relu(self.linear1(hidden))))
        out: Tensor = self.norm3(hidden + self.dropout(inner))
        return out


def _attend(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    memory: Tensor,
    allowed: Tensor | None,
    weights: list[Tensor] | None,
) -> Tensor:
    """Multi-head attention of `(B, R, D)` to `(B, T, D)`, with the module's own parameters."""
    batch, rows, width = queries.shape
    heads = attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = F.linear(queries, weight[:width], bias[:width])
    k, v = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (x.reshape(batch, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
    if weights is not None:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights.append(scores.softmax(dim=-1))
    dropout = attention.dropout if attention.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(batch, rows, width))
    return out


def _attend_to_itself(attention: nn.MultiheadAttention, hidden: Tensor) -> Tensor:
    """What self-attention comes to where each region sees itself alone: its value, projected."""
    width = hidden.shape[-1]
    value = F.linear(
        hidden, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    )
    out: Tensor = attention.out_proj(value)
    return out


def count_parameters(adapter: Adapter) -> int:
    """Number of parameters that learn (24.2 M with CLIP B/16, 38.9 M with L/14)."""
    return sum(p.numel() for p in adapter.parameters())


def stack_tokens(tokens: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad the tokens of several images, each `(N, M, W)`, to one batch for the adapter.

    Returns:
        `(B, R, W)`, each image's rows region by region, candidate by candidate, then padding; and
        the groups `(B, R)`: the candidate's rank, -1 for padding; None where all is one group.
    """
    batch = len(tokens)
    longest = max(t.shape[0] * t.shape[1] for t in tokens)
    stacked = tokens[0].new_zeros(batch, longest, tokens[0].shape[-1])
    groups = torch.full((batch, longest), -1, dtype=torch.long, device=stacked.device)
    for i, t in enumerate(tokens):
        count = t.shape[0] * t.shape[1]
        stacked[i, :count] = t.flatten(0, 1)
        groups[i, :count] = torch.arange(t.shape[1], device=t.device).repeat(t.shape[0])
    return stacked, None if bool((groups == 0).all()) else groups
