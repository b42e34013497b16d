"""What is frozen, computed once: the two protocols between the models, the store, and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.regions import Regions

Features: TypeAlias = Mapping[str, NDArray[Any]]
"""Named arrays of one image, float16 (but for single figures such as `compact`'s `span`, float32);
what is called `tokens` has one row a region."""


class FeatureExtractor(Protocol):
    """Frozen models, asked for everything that a training needs of an image."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a number would: models, weights, sizes."""
        ...

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """The features of each image with its regions; an image may have none.

        Raises:
            InputError: a number beyond half precision's range.
        """
        ...


class DescribedExtractor(FeatureExtractor, Protocol):
    """An extractor that can say what it is made of; a store needs to know, to name what differs."""

    def describe(self) -> Mapping[str, str]:
        """The parts behind the fingerprint, in words: `{"vlm": "NAME (hash)", ...}`."""
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


def to_half(name: str, values: ArrayLike) -> NDArray[np.float16]:
    """Round to half precision.

    Raises:
        InputError: NaN, or numbers that half precision cannot hold (beyond 65,504).
    """
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, dtype=np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{name}: holds NaN or numbers that half precision cannot hold")
    return half
