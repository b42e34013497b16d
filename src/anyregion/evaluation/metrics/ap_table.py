"""The figures of a detection evaluation: what COCO's and LVIS's tables are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Style: TypeAlias = Literal["coco", "lvis"]
Kind: TypeAlias = Literal["box", "mask"]

FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True, eq=False)
class PrecisionTable:
    """What all figures are means of. NaN where a class has no region (of that size).

    Attributes:
        style, kind: by whose rules, and of what.
        precision: `(10, C, 4)`: IoU thresholds 0.50 to 0.95, classes, sizes (all, small, medium,
            large); mean over 101 recalls.
        recall: `(10, C, 4, M)`: the last axis is the number of detections allowed.
        detections: the `M` numbers: of a class and an image in COCO, of an image in LVIS.
        frequency: per class `r`, `c` or `f`, or an empty text.
    """

    style: Style
    kind: Kind
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    detections: tuple[int, ...]
    frequency: tuple[str, ...]

    def metrics(self) -> dict[str, float | None]:
        """AP, AP50, AP75, APs, APm, APl, in LVIS APr, APc, APf; AR@n, ARs, ARm, ARl.

        Fractions from 0 to 1; None where there is nothing to average.
        """
        whole = self.precision
        found = {
            "AP": _mean(whole[:, :, 0]),
            "AP50": _mean(whole[0, :, 0]),
            "AP75": _mean(whole[5, :, 0]),
            **{f"AP{s}": _mean(whole[:, :, i]) for i, s in enumerate("sml", 1)},
        }
        if self.style == "lvis":
            kinds = np.array(self.frequency)
            found |= {f"AP{f}": _mean(whole[:, kinds == f, 0]) for f in FREQUENCIES}
        found |= {f"AR@{n}": _mean(self.recall[..., 0, i]) for i, n in enumerate(self.detections)}
        return found | {f"AR{s}": _mean(self.recall[:, :, i, -1]) for i, s in enumerate("sml", 1)}

    def by_class(self) -> NDArray[np.float64]:
        """`(C,)` AP of each class; NaN where it has no region."""
        ap: NDArray[np.float64] = self.precision[:, :, 0].mean(axis=0)
        return ap

    def mean_over(self, labels: list[int]) -> float | None:
        """AP over some classes."""
        return _mean(self.precision[:, labels, 0])


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
