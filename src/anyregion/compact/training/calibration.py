"""From a cosine to a probability, fitted on regions that were not trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from anyregion.errors import InputError
from anyregion.evaluation.metrics.calibration import ece


def fit_scores(cosines: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Scale and bias whose `sigmoid(scale * best cosine + bias)` is how often the best is right.

    A name's score then depends on the region and the name alone, not on what else is asked: a
    threshold means the same for a short vocabulary and a long one, and a low best score means
    "none of these".

    The targets are Platt's (1999, section 2.2), a little inside 0 and 1, so that there is always a
    fit, also where every region is named rightly.

    Args:
        cosines: `(N, C)` of regions and names.
        labels: `(N,)` the right names.

    Raises:
        InputError: no region.
    """
    if not len(labels):
        raise InputError("scores cannot be calibrated: the validation data has no region")
    right = cosines.argmax(axis=1) == labels
    rights = int(right.sum())
    targets = np.where(right, (rights + 1) / (rights + 2), 1 / (len(right) - rights + 2))
    x = torch.from_numpy(cosines.max(axis=1).astype(np.float64))
    y = torch.from_numpy(targets)
    line = torch.tensor([10.0, -5.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * x + line[1], y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scale, bias = line.tolist()
    return scale, bias


def held_out_error(cosines: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Calibration error where each half of the regions is scored by a fit on the other half."""
    middle = len(labels) // 2
    halves = (slice(None, middle), slice(middle, None))
    scores = np.zeros(len(labels))
    for fitted, scored in (halves, halves[::-1]):
        scale, bias = fit_scores(cosines[fitted], labels[fitted])
        scores[scored] = 1 / (1 + np.exp(-(scale * cosines[scored].max(axis=1) + bias)))
    return ece(scores, cosines.argmax(axis=1) == labels)
