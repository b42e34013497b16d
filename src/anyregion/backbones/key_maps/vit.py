"""Names of a plain ViT's weights. Hugging Face keeps query, key and value apart."""

from __future__ import annotations

_TIMM, _TORCHVISION = "blocks.{}", "encoder.layers.encoder_layer_{}"
_HUGGINGFACE = "encoder.layer.{}"

VIT = [
    {"timm": timm, "torchvision": torchvision, "huggingface": huggingface}
    for timm, torchvision, huggingface in (
        ("cls_token", "class_token", "embeddings.cls_token"),
        ("pos_embed", "encoder.pos_embedding", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "conv_proj.", "embeddings.patch_embeddings.projection."),
        ("norm.", "encoder.ln.", "layernorm."),
        (
            f"{_TIMM}.norm1.",
            f"{_TORCHVISION}.ln_1.",
            f"{_HUGGINGFACE}.layernorm_before.",
        ),
        (
            f"{_TIMM}.attn.qkv.weight",
            f"{_TORCHVISION}.self_attention.in_proj_weight",
            f"{_HUGGINGFACE}.attention.attention.{{qkv}}.weight",
        ),
        (
            f"{_TIMM}.attn.qkv.bias",
            f"{_TORCHVISION}.self_attention.in_proj_bias",
            f"{_HUGGINGFACE}.attention.attention.{{qkv}}.bias",
        ),
        (
            f"{_TIMM}.attn.proj.",
            f"{_TORCHVISION}.self_attention.out_proj.",
            f"{_HUGGINGFACE}.attention.output.dense.",
        ),
        (
            f"{_TIMM}.norm2.",
            f"{_TORCHVISION}.ln_2.",
            f"{_HUGGINGFACE}.layernorm_after.",
        ),
        (
            f"{_TIMM}.mlp.fc1.",
            f"{_TORCHVISION}.mlp.0.",
            f"{_HUGGINGFACE}.intermediate.dense.",
        ),
        (
            f"{_TIMM}.mlp.fc2.",
            f"{_TORCHVISION}.mlp.3.",
            f"{_HUGGINGFACE}.output.dense.",
        ),
    )
]
# torchvision's published files are older than its names
for _row in VIT:
    _row["torchvision, published"] = (
        _row["torchvision"]
        .replace(".mlp.0.", ".mlp.linear_1.")
        .replace(".mlp.3.", ".mlp.linear_2.")
    )
