"""The losses of the region head and the mask head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# parts of the mask head's loss, beside the border's, which weighs 1
OVERLAP_WEIGHT = 2.5
QUALITY_WEIGHT = 0.2


def classification_loss(
    embeddings: Tensor,
    labels: Tensor,
    matrix: Tensor,
    weights: Tensor,
    *,
    scale: float,
    others: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of one image's regions over the vocabulary, weighted by class, a scalar.

    Args:
        embeddings: `(N, E)`, not normalised; `N` may be 0.
        labels: `(N,)` rows of the matrix.
        matrix: `(C, E)` of length 1.
        weights: `(C,)` of the classes.
        scale: of the cosine.
        others: `(D, E)` of length 1, names beside those that are right of no region.
    """
    names = matrix if others is None else torch.cat([matrix, others])
    logits = scale * F.normalize(embeddings, dim=-1) @ names.T  # (N, C + D)
    by_region = F.cross_entropy(logits, labels, reduction="none")
    return (by_region * weights[labels]).sum() / max(1, len(labels))


def distillation_loss(
    embeddings: Tensor, conse: Tensor, labelled: int, *, labelled_share: float
) -> Tensor:
    """Distance of random regions from the training-free answer, `1 - cosine`, a scalar.

    Args:
        embeddings: `(N, E)`: first the labelled regions, then the random ones.
        conse: `(N, E)`, the training-free answers.
        labelled: how many are labelled.
        labelled_share: weight of the labelled regions' own distance.
    """
    distances = 1 - F.cosine_similarity(embeddings, conse, dim=-1)  # (N,)
    none = distances.new_zeros(())
    of_random = distances[labelled:].mean() if labelled < len(distances) else none
    of_labelled = distances[:labelled].mean() if labelled else none
    return of_random + labelled_share * of_labelled


def mask_losses(
    logits: Tensor, quality: Tensor, targets: Tensor, *, annotated: Tensor | None = None
) -> dict[str, Tensor]:
    """Losses of each region, `(N,)`: `loss` is the weighted sum of the others.

    `border` is the binary cross-entropy of the cells, `overlap` 1 - soft intersection over union
    (the form that is least at the target also where that is between 0 and 1, arXiv 2302.05666,
    section 3), so that a region counts the same whatever share of its box it fills, and `quality`
    says how far the predicted intersection over union is off.

    Args:
        logits: `(N, side, side)`.
        quality: logits of the intersection over union, `(N,)`.
        targets: `(N, side, side)`, from 0 to 1.
        annotated: `(N,)`, 1 for targets that are true and 0 for a teacher's, which have no
            `quality`; None where all are true.
    """
    border = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    inside = logits.sigmoid()
    # + 1 cell of each, so that an empty target has a gradient
    areas, apart = (inside + targets).sum((1, 2)), (inside - targets).abs().sum((1, 2))
    overlap = 1 - (areas - apart + 2) / (areas + apart + 2)
    predicted, true = logits.detach() > 0, targets > 0.5
    iou = (predicted & true).sum((1, 2)) / (predicted | true).sum((1, 2)).clamp_min(1)
    quality_loss = F.binary_cross_entropy_with_logits(quality, iou, reduction="none")
    if annotated is not None:
        quality_loss = quality_loss * annotated
    loss = border + OVERLAP_WEIGHT * overlap + QUALITY_WEIGHT * quality_loss
    return {"loss": loss, "border": border, "overlap": overlap, "quality": quality_loss}
