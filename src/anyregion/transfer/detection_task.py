"""The training of a detector on a backbone, fine-tuned or frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.backbones.loading import load_encoder
from anyregion.data.samplers import EpochSampler
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.average_precision import average_precision
from anyregion.images import Pixels, size_of
from anyregion.masks import decode_mask, segmentation_to_rle
from anyregion.torch_utils.devices import check_device
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.sync_batchnorm import convert_sync_batchnorm
from anyregion.training.task import Metric, Task
from anyregion.transfer.detection_config import DetectionConfig
from anyregion.transfer.detection_evaluation import (
    DetectionDataset,
    check_classes,
    detect,
    open_detection_dataset,
    read_sized,
)
from anyregion.transfer.detector import Detector, DetectorBatch, as_image, save_detector

BOX_METRICS = {
    "box_ap": Metric("COCO's AP of boxes: mean over IoU 0.50 to 0.95 and over the classes"),
    "box_ap50": Metric("the same at IoU 0.50"),
}
MASK_METRICS = {
    "mask_ap": Metric("COCO's AP of masks"),
    "mask_ap50": Metric("the same at IoU 0.50"),
}


def build(settings: DetectionConfig, *, loop: LoopConfig) -> DetectionTask:
    """Make the task: read the annotations, build the network.

    Raises:
        InputError: data or a backbone that cannot be used.
        CheckpointError: weights that do not fit.
    """
    check_device(own_device(loop.device))
    if not settings.data:
        raise InputError("detection.data: give annotations and the folder of their images")
    masks = settings.detector.masks
    datasets = [
        open_detection_dataset(source, masks=masks, regions_needed=True) for source in settings.data
    ]
    classes = datasets[0].annotations.categories.names
    for dataset, source in zip(datasets, settings.data, strict=True):
        check_classes(dataset.annotations, classes, source)
    validation = None
    if settings.validation is not None:
        validation = open_detection_dataset(settings.validation, masks=masks, regions_needed=False)
        check_classes(validation.annotations, classes, settings.validation)
    seed_torch(loop.seed, "weights")
    encoder = load_encoder(settings.backbone, weights=settings.weights)
    seed_torch(loop.seed, "head")
    module = Detector(encoder, classes, settings.detector, frozen=settings.freeze)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if settings.sync_norm and settings.detector.norm == "batch" and several:
        module = convert_sync_batchnorm(module, own_device(loop.device).partition(":")[0])
    return DetectionTask(module, datasets, validation, settings, seed=loop.seed)


@dataclass(frozen=True)
class DetectionItem:
    """An image of a step: data set, position in it, and whether it is mirrored."""

    dataset: int
    image: int
    mirrored: bool


@dataclass(frozen=True, eq=False)
class DetectionExample:
    """One image, ready to learn from.

    Attributes:
        pixels: `(H, W, 3)`.
        boxes: `(N, 4)` xyxy in pixels.
        labels: `(N,)`, from 1: 0 is the background.
        masks: `(N, H, W)`; no row without a mask head.
    """

    pixels: Pixels
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8]


class DetectionTask(Task):
    """A `Task`: images to boxes, classes and masks.

    Args:
        module: what learns.
        datasets: of the module's classes.
        validation: what `validate` measures on; None for none.
    """

    def __init__(
        self,
        module: Detector,
        datasets: Sequence[DetectionDataset],
        validation: DetectionDataset | None,
        config: DetectionConfig,
        *,
        seed: int,
    ) -> None:
        self.module: nn.Module = module
        self.detector, self.validation, self.config, self.seed = module, validation, config, seed
        self.datasets = tuple(datasets)
        self.metrics = {}
        if validation is not None:
            self.metrics = BOX_METRICS | (MASK_METRICS if config.detector.masks else {})
        both = [*datasets, *([validation] if validation is not None else [])]
        self.set_aside = tuple(fault for dataset in both for fault in dataset.set_aside)
        self._images = [
            (number, image)
            for number, dataset in enumerate(datasets)
            for image in range(len(dataset.paths))
        ]
        self._sampler = EpochSampler(np.ones(len(self._images)), seed)

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """See `Task`."""
        if trained or not self.set_aside:
            return ()
        return [f"{len(self.set_aside):,} set aside: {self.set_aside[0]}"]

    def plan(self, step: int) -> list[DetectionItem]:
        """See `Task`."""
        batch = self.config.batch
        positions = self._sampler.draw(step * batch, batch)
        flips = generator(self.seed, "flip", step).random(batch) < self.config.flip
        return [
            DetectionItem(*self._images[position], bool(mirrored))
            for position, mirrored in zip(positions, flips, strict=True)
        ]

    def load(self, item: DetectionItem) -> DetectionExample:
        """See `Task`.

        Raises:
            InputError: an image or a mask that cannot be read; the run does not go on without it.
        """
        dataset = self.datasets[item.dataset]
        annotations = dataset.annotations
        pixels = read_sized(dataset, item.image)
        rows = annotations.rows(item.image)
        boxes = annotations.boxes[rows].copy()
        size = size_of(pixels)
        masks = np.zeros((0, *size), dtype=np.uint8)
        if self.config.detector.masks and annotations.segmentations is not None:
            masks = np.zeros((len(rows), *size), dtype=np.uint8)
            for place, row in enumerate(rows.tolist()):
                try:
                    code = segmentation_to_rle(annotations.segmentations[row], *size)
                except InputError as error:
                    region = annotations.region_ids[row]
                    raise InputError(f"{self.describe(item)}, region {region}: {error}") from None
                masks[place] = decode_mask(code)
        if item.mirrored:
            pixels, masks = pixels[:, ::-1], masks[:, :, ::-1]
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        return DetectionExample(pixels, boxes, annotations.labels[rows] + 1, masks)

    def losses(self, module: nn.Module, examples: Sequence[DetectionExample]) -> dict[str, Tensor]:
        """See `Task`: the sum of the detector's losses, and each of them.

        They are of the batch, as in every detector: proposals of all images are sampled and
        averaged together, so each example has the same value.
        """
        device = next(self.module.parameters()).device
        images = [as_image(e.pixels, device) for e in examples]
        targets: list[dict[str, Tensor]] = []
        for example in examples:
            target: dict[str, Tensor] = {
                "boxes": torch.from_numpy(example.boxes).float().to(device),
                "labels": torch.from_numpy(example.labels).to(device),
            }
            if self.config.detector.masks:
                target["masks"] = torch.from_numpy(np.ascontiguousarray(example.masks)).to(device)
            targets.append(target)
        parts: dict[str, Tensor] = module(DetectorBatch(images, targets))
        loss = torch.stack(list(parts.values())).sum()
        names = {name.removeprefix("loss_"): part.detach() for name, part in parts.items()}
        everything = {"loss": loss, **names}
        return {name: value.expand(len(examples)) for name, value in everything.items()}

    def describe(self, item: DetectionItem) -> str:
        """See `Task`."""
        name = str(self.datasets[item.dataset].paths[item.image])
        return f"{name} (mirrored)" if item.mirrored else name

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`. An image that cannot be read ends the run: a figure is of all or of none."""
        if self.validation is None:
            return {}
        faults: list[SetAside] = []
        detections, _ = detect(_as_detector(module), self.validation, faults=faults)
        if faults:
            raise InputError(f"validation: {faults[0]}")
        values: dict[str, float] = {}
        for kind in ("box", "mask") if self.config.detector.masks else ("box",):
            table = average_precision(self.validation.annotations, detections, kind=kind)
            figures = table.metrics()
            for name, key in ((f"{kind}_ap", "AP"), (f"{kind}_ap50", "AP50")):
                value = figures[key]
                values[name] = float("nan") if value is None else value
        return values

    def save(self, module: nn.Module, folder: Path) -> None:
        """A folder for `load_detector`. See `Task`."""
        about: dict[str, Any] = {"backbone": self.config.backbone, "licence": self.config.licence}
        save_detector(_as_detector(module), folder, **about)

    def rehearse(self, module: nn.Module) -> Mapping[str, str]:
        """See `Task`: the first image that is judged on."""
        if self.validation is None:
            return {}
        pixels = read_sized(self.validation, 0)
        detected = _as_detector(module).predict(pixels)
        height, width = size_of(pixels)
        name = self.validation.annotations.file_names[0]
        return {"judged": f"{name}, {width} x {height}, {len(detected.scores)} detections"}

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        config = self.config
        return {
            **{f"data: {source.annotations}": f"terms: {source.terms}" for source in config.data},
            "images": f"{len(self._images):,} ({len(self.set_aside):,} set aside)",
            "regions": f"{sum(len(d.annotations.boxes) for d in self.datasets):,}",
            "validation": "none" if self.validation is None else f"{len(self.validation.paths):,}",
            "classes": f"{len(self.detector.classes)}",
            "backbone": f"{config.backbone}, weights {config.weights or 'its own, else random'}"
            f"{', frozen' if config.freeze else ''}",
            "detector": f"{'Mask' if config.detector.masks else 'Faster'} R-CNN, norm "
            f"{config.detector.norm}, short side {config.detector.short_side[-1]}",
            "licence of the weights": config.licence,
        }


def _as_detector(module: nn.Module) -> Detector:
    if not isinstance(module, Detector):
        raise TypeError(f"a {type(module).__name__} is no detector")
    return module
