"""The training of the proposal head: stored maps to all boxes, whatever their class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.compact.assets import PROPOSAL_HEAD
from anyregion.compact.image_encoder import LONG_SIDE, STRIDE
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.checkpoint import read_proposal_head, unwrapped, write_head
from anyregion.compact.training.dataset import (
    LocalizingTask,
    RegionSampler,
    SampledRegions,
    StoreConfig,
    open_unnamed_datasets,
    read_pyramid,
)
from anyregion.compact.training.export import ProposalGraph, TorchSession, export_proposal_head
from anyregion.compact.training.metrics import (
    POINT_METRICS,
    PROPOSAL_METRICS,
    point_metrics,
    proposal_metrics,
)
from anyregion.compact.training.modules import as_tensors, standardised
from anyregion.compact.training.proposal_losses import (
    BOX_WEIGHT,
    DISTANCE_WEIGHT,
    POINT_BOX_WEIGHT,
    POINT_SCORE_WEIGHT,
    AssignmentConfig,
    cells_of,
    proposal_losses,
)
from anyregion.compact.training.proposal_module import (
    ProposalHeadConfig,
    ProposalHeadModule,
)
from anyregion.data.region_dataset import RegionDataset
from anyregion.errors import InputError
from anyregion.masks import decode_mask
from anyregion.regions import Boxes
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator, seed_torch

# steps whose images are sorted by size: those of one size go through the module together, which
# takes two thirds of the time
WINDOW = 16


@dataclass(frozen=True)
class ProposalTaskConfig:
    """Training `compact`'s proposal head: boxes without a prompt, and boxes at points.

    Attributes:
        data: the data sets.
        validation: another one, for metrics; None for none. Points need its masks.
        start: `finder.safetensors` of a training before, whose weights this one begins at; None
            for fresh ones.
        head: its sizes; those of `start` where there is one.
        assignment: which cells answer for an object.
        batch: images of a step.
        licence: under which the weights may be used.
    """

    data: tuple[StoreConfig, ...] = ()
    validation: StoreConfig | None = None
    start: str | None = None
    head: ProposalHeadConfig = field(default_factory=ProposalHeadConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    batch: int = 6
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"compact_finder.batch must be at least 1, not {self.batch}")


def build(settings: ProposalTaskConfig, *, loop: LoopConfig) -> ProposalTask:
    """Make the proposal head's task.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
        CheckpointError: `start` is no proposal head.
    """
    datasets, validation = open_unnamed_datasets(
        "compact_finder", settings.data, settings.validation
    )
    return ProposalTask(datasets, config=settings, validation=validation, seed=loop.seed)


@dataclass(frozen=True, eq=False)
class ProposalExample:
    """One image, ready to learn from.

    Attributes:
        maps: see `as_tensors`.
        objects: `(n, 4)` in pixels of the network's input.
        around: which of them lies at each cell, `(cells,)`, -1 for none.
    """

    maps: dict[str, Tensor]
    objects: Tensor
    around: Tensor


class ProposalTask(LocalizingTask):
    """A `Task`: from the maps of the training images to all their boxes, whatever their class.

    Args:
        datasets: images without a region are left out; pixels are not read.
        validation, seed: see `MaskTask`.

    Raises:
        InputError: no image has a region.
    """

    def __init__(
        self,
        datasets: Sequence[RegionDataset],
        *,
        config: ProposalTaskConfig,
        validation: RegionDataset | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(datasets, validation, config.licence)
        self.config = config
        if validation is not None:
            with_masks = validation.reader.annotations.segmentations is not None
            self.metrics = PROPOSAL_METRICS | (POINT_METRICS if with_masks else {})
        rows = {n: data.annotations.rows(image) for n, (data, image) in self.images.items()}
        self.sampler = RegionSampler(rows, at_most=None, seed=seed, unmirrored=self.unmirrored)
        self._seed = seed
        # reader threads are at most one window apart
        self._batches = lru_cache(maxsize=2)(self._shuffled_batches)
        seed_torch(seed, "finder")  # the recipe's name of the head: seeds stay
        if config.start is None:
            images = list(self.images.values())
            self.module: nn.Module = standardised(ProposalHeadModule(config.head), images)
        else:
            # it knows the channels of the data that it has learned from
            head = read_proposal_head(Path(config.start))
            self.module = head.to(memory_format=torch.channels_last)

    def plan(self, step: int) -> Sequence[SampledRegions]:
        """See `Task`."""
        window, place = divmod(step, WINDOW)
        return self._batches(window)[place]

    def _shuffled_batches(self, window: int) -> list[list[SampledRegions]]:
        """The items of `WINDOW` steps, so that those of a step are of few sizes."""
        batch = self.config.batch
        first = window * WINDOW * batch
        items = [self.sampler.item(first + i) for i in range(WINDOW * batch)]
        items.sort(key=lambda item: self._shape(item.image))
        order = generator(self._seed, "batches", window).permutation(WINDOW).tolist()
        return [items[i * batch : (i + 1) * batch] for i in order]

    def _shape(self, number: int) -> tuple[int, int]:
        """Rows and columns of an image's map at stride 32."""
        dataset, image = self.images[number]
        height, width = dataset.size(image)
        factor = LONG_SIDE / max(height, width) / STRIDE
        return math.ceil(height * factor), math.ceil(width * factor)

    def load(self, item: SampledRegions) -> ProposalExample:
        """See `Task`."""
        dataset, image = self.images[item.image]
        pyramid = read_pyramid(dataset, image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = dataset.boxes(image, rows, flipped=item.flipped)
        scale = pyramid.frame_scale()
        framed = torch.from_numpy(boxes * scale).float()
        at = cells_of(*pyramid.maps["stride32"].shape[:2])[0].numpy()
        # cells in the padding show nothing, whatever lies at the border
        places = at / scale[:2]
        around = objects_at(places, boxes, self._masks(item, rows), dataset.size(image))
        return ProposalExample(as_tensors(pyramid.maps), framed, torch.from_numpy(around))

    def _masks(
        self, item: SampledRegions, rows: NDArray[np.int64]
    ) -> list[NDArray[np.bool_] | None]:
        """The masks of some regions, `(height, width)`; None of those that have none."""
        dataset, _ = self.images[item.image]
        segmentations = dataset.annotations.segmentations
        masks: list[NDArray[np.bool_] | None] = []
        for row in rows.tolist():
            if segmentations is None or not segmentations[row]:
                masks.append(None)
                continue
            mask = decode_mask(dataset.rle(self.images[item.image][1], row))
            masks.append(mask[:, ::-1] if item.flipped else mask)
        return masks

    def losses(self, module: nn.Module, examples: Sequence[ProposalExample]) -> dict[str, Tensor]:
        """See `Task`. The parts are over all cells, or objects, of the step alike."""
        device = next(module.parameters()).device
        images = [{name: cells.to(device) for name, cells in e.maps.items()} for e in examples]
        by_image = [
            proposal_losses(
                answer,
                example.objects.to(device),
                *example.maps["stride32"].shape[:2],
                around=example.around.to(device),
                assignment=self.config.assignment,
            )
            for answer, example in zip(module(images), examples, strict=True)
        ]
        sums = {name: torch.stack([losses[name] for losses in by_image]) for name in by_image[0]}
        count = len(examples)
        # an image of many objects says more than one of few
        weight = (sums.pop("weight").sum() / count).clamp_min(1.0)
        objects = max(sum(len(e.objects) for e in examples) / count, 1.0)
        losses = {
            name: part / (objects if name.startswith("point") else weight)
            for name, part in sums.items()
        }
        loss = (
            losses["score"]
            + BOX_WEIGHT * losses["box"]
            + DISTANCE_WEIGHT * losses["distance"]
            + POINT_BOX_WEIGHT * losses["point_box"]
            + POINT_SCORE_WEIGHT * losses["point_score"]
        )
        return {"loss": loss, **losses}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Recall of held-out boxes, and how well one point in each held-out mask is boxed."""
        if self.validation is None:
            return {}
        head = ProposalHead(TorchSession(ProposalGraph(unwrapped(module, ProposalHeadModule))))
        metrics = proposal_metrics(head, self.validation)
        if self.validation.reader.annotations.segmentations is not None:
            metrics |= point_metrics(head, self.validation)
        return metrics

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the graph, and beside it the weights as `.safetensors`."""
        head, path = unwrapped(module, ProposalHeadModule), folder / PROPOSAL_HEAD
        write_head(head, path.with_suffix(".safetensors"))
        export_proposal_head(head, path)


def objects_at(
    places: NDArray[np.float64],
    boxes: Boxes,
    masks: Sequence[NDArray[np.bool_] | None],
    size: tuple[int, int],
) -> NDArray[np.int64]:
    """Which object lies at each place: of those whose mask holds it the smallest.

    A box stands in for a mask that is missing.

    Args:
        places: `(P, 2)` x and y in pixels of the image, from 0; those beyond it hold nothing.
        boxes, masks: of each object, `(n, 4)` and as large as the image.
        size: height and width of the image.

    Returns:
        Rows of the objects, `(P,)`, -1 where there is none.
    """
    height, width = size
    # painted from the largest to the smallest; one row and column more stand for all beyond
    owner = np.full((height + 1, width + 1), -1, dtype=np.int64)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = [
        float(side.prod()) if mask is None else float(mask.sum())
        for side, mask in zip(sides, masks, strict=True)
    ]
    for i in np.argsort(-np.array(areas), kind="stable").tolist():
        mask = masks[i]
        if mask is None:
            x0, y0, x1, y1 = np.clip(boxes[i].round(), 0, [width, height] * 2).astype(int).tolist()
            owner[y0:y1, x0:x1] = i
        else:
            owner[:height, :width][mask] = i
    column, row = np.minimum(places, [width, height]).astype(np.int64).T
    objects: NDArray[np.int64] = owner[row, column]
    return objects
