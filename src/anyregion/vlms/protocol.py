"""What RegionSpot and the training-free recognisers need of a vision-language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from anyregion.baselines.embedder import ImageEmbedder
from anyregion.images import Pixels


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Feature maps of a batch of images, each squashed to the model's square input.

    Attributes:
        tokens: `(B, T, D)`: class token first where the model has one (ViTs of CLIP; not SigLIP,
            not ResNets, whose grid is the last stage's), then the grid row by row.
        grid: `(h, w)`; `T` is `h * w`, or one more.
    """

    tokens: Tensor
    grid: tuple[int, int]


class VisionLanguageModel(ImageEmbedder, Protocol):
    """A frozen model that knows what an image and a text mean; its text side is `text`.

    Attributes:
        feature_width: `D` of the feature map.
        embed_width: `E` of the words.
        image_size: side of the square input, in pixels.
    """

    image_size: int
    feature_width: int
    embed_width: int

    def feature_map(self, images: Sequence[Pixels], *, antialias: bool = True) -> FeatureMap:
        """The last layer's output before the final norm and projection (RegionSpot, section 3.2).

        Args:
            images: of any sizes; each is squashed, not cropped.
            antialias: False is the published interactive predictor's resize.
        """
        ...
