"""Small annotated sets, and a reader whose features tell what they belong to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.features import Features
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

TOKEN, WIDTH, EMBED, CELLS = 16, 32, 24, 5


def annotated(
    labels: Sequence[Sequence[int]],
    *,
    classes: int,
    crowd: Collection[tuple[int, int]] = (),
    prefix: str = "name",
) -> Annotations:
    """One image a list, one region a label; `crowd` are (image, region)."""
    counts = [len(of_image) for of_image in labels]
    total = sum(counts)
    flat = [label for of_image in labels for label in of_image]
    places = [(i, j) for i, n in enumerate(counts) for j in range(n)]
    corners = np.arange(total, dtype=np.float64) % 40
    return Annotations(
        categories=Categories(
            ids=np.arange(1, classes + 1) * 3,
            names=tuple(f"{prefix} {c}" for c in range(classes)),
            synonyms=((),) * classes,
            frequency=("",) * classes,
        ),
        image_ids=tuple(str(i) for i in range(len(labels))),
        file_names=tuple(f"{prefix}-{i}.jpg" for i in range(len(labels))),
        sizes=np.full((len(labels), 2), 64),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.stack([corners, corners, corners + 10, corners + 20], axis=1),
        labels=np.array(flat, dtype=np.int64),
        crowd=np.array([place in crowd for place in places], dtype=bool),
        areas=np.full(total, 200.0),
        region_ids=np.arange(total) + 1,
    )


class MadeUp:
    """A `FeatureReader`: a region's token is its label's prototype with noise of its own.

    The first number of every array says whether it is of the mirror image.
    """

    fingerprint = "made up"

    def __init__(self, annotations: Annotations, *, teacher: bool = False) -> None:
        self.annotations = annotations
        self.teacher = teacher
        self.prototypes = np.random.default_rng(2).standard_normal((50, TOKEN))

    def read(self, image: int, *, flipped: bool = False) -> Features:
        rows = self.annotations.rows(image)
        draw = np.random.default_rng([image, flipped])
        noise = 0.1 * draw.standard_normal((len(rows), TOKEN))
        tokens = self.prototypes[self.annotations.labels[rows]] + noise
        features = draw.standard_normal((CELLS, WIDTH))
        tokens[:, 0] = features[:, 0] = float(flipped)
        arrays = {"tokens": tokens.astype(np.float16), "features": features.astype(np.float16)}
        if self.teacher:
            arrays["teacher"] = matrix(50)[self.annotations.labels[rows]].astype(np.float16)
        return arrays


def matrix(count: int) -> np.ndarray:
    rows = np.random.default_rng(3).standard_normal((50, EMBED))[:count]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def words(names: Sequence[str]) -> EncodedVocabulary:
    return EncodedVocabulary(Vocabulary.from_names(names), matrix(len(names)), "made up")
