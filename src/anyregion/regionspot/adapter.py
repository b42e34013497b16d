"""RegionSpot's adapter, its trained module (section 3.2): region tokens to word-space embeddings.

In the shapes B is images, R regions (or candidates), T tokens of the feature map, D its width, H
heads of width d, E the width of the words.
"""

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
        layers, heads, feedforward, dropout: of the decoder. Of 0 layers two linear maps are left,
            which are one: the paper's trained linear adapter.
        attention: `mutual`, as published: the regions of an image attend to each other, so an
            embedding depends on the other regions; `independent`: each region on its own.
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
        if not 0 <= self.layers <= 6:
            raise InputError(f"the decoder has 0 to 6 layers, not {self.layers}")
        if self.use_features and not self.layers:
            raise InputError("an adapter of 0 layers attends to nothing: set use_features to false")
        if self.attention not in ("mutual", "independent"):
            raise InputError(f"attention must be mutual or independent, not {self.attention!r}")


class Adapter(nn.Module):
    """`to_clip` -> post-norm decoder -> `projector`; parameter names are the published ones.

    24.2 M parameters with CLIP B/16, 38.9 M with L/14.
    """

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
        # (B, 1, R, R): which regions attend to each other
        allowed = None if groups is None else (groups[:, :, None] == groups[:, None, :])[:, None]
        memory = features if self.config.use_features else None
        hidden = self.to_clip(tokens)  # (B, R, D)
        for layer in self.decoder.layers:
            hidden = layer(hidden, memory, allowed, weights)
        embeddings: Tensor = self.projector(self.decoder.norm(hidden))  # (B, R, E)
        return embeddings


class Decoder(nn.Module):
    """The layers and the LayerNorm after the last, under their published names."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        # without layers the adapter is linear, and so has no norm
        self.norm = nn.LayerNorm(config.feature_width) if config.layers else nn.Identity()


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
        # without features there is no cross-attention, and so no weights of it in the folder
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
        """Shapes as in `Adapter.forward`; `allowed` is `(B, 1, R, R)` bool or None."""
        if self.independent:
            # attention of a region to itself alone is its value, projected
            width = hidden.shape[-1]
            stacked, bias = self.self_attn.in_proj_weight, self.self_attn.in_proj_bias
            value = F.linear(hidden, stacked[2 * width :], bias[2 * width :])
            attended = self.self_attn.out_proj(value)
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
    width, heads = queries.shape[-1], attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    # three projections lie stacked in one weight: queries, keys, values
    q = F.linear(queries, weight[:width], bias[:width])
    k, v = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=-1)
    q = q.reshape(*q.shape[:2], heads, -1).transpose(1, 2)  # (B, H, R, d)
    k = k.reshape(*k.shape[:2], heads, -1).transpose(1, 2)  # (B, H, T, d)
    v = v.reshape(*v.shape[:2], heads, -1).transpose(1, 2)
    # the fused kernel does not give its weights: who asks for them pays for a second product
    if weights is not None:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights.append(scores.softmax(dim=-1))  # (B, H, R, T)
    dropout = attention.dropout if attention.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, R, D)
    return out


def stack_tokens(tokens: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad the tokens of several images, each `(N, M, W)`, into one batch for the adapter.

    Returns:
        `(B, R, W)`, each image's rows region by region, candidate by candidate, then padding; and
        the groups `(B, R)`: the candidate's rank, -1 for padding; None where all is one group.
    """
    rows = [candidates.flatten(0, 1) for candidates in tokens]
    stacked = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, R, W)
    groups = torch.full(stacked.shape[:2], -1, dtype=torch.long, device=stacked.device)
    for i, candidates in enumerate(tokens):
        count, ranks = candidates.shape[:2]
        groups[i, : count * ranks] = torch.arange(ranks, device=stacked.device).repeat(count)
    # without padding and candidates there is one group, and attention needs no mask
    return stacked, None if bool((groups == 0).all()) else groups
