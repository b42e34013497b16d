"""Names of a ConvNeXt's weights. torchvision counts downsampling and stages in one row."""

from __future__ import annotations

_BLOCK = (
    ("gamma", "layer_scale", "layer_scale_parameter"),
    ("conv_dw.", "block.0.", "dwconv."),
    ("norm.", "block.2.", "layernorm."),
    ("mlp.fc1.", "block.3.", "pwconv1."),
    ("mlp.fc2.", "block.5.", "pwconv2."),
)
_STEM = (
    ("stem.0.", "features.0.0.", "embeddings.patch_embeddings."),
    ("stem.1.", "features.0.1.", "embeddings.layernorm."),
)
_DOWNSAMPLING = tuple(
    (
        f"stages.{stage}.downsample.{part}.",
        f"features.{2 * stage}.{part}.",
        f"encoder.stages.{stage}.downsampling_layer.{part}.",
    )
    for stage in (1, 2, 3)
    for part in (0, 1)
)
_BLOCKS = tuple(
    (
        f"stages.{stage}.blocks.{{}}.{timm}",
        f"features.{2 * stage + 1}.{{}}.{torchvision}",
        f"encoder.stages.{stage}.layers.{{}}.{huggingface}",
    )
    for stage in (0, 1, 2, 3)
    for timm, torchvision, huggingface in _BLOCK
)

CONVNEXT = [
    {"timm": timm, "torchvision": torchvision, "huggingface": huggingface}
    for timm, torchvision, huggingface in (*_STEM, *_DOWNSAMPLING, *_BLOCKS)
]
