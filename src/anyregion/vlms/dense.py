"""Dense features of a ViT: its last layer changed so that each cell describes its own content.

Contrastive training supervises the pooled token alone; in the last layer the cells' attention
gathers what the pooled token needs, not what is under the cell. MaskCLIP (Zhou et
al. 2022) drops queries and keys there: each cell keeps its own value. SCLIP (Wang et al. 2024,
"correlative self-attention") lets cells attend to cells like themselves: softmax of query-query
plus softmax of key-key similarity. Both keep the residual path and the MLP. `plain` leaves the
layer as it is, for models whose cells were trained against texts themselves (TIPSv2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, cat, nn
from torch.nn import functional as F

Dense: TypeAlias = Literal["maskclip", "sclip", "plain"]


@dataclass(frozen=True)
class LastLayer:
    """A pre-norm transformer layer in parts that every library's layer can be put into.

    Attributes:
        norm1, norm2: before attention and before the MLP.
        weight, bias: `(3 D, D)` and `(3 D,)`, queries, keys, values stacked.
        out: the attention's output projection.
        scale1, scale2: layer scale, where the model has one.
    """

    norm1: nn.Module
    weight: Tensor
    bias: Tensor | None
    out: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    heads: int
    scale1: Callable[[Tensor], Tensor]
    scale2: Callable[[Tensor], Tensor]


def run_dense(layer: LastLayer, x: Tensor, dense: Dense) -> Tensor:
    """Run the layer on `(B, T, D)` with its attention changed as `dense` says."""
    normed = layer.norm1(x)  # (B, T, D)
    width = x.shape[-1]
    if dense == "maskclip":
        # the value path alone: the last third of the stacked projections
        bias = None if layer.bias is None else layer.bias[-width:]
        mixed = F.linear(normed, layer.weight[-width:], bias)
    else:
        shape = (*x.shape[:2], layer.heads, width // layer.heads)
        parts = F.linear(normed, layer.weight, layer.bias).chunk(3, dim=-1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in parts)  # (B, H, T, d)
        if dense == "plain":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            # two softmaxes, added: weights of each sum to one, as the paper has it
            mixed = F.scaled_dot_product_attention(q, q, v)
            mixed = mixed + F.scaled_dot_product_attention(k, k, v)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, T, D)
    x = x + layer.scale1(layer.out(mixed))
    out: Tensor = x + layer.scale2(layer.mlp(layer.norm2(x)))
    return out


def from_transformers(layer: Any) -> LastLayer:
    """A layer of CLIP, MetaCLIP 2, SigLIP or SigLIP 2 in `transformers`."""
    attention = layer.self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LastLayer(
        norm1=layer.layer_norm1,
        weight=cat([part.weight for part in parts]),
        bias=cat([part.bias for part in parts]),
        out=attention.out_proj,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        heads=attention.num_heads,
        scale1=nn.Identity(),
        scale2=nn.Identity(),
    )


def from_open_clip(layer: Any) -> LastLayer | None:
    """A layer of `open_clip`'s own transformer; None where its attention is of another kind."""
    attention = layer.attn
    if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
        return None
    return LastLayer(
        norm1=layer.ln_1,
        weight=attention.in_proj_weight,
        bias=attention.in_proj_bias,
        out=attention.out_proj,
        norm2=layer.ln_2,
        mlp=layer.mlp,
        heads=attention.num_heads,
        scale1=layer.ls_1,
        scale2=layer.ls_2,
    )


def from_timm(layer: Any) -> LastLayer | None:
    """A plain ViT block of `timm`; None for any other kind (rotary positions, query norms)."""
    from timm.models.vision_transformer import Block

    if not isinstance(layer, Block):
        return None
    attention: Any = layer.attn
    # rotary positions and query norms would need the block's own forward pass
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm"))
    if not all(isinstance(norm, nn.Identity) for norm in norms):
        return None
    return LastLayer(
        norm1=layer.norm1,
        weight=attention.qkv.weight,
        bias=attention.qkv.bias,
        out=attention.proj,
        norm2=layer.norm2,
        mlp=layer.mlp,
        heads=attention.num_heads,
        scale1=layer.ls1,
        scale2=layer.ls2,
    )
