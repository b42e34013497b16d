"""A segmentation network judged: mean IoU over the images of a data set."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads
from anyregion.data.semantic.dataset import (
    ClassMap,
    LabelledImage,
    SemanticDataset,
    SemanticSource,
    open_semantic_dataset,
)
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.confusion import confusion_matrix, segmentation_scores
from anyregion.images import Pixels, read_image, size_of
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import fingerprint
from anyregion.transfer.config import WindowConfig
from anyregion.transfer.segmenter import Segmenter, load_segmenter
from anyregion.vocabulary import Progress


@dataclass(frozen=True)
class SemanticReport:
    """How well a segmentation network names pixels. Fractions from 0 to 1.

    Attributes:
        mean_iou, mean_class_accuracy, pixel_accuracy: see `SegmentationScores`.
        iou: of each class by its name; None where it occurs nowhere.
        pixels: of each class in the truth.
        images: how many were judged.
        layout: of the data set.
        test: how images were looked at.
        backbone: the network's encoder.
        fingerprint: of all weights.
        seconds: of the whole.
        set_aside: images that could not be used.
    """

    mean_iou: float
    mean_class_accuracy: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    pixels: dict[str, int]
    images: int
    layout: str
    test: WindowConfig
    backbone: str
    fingerprint: str
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_semantic(
    model: str | Path | Segmenter,
    source: SemanticSource,
    test: WindowConfig | None = None,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SemanticReport:
    """Judge a segmentation network on a data set of its classes.

    Classes are matched by their order; names that differ are an error.

    Args:
        model: the folder of a run, of its model, or a network in memory.
        source: without a split of its own, the part that is judged on.
        progress: called with (done, total) images.

    Raises:
        InputError: data that cannot be used, or of other classes.
        CheckpointError: a broken folder.
    """
    started, test = time.perf_counter(), test or WindowConfig()
    checked = check_device(device)
    dataset = open_semantic_dataset(source, training=False)
    segmenter = model if isinstance(model, Segmenter) else load_segmenter(model)
    if dataset.classes != segmenter.info.classes:
        raise InputError(
            f"{source.root}: its {len(dataset.classes)} classes are not the "
            f"{len(segmenter.info.classes)} that the network knows"
        )
    faults: list[SetAside] = list(dataset.set_aside)
    confusion = confusion_of(
        segmenter.eval().to(checked), dataset, test, faults=faults, progress=progress
    )
    judged = len(dataset.images) - (len(faults) - len(dataset.set_aside))
    if not judged:
        raise InputError(f"{source.root}: no image could be read: {faults[0]}")
    scores = segmentation_scores(confusion)
    known = [None if np.isnan(value) else float(value) for value in scores.iou]
    return SemanticReport(
        mean_iou=scores.mean_iou,
        mean_class_accuracy=scores.mean_class_accuracy,
        pixel_accuracy=scores.pixel_accuracy,
        iou=dict(zip(dataset.classes, known, strict=True)),
        pixels=dict(zip(dataset.classes, scores.pixels.tolist(), strict=True)),
        images=judged,
        layout=dataset.layout,
        test=test,
        backbone=segmenter.encoder.name,
        fingerprint=fingerprint(segmenter.state_dict().items()),
        seconds=time.perf_counter() - started,
        set_aside=tuple(faults),
    )


def confusion_of(
    segmenter: Segmenter,
    dataset: SemanticDataset,
    test: WindowConfig,
    *,
    faults: list[SetAside],
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """The confusion matrix `(C, C)` over all images, at the size of their own maps.

    Args:
        segmenter: in evaluation mode.
        faults: images that cannot be read are added.
    """
    count = len(dataset.classes)
    total = np.zeros((count, count), dtype=np.int64)

    def attempt(image: LabelledImage) -> tuple[Pixels, ClassMap] | InputError:
        try:
            return read_labelled(image)
        except InputError as error:
            return error

    # few ahead: photographs of Cityscapes are 6 MB each
    read = in_threads(attempt, dataset.images, threads=2, ahead=8)
    for done, (image, example) in enumerate(zip(dataset.images, read, strict=True), start=1):
        if isinstance(example, InputError):
            faults.append(SetAside(str(image.path), str(example)))
        else:
            pixels, classes = example
            total += confusion_matrix(classes, segmenter.predict(pixels, test).numpy(), count)
        if progress is not None:
            progress(done, len(dataset.images))
    return total


def read_labelled(image: LabelledImage) -> tuple[Pixels, ClassMap]:
    """The pixels and classes of an image; `InputError` names the file that cannot be read."""
    pixels = read_image(image.path)
    try:
        return pixels, image.read_classes(size_of(pixels))
    except InputError as error:
        raise InputError(f"{image.name}: {error}") from None
