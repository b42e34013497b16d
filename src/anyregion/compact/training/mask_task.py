"""The training of the mask head: boxes of stored images to their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import roi_align

from anyregion.compact.assets import MASK_HEAD, start_session
from anyregion.compact.image_encoder import FeaturePyramid, network_input
from anyregion.compact.mask_head import MaskHead
from anyregion.compact.training.checkpoint import read_mask_head, unwrapped, write_head
from anyregion.compact.training.dataset import (
    LocalizingTask,
    PhotoStoreConfig,
    RegionSampler,
    SampledRegions,
    open_unnamed_datasets,
    read_pyramid,
)
from anyregion.compact.training.export import MaskGraph, TorchSession, export_mask_head
from anyregion.compact.training.losses import mask_losses
from anyregion.compact.training.metrics import MASK_METRICS, mask_metrics
from anyregion.compact.training.modules import (
    MaskHeadConfig,
    MaskHeadModule,
    as_tensors,
    enlarged,
    standardised,
)
from anyregion.data.region_dataset import RegionDataset
from anyregion.errors import CheckpointError, InputError
from anyregion.images import Pixels
from anyregion.masks import decode_mask
from anyregion.regions import Boxes
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator, seed_torch


@dataclass(frozen=True)
class MaskTaskConfig:
    """Training `compact`'s mask head: from boxes to masks.

    Attributes:
        data: the data sets, each with its images: the head also sees the pixels.
        validation: another one, for metrics; None for none.
        start: `mask_head.safetensors` of a training before, whose weights this one begins with
            wherever it has the same ones; None for fresh ones.
        teacher: the graph `mask_head.onnx` of the head whose masks stand in on `taught_images`.
        head: its sizes.
        batch: images of a step.
        taught_images: further images of a step, whose regions have no masks but a teacher's.
        max_regions: of an image in a step.
        spread, jittered: how far, and for which share of the boxes, sides are moved.
        brightness, tint: how far the pixels' contrast and each colour are changed.
        licence: under which the weights may be used.
    """

    data: tuple[PhotoStoreConfig, ...] = ()
    validation: PhotoStoreConfig | None = None
    start: str | None = None
    teacher: str | None = None
    head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    batch: int = 12
    taught_images: int = 0
    max_regions: int = 8
    spread: float = 0.05
    jittered: float = 0.5
    brightness: float = 0.3
    tint: float = 0.2
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.taught_images < 0 or self.max_regions < 1:
            raise InputError("compact_masks: batch and max_regions from 1, taught_images from 0")


def build(settings: MaskTaskConfig, *, loop: LoopConfig) -> MaskTask:
    """Make the mask head's task.

    Raises:
        InputError: stores that cannot be had, hold no masks, or were made by another encoder.
        CheckpointError: `teacher` or `start` is no mask head.
    """
    datasets, validation = open_unnamed_datasets(
        "compact_masks", settings.data, settings.validation
    )
    if settings.data[0].images is None:
        raise InputError("compact_masks.data: name the folder of the images, too")
    teacher = None
    if settings.teacher is not None:
        teacher = read_teacher(Path(settings.teacher))
    start = None if settings.start is None else read_mask_head(Path(settings.start))
    return MaskTask(
        datasets,
        config=settings,
        validation=validation,
        teacher=teacher,
        start=start,
        seed=loop.seed,
    )


def read_teacher(path: Path) -> MaskHead:
    """A mask head from its graph.

    Raises:
        CheckpointError: it cannot be read, or is no mask head.
    """
    try:
        session = start_session(path.read_bytes(), threads=torch.get_num_threads(), device="cpu")
        names = {value.name for value in (*session.get_inputs(), *session.get_outputs())}
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{path}: not the graph of a mask head ({error})") from None
    if not names >= {*MaskGraph.inputs, *MaskGraph.outputs}:
        raise CheckpointError(f"{path}: not the graph of a mask head")
    return MaskHead(session)


@dataclass(frozen=True, eq=False)
class MaskExample:
    """One image, ready to learn from.

    Attributes:
        maps: see `as_tensors`.
        frame: the network's input, `(1, 3, H, W)`.
        boxes: `(n, 4)` in pixels of the network's input.
        targets: `(n, side, side)`.
        annotated: whether the targets are annotated masks, not a teacher's.
    """

    maps: dict[str, Tensor]
    frame: Tensor
    boxes: Tensor
    targets: Tensor
    annotated: bool


class MaskTask(LocalizingTask):
    """A `Task`: boxes of the training images to their masks.

    Args:
        datasets: with masks; regions without one are left out, or taught.
        validation: what `validate` measures on, or None.
        teacher: a head trained before, whose masks stand in where the annotations have none: a few
            thousand masks are soon learned by heart, and boxes are many. Needed for
            `taught_images`.
        start: a head whose weights are the first ones; None for fresh ones.
        seed: of everything random, the head's first weights among it.

    Raises:
        InputError: no region has a mask.
    """

    def __init__(
        self,
        datasets: Sequence[RegionDataset],
        *,
        config: MaskTaskConfig,
        validation: RegionDataset | None = None,
        teacher: MaskHead | None = None,
        start: MaskHeadModule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(datasets, validation, config.licence)
        self.config = config
        self.metrics = {} if validation is None else MASK_METRICS
        self._seed = seed
        rows = {n: data.rows(image, with_mask=True) for n, (data, image) in self.images.items()}
        most = self.config.max_regions
        self.sampler = RegionSampler(
            rows, at_most=most, seed=seed, kind="masks", unmirrored=self.unmirrored
        )
        self._teacher = teacher
        self._taught_sampler: RegionSampler | None = None
        self._teacher_cells: dict[int, dict[int, NDArray[np.float32]]] = {}
        self._teacher_margin = 0.0
        if self.config.taught_images:
            if teacher is None:
                raise InputError("taught_images need a teacher")
            without = {
                n: data.rows(image, with_mask=False) for n, (data, image) in self.images.items()
            }
            self._taught_sampler = RegionSampler(
                without, at_most=most, seed=seed, kind="taught", unmirrored=self.unmirrored
            )
        seed_torch(seed, "mask head")
        with_mask = [self.images[number] for number, of_image in rows.items() if len(of_image)]
        self.module: nn.Module = standardised(MaskHeadModule(self.config.head), with_mask)
        if start is not None:
            take_over(self.module, start)

    def plan(self, step: int) -> Sequence[SampledRegions]:
        """See `Task`."""
        batch, taught = self.config.batch, self.config.taught_images
        items = [self.sampler.item(step * batch + i) for i in range(batch)]
        if self._taught_sampler is not None:
            items += [self._taught_sampler.item(step * taught + i) for i in range(taught)]
        return items

    def load(self, item: SampledRegions) -> MaskExample:
        """See `Task`."""
        config, (dataset, image) = self.config, self.images[item.image]
        random = generator(self._seed, item.kind, item.position, "example")
        pyramid = read_pyramid(dataset, image, flipped=item.flipped)
        rows = np.array(item.rows, dtype=np.int64)
        boxes = jitter_sides(
            dataset.boxes(image, rows, flipped=item.flipped),
            random,
            spread=config.spread,
            share=config.jittered,
        )
        taught = item.kind == "taught"
        target = self._taught_target if taught else self._annotated_target
        targets = [
            target(item.image, row, box, flipped=item.flipped)
            for row, box in zip(item.rows, boxes, strict=True)
        ]
        frame = self._frame(pyramid, dataset.pixels(image, flipped=item.flipped), random)
        return MaskExample(
            as_tensors(pyramid.maps),
            frame,
            torch.from_numpy(boxes * pyramid.frame_scale()).float(),
            torch.stack(targets),
            annotated=not taught,
        )

    def losses(self, module: nn.Module, examples: Sequence[MaskExample]) -> dict[str, Tensor]:
        """See `Task`. An image's loss is the sum over its regions, over `config.max_regions`."""
        device = next(module.parameters()).device
        logits, quality = module(
            [{name: cells.to(device) for name, cells in e.maps.items()} for e in examples],
            [e.frame.to(device) for e in examples],
            [e.boxes.to(device) for e in examples],
        )
        targets = torch.cat([e.targets for e in examples]).to(device)  # (N, side, side)
        # how like a teacher's mask is says nothing of how good it is
        annotated = [torch.full((len(e.boxes),), float(e.annotated)) for e in examples]
        by_region = mask_losses(
            logits.float(), quality.float(), targets, annotated=torch.cat(annotated).to(device)
        )
        counts = [len(e.boxes) for e in examples]
        return {
            name: torch.stack([part.sum() for part in torch.split(values, counts)])
            / self.config.max_regions
            for name, values in by_region.items()
        }

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`: masks of held-out boxes at the image's resolution."""
        if self.validation is None:
            return {}
        head = MaskHead(TorchSession(MaskGraph(unwrapped(module, MaskHeadModule))))
        return mask_metrics(head, self.validation)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `mask_head.onnx`, and `mask_head.safetensors` with the weights."""
        head, path = unwrapped(module, MaskHeadModule), folder / MASK_HEAD
        write_head(head, path.with_suffix(".safetensors"))
        export_mask_head(head, path)

    def _frame(
        self, pyramid: FeaturePyramid, pixels: Pixels, random: np.random.Generator
    ) -> Tensor:
        """The network's input in other colours; maps of those would have to be computed."""
        frame = network_input(pyramid.letterbox(pixels))
        contrast = np.float32(1 + random.uniform(-1, 1) * self.config.brightness)
        tint = (random.uniform(-1, 1, (1, 3, 1, 1)) * self.config.tint).astype(np.float32)
        return torch.from_numpy(frame * contrast + tint)

    def _annotated_target(
        self, number: int, row: int, box: NDArray[np.float64], *, flipped: bool
    ) -> Tensor:
        dataset, image = self.images[number]
        mask = decode_mask(dataset.rle(image, row))
        head = self.config.head
        mask = mask[:, ::-1] if flipped else mask
        return mask_target(mask, box, side=head.side, margin=head.margin)

    def _taught_target(
        self, number: int, row: int, box: NDArray[np.float64], *, flipped: bool
    ) -> Tensor:
        """The teacher's probabilities, of the cells of this task's head."""
        dataset, image = self.images[number]
        cells = self._teacher_says(number)[row]
        whole = dataset.boxes(image, np.array([row]), flipped=flipped)
        cells = cells[:, ::-1] if flipped else cells
        return resampled(
            torch.from_numpy(np.ascontiguousarray(cells)),
            enlarged(torch.from_numpy(whole), self._teacher_margin)[0],
            enlarged(torch.from_numpy(box[None]), self.config.head.margin)[0],
            side=self.config.head.side,
        )

    def _teacher_says(self, number: int) -> dict[int, NDArray[np.float32]]:
        if number not in self._teacher_cells:
            # all of an image at once, so that the numbers do not depend on the order of items
            self._teacher_cells[number] = self._ask_teacher(number)
        return self._teacher_cells[number]

    def _ask_teacher(self, number: int) -> dict[int, NDArray[np.float32]]:
        """What the teacher says of an image's regions without a mask, by row.

        It is the mean over the image and its mirror image, where there is one, not thresholded, so
        that what the teacher does not know is not taught as if it did.
        """
        teacher, (dataset, image) = self._teacher, self.images[number]
        assert teacher is not None  # a taught item follows from `taught_images`
        rows = dataset.rows(image, with_mask=False)
        views = []
        for flipped in (False, True) if dataset.mirrored else (False,):
            pyramid = read_pyramid(dataset, image, flipped=flipped)
            frame = pyramid.letterbox(dataset.pixels(image, flipped=flipped))
            boxes = dataset.boxes(image, rows, flipped=flipped)
            cells, _, self._teacher_margin = teacher.probabilities(pyramid, frame, boxes)
            views.append(cells[:, :, ::-1] if flipped else cells)
        mean = np.stack(views).mean(axis=0)  # (n, side, side)
        return dict(zip(rows.tolist(), mean, strict=True))


def take_over(module: nn.Module, start: nn.Module) -> None:
    """Copy the weights of a head wherever the other has a weight of that name and shape."""
    own = module.state_dict()
    for name, values in start.state_dict().items():
        if name in own and own[name].shape == values.shape:
            own[name].copy_(values)


def mask_target(
    mask: NDArray[np.bool_], box: NDArray[np.float64], *, side: int, margin: float
) -> Tensor:
    """The share of each cell that lies in the mask, `(side, side)`.

    Args:
        mask: of the image, `(height, width)`.
        box: xyxy in pixels of the image.
        side, margin: see `MaskHeadConfig`.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]  # (1, 1, H, W)
    wide = enlarged(torch.from_numpy(box[None]).float(), margin)
    # -1: as many samples as pixels
    share: Tensor = roi_align(pixels, [wide], side, 1.0, -1, aligned=True)[0, 0]
    return share


def resampled(cells: Tensor, origin: Tensor, box: Tensor, *, side: int) -> Tensor:
    """A grid's values on the grid of another box, `(side, side)`; nothing outside the first.

    Args:
        cells: `(s, s)`, over `origin`.
        origin, box: xyxy, `(4,)`.
        side: cells of the result, along a side.
    """
    low, reach = origin[:2].tile(2), (origin[2:] - origin[:2]).tile(2)
    roi = ((box - low) / reach * len(cells)).float()
    values: Tensor = roi_align(cells[None, None].float(), [roi[None]], side, 1.0, 2, aligned=True)
    return values[0, 0]


def jitter_sides(
    boxes: Boxes, random: np.random.Generator, *, spread: float, share: float
) -> Boxes:
    """Boxes whose sides are moved at random, as a detector's or a hand's would be.

    Args:
        boxes: `(N, 4)`.
        spread: deviation of a side, as a share of the box's width or height; at most four of them.
        share: of the boxes that are moved.
    """
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    shifts = np.clip(random.normal(size=boxes.shape), -4, 4) * spread
    moved = random.random((len(boxes), 1)) < share
    jittered: Boxes = boxes + np.where(moved, shifts, 0) * sides
    return jittered
