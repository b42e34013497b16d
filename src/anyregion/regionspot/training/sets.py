"""The data sets of a training, each with its own vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import FeatureReader
from anyregion.errors import InputError
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, name_key


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One data set, ready to be drawn from. Made by `training_set`.

    Attributes:
        name: for messages.
        reader: of `tokens`, `features`, and `teacher` where it is distilled from.
        vocabulary: its names.
        matrix: `(C, E)`, their embeddings.
        labels: `(R,)` per annotated region its place in the vocabulary; -1 where it has none.
        images: the images that can be drawn: with features, and with a region to learn from.
        ratio, repeat_threshold, terms: see `DataConfig`.
    """

    name: str
    reader: FeatureReader
    vocabulary: Vocabulary
    matrix: Tensor
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    ratio: int = 1
    repeat_threshold: float = 0.0
    terms: str = "unstated"

    def rows(self, image: int) -> NDArray[np.int64]:
        """Which rows of the image's tokens have a name of the vocabulary."""
        labels = self.labels[self.reader.annotations.rows(image)]
        return np.flatnonzero(labels >= 0)

    def labels_of(self, image: int) -> NDArray[np.int64]:
        """The label of every row of the image's tokens."""
        return self.labels[self.reader.annotations.rows(image)]


def training_set(
    name: str,
    reader: FeatureReader,
    words: EncodedVocabulary,
    *,
    images: NDArray[np.int64] | None = None,
    ratio: int = 1,
    repeat_threshold: float = 0.0,
    terms: str = "unstated",
) -> TrainingSet:
    """Put a reader and a vocabulary together.

    Args:
        images: those that have features; None for all.

    Raises:
        InputError: no region of any image has a name of the vocabulary.
    """
    annotations = reader.annotations
    places = vocabulary_places(annotations, words.vocabulary)
    labels = places[annotations.labels]
    usable = (labels >= 0) & ~annotations.crowd
    before = np.concatenate([[0], np.cumsum(usable)])
    some = np.flatnonzero(before[annotations.starts[1:]] > before[annotations.starts[:-1]])
    drawn = some if images is None else np.intersect1d(some, images)
    if not len(drawn):
        raise InputError(f"{name}: no image has a region with a name of the vocabulary")
    return TrainingSet(
        name=name,
        reader=reader,
        vocabulary=words.vocabulary,
        matrix=torch.from_numpy(np.array(words.matrix, dtype=np.float32)),
        labels=labels,
        images=drawn.astype(np.int64),
        ratio=ratio,
        repeat_threshold=repeat_threshold,
        terms=terms,
    )


def vocabulary_places(annotations: Annotations, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Per category its place in the vocabulary, by name whatever the case; -1 where it is not."""
    places: dict[str, int] = {}
    for place, name in enumerate(vocabulary.names):
        places.setdefault(name_key(name, vocabulary.cleaning), place)
    names = annotations.categories.names
    found = [places.get(name_key(name, vocabulary.cleaning), -1) for name in names]
    return np.array(found, dtype=np.int64)
