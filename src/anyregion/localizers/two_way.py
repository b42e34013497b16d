"""SAM's two-way transformer with its projections folded: the same numbers for a fifth of the work.

The prompt tokens and the image tokens attend to each other (Kirillov et al. 2023, appendix A). Run
as written, every prompt projects all image tokens (4,096 of width 256 at 1024 pixels) to keys,
values and queries and back again. Three equalities avoid that:

- `q . (W x) = (W^T q) . x`: a projection of the image tokens is moved to the few prompt tokens.
- Attention weights sum to one, so values can be projected after they are averaged, a bias of the
  values passes through unchanged, and a bias of the keys changes nothing.
- Without a mask prompt the image tokens are equal for all prompts until the end of the first
  layer: their projections are computed once.

The weights stay in the modules of `transformers`, whose layers are alike for all SAM families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedProjections:
    """The first layer's projections of image tokens that all prompts share, `(1, heads, N, d)`."""

    keys: Tensor
    values: Tensor
    queries: Tensor


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The image tokens that prompts start from.

    Attributes:
        tokens: `(1, N, C)` where the prompts share them, else `(P, N, C)`.
        positions: `(1, N, C)`, their positional encoding.
        placed: tokens plus positions.
        shared: their projections; None where each prompt has tokens of its own.
    """

    tokens: Tensor
    positions: Tensor
    placed: Tensor
    shared: SharedProjections | None


def image_tokens(transformer: Any, image: Tensor, positions: Tensor) -> ImageTokens:
    """Flatten feature maps `(1 or P, C, h, w)` and project what prompts can share.

    Args:
        transformer: the `transformer` of a mask decoder.
        image: image embedding plus dense prompt embedding; one where no mask prompt differs.
        positions: `(1, C, h, w)`.
    """
    tokens = image.flatten(2).transpose(1, 2).contiguous()
    places = positions.flatten(2).transpose(1, 2).contiguous()
    placed = tokens + places
    if len(tokens) > 1:
        return ImageTokens(tokens, places, placed, None)
    to_image = transformer.layers[0].cross_attn_token_to_image
    to_tokens = transformer.layers[0].cross_attn_image_to_token
    shared = SharedProjections(
        keys=_heads(to_image.k_proj(placed), to_image),
        values=_heads(to_image.v_proj(tokens), to_image),
        queries=_heads(to_tokens.q_proj(placed), to_tokens),
    )
    return ImageTokens(tokens, places, placed, shared)


def two_way(
    transformer: Any,
    prompts: Tensor,
    image: ImageTokens,
    *,
    rows: list[int],
    keep_image: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run the transformer for a chunk of prompts.

    Args:
        transformer: the `transformer` of a mask decoder.
        prompts: `(P, T, C)`, output tokens followed by the prompt encoder's tokens.
        image: what `image_tokens` returned, shared or one a prompt.
        rows: which of the `T` tokens are wanted.
        keep_image: also return the image tokens, which masks need.

    Returns:
        The wanted tokens `(P, len(rows), C)`, and the image tokens `(P, N, C)` or None.
    """
    queries, keys, placed = prompts, image.tokens, image.placed
    for index, layer in enumerate(transformer.layers):
        shared = image.shared if index == 0 else None
        queries = _self_attention(layer, queries, prompts)
        attention = layer.cross_attn_token_to_image
        if shared is None:
            attended = _token_to_image(attention, queries + prompts, keys, placed)
        else:
            attended = _shared_token_to_image(attention, queries + prompts, shared)
        queries = layer.layer_norm2(queries + attended)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        attention = layer.cross_attn_image_to_token
        if shared is None:
            weights = _image_to_token_weights(attention, placed, queries + prompts)
        else:
            weights = _shared_image_to_token_weights(attention, shared, queries + prompts)
        values = _folded_values(attention, queries)
        keys = keys.expand(len(prompts), -1, -1)
        keys = layer.layer_norm4(torch.baddbmm(keys, weights.transpose(1, 2), values))
        placed = keys + image.positions
    wanted = queries[:, rows]
    attention = transformer.final_attn_token_to_image
    attended = _token_to_image(attention, wanted + prompts[:, rows], keys, placed)
    return transformer.layer_norm_final_attn(wanted + attended), keys if keep_image else None


