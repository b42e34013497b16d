"""The training of a segmentation network, fine-tuned or on a frozen backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyregion.backbones.encoder import normalize
from anyregion.backbones.loading import load_encoder
from anyregion.data.samplers import EpochSampler
from anyregion.data.semantic.dataset import (
    VOID,
    ClassMap,
    LabelledImage,
    SemanticDataset,
    open_semantic_dataset,
)
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.confusion import segmentation_scores
from anyregion.images import Pixels
from anyregion.torch_utils.devices import check_device
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.seeds import generator, seed_torch
from anyregion.training.sync_batchnorm import convert_sync_batchnorm
from anyregion.training.task import Metric, Task
from anyregion.transfer.config import SegmentationConfig
from anyregion.transfer.crops import random_crop
from anyregion.transfer.segmenter import Segmenter, SegmenterInfo, save_segmenter
from anyregion.transfer.semantic_evaluation import confusion_of, read_labelled

METRICS = {
    "mean_iou": Metric("intersection over union of each class, over all images, averaged"),
    "mean_class_accuracy": Metric("share of each class's pixels named rightly, averaged"),
    "pixel_accuracy": Metric("share of all pixels named rightly"),
}


def build(settings: SegmentationConfig, *, loop: LoopConfig) -> SegmentationTask:
    """Make the task: open the data, build the network.

    Raises:
        InputError: data or a backbone that cannot be used.
        CheckpointError: weights that do not fit.
    """
    check_device(own_device(loop.device))
    if not settings.data:
        raise InputError("semseg.data: give a data set")
    datasets = [open_semantic_dataset(source, training=True) for source in settings.data]
    validation = None
    if settings.validation is not None:
        validation = open_semantic_dataset(settings.validation, training=False)
    classes = datasets[0].classes
    judged = [(validation, settings.validation)] if validation and settings.validation else []
    for dataset, source in [*zip(datasets, settings.data, strict=True), *judged]:
        if dataset.classes != classes:
            raise InputError(
                f"{source.root}: has other classes than {settings.data[0].root}: "
                f"{_first_difference(dataset.classes, classes)}"
            )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    seed_torch(loop.seed, "weights")
    encoder = load_encoder(settings.backbone, weights=settings.weights)
    info = SegmenterInfo(
        classes=classes,
        head=settings.head,
        dilate=settings.dilate,
        crop=settings.augment.crop,
        short_side=settings.augment.short_side,
    )
    # a head that is drawn is the same whatever the backbone drew before it
    seed_torch(loop.seed, "head")
    module = Segmenter(encoder, info, frozen=settings.freeze, auxiliary=bool(settings.auxiliary))
    if settings.sync_norm and world > 1:
        module = convert_sync_batchnorm(module, own_device(loop.device).partition(":")[0])
    if settings.channels_last:
        module = module.to(memory_format=torch.channels_last)
    return SegmentationTask(module, datasets, validation, settings, seed=loop.seed)


@dataclass(frozen=True)
class SegmentationItem:
    """An image of a step.

    Attributes:
        image: position among all images.
        draw: place in the stream of images, from which its crop follows.
    """

    image: int
    draw: int


@dataclass(frozen=True, eq=False)
class SegmentationExample:
    """A crop, ready to learn from: `(h, w, 3)` and `(h, w)`."""

    pixels: Pixels
    classes: ClassMap


class SegmentationTask(Task):
    """A `Task`: crops of images to the class of every pixel.

    Args:
        module: what learns.
        datasets: of the module's classes.
        validation: what `validate` measures on; None for none.
    """

    def __init__(
        self,
        module: Segmenter,
        datasets: Sequence[SemanticDataset],
        validation: SemanticDataset | None,
        config: SegmentationConfig,
        *,
        seed: int,
    ) -> None:
        self.module: nn.Module = module
        self.segmenter, self.validation, self.config, self.seed = module, validation, config, seed
        self.metrics = METRICS if validation is not None else {}
        self.images: tuple[LabelledImage, ...] = tuple(
            image for dataset in datasets for image in dataset.images
        )
        both = [*datasets, *([validation] if validation is not None else [])]
        self.set_aside = tuple(fault for dataset in both for fault in dataset.set_aside)
        self._sampler = EpochSampler(np.ones(len(self.images)), seed)
        # the mean colour, which is 0 once it is normalised
        red, green, blue = (round(255 * value) for value in module.encoder.mean)
        self._fill = (red, green, blue)

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """See `Task`."""
        if trained or not self.set_aside:
            return ()
        return [f"{len(self.set_aside):,} images are set aside: {self.set_aside[0]}"]

    def plan(self, step: int) -> list[SegmentationItem]:
        """See `Task`."""
        batch = self.config.batch
        positions = self._sampler.draw(step * batch, batch)
        return [SegmentationItem(p, step * batch + i) for i, p in enumerate(positions)]

    def load(self, item: SegmentationItem) -> SegmentationExample:
        """See `Task`.

        Raises:
            InputError: an image or a map that cannot be read; the run does not go on without it.
        """
        pixels, classes = read_labelled(self.images[item.image])
        draw = generator(self.seed, "crop", item.draw)
        crop = random_crop(pixels, classes, self.config.augment, draw, fill=self._fill)
        return SegmentationExample(*crop)

    def losses(
        self, module: nn.Module, examples: Sequence[SegmentationExample]
    ) -> dict[str, Tensor]:
        """See `Task`; `segmentation` and `auxiliary` are the parts of `loss`.

        Of each crop the mean over all its pixels, of which void ones count nothing.
        """
        device = next(self.module.parameters()).device
        encoder = self.segmenter.encoder
        images = normalize(
            [e.pixels for e in examples],
            device,
            mean=encoder.mean,
            std=encoder.std,
            channels_last=self.config.channels_last,
        )
        classes = torch.from_numpy(np.stack([e.classes for e in examples])).to(device).long()
        logits, auxiliary = module(images)
        loss = by_pixel = _cross_entropy(logits, classes)
        parts = {"segmentation": by_pixel}
        if auxiliary is not None:
            parts["auxiliary"] = _cross_entropy(auxiliary, classes)
            loss = by_pixel + self.config.auxiliary * parts["auxiliary"]
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}

    def describe(self, item: SegmentationItem) -> str:
        """See `Task`."""
        return str(self.images[item.image].path)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """See `Task`. An image that cannot be read ends the run: a figure is of all or of none."""
        if self.validation is None:
            return {}
        if not isinstance(module, Segmenter):
            raise TypeError(f"a {type(module).__name__} is no segmentation network")
        faults: list[SetAside] = []
        confusion = confusion_of(module, self.validation, self.config.test, faults=faults)
        if faults:
            raise InputError(f"validation: {faults[0]}")
        scores = segmentation_scores(confusion)
        return {name: float(getattr(scores, name)) for name in METRICS}

    def save(self, module: nn.Module, folder: Path) -> None:
        """A folder for `load_segmenter`. See `Task`."""
        if not isinstance(module, Segmenter):
            raise TypeError(f"a {type(module).__name__} is no segmentation network")
        save_segmenter(module, folder, backbone=self.config.backbone, licence=self.config.licence)

    def rehearse(self, module: nn.Module) -> Mapping[str, str]:
        """See `Task`: the first image that is judged on, and its classes."""
        if self.validation is None:
            return {}
        pixels, classes = read_labelled(self.validation.images[0])
        predicted = self.segmenter.predict(pixels, self.config.test)
        if tuple(predicted.shape) != classes.shape:
            raise InputError(f"a prediction of {tuple(predicted.shape)} for {classes.shape}")
        name, (height, width) = self.validation.images[0].name, classes.shape
        return {"judged": f"{name}, {width} x {height}, test {self.config.test.mode}"}

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        config = self.config
        crop = " x ".join(map(str, config.augment.crop))
        return {
            **{f"data: {source.root}": f"terms: {source.terms}" for source in config.data},
            "images": f"{len(self.images):,} ({len(self.set_aside):,} set aside)",
            "validation": "none" if self.validation is None else f"{len(self.validation.images):,}",
            "classes": f"{len(self.segmenter.info.classes)}",
            "backbone": f"{config.backbone}, weights {config.weights or 'its own, else random'}"
            f"{', frozen' if config.freeze else ''}",
            "head": f"{config.head}{', last stage dilated' if config.dilate else ''}",
            "crops": crop,
            "licence of the weights": config.licence,
        }


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """`(B, C, H, W)` and `(B, H, W)` to `(B,)`."""
    by_pixel = F.cross_entropy(logits.float(), classes, ignore_index=VOID, reduction="none")
    return by_pixel.mean(dim=(1, 2))


def _first_difference(classes: tuple[str, ...], others: tuple[str, ...]) -> str:
    if len(classes) != len(others):
        return f"{len(classes)}, not {len(others)}"
    pairs = zip(classes, others, strict=True)
    return next(f"{one!r}, not {other!r}" for one, other in pairs if one != other)
