"""A backbone that sees colours, and folders of coloured images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder
from anyregion.evaluation.backbones.features import Backbone, as_backbone

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def _mean_colours(body: nn.Module, images: Tensor, intermediate: bool) -> Tensor:
    features: Tensor = body(F.avg_pool2d(images, 2 if intermediate else 4))
    return features


def colour_backbone(*, size: int = 32, broken: bool = False) -> Backbone:
    """Its features are the mean colours of squares."""
    body = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        body.weight.copy_(torch.eye(3)[:, :, None, None])
        if broken:
            body.weight[0] = float("nan")
    return as_backbone(Encoder("colours", body, _mean_colours, size=size), size=size)


def class_folders(root: Path, counts: dict[str, int], *, suffix: str = ".png") -> Path:
    """`counts` images of each colour, each a little different, in folders of those names."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            red, green, blue = COLOURS.get(name, (128, 128, 128))
            shade = (red, green + 3 * (i % 5), blue + i % 7)
            Image.new("RGB", (40 + i, 30), shade).save(root / name / f"{i:02}{suffix}")
    return root
