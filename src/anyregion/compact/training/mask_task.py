"""The mask head's training, as the trainer's loop asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.compact.framing import frame_factors, frame_of
from anyregion.compact.image_encoder import FeaturePyramid
from anyregion.compact.mask_head import MaskHead
from anyregion.compact.training.export_heads import export_mask_head
from anyregion.compact.training.frozen_maps import as_maps, prepared
from anyregion.compact.training.mask_head_module import MaskHeadConfig, MaskHeadModule
from anyregion.compact.training.mask_losses import jittered, mask_losses, mask_target
from anyregion.compact.training.metrics import MASK_METRICS, mask_figures
from anyregion.compact.training.photographs import Photographs
from anyregion.compact.training.region_sampler import RegionSampler, SampledRegions
from anyregion.compact.training.torch_session import MaskHeadSession, bare, write_head
from anyregion.errors import InputError
from anyregion.masks import RLE, decode_mask
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.task import Task


@dataclass(frozen=True)
class MaskTaskConfig:
    """How the mask head is trained.

    Attributes:
        head: its sizes.
        images: of a step.
        taught_images: further images of a step, whose regions have no masks but a teacher's.
        regions: of an image in a step, at most.
        spread, jittered: how far, and for which share of the boxes, sides are moved.
        brightness, tint: how far the pixels' contrast and each colour are changed.
    """

    head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    images: int = 12
    taught_images: int = 0
    regions: int = 8
    spread: float = 0.05
    jittered: float = 0.5
    brightness: float = 0.3
    tint: float = 0.2


@dataclass(frozen=True, eq=False)
class MaskExample:
    """One image, ready to learn from.

    Attributes:
        maps: see `as_maps`.
        frame: the network's input, `(1, 3, H, W)`.
        boxes: `(n, 4)` in pixels of the network's input.
        targets: `(n, side, side)`.
    """

    maps: dict[str, Tensor]
    frame: Tensor
    boxes: Tensor
    targets: Tensor


class MaskTask(Task):
    """A `Task`: boxes of the training images to their masks.

    Args:
        photographs: with masks; regions without one are left out, or taught.
        held_out: what `validate` measures on, or None.
        teacher: a head trained before, whose masks stand in where the annotations have none: a few
            thousand masks are soon learned by heart, and boxes are many. Needed for
            `taught_images`.
        seed: of everything random, the head's first weights among it.
        terms, licence: of the data and of the weights, for the card.

    Raises:
        InputError: no region has a mask.
    """

    def __init__(
        self,
        photographs: Photographs,
        *,
        config: MaskTaskConfig | None = None,
        held_out: Photographs | None = None,
        teacher: MaskHead | None = None,
        seed: int = 0,
        terms: str = "unstated",
        licence: str = "unstated",
    ) -> None:
        self.config = config or MaskTaskConfig()
        self._photographs = photographs
        self._held_out = held_out
        self.metrics = {} if held_out is None else MASK_METRICS
        self._card = {"data": terms, "licence": licence}
        self._seed = seed
        rows = [photographs.rows(i, with_mask=True) for i in range(len(photographs))]
        self._epochs = RegionSampler(rows, at_most=self.config.regions, seed=seed, kind="masks")
        self._teacher = teacher
        self._taught: RegionSampler | None = None
        self._teachings: dict[int, dict[int, RLE]] = {}
        if self.config.taught_images:
            if teacher is None:
                raise InputError("taught_images need a teacher")
            without = [photographs.rows(i, with_mask=False) for i in range(len(photographs))]
            self._taught = RegionSampler(
                without, at_most=self.config.regions, seed=seed, kind="taught"
            )
        seed_torch(seed, "mask head")
        used = [i for i, found in enumerate(rows) if len(found)]
        self.module: nn.Module = prepared(
            MaskHeadModule(self.config.head), photographs.reader, used
        )

    @property
    def items_per_epoch(self) -> int:
        """Items in which every region comes once."""
        return self._epochs.items

    def plan(self, step: int) -> Sequence[SampledRegions]:
        first, more = step * self.config.images, step * self.config.taught_images
        items = [self._epochs.item(first + i) for i in range(self.config.images)]
        if self._taught is not None:
            items += [self._taught.item(more + i) for i in range(self.config.taught_images)]
        return items

    def load(self, item: SampledRegions) -> MaskExample:
        config, photographs = self.config, self._photographs
        draw = generator(self._seed, item.kind, item.position, "example")
        maps = photographs.maps(item.image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = jittered(
            photographs.boxes(item.image, rows, flipped=item.flipped),
            draw,
            spread=config.spread,
            share=config.jittered,
        )
        targets = []
        for row, box in zip(item.rows, boxes, strict=True):
            mask = decode_mask(self._mask(item.image, row))
            mask = mask[:, ::-1] if item.flipped else mask
            targets.append(mask_target(mask, box, side=config.head.side, margin=config.head.margin))
        frame = self._frame(maps, item, draw)
        framed = torch.from_numpy(boxes * frame_factors(maps)).float()
        return MaskExample(as_maps(maps.maps), frame, framed, torch.stack(targets))

    def losses(self, module: nn.Module, examples: Sequence[MaskExample]) -> dict[str, Tensor]:
        """See `Task`. An image's loss is the sum over its regions, over `config.regions`."""
        device = next(module.parameters()).device
        logits, quality = module(
            [{name: cells.to(device) for name, cells in e.maps.items()} for e in examples],
            [e.frame.to(device) for e in examples],
            [e.boxes.to(device) for e in examples],
        )
        targets = torch.cat([e.targets for e in examples]).to(device)
        found = mask_losses(logits.float(), quality.float(), targets)
        counts = [len(e.boxes) for e in examples]
        return {
            name: torch.stack([part.sum() for part in torch.split(values, counts)])
            / self.config.regions
            for name, values in found.items()
        }

    def card(self) -> Mapping[str, str]:
        """Lines of the card."""
        return {**self._card, "eyes": self._photographs.reader.fingerprint}

    def describe(self, item: SampledRegions) -> str:
        return self._photographs.describe(item.image, item.flipped)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Mean intersection over union of held-out regions at the image's resolution, box given."""
        if self._held_out is None:
            return {}
        return mask_figures(MaskHead(MaskHeadSession(bare(module, MaskHeadModule))), self._held_out)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `mask_head.safetensors` and `mask_head.onnx`."""
        head = bare(module, MaskHeadModule)
        write_head(head, folder / "mask_head.safetensors", asdict(self.config.head))
        export_mask_head(head, folder / "mask_head.onnx")

    def _mask(self, image: int, row: int) -> RLE:
        """The mask of a region: the annotations', else the teacher's."""
        masks = self._photographs.reader.annotations.segmentations
        if self._teacher is None or (masks is not None and masks[row]):
            return self._photographs.rle(image, row)
        if image not in self._teachings:
            # all of an image at once, so that the numbers do not depend on the order of asking
            rows = self._photographs.rows(image, with_mask=False)
            found, _ = self._teacher.masks_from_boxes(
                self._photographs.maps(image),
                self._photographs.pixels(image),
                self._photographs.boxes(image, rows),
            )
            self._teachings[image] = dict(zip(rows.tolist(), found, strict=True))
        return self._teachings[image][row]

    def _frame(
        self, maps: FeaturePyramid, item: SampledRegions, draw: np.random.Generator
    ) -> Tensor:
        pixels = self._photographs.pixels(item.image, flipped=item.flipped)
        contrast = 1 + draw.uniform(-1, 1) * self.config.brightness
        tint = draw.uniform(-1, 1, (1, 3, 1, 1)) * self.config.tint
        frame = frame_of(maps, pixels) * np.float32(contrast) + tint.astype(np.float32)
        return torch.from_numpy(frame)
