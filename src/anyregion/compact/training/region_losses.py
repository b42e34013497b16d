"""What `compact`'s module is trained for: the right name, and no drift from the open vocabulary."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def classification_loss(
    embedded: Tensor, labels: Tensor, matrix: Tensor, weights: Tensor, *, scale: float
) -> Tensor:
    """Cross-entropy of one image's regions over the vocabulary, weighted by class, a scalar.

    Args:
        embedded: `(N, E)`, not normalised; `N` may be 0.
        labels: `(N,)` rows of the matrix.
        matrix: `(C, E)` of length 1.
        weights: `(C,)` of the classes.
        scale: of the cosine.
    """
    logits = scale * F.normalize(embedded, dim=-1) @ matrix.T
    each = F.cross_entropy(logits, labels, reduction="none")
    return (each * weights[labels]).sum() / max(1, len(labels))


def distillation_loss(
    embedded: Tensor, conse: Tensor, labelled: int, *, labelled_share: float
) -> Tensor:
    """How far random regions have moved from the training-free answer, `1 - cosine`, a scalar.

    Args:
        embedded: `(N, E)`: first the labelled regions, then the random ones.
        conse: `(N, E)`, the training-free answers.
        labelled: how many are labelled.
        labelled_share: weight of the labelled regions' own distillation_loss.
    """
    away = 1 - F.cosine_similarity(embedded, conse, dim=-1)
    random = away[labelled:].mean() if labelled < len(away) else away.new_zeros(())
    own = away[:labelled].mean() if labelled else away.new_zeros(())
    return random + labelled_share * own
