"""The losses of the proposal head: which cells answer for which object, and how well they do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from anyregion.compact.proposal_head import LEVELS, level_sizes
from anyregion.compact.training.proposal_module import CellPredictions, centres

# parts of the loss, beside the score's, which weighs 1
BOX_WEIGHT = 2.0
DISTANCE_WEIGHT = 0.5
POINT_BOX_WEIGHT = 1.0
POINT_SCORE_WEIGHT = 0.5
# the exponent of the quality focal loss is its paper's best (arXiv 2006.04388, table 1)
FOCUS = 2.0
# longer side of the objects that the cells of a level learn to box at points, in pixels of the
# network's input; they overlap, since at the edge either level may answer
LEVEL_RANGES = ((0.0, 72.0), (48.0, 160.0), (112.0, 336.0), (256.0, 1e5))


@dataclass(frozen=True)
class AssignmentConfig:
    """Which cells answer for an object: those that already do it best (arXiv 2108.07755, 3.2).

    Attributes:
        cells: of each object, at most.
        alpha, beta: exponents of the predicted score and of the intersection over union.
        reach: an object smaller than so many pixels counts as so large.
    """

    cells: int = 10
    alpha: float = 0.5
    beta: float = 4.0
    reach: float = 14.0


def assign(
    boxes: Tensor, scores: Tensor, objects: Tensor, at: Tensor, config: AssignmentConfig
) -> tuple[Tensor, Tensor]:
    """Which object each cell is trained on, and the score that it is to have.

    Candidates are the cells in an object, of every level. The best by `score ** alpha * iou **
    beta` are taken; a cell that is among them for several objects goes to the one it boxes best.

    Args:
        boxes, scores: predicted, `(cells, 4)` and `(cells,)` from 0 to 1.
        objects: `(n, 4)`, xyxy in pixels of the network's input.
        at: `(cells, 2)`, the cells' centres.
        config: see there.

    Returns:
        Row in `objects` of every cell, -1 for none, and the score: of an object's best cell its
        intersection over union, of the others less, in proportion. `(cells,)` both.
    """
    owner = torch.full((len(at),), -1, device=at.device)
    target = torch.zeros(len(at), device=at.device)
    if not len(objects):
        return owner, target
    middle = (objects[:, 2:] + objects[:, :2]) / 2
    half = ((objects[:, 2:] - objects[:, :2]) / 2).clamp_min(config.reach / 2)
    # of most cells and objects the one does not lie in the other: pairs that do are few
    inside = ((at[:, None] - middle).abs() <= half).all(dim=2)  # (cells, n)
    cell, row = inside.nonzero(as_tuple=True)  # (pairs,) each
    overlap = paired_iou(boxes[cell], objects[row])
    iou = torch.zeros_like(inside, dtype=boxes.dtype)
    iou[cell, row] = overlap
    metric = torch.zeros_like(iou)
    metric[cell, row] = scores[cell] ** config.alpha * overlap**config.beta + 1e-12
    best, rows = metric.topk(min(config.cells, len(at)), dim=0)  # (k, n)
    # (cells, n), the IoU of those selected, -1 of the others
    selected = torch.full_like(iou, -1.0)
    selected.scatter_(0, rows, torch.where(best > 0, iou.gather(0, rows), -1.0))
    value, choice = selected.max(dim=1)
    taken = value >= 0
    owner[taken] = choice[taken]
    mine, of = metric[taken, choice[taken]], choice[taken]
    highest = torch.zeros(len(objects), device=at.device)
    top_metric = highest.scatter_reduce(0, of, mine, "amax")
    top_iou = highest.scatter_reduce(0, of, value[taken], "amax")
    target[taken] = mine / top_metric[of].clamp_min(1e-12) * top_iou[of]
    return owner, target


@lru_cache(maxsize=64)
def cells_of(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Centres `(cells, 2)` and strides `(cells,)` of all cells, from those at stride 32."""
    levels = level_sizes(rows, columns)
    strides = torch.cat([torch.full((h * w,), float(s)) for h, w, s in levels])
    return torch.cat([centres(*level) for level in levels]), strides


def smallest_around(objects: Tensor, at: Tensor) -> Tensor:
    """Row of the smallest object that each cell's centre lies in, -1 for none, `(cells,)`."""
    if not len(objects):
        return torch.full((len(at),), -1, device=at.device)
    inside = ((at[:, None] > objects[:, :2]) & (at[:, None] < objects[:, 2:])).all(dim=2)
    area = (objects[:, 2:] - objects[:, :2]).prod(dim=1)
    smallest = torch.where(inside, area, torch.inf).argmin(dim=1)
    return torch.where(inside.any(dim=1), smallest, -1)


