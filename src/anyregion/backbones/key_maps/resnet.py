"""Names of a ResNet's weights (also ResNeXt, Wide ResNet).

torchvision's and timm's are the same. R2O counts the modules of a torchvision ResNet; detectron2
counts stages from `res2` and keeps a norm below its convolution; Hugging Face writes all in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth to the blocks of the four stages; 18 and 34 have basic blocks, the others bottlenecks."""
BASIC = (18, 34)


def depth_of(blocks: Sequence[int], *, bottleneck: bool) -> int | None:
    """The depth with these blocks; None where there is none."""
    fitting = (
        d for d, b in DEPTHS.items() if b == tuple(blocks) and (d not in BASIC) == bottleneck
    )
    return next(fitting, None)


def count_blocks(names: Iterable[str], stages: Sequence[str]) -> tuple[int, ...]:
    """How many blocks each of `stages` has; `res2.0.conv1.weight` is of the stage `res2`."""
    listed = list(names)
    return tuple(len({n.split(".")[1] for n in listed if n.startswith(f"{s}.")}) for s in stages)


def _row(library: str, r2o: str, detectron2: str, huggingface: str) -> dict[str, str]:
    return {
        "torchvision": library,
        "timm": library,
        "r2o": r2o,
        "detectron2": detectron2,
        "huggingface": huggingface,
    }


def _stage(number: int) -> list[dict[str, str]]:
    own, r2o, d2 = f"layer{number}.{{}}", f"{number + 3}.{{}}", f"res{number + 1}.{{}}"
    hf = f"encoder.stages.{number - 1}.layers.{{}}"
    rows = [
        _row(
            f"{own}.downsample.0.weight",
            f"{r2o}.downsample.0.weight",
            f"{d2}.shortcut.weight",
            f"{hf}.shortcut.convolution.weight",
        ),
        _row(
            f"{own}.downsample.1.",
            f"{r2o}.downsample.1.",
            f"{d2}.shortcut.norm.",
            f"{hf}.shortcut.normalization.",
        ),
    ]
    for k in (1, 2, 3):
        rows.append(
            _row(
                f"{own}.conv{k}.weight",
                f"{r2o}.conv{k}.weight",
                f"{d2}.conv{k}.weight",
                f"{hf}.layer.{k - 1}.convolution.weight",
            )
        )
        rows.append(
            _row(
                f"{own}.bn{k}.",
                f"{r2o}.bn{k}.",
                f"{d2}.conv{k}.norm.",
                f"{hf}.layer.{k - 1}.normalization.",
            )
        )
    return rows


RESNET = [
    _row("conv1.weight", "0.weight", "stem.conv1.weight", "embedder.embedder.convolution.weight"),
    _row("bn1.", "1.", "stem.conv1.norm.", "embedder.embedder.normalization."),
    *(row for number in (1, 2, 3, 4) for row in _stage(number)),
]
