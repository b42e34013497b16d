"""Linear probe: logistic regression on a frozen backbone's features of class folders.

As in Kornblith et al., "Do better ImageNet models transfer better?" (CVPR 2019, section 3.2) and
CLIP's evaluation (Radford et al., 2021, appendix A.3): L-BFGS to convergence, no augmentation, the
L2 strength chosen on images held out of the training folder. Nothing is chosen on `val`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anyregion.errors import InputError
from anyregion.evaluation.backbones.class_folders import ClassFolderReport, read_features
from anyregion.evaluation.backbones.features import Backbone
from anyregion.training.seeds import generator
from anyregion.vocabulary import Progress

STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))
"""L2 strengths tried, strongest first: 10 to 1e-6 times half the squared weights."""
HELD_OUT = 0.2
_PATIENCE = 2
_MAX_ITERATIONS = 1000
_GRADIENT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LinearDetails:
    """The fit.

    Attributes:
        strength: the L2 strength that was chosen.
        held_out: top-1 on the held-out images, for each strength tried.
        converged: whether the final fit's gradient is practically zero.
        seed: of the held-out images.
    """

    strength: float
    held_out: dict[str, float]
    converged: bool
    seed: int


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted linear classifier of features, which it standardises first.

    Attributes:
        mean, scale: `(D,)` of the features it was fitted on.
        weight: `(C, D)`.
        bias: `(C,)`.
        slope: the largest entry of the gradient where the fit ended.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    slope: float

    def __call__(self, features: Tensor) -> Tensor:
        """`(N, D)` to logits `(N, C)` in float64."""
        return ((features.to(self.mean) - self.mean) / self.scale) @ self.weight.T + self.bias


def evaluate_linear(
    backbone: Backbone,
    train: str | Path,
    val: str | Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> ClassFolderReport[LinearDetails]:
    """Fit on the features of `train`, judge on `val`.

    Features: the mean of the last feature map (see `pooled_features`), standardised by `train`.
    A fifth of each class of `train` is held out once, the strength with the best top-1 there is
    taken (the stronger of equals), and the fit made anew on all of `train`. Strengths are tried
    from the strongest down, until two in succession do worse than the best.

    Args:
        backbone, train, val, limit, batch_size, progress: see `read_features`.

    Raises:
        InputError: folders that cannot be used, fewer than two classes, or no class of two images.
    """
    if seed < 0:
        raise InputError(f"the seed must not be negative; it is {seed}")
    started = time.perf_counter()
    data = read_features(
        backbone, train, val, limit=limit, batch_size=batch_size, progress=progress
    )
    # MPS has no float64
    device = torch.device("cpu") if backbone.device.type == "mps" else backbone.device
    classifier, strength, scores = fit_with_best_strength(
        data.train.to(device), torch.from_numpy(data.labels).to(device), seed=seed
    )
    queries = data.train if data.queries is None else data.queries
    logits = classifier(queries)  # (M, C)
    ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :5].cpu()
    details = LinearDetails(
        strength=strength,
        held_out={f"{s:g}": top1 for s, top1 in scores.items()},
        converged=classifier.slope < 100 * _GRADIENT_TOLERANCE,
        seed=seed,
    )
    return data.report(ranked.numpy(), backbone, details, started=started)


def fit_with_best_strength(
    features: Tensor, labels: Tensor, *, seed: int
) -> tuple[Classifier, float, dict[float, float]]:
    """Choose the strength on held-out rows, and fit on all.

    Args:
        features: `(N, D)`.
        labels: `(N,)` int64, 0 to C - 1, each at least once.

    Returns:
        The classifier, the strength, and the top-1 of each that was tried.

    Raises:
        InputError: no class has two rows.
    """
    held = torch.from_numpy(hold_out(labels.cpu().numpy(), seed=seed)).to(labels.device)
    if not bool(held.any()):
        raise InputError("no class has two images: nothing to hold out for the choice of strength")
    classes = int(labels.max()) + 1
    scores: dict[float, float] = {}
    classifier: Classifier | None = None
    worse = 0
    for strength in STRENGTHS:
        # from the fit before: the strengths are a path of neighbours
        classifier = fit(
            features[~held], labels[~held], classes, strength=strength, start=classifier
        )
        hits = classifier(features[held]).argmax(dim=1) == labels[held]
        scores[strength] = float(hits.double().mean())
        worse = worse + 1 if scores[strength] < max(scores.values()) else 0
        if worse == _PATIENCE:
            break  # the weaker, the longer a fit takes
    best = max(scores, key=lambda s: scores[s])  # the first of equals: the stronger
    return fit(features, labels, classes, strength=best), best, scores


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    strength: float,
    start: Classifier | None = None,
) -> Classifier:
    """Multinomial logistic regression: mean cross-entropy + `strength / 2` x squared weights.

    scikit-learn's `LogisticRegression(C=1 / (N * strength))` on standardised features is the same
    minimum. The bias is not penalised. Full batches, float64: it is deterministic.

    Args:
        features: `(N, D)`.
        labels: `(N,)` int64, 0 to `classes` - 1.
        classes: how many there are; one without rows is fitted never to be chosen.
    """
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)  # (D,)
    # a feature that never changes stays 0
    scale = torch.where(std > 1e-12 * mean.abs().clamp(min=1), std, torch.ones_like(std))
    x = (x - mean) / scale
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device)
    if start is not None:
        weight.copy_(start.weight)
        bias.copy_(start.bias)
    # both from 0 or from a neighbour's fit: the objective is convex, so the start costs time only
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, labels)
        value = value + 0.5 * strength * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
        # once more, for the gradient where the fit ended, not of the line search's last trial
        loss()
    slope = max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
    return Classifier(mean, scale, weight.detach(), bias.detach(), slope)


def hold_out(labels: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """`(N,)` which rows are held out: a fifth of each class, at least one where it has two."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(int(HELD_OUT * len(rows)), 1) if len(rows) > 1 else 0
        # a generator for each class: more images of one do not change the others' rows
        held[generator(seed, "held out", int(label)).permutation(rows)[:count]] = True
    return held
