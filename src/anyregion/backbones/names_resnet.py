"""Names of a ResNet's weights (also ResNeXt, Wide ResNet).

torchvision's and timm's are the same. R2O counts the modules of a torchvision ResNet; detectron2
counts stages from `res2` and keeps a norm below its convolution; Hugging Face writes all in words.
"""

from __future__ import annotations


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
