"""The training of the proposal head: stored maps to all boxes, whatever their class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.checkpoint import unwrapped, write_head
from anyregion.compact.training.dataset import (
    RegionSampler,
    SampledRegions,
    open_localizing_datasets,
    read_pyramid,
)
from anyregion.compact.training.export import ProposalHeadSession, export_proposal_head
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
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import seed_torch
from anyregion.training.task import Task


@dataclass(frozen=True)
class ProposalTaskConfig:
    """How the proposal head is trained.

    Attributes:
        head: its sizes.
        images: of a step.
    """

    head: ProposalHeadConfig = field(default_factory=ProposalHeadConfig)
    images: int = 6


@dataclass(frozen=True)
class ProposalTrainingConfig:
    """Training `compact`'s proposal head: boxes without a prompt, and boxes at points.

    Attributes:
        store: folder made by `anyregion cache --model compact`.
        validation: a store that is not trained on, for metrics; points need its masks.
        task: how it is trained.
        licence: under which the weights may be used.
        terms: of the data, for the card.
    """

    store: str
    validation: str
    task: ProposalTaskConfig = field(default_factory=ProposalTaskConfig)
    licence: str = "unstated"
    terms: str = "unstated"


def build_proposal_task(settings: ProposalTrainingConfig, *, loop: LoopConfig) -> ProposalTask:
    """Make the proposal head's task.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
    """
    dataset, validation = open_localizing_datasets(settings.store, settings.validation)
    return ProposalTask(
        dataset,
        config=settings.task,
        validation=validation,
        seed=loop.seed,
        terms=settings.terms,
        licence=settings.licence,
    )


@dataclass(frozen=True, eq=False)
class ProposalExample:
    """One image: its maps (see `as_tensors`) and its objects `(n, 4)` in the network's pixels."""

    maps: dict[str, Tensor]
    objects: Tensor


class ProposalTask(Task):
    """A `Task`: from the maps of the training images to all their boxes, whatever their class.

    Args:
        dataset: images without a region are left out; pixels are not read.
        validation: what `validate` measures on, or None.
        seed: of everything random, the head's first weights among it.
        terms, licence: of the data and of the weights, for the card.

    Raises:
        InputError: no image has a region.
    """

    def __init__(
        self,
        dataset: RegionDataset,
        *,
        config: ProposalTaskConfig | None = None,
        validation: RegionDataset | None = None,
        seed: int = 0,
        terms: str = "unstated",
        licence: str = "unstated",
    ) -> None:
        self.config = config or ProposalTaskConfig()
        self._dataset = dataset
        self._validation = validation
        self._card = {"data": terms, "licence": licence}
        if validation is not None:
            with_masks = validation.reader.annotations.segmentations is not None
            self.metrics = PROPOSAL_METRICS | (POINT_METRICS if with_masks else {})
        images = dataset.images.tolist()
        rows = {image: dataset.annotations.rows(image) for image in images}
        self._sampler = RegionSampler(rows, at_most=None, seed=seed)
        seed_torch(seed, "finder")  # the recipe's name of the head: seeds stay
        self.module: nn.Module = standardised(
            ProposalHeadModule(self.config.head), dataset.reader, images
        )

    @property
    def items_per_epoch(self) -> int:
        """Items in which every image comes once."""
        return self._sampler.items

    def plan(self, step: int) -> Sequence[SampledRegions]:
        """See `Task`."""
        first = step * self.config.images
        return [self._sampler.item(first + i) for i in range(self.config.images)]

    def load(self, item: SampledRegions) -> ProposalExample:
        """See `Task`."""
        pyramid = read_pyramid(self._dataset, item.image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = self._dataset.boxes(item.image, rows, flipped=item.flipped)
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

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        return {**self._card, "image encoder": self._dataset.reader.fingerprint}

    def describe(self, item: SampledRegions) -> str:
        """See `Task`."""
        return self._dataset.describe(item.image, flipped=item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Recall of held-out boxes, and how well one point in each held-out mask is boxed."""
        if self._validation is None:
            return {}
        head = ProposalHead(ProposalHeadSession(unwrapped(module, ProposalHeadModule)))
        metrics = proposal_metrics(head, self._validation)
        if self._validation.reader.annotations.segmentations is not None:
            metrics |= point_metrics(head, self._validation)
        return metrics

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `finder.safetensors` and `finder.onnx`."""
        head = unwrapped(module, ProposalHeadModule)
        write_head(head, folder / "finder.safetensors", asdict(self.config.head))
        export_proposal_head(head, folder / "finder.onnx")
