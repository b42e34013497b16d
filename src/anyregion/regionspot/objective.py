"""What the adapter is trained for (section 3.3): focal loss on the logits of every region."""

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
    """Sigmoid focal loss against one-hot labels: mean over regions, sum over classes, a scalar.

    Args:
        logits: `(B, N, C)`.
        labels: `(B, N)`, positions in the vocabulary; -1 marks padding that does not count.
        alpha: weight of positives; below 0 there is no such weighting.
        over_images: `mean`; `sum` is the published loss, which grows with the batch.

    Raises:
        InputError: labels beyond the vocabulary.
    """
    classes = logits.shape[-1]
    if labels.numel() and (int(labels.max()) >= classes or int(labels.min()) < -1):
        raise InputError(f"labels must lie in 0 to {classes - 1}, or be -1 for padding")
    counted = labels >= 0
    target = F.one_hot(labels.clamp(min=0), classes).to(logits.dtype)
    loss: Tensor = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma)
    loss = torch.where(counted[..., None], loss, loss.new_zeros(()))
    per_image = loss.sum(dim=(1, 2)) / counted.sum(dim=1).clamp(min=1)
    return per_image.sum() if over_images == "sum" else per_image.mean()


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
