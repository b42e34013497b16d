"""Names of EfficientNet-Lite0's weights: timm's, and those of files ported from TensorFlow.

The ported files count all blocks in one row and call their layers `_expand_conv`, `_bn0`, ...; a
first block has no expansion, and timm counts its norms from there.
"""

from __future__ import annotations

_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of the seven stages

_EXPANDING = (
    ("conv_pw.", "_expand_conv."),
    ("bn1.", "_bn0."),
    ("conv_dw.", "_depthwise_conv."),
    ("bn2.", "_bn1."),
    ("conv_pwl.", "_project_conv."),
    ("bn3.", "_bn2."),
)
_FIRST = (
    ("conv_dw.", "_depthwise_conv."),
    ("bn1.", "_bn1."),
    ("conv_pw.", "_project_conv."),
    ("bn2.", "_bn2."),
)
_ENDS = (
    ("conv_stem.", "_conv_stem."),
    ("bn1.", "_bn0."),
    ("conv_head.", "_conv_head."),
    ("bn2.", "_bn1."),
)


def _rows() -> list[dict[str, str]]:
    rows = [{"timm": timm, "tensorflow": ported} for timm, ported in _ENDS]
    number = 0
    for stage, repeats in enumerate(_REPEATS):
        for block in range(repeats):
            rows += [
                {
                    "timm": f"blocks.{stage}.{block}.{timm}",
                    "tensorflow": f"_blocks.{number}.{ported}",
                }
                for timm, ported in (_EXPANDING if stage else _FIRST)
            ]
            number += 1
    return rows


EFFICIENTNET_LITE0 = _rows()
