"""SAM's two-way transformer with its projections folded: the same numbers for a fifth of the work.

The prompt tokens and the image tokens attend to each other (Kirillov et al. 2023, appendix A). Run
as written, every prompt projects all image tokens (4,096 of width 256 at 1024 pixels) to keys,
values and queries and back again. Three equalities avoid that:

- `q . (W x) = (W^T q) . x`: a projection of the image tokens is moved to the few prompt tokens.
- Attention weights sum to one, so values can be projected after they are averaged, a bias of the
  values passes through unchanged, and a bias of the keys changes nothing.
- Without a mask prompt the image tokens are equal for all prompts until the end of the first
  layer: their projections are computed once.

The weights stay in the modules of `transformers`, whose layers are alike for all SAMs. In the
shapes P is prompts, T a prompt's tokens, N image tokens, C the width, H heads of width d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedProjections:
    """The first layer's projections of image tokens that all prompts share, `(1, H, N, d)`."""

    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The image tokens that prompts start from.

    Attributes:
        tokens: `(1, N, C)` where the prompts share them, else `(P, N, C)`.
        positions: `(1, N, C)`, their positional encoding.
        positioned: tokens plus positions.
        shared: their projections; None where each prompt has tokens of its own.
    """

    tokens: Tensor
    positions: Tensor
    positioned: Tensor
    shared: SharedProjections | None


def image_tokens(transformer: Any, image: Tensor, positions: Tensor) -> ImageTokens:
    """Flatten feature maps `(1 or P, C, h, w)` and project what prompts can share.

    Args:
        image: image embedding plus dense prompt embedding; one where no mask prompt differs.
        positions: `(1, C, h, w)`.
    """
    tokens = image.flatten(2).transpose(1, 2).contiguous()  # (1 or P, N, C)
    positions = positions.flatten(2).transpose(1, 2).contiguous()  # (1, N, C)
    positioned = tokens + positions
    if len(tokens) > 1:
        return ImageTokens(tokens, positions, positioned, None)
    to_image = transformer.layers[0].cross_attn_token_to_image
    to_tokens = transformer.layers[0].cross_attn_image_to_token
    shared = SharedProjections(
        keys=_split_heads(to_image, to_image.k_proj(positioned)),
        values=_split_heads(to_image, to_image.v_proj(tokens)),
        queries=_split_heads(to_tokens, to_tokens.q_proj(positioned)),
    )
    return ImageTokens(tokens, positions, positioned, shared)


def two_way(
    transformer: Any,
    prompts: Tensor,
    image: ImageTokens,
    *,
    rows: list[int],
    keep_image: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run the transformer for a batch of prompts.

    Args:
        prompts: `(P, T, C)`, output tokens followed by the prompt encoder's tokens.
        image: what `image_tokens` returned, shared or one a prompt.
        rows: which of the `T` tokens are returned.
        keep_image: also return the image tokens, which masks need.

    Returns:
        The tokens `(P, len(rows), C)`, and the image tokens `(P, N, C)` or None.
    """
    queries, keys, positioned = prompts, image.tokens, image.positioned
    for index, layer in enumerate(transformer.layers):
        shared = image.shared if index == 0 else None
        queries = _self_attention(layer, queries, prompts)  # (P, T, C)
        attention = layer.cross_attn_token_to_image
        attended = _token_to_image(attention, queries + prompts, keys, positioned, shared)
        queries = layer.layer_norm2(queries + attended)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        keys = _image_to_token(attention, queries, queries + prompts, keys, positioned, shared)
        # (P, N, C): from here on each prompt has image tokens of its own
        keys = layer.layer_norm4(keys)
        positioned = keys + image.positions
    tokens = queries[:, rows]
    attention = transformer.final_attn_token_to_image
    attended = _token_to_image(attention, tokens + prompts[:, rows], keys, positioned, None)
    return transformer.layer_norm_final_attn(tokens + attended), keys if keep_image else None


def _self_attention(layer: Any, queries: Tensor, prompts: Tensor) -> Tensor:
    """The layer's self-attention of the prompt tokens, added and normalised: `(P, T, C)`."""
    values = queries[None]  # the modules take (images, P, T, C)
    if layer.skip_first_layer_pe:
        (attended, _) = layer.self_attn(query=values, key=values, value=values)
        return layer.layer_norm1(attended[0])  # type: ignore[no-any-return]
    positioned = values + prompts[None]
    (attended, _) = layer.self_attn(query=positioned, key=positioned, value=values)
    return layer.layer_norm1(queries + attended[0])  # type: ignore[no-any-return]


