"""The losses of the region head, the mask head and the proposal head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from anyregion.compact.proposal_head import level_sizes
from anyregion.compact.training.modules import centres

# parts of the mask head's loss, beside the border's, which weighs 1
OVERLAP_WEIGHT = 1.5
QUALITY_WEIGHT = 0.2

# the exponent of the quality focal loss is its paper's best (arXiv 2006.04388, table 1)
FOCUS = 2.0
# parts of the proposal head's loss, beside the score's, which weighs 1
BOX_WEIGHT = 2.0
POINT_WEIGHT = 0.5
# longer side of the objects that a level learns to box, in pixels of the network's input; they
# overlap, since at the edge either level may answer
LEVEL_RANGES = ((0.0, 72.0), (48.0, 160.0), (112.0, 336.0), (256.0, 1e5))


def classification_loss(
    embeddings: Tensor, labels: Tensor, matrix: Tensor, weights: Tensor, *, scale: float
) -> Tensor:
    """Cross-entropy of one image's regions over the vocabulary, weighted by class, a scalar.

    Args:
        embeddings: `(N, E)`, not normalised; `N` may be 0.
        labels: `(N,)` rows of the matrix.
        matrix: `(C, E)` of length 1.
        weights: `(C,)` of the classes.
        scale: of the cosine.
    """
    logits = scale * F.normalize(embeddings, dim=-1) @ matrix.T  # (N, C)
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


def mask_losses(logits: Tensor, quality: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Losses of each region, `(N,)`: `loss` is the weighted sum of the others.

    `border` is the binary cross-entropy of the cells, `overlap` 1 - soft intersection over union,
    so that a region counts the same whatever share of its box it fills, and `quality` says how far
    the predicted intersection over union is off.

    Args:
        logits: `(N, side, side)`.
        quality: logits of the intersection over union, `(N,)`.
        targets: `(N, side, side)`, from 0 to 1.
    """
    border = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    inside = logits.sigmoid()
    # + 1 cell, so that an empty target has a gradient
    both, either = (inside * targets).sum((1, 2)), inside.sum((1, 2)) + targets.sum((1, 2))
    overlap = 1 - (both + 1) / (either - both + 1)
    predicted, true = logits.detach() > 0, targets > 0.5
    iou = (predicted & true).sum((1, 2)) / (predicted | true).sum((1, 2)).clamp_min(1)
    quality_loss = F.binary_cross_entropy_with_logits(quality, iou, reduction="none")
    loss = border + OVERLAP_WEIGHT * overlap + QUALITY_WEIGHT * quality_loss
    return {"loss": loss, "border": border, "overlap": overlap, "quality": quality_loss}


