"""Collapse metrics: spread and rank of embeddings and cluster entropy, with advice on low values.

A run of this kind can lower its loss to nothing by giving every region the same vector. The loss
then looks splendid; these metrics do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from anyregion.errors import InputError

LOW_SPREAD = 0.1
"""Projections of superpixels, in evaluation: random weights give 0.45 to 0.48, healthy runs 0.63 to
0.76 after some hundred steps (ResNet-18 at 64 and 96 pixels). Runs with the stop-gradient taken out
fall below 0.1 within twenty to thirty steps."""

LOW_RANK = 3.0
"""The same give 49 to 53, and 10 to 25; a point gives 1, a line at most 2. A healthy run of eight
images and a tiny network gave 3.3."""

LOW_ENTROPY = 0.25
"""About what four clusters give of which one has 92 % of the segments."""

FEWEST_ROWS = 16
"""Fewer rows can be few directions in a healthy run, too."""

_FLOORS = (
    (
        "projection_spread",
        LOW_SPREAD,
        "the vectors are nearly one: the run collapses, and its falling loss means nothing. "
        "Lower the learning rate or warm up longer; raise the target momentum; see that the "
        "predictor learns and that no gradient reaches the target; give BatchNorm the rows of "
        "more images (a larger batch or micro-batch, or BatchNorm synchronised between processes)",
    ),
    (
        "projection_rank",
        LOW_RANK,
        "the vectors fill only a few dimensions. Raise the batch (more images and regions for "
        "BatchNorm); lower the learning rate or the weight decay; raise the target momentum; or "
        "the images are all too much alike",
    ),
    (
        "cluster_entropy",
        LOW_ENTROPY,
        "one cluster has nearly all segments, so that the regions are the whole image. If spread "
        "or rank fall too, the features collapse: lower the learning rate or raise the target "
        "momentum. Otherwise take another number of clusters or another prior, and see whether "
        "the images are plain",
    ),
)


def spread(rows: Tensor) -> float:
    """How far apart the directions of `rows` are: 0 where all are one, 1 where they are isotropic.

    The standard deviation of every dimension of the L2-normalised rows, their mean times sqrt(D)
    (SimSiam, Chen and He 2021, section 4.1).

    Args:
        rows: `(R, D)`. Of fewer than two, the answer is not a number.

    Raises:
        InputError: another shape.
    """
    unit = functional.normalize(_checked(rows), dim=1)
    if len(unit) < 2:
        return float("nan")
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def effective_rank(rows: Tensor) -> float:
    """How many dimensions the directions of `rows` fill: between 1 and min(R, D); 0 if all rows
    are zero.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007), of the
    L2-normalised rows: the loss sees no more of them, and a few long rows would hide the others
    (measured early in a healthy run: 3 instead of 32). They are not centred: about their mean, a
    cloud of rounding errors around one point would pass for full rank.

    Args:
        rows: `(R, D)`. Without any, or if one is not finite, the answer is not a number.

    Raises:
        InputError: another shape.
    """
    exact = _checked(rows)
    if not len(exact) or not bool(exact.isfinite().all()):
        return float("nan")
    sizes = torch.linalg.svdvals(functional.normalize(exact, dim=1))
    total = sizes.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(sizes / total).sum().exp())


def cluster_entropy(labels: Tensor, clusters: int) -> float:
    """How evenly segments share the clusters: 1 for evenly, 0 if one has them all.

    Args:
        labels: whole numbers of any shape; those outside 0 to `clusters` - 1 are left out.
        clusters: K. With one cluster, or no label, the answer is 1: nothing is uneven.

    Raises:
        InputError: fewer than 1 cluster.
    """
    if clusters < 1:
        raise InputError(f"clusters must be at least 1, not {clusters}")
    valid = labels[(labels >= 0) & (labels < clusters)].long().cpu()
    if clusters == 1 or not len(valid):
        return 1.0
    shares = torch.bincount(valid, minlength=clusters).double() / len(valid)
    return float(torch.special.entr(shares).sum() / torch.tensor(float(clusters)).log())


def _checked(rows: Tensor) -> Tensor:
    if rows.ndim != 2:
        raise InputError(f"(R, D) is needed, not {tuple(rows.shape)}")
    return rows.detach().cpu().double()


def advice(metrics: Mapping[str, float], *, rows: int | None = None) -> list[str]:
    """Warnings about the metrics of one validation, each with what may help.

    It remembers nothing, so that a run that goes on says what one that was never ended says. The
    floors are absolute and hold from the first step on. Only projections are judged, for which
    their head's BatchNorm sees to it that random weights of any encoder stand far above the
    floors; features of a random ViT or ConvNeXt need not.

    Args:
        metrics: `projection_spread`, `projection_rank` (the effective one), `cluster_entropy`; one
            that is missing, or not a number, says nothing, and others are passed over.
        rows: of which spread and rank are; fewer than `FEWEST_ROWS` say nothing of collapse.
            None for enough.
    """
    few = rows is not None and rows < FEWEST_ROWS
    return [
        f"{name} is {metrics[name]:.3g}, below {floor:g}: {text}"
        for name, floor, text in _FLOORS
        if name in metrics and metrics[name] < floor and not (few and name.startswith("projection"))
    ]
