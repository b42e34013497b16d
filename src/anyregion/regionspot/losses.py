"""Losses of the adapter (section 3.3): focal loss, cross-entropy, distillation from a teacher.

The published loss is the focal one; distillation keeps the embeddings near those of a teacher that
was not trained on these names. B is images, N regions, C names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from anyregion.errors import InputError


def region_logits(embeddings: Tensor, words: Tensor, scale: float | Tensor) -> Tensor:
    """`scale * region / (norm(region) + 1e-7) . word`, `(..., C)`, with gradients.

    Args:
        embeddings: `(..., E)` from the adapter, not normalised.
        words: `(C, E)` of length 1.
        scale: the exponential of the VLM's logit scale.
    """
    length = embeddings.norm(dim=-1, keepdim=True) + 1e-7  # as published, so no region is 0 / 0
    logits: Tensor = scale * (embeddings / length) @ words.T
    return logits


def focal_losses(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss against one-hot labels: mean over regions, sum over classes, `(B,)`.

    Args:
        logits: `(B, N, C)`.
        labels: `(B, N)`, positions in the vocabulary; -1 marks padding that does not count.
        alpha: weight of positives; below 0 there is no such weighting.

    Raises:
        InputError: labels beyond the vocabulary.
    """
    classes = logits.shape[-1]
    _check_labels(labels, classes)
    target = F.one_hot(labels.clamp(min=0), classes).to(logits.dtype)  # (B, N, C)
    loss: Tensor = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
    return _mean_over_regions(loss.sum(dim=-1), labels)


def cross_entropy_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy over the vocabulary, mean over regions, `(B,)`; see `focal_losses`.

    Raises:
        InputError: labels beyond the vocabulary.
    """
    _check_labels(labels, logits.shape[-1])
    loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-1, reduction="none")
    return _mean_over_regions(loss, labels)


def distillation_losses(embeddings: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """One minus the cosine of each region's embedding and its teacher's, mean over regions, `(B,)`.

    Args:
        embeddings, teacher: `(B, N, E)`, of any lengths.
        labels: `(B, N)`; -1 marks padding.
    """
    distances = 1 - F.cosine_similarity(embeddings, teacher, dim=-1, eps=1e-7)  # (B, N)
    return _mean_over_regions(distances, labels)


def repeated_rows(count: int, total: int) -> list[int]:
    """Rows that bring `count` regions to `total` as published: `3 -> 5` is `0 1 1 2 2`.

    Each region is repeated `total // count` times, and the last `total % count` once more.

    Raises:
        InputError: no region to repeat, or a total below their number.
    """
    if not 1 <= count <= total:
        raise InputError(f"cannot bring {count} regions to {total} by repeating them")
    # the published reader fills every image of a batch to the longest one
    times, rest = divmod(total, count)
    return [i for i in range(count) for _ in range(times + (i >= count - rest))]


def _mean_over_regions(values: Tensor, labels: Tensor) -> Tensor:
    """Mean over the regions whose label is not -1, `(B, N)` to `(B,)`; 0 where all are padding."""
    counted = labels >= 0
    # where, not a product: a padding row may hold NaN
    values = torch.where(counted, values, values.new_zeros(()))
    return values.sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and (int(labels.max()) >= classes or int(labels.min()) < -1):
        raise InputError(f"labels must lie in 0 to {classes - 1}, or be -1 for padding")
