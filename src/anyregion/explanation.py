"""What an answer was made of: where a region looked, and which parts carried which name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.regions import Regions

Floats: TypeAlias = NDArray[np.float32]
Box: TypeAlias = NDArray[np.float64]
"""`(4,)` xyxy in pixels."""


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one region to the cells of a grid, in one layer, mean of its heads.

    Attributes:
        weights: `(h, w)`, from 0; they add up to 1 less `elsewhere`.
        extent: `(4,)` xyxy in pixels of the image: what the grid covers. It reaches beyond the
            image where the network's input was padded.
        elsewhere: attention to what is no part of the image: padding, a class token.
        layer, layers: which of how many, from 1.
        heads: how many.
    """

    weights: Floats
    extent: Box
    elsewhere: float
    layer: int
    layers: int
    heads: int

    def share(self, box: Box) -> float:
        """How much of the attention to the image falls into a box: its share of each cell counts.

        Args:
            box: xyxy in pixels of the image.
        """
        shares = []
        for axis, cells in ((1, self.weights.shape[0]), (0, self.weights.shape[1])):
            low, high = self.extent[axis], self.extent[axis + 2]
            edges = np.linspace(low, high, cells + 1)
            inside = np.minimum(edges[1:], box[axis + 2]) - np.maximum(edges[:-1], box[axis])
            shares.append(np.clip(inside, 0, None) / np.diff(edges))
        total = float(self.weights.sum())
        return float(shares[0] @ self.weights @ shares[1]) / total if total else 0.0


@dataclass(frozen=True, eq=False)
class ClassPart:
    """One class of an image classifier, as it stands for a region in ConSE.

    Attributes:
        name, wordnet: the class.
        probability: of the region being of this class, by the classifier.
        cosines: `(C,)`, what the class adds to the region's cosine with each name.
    """

    name: str
    wordnet: str
    probability: float
    cosines: Floats


@dataclass(frozen=True, eq=False)
class AnswerParts:
    """What the cosines of one region with `C` names are the sum of.

    Attributes:
        cosines: by part `(C,)`; together they are the cosine that is scored.
        classes: whose cosines add up to those of the part `conse`; empty without ConSE.
        doubt: how unlike all trained names the region is, from 0 to 1.
        newness: `(C,)`, how unlike all trained names each name is, from 0 to 1.
        gains: `(C,)`, what calibrated stacking lets each name gain with a region of doubt 1.
    """

    cosines: Mapping[str, Floats]
    classes: Sequence[ClassPart]
    doubt: float
    newness: Floats
    gains: Floats


class Explainer(Protocol):
    """What an encoder has, beside `RegionEncoder`, whose answers can be looked into."""

    def explain_region(
        self, encoded: Any, region: Regions, matrix: Floats, *, layer: int
    ) -> tuple[Attention, AnswerParts | None]:
        """Where one region looked, and what its cosines are made of, if that is known.

        Args:
            encoded: one image, as `encode_images` returned it.
            region: one that fits it.
            matrix: `(C, E)`, the names.
            layer: of the attention, from 0; negative ones count from the last.

        Raises:
            InputError: a model that does not attend to the image, or has no such layer.
        """
        ...
