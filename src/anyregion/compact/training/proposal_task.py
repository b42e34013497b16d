"""The training of the proposal head: stored maps to all boxes, whatever their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.compact.assets import PROPOSAL_HEAD
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.checkpoint import unwrapped, write_head
from anyregion.compact.training.dataset import (
    LocalizingTask,
    RegionSampler,
    SampledRegions,
    StoreConfig,
    open_unnamed_datasets,
    read_pyramid,
)
from anyregion.compact.training.export import ProposalGraph, TorchSession, export_proposal_head
from anyregion.compact.training.losses import proposal_losses
from anyregion.compact.training.metrics import (
    POINT_METRICS,
    PROPOSAL_METRICS,
    point_metrics,
    proposal_metrics,
)
from anyregion.compact.training.modules import (
    ProposalHeadConfig,
    ProposalHeadModule,
    as_tensors,
    standardised,
)
from anyregion.data.region_dataset import RegionDataset
from anyregion.errors import InputError
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import seed_torch


@dataclass(frozen=True)
class ProposalTaskConfig:
    """Training `compact`'s proposal head: boxes without a prompt, and boxes at points.

    Attributes:
        data: the data sets.
        validation: another one, for metrics; None for none. Points need its masks.
        head: its sizes.
        batch: images of a step.
        licence: under which the weights may be used.
    """

    data: tuple[StoreConfig, ...] = ()
    validation: StoreConfig | None = None
    head: ProposalHeadConfig = field(default_factory=ProposalHeadConfig)
    batch: int = 6
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"compact_finder.batch must be at least 1, not {self.batch}")


def build(settings: ProposalTaskConfig, *, loop: LoopConfig) -> ProposalTask:
    """Make the proposal head's task.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
    """
    datasets, validation = open_unnamed_datasets(
        "compact_finder", settings.data, settings.validation
    )
    return ProposalTask(datasets, config=settings, validation=validation, seed=loop.seed)


@dataclass(frozen=True, eq=False)
class ProposalExample:
    """One image: its maps (see `as_tensors`) and its objects `(n, 4)` in the network's pixels."""

    maps: dict[str, Tensor]
    objects: Tensor


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
        self.sampler = RegionSampler(rows, at_most=None, seed=seed)
        seed_torch(seed, "finder")  # the recipe's name of the head: seeds stay
        images = list(self.images.values())
        self.module: nn.Module = standardised(ProposalHeadModule(self.config.head), images)

    def plan(self, step: int) -> Sequence[SampledRegions]:
        """See `Task`."""
        batch = self.config.batch
        return [self.sampler.item(step * batch + i) for i in range(batch)]

    def load(self, item: SampledRegions) -> ProposalExample:
        """See `Task`."""
        dataset, image = self.images[item.image]
        pyramid = read_pyramid(dataset, image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = dataset.boxes(image, rows, flipped=item.flipped)
        framed = torch.from_numpy(boxes * pyramid.frame_scale()).float()
        return ProposalExample(as_tensors(pyramid.maps), framed)

    def losses(self, module: nn.Module, examples: Sequence[ProposalExample]) -> dict[str, Tensor]:
        """See `Task`."""
        device = next(module.parameters()).device
        images = [{name: cells.to(device) for name, cells in e.maps.items()} for e in examples]
        by_image = [
            proposal_losses(answer, example.objects.to(device), *example.maps["stride32"].shape[:2])
            for answer, example in zip(module(images), examples, strict=True)
        ]
        return {name: torch.stack([losses[name] for losses in by_image]) for name in by_image[0]}

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