def assign(objects: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Which object each cell is trained on.

    It is the smallest object of its level's sizes that the cell lies in; the cell nearest to a
    object's centre counts as inside, however small the object is.

    Args:
        objects: boxes `(n, 4)`, xyxy in pixels of the network's input.
        rows, columns: of the map at stride 32.

    Returns:
        Row in `objects` of every cell, -1 for none, and the weight of each cell in the boxes' loss:
        more in an object's middle, 1 in sum over the cells of an object. `(cells,)` both.
    """
    owners, weights = [], []
    sides = objects[:, 2:] - objects[:, :2]
    longer, area = sides.max(dim=1).values, sides.prod(dim=1)
    middle = (objects[:, 2:] + objects[:, :2]) / 2
    levels = zip(level_sizes(rows, columns), LEVEL_RANGES, strict=True)
    for (height, width, stride), (low, high) in levels:
        at = centres(height, width, stride, objects.device)  # (cells of the level, 2)
        half = torch.maximum(sides / 2, torch.full_like(sides, stride / 2))
        # distance from each object's centre in halves of its sides, (cells, n)
        distance = ((at[:, None] - middle).abs() / half).max(dim=2).values
        fits = (distance <= 1) & (longer >= low) & (longer < high)
        cost = torch.where(fits, area, torch.inf)
        owner = cost.argmin(dim=1) if len(objects) else at.new_zeros(len(at), dtype=torch.long)
        has_owner = fits.any(dim=1)
        own = distance.gather(1, owner[:, None])[:, 0] if len(objects) else at.new_zeros(len(at))
        owners.append(torch.where(has_owner, owner, -1))
        weights.append(torch.where(has_owner, (1.2 - own).clamp(0.2, 1.0), 0.0))
    owner, weight = torch.cat(owners), torch.cat(weights)
    inside = owner >= 0
    total = torch.zeros(len(objects), device=objects.device).index_add(
        0, owner[inside], weight[inside]
    )
    share = weight / total[owner.clamp_min(0)].clamp_min(1e-6) if len(objects) else weight
    return owner, torch.where(inside, share, 0.0)


def smallest_around(objects: Tensor, rows: int, columns: int) -> Tensor:
    """Row of the smallest object that each cell's centre lies in, -1 for none, `(cells,)`."""
    at = torch.cat([centres(*level, objects.device) for level in level_sizes(rows, columns)])
    if not len(objects):
        return torch.full((len(at),), -1, device=objects.device)
    inside = ((at[:, None] > objects[:, :2]) & (at[:, None] < objects[:, 2:])).all(dim=2)
    area = (objects[:, 2:] - objects[:, :2]).prod(dim=1)
    smallest = torch.where(inside, area, torch.inf).argmin(dim=1)
    return torch.where(inside.any(dim=1), smallest, -1)


def proposal_losses(
    answer: tuple[Tensor, Tensor, Tensor], objects: Tensor, rows: int, columns: int
) -> dict[str, Tensor]:
    """Losses of one image, scalars, and `loss`, their weighted sum.

    `box` is the generalised intersection over union, the mean over objects; `score` the quality
    focal loss of all cells; `point` the cross-entropy of the second score, over the cells inside a
    object, of every level, whether or not it is trained on that object.

    Args:
        answer: what `ProposalHeadModule` returned for the image.
        objects, rows, columns: see `assign`.
    """
    boxes, score_logits, point_logits = (part.float() for part in answer)
    owner, share = assign(objects, rows, columns)
    inside = owner >= 0
    quality = torch.zeros_like(score_logits)
    # without an object it is 0, and a part of the graph all the same
    box = boxes.sum() * 0
    if inside.any():
        true_boxes = objects[owner[inside]]
        answered = len(set(owner[inside].tolist()))
        by_cell = generalized_box_iou_loss(boxes[inside], true_boxes)
        box = (by_cell * share[inside]).sum() / answered
        quality[inside] = paired_iou(boxes[inside].detach(), true_boxes)
    focus = (quality - score_logits.detach().sigmoid()).abs() ** FOCUS
    raw = F.binary_cross_entropy_with_logits(score_logits, quality, reduction="none")
    # as many objects as cells of weight: a large object's many cells share their say
    score = (raw * focus).sum() / quality.sum().clamp_min(4.0)
    point = _point_loss(
        boxes.detach(), point_logits, objects, smallest_around(objects, rows, columns)
    )
    loss = BOX_WEIGHT * box + score + POINT_WEIGHT * point
    return {"loss": loss, "box": box, "score": score, "point": point}


def _point_loss(boxes: Tensor, logits: Tensor, objects: Tensor, around: Tensor) -> Tensor:
    covered = around >= 0
    if not covered.any():
        return logits.sum() * 0
    quality = paired_iou(boxes[covered], objects[around[covered]])
    raw = F.binary_cross_entropy_with_logits(logits[covered], quality, reduction="none")
    # a large object has many cells; it says more than a small one, but not as much more
    cells = torch.bincount(around[covered], minlength=len(objects)).to(raw.dtype)
    weight = cells[around[covered]] ** -0.5
    return (raw * weight).sum() / weight.sum()


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of row with row, `(n,)`."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp_min(0).prod(dim=1)
    areas = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1)
    return both / (areas - both).clamp_min(1e-6)
