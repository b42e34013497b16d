"""Key maps: what one weight is called in torchvision, timm, Hugging Face, detectron2, R2O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

QKV = "{qkv}"
"""Stands, in a key, for three tensors of which others make one: query, key, value."""
PARTS = ("query", "key", "value")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """Architectures whose keys translate from one layout into another.

    Attributes:
        name: `resnet`.
        rows: one weight each, layout to key, the same layouts in all. `{}` is a number; a key that
            ends in a dot is the beginning of several.
    """

    name: str
    rows: Sequence[Row]

    def translate(self, keys: Iterable[str], source: str, target: str) -> dict[str, str] | None:
        """Keys in layout `source`, each with its key in `target`; None if one is unknown."""
        patterns = [(_pattern(row[source]), row[target]) for row in self.rows]
        translated: dict[str, str] = {}
        for key in keys:
            matches = ((pattern.fullmatch(key), template) for pattern, template in patterns)
            match, template = next(((m, t) for m, t in matches if m), (None, ""))
            if match is None:
                return None
            translated[key] = _fill(template, [g for g in match.groups() if g is not None])
        return translated


def family_of(library: str, keys: Iterable[str]) -> Family | None:
    """The family all of whose keys these are, in a library's layout; None if none is."""
    keys = list(keys)
    for family in FAMILIES:
        if library in family.rows[0] and family.translate(keys, library, library):
            return family
    return None