def proposal_losses(
    answer: CellPredictions,
    objects: Tensor,
    rows: int,
    columns: int,
    *,
    around: Tensor | None = None,
    assignment: AssignmentConfig | None = None,
) -> dict[str, Tensor]:
    """Sums over one image, scalars: `weight`, that of its cells, and the parts of the loss.

    `box` is the generalised intersection over union, `distance` the cross-entropy of the distances'
    bins (arXiv 2006.04388, section 3.2), `score` the quality focal loss of all cells. `point_box`
    and `point_score` are of the cells in an object, of every level, and sums over objects of
    means: whatever object a point lies in is the one to box.

    Args:
        answer: what `ProposalHeadModule` returned for the image.
        objects: boxes `(n, 4)`, xyxy in pixels of the network's input.
        rows, columns: of the map at stride 32.
        around: the object that lies at each cell; unless given, the smallest box around it.
        assignment: see there.
    """
    boxes, score_logits = answer.boxes.float(), answer.scores.float()
    at, strides = (part.to(objects.device) for part in cells_of(rows, columns))
    owner, target = assign(
        boxes.detach(),
        score_logits.detach().sigmoid(),
        objects,
        at,
        assignment or AssignmentConfig(),
    )
    taken = owner >= 0
    focus = (target - score_logits.detach().sigmoid()).abs() ** FOCUS
    raw = F.binary_cross_entropy_with_logits(score_logits, target, reduction="none")
    # without an object they are 0, and a part of the graph all the same
    box = distance = boxes.sum() * 0
    if taken.any():
        true_boxes, weight = objects[owner[taken]], target[taken]
        box = (generalized_box_iou_loss(boxes[taken], true_boxes) * weight).sum()
        lengths = torch.cat([at[taken] - true_boxes[:, :2], true_boxes[:, 2:] - at[taken]], dim=1)
        by_side = distance_losses(
            answer.distances[taken].float(), lengths / strides[taken, None]
        )  # (t, 4)
        distance = (by_side.mean(dim=1) * weight).sum()
    if around is None:
        around = smallest_around(objects, at)
    point_box, point_score = _point_losses(answer, objects, around, strides)
    return {
        "weight": target.sum(),
        "box": box,
        "distance": distance,
        "score": (raw * focus).sum(),
        "point_box": point_box,
        "point_score": point_score,
    }


def distance_losses(logits: Tensor, lengths: Tensor) -> Tensor:
    """Cross-entropy of distances with the two bins beside the true one, by nearness.

    Args:
        logits: `(..., bins)`.
        lengths: `(...)`, the true distances in bins; those beyond the last count as the last.
    """
    bins = logits.shape[-1]
    # a hair below the last bin, so that there is one above
    lengths = lengths.clamp(0, bins - 1 - 1e-3)
    below = lengths.long()
    share = lengths - below
    logs = logits.log_softmax(dim=-1)
    low, high = (logs.gather(-1, at[..., None])[..., 0] for at in (below, below + 1))
    return -(low * (1 - share) + high * share)


def _point_losses(
    answer: CellPredictions, objects: Tensor, around: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor]:
    covered = around >= 0
    none = answer.point_boxes.sum() * 0 + answer.point_scores.sum() * 0
    if not covered.any():
        return none, none
    boxes, owner = answer.point_boxes[covered].float(), around[covered]
    true_boxes = objects[owner]
    longer = (true_boxes[:, 2:] - true_boxes[:, :2]).max(dim=1).values
    low, high = torch.tensor(LEVEL_RANGES, device=objects.device)[
        (strides[covered] / LEVELS[0]).log2().long()
    ].T
    fits = ((longer >= low) & (longer < high)).to(boxes.dtype)
    giou = generalized_box_iou_loss(boxes, true_boxes)
    quality = paired_iou(boxes.detach(), true_boxes)
    logits = answer.point_scores[covered].float()
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    of_boxes = _means(giou, fits, owner, len(objects))
    of_scores = _means(entropy, torch.ones_like(fits), owner, len(objects))
    return of_boxes.sum() + none, of_scores.sum() + none


def _means(values: Tensor, weights: Tensor, owner: Tensor, count: int) -> Tensor:
    """Weighted means of the values of each owner, `(count,)`; 0 without any."""
    zeros = values.new_zeros(count)
    total = zeros.index_add(0, owner, weights)
    return zeros.index_add(0, owner, values * weights) / total.clamp_min(1e-6)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of row with row, `(n,)`."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp_min(0).prod(dim=1)
    areas = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1)
    return both / (areas - both).clamp_min(1e-6)
