"""Suspects: regions whose given name is contradicted by what was learnt from other images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.teaching.classifier import LeftOut
from anyregion.teaching.corrections import NONE_OF_THESE
from anyregion.teaching.vocabulary import TaughtVocabulary

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

# Of two names the given one has less than a tenth of its usual probability in a suspect, of C names
# less than that over the root of C - 1: with many names, hard ones often have little. Chosen with
# clothes, facades, streets, blood cells and chess in view
_OF_TWO_NAMES = 0.1
# as many regions as the mean over all names counts, beside those of a name
_PRIOR_REGIONS = 5.0


@dataclass(frozen=True)
class Suspect:
    """A region whose given name is doubtful.

    Attributes:
        image: what its file is called.
        region: its id.
        box: x0, y0, x1, y1 in pixels; NaN for a region of points alone.
        given: its name in the annotations.
        suggested: the likeliest other name.
        contradiction: see `contradictions`.
        given_probability, suggested_probability: of the two, from a fit without the region's image.
        examples: how many regions in other images have the given name.
    """

    image: str
    region: int | str
    box: tuple[float, float, float, float]
    given: str
    suggested: str
    contradiction: float
    given_probability: float
    suggested_probability: float
    examples: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, numbers rounded; a region without a box has null."""
        box = [float(f"{v:.6g}") for v in self.box] if np.isfinite(self.box).all() else None
        rounded = {k: round(v, 4) for k, v in asdict(self).items() if isinstance(v, float)}
        return asdict(self) | rounded | {"box": box}


def contradictions(left_out: LeftOut, labels: Labels) -> tuple[Doubles, Labels]:
    """How far below its usual probability each given name is, and the likeliest other name.

    A name that is hard to tell has a low probability where it is right too, so that the probability
    of a given name alone would accuse the hard names. As in confident learning (Northcutt et al.,
    JAIR 2021) it is measured by the mean probability of the name over the regions that are given
    it; that mean is drawn towards the one over all names where the regions are few.

    Args:
        left_out: answers `(n, C + 1)` of fits without the regions' images.
        labels: `(n,)`, the given names; C for "none of these".

    Returns:
        `(n,)` from 0 (as usual, or likelier) to 1 (the name is out of the question), and `(n,)`
        positions of the likeliest other name. C, none of these, only where some region is that.
    """
    probabilities = left_out.probabilities.astype(np.float64)
    rows, choices = np.arange(len(labels)), probabilities.shape[1]
    given = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=choices)
    sums = np.bincount(labels, weights=given, minlength=choices)
    mean = given.mean() if len(given) else 0.0
    usual = (sums + _PRIOR_REGIONS * mean) / (counts + _PRIOR_REGIONS)  # (C + 1,)
    others = probabilities.copy()
    others[rows, labels] = -1
    if not counts[-1]:
        others[:, -1] = -1  # nobody has said that there is such a thing
    contradiction = np.clip(1 - given / np.maximum(usual[labels], 1e-12), 0, 1)
    return contradiction, others.argmax(axis=1)


def least_contradiction(labels: Labels) -> float:
    """From which contradiction on a region is a suspect, unless something else is asked for.

    Args:
        labels: `(n,)`, the given names.
    """
    return 1 - _OF_TWO_NAMES / float(np.sqrt(max(len(np.unique(labels)) - 1, 1)))


def find_suspects(taught: TaughtVocabulary, *, least: float | None = None) -> list[Suspect]:
    """The corrected regions whose names are contradicted, the worst first.

    Args:
        taught: what was taught by the annotations.
        least: the least contradiction, 0 to 1; None for `least_contradiction`.

    Raises:
        InputError: no corrections, or of one image alone: what others say is needed.
    """
    if least is not None and not 0 <= least <= 1:
        raise InputError(f"the least contradiction lies between 0 and 1; it is {least}")
    corrections, left_out, labels = taught.corrections, taught.left_out, taught.labels
    if corrections is None or left_out is None:
        raise InputError("no region was taught, so there are no names to doubt")
    if len(corrections.images) < 2:
        raise InputError(
            "all regions are of one image: whether their names fit is told by other images"
        )
    names = [*taught.vocabulary.names, NONE_OF_THESE]
    if len(np.unique(labels)) < 2 and len(names) < 3:
        raise InputError(f"there is no other name than {names[labels[0]]}: none can be wrong")
    least = least_contradiction(labels) if least is None else least
    contradiction, others = contradictions(left_out, labels)
    rows = np.arange(len(labels))
    given, other = (left_out.probabilities[rows, i].astype(float) for i in (labels, others))
    doubted = np.flatnonzero((contradiction >= least) & (other > given))
    # (C + 1,) regions of a name, less those of the region's own image
    by_image = np.zeros((len(corrections.images), len(names)), dtype=np.int64)
    np.add.at(by_image, (corrections.image_of, labels), 1)
    elsewhere = by_image.sum(axis=0) - by_image
    return [
        Suspect(
            image=corrections.images[image].name,
            region=corrections.ids[i],
            box=tuple(corrections.boxes[i].tolist()),
            given=names[labels[i]],
            suggested=names[others[i]],
            contradiction=float(contradiction[i]),
            given_probability=float(given[i]),
            suggested_probability=float(other[i]),
            examples=int(elsewhere[image, labels[i]]),
        )
        for i in doubted[np.argsort(-contradiction[doubted], kind="stable")].tolist()
        for image in [corrections.image_of[i]]
    ]