def key_maps(library: str, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Layout to a map from a library's own keys to those of the layout, for every layout that has
    them. The library's own layout comes first."""
    keys = list(keys)
    maps = {library: {key: key for key in keys}}
    if family := family_of(library, keys):
        for layout in family.rows[0]:
            translated = family.translate(keys, library, layout)
            if layout != library and translated:
                maps[layout] = translated
    return maps


def _pattern(row_key: str) -> re.Pattern[str]:
    # a key that ends in a dot goes on with anything, which is copied
    escaped = re.escape(row_key).replace(re.escape("{}"), r"(\d+)")
    return re.compile(escaped + ("(.+)" if row_key.endswith(".") else ""))


def _fill(template: str, groups: list[str]) -> str:
    filled = template
    for group in groups[: template.count("{}")]:
        filled = filled.replace("{}", group, 1)
    return filled + (groups[-1] if template.endswith(".") else "")


# ResNet (also ResNeXt, Wide ResNet). torchvision's and timm's keys are the same. R2O counts the
# modules of a torchvision ResNet; detectron2 counts stages from `res2` and keeps a norm below its
# convolution; Hugging Face writes all in words.

RESNET_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth to the blocks of the four stages."""
BASIC_DEPTHS = (18, 34)
"""The depths of basic blocks; the others have bottlenecks."""


def resnet_depth(blocks: Sequence[int], *, bottleneck: bool) -> int | None:
    """The depth of a ResNet with these blocks in its stages; None where there is none."""
    for depth, counts in RESNET_DEPTHS.items():
        if counts == tuple(blocks) and (depth not in BASIC_DEPTHS) == bottleneck:
            return depth
    return None


def count_blocks(keys: Iterable[str], stages: Sequence[str]) -> tuple[int, ...]:
    """How many blocks each of `stages` has; `res2.0.conv1.weight` is of the stage `res2`."""
    keys = list(keys)
    return tuple(len({k.split(".")[1] for k in keys if k.startswith(f"{s}.")}) for s in stages)


def _resnet_row(torchvision: str, *others: str) -> Row:
    layouts = ("torchvision", "timm", "r2o", "detectron2", "huggingface")
    return dict(zip(layouts, (torchvision, torchvision, *others), strict=True))


def _resnet_stage(number: int) -> list[Row]:
    stage, r2o, d2 = f"layer{number}.{{}}", f"{number + 3}.{{}}", f"res{number + 1}.{{}}"
    hf = f"encoder.stages.{number - 1}.layers.{{}}"
    suffixes = [
        ("downsample.0.weight", "shortcut.weight", "shortcut.convolution.weight"),
        ("downsample.1.", "shortcut.norm.", "shortcut.normalization."),
    ]
    for k in (1, 2, 3):
        convolution, norm = f"layer.{k - 1}.convolution.weight", f"layer.{k - 1}.normalization."
        suffixes += [
            (f"conv{k}.weight", f"conv{k}.weight", convolution),
            (f"bn{k}.", f"conv{k}.norm.", norm),
        ]
    return [
        _resnet_row(f"{stage}.{tv}", f"{r2o}.{tv}", f"{d2}.{detectron2}", f"{hf}.{huggingface}")
        for tv, detectron2, huggingface in suffixes
    ]


_RESNET = [
    _resnet_row(
        "conv1.weight", "0.weight", "stem.conv1.weight", "embedder.embedder.convolution.weight"
    ),
    _resnet_row("bn1.", "1.", "stem.conv1.norm.", "embedder.embedder.normalization."),
    *(row for number in (1, 2, 3, 4) for row in _resnet_stage(number)),
]

# ConvNeXt. torchvision counts downsampling and stages in one row.

_CONVNEXT_BLOCK = (
    ("gamma", "layer_scale", "layer_scale_parameter"),
    ("conv_dw.", "block.0.", "dwconv."),
    ("norm.", "block.2.", "layernorm."),
    ("mlp.fc1.", "block.3.", "pwconv1."),
    ("mlp.fc2.", "block.5.", "pwconv2."),
)
_CONVNEXT: list[Row] = [
    {"timm": timm, "torchvision": torchvision, "huggingface": huggingface}
    for timm, torchvision, huggingface in (
        ("stem.0.", "features.0.0.", "embeddings.patch_embeddings."),
        ("stem.1.", "features.0.1.", "embeddings.layernorm."),
        *(
            (
                f"stages.{stage}.downsample.{part}.",
                f"features.{2 * stage}.{part}.",
                f"encoder.stages.{stage}.downsampling_layer.{part}.",
            )
            for stage in (1, 2, 3)
            for part in (0, 1)
        ),
        *(
            (
                f"stages.{stage}.blocks.{{}}.{timm}",
                f"features.{2 * stage + 1}.{{}}.{torchvision}",
                f"encoder.stages.{stage}.layers.{{}}.{huggingface}",
            )
            for stage in (0, 1, 2, 3)
            for timm, torchvision, huggingface in _CONVNEXT_BLOCK
        ),
    )
]

# Plain ViT. Hugging Face keeps query, key and value apart.

_TIMM_BLOCK, _TORCHVISION_BLOCK = "blocks.{}", "encoder.layers.encoder_layer_{}"
_HUGGINGFACE_BLOCK = "encoder.layer.{}"
_VIT_BLOCK = (
    ("norm1.", "ln_1.", "layernorm_before."),
    ("attn.qkv.weight", "self_attention.in_proj_weight", f"attention.attention.{QKV}.weight"),
    ("attn.qkv.bias", "self_attention.in_proj_bias", f"attention.attention.{QKV}.bias"),
    ("attn.proj.", "self_attention.out_proj.", "attention.output.dense."),
    ("norm2.", "ln_2.", "layernorm_after."),
    ("mlp.fc1.", "mlp.0.", "intermediate.dense."),
    ("mlp.fc2.", "mlp.3.", "output.dense."),
)
_VIT: list[Row] = [
    {
        "timm": timm,
        "torchvision": torchvision,
        "huggingface": huggingface,
        # torchvision's published files are older than the names in its code
        "torchvision, published": torchvision.replace(".mlp.0.", ".mlp.linear_1.").replace(
            ".mlp.3.", ".mlp.linear_2."
        ),
    }
    for timm, torchvision, huggingface in (
        ("cls_token", "class_token", "embeddings.cls_token"),
        ("pos_embed", "encoder.pos_embedding", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "conv_proj.", "embeddings.patch_embeddings.projection."),
        ("norm.", "encoder.ln.", "layernorm."),
        *(
            (
                f"{_TIMM_BLOCK}.{timm}",
                f"{_TORCHVISION_BLOCK}.{torchvision}",
                f"{_HUGGINGFACE_BLOCK}.{huggingface}",
            )
            for timm, torchvision, huggingface in _VIT_BLOCK
        ),
    )
]

# EfficientNet-Lite. Files ported from TensorFlow count all blocks in one row and call their layers
# `_expand_conv`, `_bn0`, ...; a first block has no expansion, and timm counts its norms from there.

# blocks of the seven stages
_LITE0_REPEATS, _LITE2_REPEATS = (1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1)
_LITE_ENDS = (
    ("conv_stem.", "_conv_stem."),
    ("bn1.", "_bn0."),
    ("conv_head.", "_conv_head."),
    ("bn2.", "_bn1."),
)
_LITE_FIRST = (
    ("conv_dw.", "_depthwise_conv."),
    ("bn1.", "_bn1."),
    ("conv_pw.", "_project_conv."),
    ("bn2.", "_bn2."),
)
_LITE_EXPANDING = (
    ("conv_pw.", "_expand_conv."),
    ("bn1.", "_bn0."),
    ("conv_dw.", "_depthwise_conv."),
    ("bn2.", "_bn1."),
    ("conv_pwl.", "_project_conv."),
    ("bn3.", "_bn2."),
)


def _lite_rows(repeats: tuple[int, ...]) -> list[Row]:
    blocks = [(stage, block) for stage, n in enumerate(repeats) for block in range(n)]
    pairs = list(_LITE_ENDS)
    for number, (stage, block) in enumerate(blocks):
        pairs += [
            (f"blocks.{stage}.{block}.{timm}", f"_blocks.{number}.{tensorflow}")
            for timm, tensorflow in (_LITE_EXPANDING if stage else _LITE_FIRST)
        ]
    return [{"timm": timm, "tensorflow": tensorflow} for timm, tensorflow in pairs]


FAMILIES = (
    Family("resnet", _RESNET),
    Family("convnext", _CONVNEXT),
    Family("vit", _VIT),
    Family("efficientnet_lite0", _lite_rows(_LITE0_REPEATS)),
    Family("efficientnet_lite2", _lite_rows(_LITE2_REPEATS)),
)
