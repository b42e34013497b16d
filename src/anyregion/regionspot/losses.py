"""What the adapter is trained for (section 3.3): focal loss on the logits of every region.

Beside it softmax cross-entropy, and a pull towards a teacher that keeps the vocabulary open.
"""

from __future__ import annotations

from typing import Literal

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
    length = embeddings.norm(dim=-1, keepdim=True) + 1e-7
    logits: Tensor = scale * (embeddings / length) @ words.T
    return logits


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    over_images: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """`focal_losses` of a batch as one number: the mean over images, or the published sum."""
    per_image = focal_losses(logits, labels, alpha=alpha, gamma=gamma)
    return per_image.sum() if over_images == "sum" else per_image.mean()


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
    target = F.one_hot(labels.clamp(min=0), classes).to(logits.dtype)
    loss: Tensor = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
    return _mean_of_counted(loss.sum(dim=-1), labels >= 0)


def cross_entropy_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy over the vocabulary, mean over regions, `(B,)`; see `focal_losses`.

    Raises:
        InputError: labels beyond the vocabulary.
    """
    _check_labels(labels, logits.shape[-1])
    loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-1, reduction="none")
    return _mean_of_counted(loss, labels >= 0)


def distillation_losses(embeddings: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """One minus the cosine of each region's embedding and its teacher's, mean over regions, `(B,)`.

    Args:
        embeddings, teacher: `(B, N, E)`, of any lengths.
        labels: `(B, N)`; -1 marks padding.
    """
    away = 1 - F.cosine_similarity(embeddings, teacher, dim=-1, eps=1e-7)
    return _mean_of_counted(away, labels >= 0)


def _mean_of_counted(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over regions, `(B, N)` to `(B,)`; 0 for an image of padding alone."""
    kept = torch.where(counted, values, values.new_zeros(()))
    return kept.sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and (int(labels.max()) >= classes or int(labels.min()) < -1):
        raise InputError(f"labels must lie in 0 to {classes - 1}, or be -1 for padding")


def repeated_rows(count: int, wanted: int) -> list[int]:
    """Rows that bring `count` regions to `wanted` as published: `3 -> 5` is `0 1 1 2 2`.

    Each region is repeated `wanted // count` times, and the last `wanted % count` once more.

    Raises:
        InputError: no region to repeat, or fewer wanted than there are.
    """
    if not 1 <= count <= wanted:
        raise InputError(f"cannot bring {count} regions to {wanted} by repeating them")
    times, more = divmod(wanted, count)
    return [i for i in range(count) for _ in range(times + (i >= count - more))]
