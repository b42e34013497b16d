"""What the finder learns from: which cell answers for which thing, and two losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from anyregion.compact.grid_boxes import level_sizes
from anyregion.compact.training.proposal_head_module import centres

# longer side of the things that a level learns to box, in pixels of the network's input; they
# overlap, since at the edge either level may answer
SIZES = ((0.0, 72.0), (48.0, 160.0), (112.0, 336.0), (256.0, 1e5))
FOCUS = 2.0
BOX_WEIGHT = 2.0
POINT_WEIGHT = 0.5


def assign(things: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Which thing each cell answers for.

    A cell answers for the smallest thing of its level's sizes that it lies in; the cell nearest to
    a thing's centre counts as inside, however small the thing is.

    Args:
        things: boxes `(n, 4)`, xyxy in pixels of the network's input.
        rows, columns: of the map at stride 32.

    Returns:
        Row in `things` of every cell, -1 for none, and the cells' weights for the boxes' loss: more
        in a thing's middle, 1 in sum over the cells of a thing. `(cells,)` both.
    """
    owners, weights = [], []
    sides = things[:, 2:] - things[:, :2]
    longer, area = sides.max(dim=1).values, sides.prod(dim=1)
    middle = (things[:, 2:] + things[:, :2]) / 2
    for (height, width, stride), (low, high) in zip(level_sizes(rows, columns), SIZES, strict=True):
        at = centres(height, width, stride, things.device)
        half = torch.maximum(sides / 2, torch.full_like(sides, stride / 2))
        away = ((at[:, None] - middle).abs() / half).max(dim=2).values
        fits = (away <= 1) & (longer >= low) & (longer < high)
        cost = torch.where(fits, area, torch.inf)
        owner = cost.argmin(dim=1) if len(things) else at.new_zeros(len(at), dtype=torch.long)
        found = fits.any(dim=1)
        own = away.gather(1, owner[:, None])[:, 0] if len(things) else at.new_zeros(len(at))
        owners.append(torch.where(found, owner, -1))
        weights.append(torch.where(found, (1.2 - own).clamp(0.2, 1.0), 0.0))
    owner, weight = torch.cat(owners), torch.cat(weights)
    inside = owner >= 0
    total = torch.zeros(len(things), device=things.device).index_add(
        0, owner[inside], weight[inside]
    )
    share = weight / total[owner.clamp_min(0)].clamp_min(1e-6) if len(things) else weight
    return owner, torch.where(inside, share, 0.0)


def smallest_around(things: Tensor, rows: int, columns: int) -> Tensor:
    """Row of the smallest thing that each cell's centre lies in, -1 for none, `(cells,)`."""
    at = torch.cat([centres(*level, things.device) for level in level_sizes(rows, columns)])
    if not len(things):
        return torch.full((len(at),), -1, device=things.device)
    inside = ((at[:, None] > things[:, :2]) & (at[:, None] < things[:, 2:])).all(dim=2)
    area = (things[:, 2:] - things[:, :2]).prod(dim=1)
    smallest = torch.where(inside, area, torch.inf).argmin(dim=1)
    return torch.where(inside.any(dim=1), smallest, -1)


def proposal_losses(
    answer: tuple[Tensor, Tensor, Tensor], things: Tensor, rows: int, columns: int
) -> dict[str, Tensor]:
    """Losses of one image, scalars, and `loss`, their weighted sum.

    `box` is the generalised intersection over union, the mean over things; `score` the quality
    focal loss of all cells; `point` the cross-entropy of the second score, over the cells inside a
    thing, of every level, whether or not it is the one to answer.

    Args:
        answer: what `ProposalHeadModule` gave for the image.
        things: boxes `(n, 4)`, xyxy in pixels of the network's input.
        rows, columns: of the map at stride 32.
    """
    boxes, found, given = (part.float() for part in answer)
    owner, share = assign(things, rows, columns)
    inside = owner >= 0
    quality = torch.zeros_like(found)
    box = boxes.sum() * 0
    if inside.any():
        meant = things[owner[inside]]
        answered = len(set(owner[inside].tolist()))
        apart = generalized_box_iou_loss(boxes[inside], meant)
        box = (apart * share[inside]).sum() / answered
        quality[inside] = paired_iou(boxes[inside].detach(), meant)
    focus = (quality - found.detach().sigmoid()).abs() ** FOCUS
    raw = F.binary_cross_entropy_with_logits(found, quality, reduction="none")
    # as many things as cells of weight: a large thing's many cells share their say
    score = (raw * focus).sum() / quality.sum().clamp_min(4.0)
    point = _point_loss(boxes.detach(), given, things, smallest_around(things, rows, columns))
    loss = BOX_WEIGHT * box + score + POINT_WEIGHT * point
    return {"loss": loss, "box": box, "score": score, "point": point}


def _point_loss(boxes: Tensor, given: Tensor, things: Tensor, around: Tensor) -> Tensor:
    there = around >= 0
    if not there.any():
        return given.sum() * 0
    quality = paired_iou(boxes[there], things[around[there]])
    raw = F.binary_cross_entropy_with_logits(given[there], quality, reduction="none")
    # a large thing has many cells; it says more than a small one, but not as much more
    cells = torch.bincount(around[there], minlength=len(things)).to(raw.dtype)
    weight = cells[around[there]] ** -0.5
    return (raw * weight).sum() / weight.sum()


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of row with row, `(n,)`."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp_min(0).prod(dim=1)
    each = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1)
    return both / (each - both).clamp_min(1e-6)
