"""Fitting `PointChoice`: which candidate at a point fits the object best, from annotated masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.compact.point_choice import (
    FEATURES,
    PointCandidates,
    PointChoice,
    candidate_features,
)
from anyregion.compact.proposal_head import AT_POINTS, ProposalHead, best_proposals, candidates_at
from anyregion.compact.training.dataset import read_pyramid
from anyregion.data.region_dataset import RegionDataset
from anyregion.errors import InputError
from anyregion.masks import decode_mask
from anyregion.proposals import box_iou
from anyregion.training.seeds import seed_torch

# how many points are drawn of a mask, prompt by prompt: one point is what is asked for most
POINTS = (1, 1, 1, 2, 3)
# of the softmax over the candidates' predicted overlaps that stands for taking the best one
SHARPNESS = 24.0


@dataclass(frozen=True)
class PointChoiceOptions:
    """How a `PointChoice` is fitted.

    Attributes:
        hidden: units of its hidden layer.
        epochs, batch: passes over all prompts, and prompts of a step.
        lr: the highest learning rate; it rises and falls once.
        seed: of the first weights and the order of prompts.
    """

    hidden: int = 16
    epochs: int = 12
    batch: int = 128
    lr: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PointPrompt:
    """The candidates at points of an annotated mask.

    Attributes:
        candidates: at least one.
        ious: `(n,)`, intersection over union of each with the annotated box.
    """

    candidates: PointCandidates
    ious: NDArray[np.float64]


def point_prompts(head: ProposalHead, dataset: RegionDataset, *, seed: int) -> list[PointPrompt]:
    """Prompts of `POINTS` points, drawn evenly from the pixels of each annotated mask.

    Images with a single mask are left out: there the others of its things have none. So are prompts
    without a candidate.
    """
    random = np.random.default_rng(seed)
    return [
        prompt
        for image in dataset.images.tolist()
        if len(rows := dataset.rows(image, with_mask=True)) > 1
        for prompt in _prompts_of_image(head, dataset, image, rows, random)
    ]


def _prompts_of_image(
    head: ProposalHead,
    dataset: RegionDataset,
    image: int,
    rows: NDArray[np.int64],
    random: np.random.Generator,
) -> Iterator[PointPrompt]:
    grid = head.predict(read_pyramid(dataset, image))
    proposals = best_proposals(grid, AT_POINTS)
    for row, box in zip(rows.tolist(), dataset.boxes(image, rows), strict=True):
        y, x = np.nonzero(decode_mask(dataset.rle(image, row)))
        for count in POINTS:
            drawn = random.integers(len(y), size=count)
            points = np.stack([x[drawn], y[drawn]], axis=1).astype(np.float64)
            candidates = candidates_at(grid, points, proposals)
            if len(candidates.boxes):
                yield PointPrompt(candidates, box_iou(candidates.boxes, box[None])[:, 0])


def fit_point_choice(
    prompts: Sequence[PointPrompt], options: PointChoiceOptions | None = None
) -> PointChoice:
    """The `PointChoice` that takes the best candidates of some prompts.

    The loss is the cross-entropy of each prediction with the intersection over union, so that
    predictions mean that, less the intersection over union that is to be expected where a candidate
    is drawn by a sharp softmax over them, so that it is the best ones that are told apart.

    Raises:
        InputError: no prompt.
    """
    options = options or PointChoiceOptions()
    if not prompts:
        raise InputError("a point choice cannot be fitted: no mask has a candidate")
    features, ious, real = _padded(prompts)
    mean, deviation = features[real].mean(dim=0), features[real].std(dim=0, correction=0) + 1e-3
    features = (features - mean) / deviation
    seed_torch(options.seed, "point choice")
    hidden, output = nn.Linear(FEATURES, options.hidden), nn.Linear(options.hidden, 1)
    parameters = [*hidden.parameters(), *output.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-2)
    steps = options.epochs * -(-len(prompts) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
    for _ in range(options.epochs):
        for rows in torch.split(torch.randperm(len(prompts)), options.batch):
            logits = output(F.silu(hidden(features[rows])))[..., 0]  # (B, n)
            loss = _loss(logits, ious[rows], real[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    tensors = (mean, deviation, hidden.weight.T, hidden.bias, output.weight[0], output.bias)
    return PointChoice(*(tensor.detach().numpy().copy() for tensor in tensors))


def _loss(logits: Tensor, ious: Tensor, real: Tensor) -> Tensor:
    """The mean over prompts of both parts; shapes `(B, n)`, `real` False for padding."""
    entropy = F.binary_cross_entropy_with_logits(logits[real], ious[real])
    sharp = (SHARPNESS * logits.sigmoid()).masked_fill(~real, -torch.inf).softmax(dim=1)
    return entropy - (sharp * ious).sum(dim=1).mean()


def _padded(prompts: Sequence[PointPrompt]) -> tuple[Tensor, Tensor, Tensor]:
    """Features `(P, n, FEATURES)`, overlaps `(P, n)`, and which of them are no padding `(P, n)`."""
    most = max(len(prompt.ious) for prompt in prompts)
    features = torch.zeros(len(prompts), most, FEATURES)
    ious = torch.zeros(len(prompts), most)
    real = torch.zeros(len(prompts), most, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        count = len(prompt.ious)
        features[i, :count] = torch.from_numpy(candidate_features(prompt.candidates))
        ious[i, :count] = torch.from_numpy(prompt.ious).float()
        real[i, :count] = True
    return features, ious, real


def mean_iou_of_choice(prompts: Sequence[PointPrompt], choice: PointChoice | None) -> float:
    """Mean intersection over union of the candidates that are taken; of `None` the cells' best."""
    if not prompts:
        return float("nan")
    taken = []
    for prompt in prompts:
        candidates = prompt.candidates
        if choice is None:
            at_point = candidates.levels >= 0
            scores = np.where(at_point, candidates.scores, -1.0)
        else:
            scores = choice.scores(candidates)
        taken.append(prompt.ious[int(np.argmax(scores))])
    return float(np.mean(taken))
