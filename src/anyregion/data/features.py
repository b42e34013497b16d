"""What is frozen, computed once: the two protocols between the models, the store, and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from anyregion.data.annotations import Annotations
from anyregion.images import Pixels
from anyregion.regions import Regions

Features: TypeAlias = Mapping[str, NDArray[Any]]
"""Named arrays of one image, float16; what is called `tokens` has one row a region."""


class FeatureExtractor(Protocol):
    """Frozen models, asked for everything that a training needs of an image."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number would: models, weights, sizes."""
        ...

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """The features of each image with its regions; an image may have none."""
        ...


class FeatureReader(Protocol):
    """Features of the images of one data set: from the store, or computed when asked for.

    Attributes:
        annotations: what the features belong to.
        fingerprint: of the extractor.
    """

    annotations: Annotations
    fingerprint: str

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """The features of one image, or of its mirror image (left and right exchanged).

        The rows of `tokens` are `annotations.rows(image)`, in both cases. Safe in several threads.

        Raises:
            InputError: the image or its shard cannot be read; says which.
        """
        ...
