"""The protocol of models that the training-free recognisers stand on, and their dense features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anyregion.images import Pixels
from anyregion.vocabulary import TextEncoder


@dataclass(frozen=True, eq=False)
class DenseMap:
    """Features of one image on a grid.

    Attributes:
        features: `(h, w, F)` float32.
        span: `(height, width)` in pixels of the image that the whole grid covers; more than the
            image where the model pads it right and below.
    """

    features: NDArray[np.float32]
    span: tuple[float, float]


class ImageEmbedder(Protocol):
    """A model that embeds images and texts in one space: `compact`, and every VLM."""

    name: str
    logit_scale: float
    logit_bias: float

    @property
    def text(self) -> TextEncoder:
        """The text side, in the same space."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever an answer would: weights of both sides, sizes, way of pooling."""
        ...

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Embed images of any sizes, `(len(images), E)`, not normalised."""
        ...

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """Features of each image that may be averaged over the cells of a region."""
        ...

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Averages of dense features `(n, F)` into the space of the texts, `(n, E)`."""
        ...
