"""The finder's training, as the trainer's loop asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.compact.framing import frame_factors
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.training.export_heads import export_proposal_head
from anyregion.compact.training.frozen_maps import as_maps, prepared
from anyregion.compact.training.metrics import (
    POINT_METRICS,
    PROPOSAL_METRICS,
    point_figures,
    proposal_figures,
)
from anyregion.compact.training.photographs import Photographs
from anyregion.compact.training.proposal_head_module import ProposalHeadConfig, ProposalHeadModule
from anyregion.compact.training.proposal_losses import proposal_losses
from anyregion.compact.training.region_sampler import RegionSampler, SampledRegions
from anyregion.compact.training.torch_session import ProposalHeadSession, bare, write_head
from anyregion.training.seeds import seed_torch
from anyregion.training.task import Task


@dataclass(frozen=True)
class ProposalTaskConfig:
    """How the finder is trained.

    Attributes:
        head: its sizes.
        images: of a step.
    """

    head: ProposalHeadConfig = field(default_factory=ProposalHeadConfig)
    images: int = 6


@dataclass(frozen=True, eq=False)
class ProposalExample:
    """One image: its maps (see `as_maps`) and its things `(n, 4)` in the network's pixels."""

    maps: dict[str, Tensor]
    things: Tensor


class ProposalTask(Task):
    """A `Task`: from the maps of the training images to all their boxes, whatever their class.

    Args:
        photographs: images without a region are left out; pixels are not read.
        held_out: what `validate` measures on, or None.
        seed: of everything random, the head's first weights among it.
        terms, licence: of the data and of the weights, for the card.

    Raises:
        InputError: no image has a region.
    """

    def __init__(
        self,
        photographs: Photographs,
        *,
        config: ProposalTaskConfig | None = None,
        held_out: Photographs | None = None,
        seed: int = 0,
        terms: str = "unstated",
        licence: str = "unstated",
    ) -> None:
        self.config = config or ProposalTaskConfig()
        self._photographs = photographs
        self._held_out = held_out
        if held_out is not None:
            with_masks = held_out.reader.annotations.segmentations is not None
            self.metrics = PROPOSAL_METRICS | (POINT_METRICS if with_masks else {})
        self._card = {"data": terms, "licence": licence}
        rows = [photographs.rows(i) for i in range(len(photographs))]
        self._epochs = RegionSampler(rows, at_most=None, seed=seed)
        seed_torch(seed, "finder")
        used = [i for i, found in enumerate(rows) if len(found)]
        self.module: nn.Module = prepared(
            ProposalHeadModule(self.config.head), photographs.reader, used
        )

    @property
    def items_per_epoch(self) -> int:
        """Items in which every image comes once."""
        return self._epochs.items

    def plan(self, step: int) -> Sequence[SampledRegions]:
        first = step * self.config.images
        return [self._epochs.item(first + i) for i in range(self.config.images)]

    def load(self, item: SampledRegions) -> ProposalExample:
        maps = self._photographs.maps(item.image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = self._photographs.boxes(item.image, rows, flipped=item.flipped)
        framed = torch.from_numpy(boxes * frame_factors(maps)).float()
        return ProposalExample(as_maps(maps.maps), framed)

    def losses(self, module: nn.Module, examples: Sequence[ProposalExample]) -> dict[str, Tensor]:
        device = next(module.parameters()).device
        images = [{name: cells.to(device) for name, cells in e.maps.items()} for e in examples]
        found = [
            proposal_losses(answer, example.things.to(device), *example.maps["stride32"].shape[:2])
            for answer, example in zip(module(images), examples, strict=True)
        ]
        return {name: torch.stack([losses[name] for losses in found]) for name in found[0]}

    def card(self) -> Mapping[str, str]:
        """Lines of the card."""
        return {**self._card, "eyes": self._photographs.reader.fingerprint}

    def describe(self, item: SampledRegions) -> str:
        return self._photographs.describe(item.image, item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Recall of held-out boxes, and what one point in each held-out mask finds."""
        if self._held_out is None:
            return {}
        finder = ProposalHead(ProposalHeadSession(bare(module, ProposalHeadModule)))
        figures = proposal_figures(finder, self._held_out)
        if self._held_out.reader.annotations.segmentations is not None:
            figures |= point_figures(finder, None, self._held_out)
        return figures

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `finder.safetensors` and `finder.onnx`."""
        head = bare(module, ProposalHeadModule)
        write_head(head, folder / "finder.safetensors", asdict(self.config.head))
        export_proposal_head(head, folder / "finder.onnx")
