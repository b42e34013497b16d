"""Products of regions' rows with those of landmarks, kept from one correction to the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class KernelColumns:
    """Rows of features, to which rows may be added, and their products with some of them.

    What was multiplied once is kept, so that one more region costs one product with each landmark.

    Args:
        rows: `(n, F)`.
    """

    def __init__(self, rows: Floats) -> None:
        self._rows, self._count = np.array(rows, dtype=np.float32), len(rows)
        self._landmarks = np.zeros(0, dtype=np.int64)
        # (n or more, m) and the rows of the landmarks (m, F)
        self._products = np.zeros((len(rows), 0), dtype=np.float32)
        self._basis = np.zeros((0, rows.shape[1]), dtype=np.float32)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Floats:
        """`(n, F)`, a view."""
        return self._rows[: self._count]

    def append(self, rows: Floats) -> None:
        """Add rows `(k, F)`."""
        start, self._count = self._count, self._count + len(rows)
        if self._count > len(self._rows):
            # room for as many again: a copy of all rows for every correction would take longer
            room = max(2 * len(self._rows), self._count, 64) - len(self._rows)
            self._rows = np.concatenate([self._rows, np.empty((room, rows.shape[1]), np.float32)])
            more = np.empty((room, self._products.shape[1]), np.float32)
            self._products = np.concatenate([self._products, more])
        self._rows[start : self._count] = rows
        self._products[start : self._count] = rows @ self._basis.T

    def columns(self, landmarks: Labels) -> Floats:
        """The products of all rows with those of the landmarks, `(n, m)`, a view."""
        if not np.array_equal(landmarks, self._landmarks):
            products = np.empty((len(self._rows), len(landmarks)), dtype=np.float32)
            _, new, old = np.intersect1d(
                landmarks, self._landmarks, assume_unique=True, return_indices=True
            )
            products[:, new] = self._products[:, old]
            missing = np.setdiff1d(np.arange(len(landmarks)), new)
            products[: self._count, missing] = self.rows @ self._rows[landmarks[missing]].T
            self._landmarks, self._products = landmarks.copy(), products
            self._basis = self._rows[landmarks]
        return self._products[: self._count]