def _token_to_image(
    attention: Any,
    queries: Tensor,
    keys: Tensor,
    positioned: Tensor,
    shared: SharedProjections | None,
) -> Tensor:
    """Tokens `(P, T, C)` attend to image tokens `(1 or P, N, C)`: `(P, T, C)`, not yet added."""
    prompts, tokens, width = queries.shape
    if shared is not None:
        # all prompts' tokens as if they were one prompt's
        flat = _split_heads(attention, attention.q_proj(queries.flatten(0, 1)[None]))
        mixed = F.scaled_dot_product_attention(
            flat, shared.keys, shared.values, scale=attention.scaling
        )  # (1, H, P T, d)
        mixed = mixed.transpose(1, 2).reshape(prompts, tokens, -1)
    else:
        folded = _fold(attention, attention.q_proj(queries) * attention.scaling, "k_proj")
        weights = torch.bmm(folded, positioned.transpose(1, 2)).softmax(-1)  # (P, H T, N)
        heads = attention.num_attention_heads
        averages = torch.bmm(weights, keys).view(prompts, heads, tokens, width)
        weight = attention.v_proj.weight.view(heads, -1, width)  # (H, d, C)
        mixed = torch.einsum("phtc,hdc->pthd", averages, weight).flatten(2)
        mixed = mixed + attention.v_proj.bias
    # SAM and SAM-HQ call it out_proj, SAM 2 and SAM 3 o_proj
    out = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    return out(mixed)  # type: ignore[no-any-return]


def _image_to_token(
    attention: Any,
    queries: Tensor,
    positioned_queries: Tensor,
    keys: Tensor,
    positioned: Tensor,
    shared: SharedProjections | None,
) -> Tensor:
    """Image tokens plus their attention to the prompt's tokens, `(P, N, C)`, not yet normalised."""
    heads = attention.num_attention_heads
    prompts, tokens, _ = queries.shape
    projected = attention.k_proj(positioned_queries) * attention.scaling  # (P, T, H d)
    if shared is not None:
        flat = _split_heads(attention, projected.flatten(0, 1)[None])[0]  # (H, P T, d)
        scores = torch.bmm(flat, shared.queries[0].transpose(1, 2)).view(heads, prompts, tokens, -1)
        weights = scores.softmax(2).transpose(0, 1).flatten(1, 2)  # (P, H T, N)
    else:
        folded = _fold(attention, projected, "q_proj")
        # the bias of the image's queries meets each key: it differs from token to token
        bias = _split_heads(attention, projected) * attention.q_proj.bias.view(heads, 1, -1)
        bias = bias.sum(-1)  # (P, H, T)
        scores = torch.baddbmm(bias.flatten(1)[..., None], folded, positioned.transpose(1, 2))
        weights = scores.view(*bias.shape, -1).softmax(2).flatten(1, 2)  # (P, H T, N)
    values = _split_heads(attention, attention.v_proj(queries))  # (P, H, T, d)
    out = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    weight: Tensor = out.weight.view(-1, heads, values.shape[3])  # (C, H, d)
    # each head's weights sum to one, so its share of the bias arrives whole
    share: Tensor = out.bias / heads
    values = (torch.einsum("phtd,chd->phtc", values, weight) + share).flatten(1, 2)  # (P, H T, C)
    return torch.baddbmm(keys.expand(prompts, -1, -1), weights.transpose(1, 2), values)


def _fold(attention: Any, projected: Tensor, name: str) -> Tensor:
    """Move a projection of the image tokens to the tokens: `(P, T, H d)` to `(P, H T, C)`."""
    heads = _split_heads(attention, projected)
    weight: Tensor = getattr(attention, name).weight.view(heads.shape[1], heads.shape[3], -1)
    return torch.einsum("phtd,hdc->phtc", heads, weight).flatten(1, 2)


def _split_heads(attention: Any, projected: Tensor) -> Tensor:
    """`(P, T, H d)` to `(P, H, T, d)`."""
    prompts, tokens, width = projected.shape
    heads: int = attention.num_attention_heads
    return projected.reshape(prompts, tokens, heads, width // heads).transpose(1, 2)