def _self_attention(layer: Any, queries: Tensor, prompts: Tensor) -> Tensor:
    # the modules take (images, prompts, tokens, width)
    one = queries[None]
    if layer.skip_first_layer_pe:
        (attended, _) = layer.self_attn(query=one, key=one, value=one)
        return layer.layer_norm1(attended[0])  # type: ignore[no-any-return]
    placed = one + prompts[None]
    (attended, _) = layer.self_attn(query=placed, key=placed, value=one)
    return layer.layer_norm1(queries + attended[0])  # type: ignore[no-any-return]


def _shared_token_to_image(attention: Any, queries: Tensor, shared: SharedProjections) -> Tensor:
    """Attention of all prompts' tokens, as if they were one prompt's, to the shared image."""
    flat = _heads(attention.q_proj(queries.flatten(0, 1)[None]), attention)
    out = F.scaled_dot_product_attention(flat, shared.keys, shared.values, scale=attention.scaling)
    out = out.transpose(1, 2).reshape(*queries.shape[:2], -1)
    return _out(attention)(out)  # type: ignore[no-any-return]


def _token_to_image(attention: Any, queries: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
    """Tokens `(P, T, C)` attend to image tokens `(P, N, C)` that were never projected."""
    count, tokens, width = queries.shape
    heads = attention.num_attention_heads
    folded = _folded_keys(attention.q_proj(queries) * attention.scaling, attention, "k_proj")
    weights = torch.bmm(folded, placed.transpose(1, 2)).softmax(-1)
    averages = torch.bmm(weights, keys).view(count, heads, tokens, width)
    weight = attention.v_proj.weight.view(heads, -1, width)
    out = torch.einsum("phtc,hdc->pthd", averages, weight).flatten(2) + attention.v_proj.bias
    return _out(attention)(out)  # type: ignore[no-any-return]


def _image_to_token_weights(attention: Any, placed: Tensor, tokens: Tensor) -> Tensor:
    """Weights `(P, heads x T, N)` of image tokens `(P, N, C)` over the prompt's `T` tokens."""
    heads = attention.num_attention_heads
    keys = attention.k_proj(tokens) * attention.scaling
    folded = _folded_keys(keys, attention, "q_proj")
    # the bias of the image's queries meets each key: it differs from token to token
    bias = (_heads(keys, attention) * attention.q_proj.bias.view(heads, 1, -1)).sum(-1)
    scores = torch.baddbmm(bias.flatten(1)[..., None], folded, placed.transpose(1, 2))
    return scores.view(*bias.shape, -1).softmax(2).flatten(1, 2)


def _shared_image_to_token_weights(
    attention: Any, shared: SharedProjections, tokens: Tensor
) -> Tensor:
    """The same where the image's queries were projected once for all prompts."""
    heads = attention.num_attention_heads
    count, each, _ = tokens.shape
    keys = attention.k_proj(tokens) * attention.scaling
    flat = _heads(keys.flatten(0, 1)[None], attention)[0]
    scores = torch.bmm(flat, shared.queries[0].transpose(1, 2)).view(heads, count, each, -1)
    return scores.softmax(2).transpose(0, 1).flatten(1, 2)


def _folded_keys(projected: Tensor, attention: Any, name: str) -> Tensor:
    """Move a projection of the image to the tokens: `(P, T, heads x d)` to `(P, heads x T, C)`."""
    heads = _heads(projected, attention)
    weight: Tensor = getattr(attention, name).weight.view(heads.shape[1], heads.shape[3], -1)
    return torch.einsum("phtd,hdc->phtc", heads, weight).flatten(1, 2)


def _folded_values(attention: Any, tokens: Tensor) -> Tensor:
    """Values already led through the output projection: `(P, heads x T, C)`."""
    values = _heads(attention.v_proj(tokens), attention)
    out = _out(attention)
    weight: Tensor = out.weight.view(-1, values.shape[1], values.shape[3])
    # each head's weights sum to one, so its share of the bias arrives whole
    share: Tensor = out.bias / values.shape[1]
    return (torch.einsum("phtd,chd->phtc", values, weight) + share).flatten(1, 2)


def _heads(projected: Tensor, attention: Any) -> Tensor:
    """`(P, T, heads x d)` to `(P, heads, T, d)`."""
    count, tokens, width = projected.shape
    heads: int = attention.num_attention_heads
    return projected.reshape(count, tokens, heads, width // heads).transpose(1, 2)


def _out(attention: Any) -> Any:
    # SAM and SAM-HQ call it out_proj, SAM 2 and SAM 3 o_proj
    return attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
