"""ConSE (Norouzi et al., ICLR 2014), made dense: from image features to the space of the texts.

The image classifier's best classes stand for a region: its embedding is the mean of their names'
embeddings, weighted by their probabilities. Nothing is trained. The text space is centred on the
mean of the 1,000 classes, and its widest directions are narrowed (see `whiten`), or else a few
names would be near everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from anyregion.compact.assets import CONSE, read_asset

Floats = NDArray[np.float32]

WIDTH = 384
"""Of the embeddings: the space of the texts."""
# of the classifier's softmax, and how many classes stand for a region. A region is seldom surely of
# one class: on 232 boxes of COCO's held-out photographs the 30 best hold 35 % of the probability.
TEMPERATURE = 1.5
BEST_CLASSES = 30
_ROWS_AT_ONCE = 4096  # (4096, 1000) logits are 16 MB


@dataclass(frozen=True, eq=False)
class Conse:
    """The classifier, and where its classes lie among the texts.

    Attributes:
        weight: `(1000, 1280)`, ImageNet classifier on the last convolution.
        bias: `(1000,)`.
        classes: `(1000, 384)`, text embeddings of the classes, centred, length 1.
        mean: `(384,)`, mean of the classes' embeddings before centring.
        whitening: `(384, 384)`, what narrows the widest directions.
    """

    weight: Floats
    bias: Floats
    classes: Floats
    mean: Floats
    whitening: Floats

    def whiten(self, embeddings: Floats) -> Floats:
        """Text embeddings `(n, 384)` of any length into the centred space, length 1.

        Length 1, minus the classes' mean, times a matrix that divides each principal direction
        of the classes by the root of its variance (plus a tenth of the largest), length 1 again.
        """
        return _unit((_unit(embeddings) - self.mean) @ self.whitening)

    def project(self, pooled: Floats) -> Floats:
        """Means of the last convolution `(n, 1280)` into the space of the texts, `(n, 384)`."""
        embeddings = np.zeros((len(pooled), self.classes.shape[1]), dtype=np.float32)
        for start in range(0, len(pooled), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            best, probabilities = self.best_classes(pooled[rows])
            embeddings[rows] = np.einsum("nk,nke->ne", probabilities, self.classes[best])
        return embeddings

    def best_classes(self, pooled: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The classes that stand for each of `(n, 1280)`, and their probabilities; both `(n, 30)`.

        In no order. The probabilities are of all classes' softmax: they do not add up to 1, and a
        doubtful region stays short.
        """
        logits = pooled @ self.weight.T + self.bias  # (n, 1000)
        highest = logits.max(axis=1, keepdims=True)
        total = np.exp((logits - highest) / TEMPERATURE).sum(axis=1, keepdims=True)
        best = np.argpartition(-logits, BEST_CLASSES - 1, axis=1)[:, :BEST_CLASSES]  # (n, 30)
        best_logits = np.take_along_axis(logits, best, axis=1)
        return best, np.exp((best_logits - highest) / TEMPERATURE) / total


@cache
def load_conse() -> Conse:
    """Read the numbers (int8 rows with a scale each, and float16) into float32.

    Raises:
        CheckpointError: the asset is missing or altered.
    """
    numbers = load(read_asset(CONSE))
    weight, classes = (
        numbers[rows].astype(np.float32) * numbers[scale][:, None]
        for rows, scale in (
            ("classifier.weight", "classifier.scale"), ("classes.embeddings", "classes.scale")
        )
    )  # fmt: skip
    return Conse(
        weight=weight,
        bias=numbers["classifier.bias"],
        classes=classes,
        mean=numbers["words.mean"],
        whitening=numbers["words.evening"].astype(np.float32),
    )


def _unit(rows: NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Floats = (rows / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
    return unit
