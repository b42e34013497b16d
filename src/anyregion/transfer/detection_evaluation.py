"""A detector judged: COCO's AP of boxes and masks over the images of a data set."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.average_precision import average_precision
from anyregion.evaluation.metrics.coco_eval import Detections
from anyregion.evaluation.regions.coco_results import to_results
from anyregion.files import write_json, writing
from anyregion.images import Pixels, read_image, size_of
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import fingerprint
from anyregion.transfer.detection_config import DetectionSource
from anyregion.transfer.detector import Detector, load_detector
from anyregion.vocabulary import Progress


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Annotated images whose files are there.

    Attributes:
        annotations: those of the images that can be used.
        paths: of each of them.
        set_aside: what cannot be used.
    """

    annotations: Annotations
    paths: tuple[Path, ...]
    set_aside: tuple[SetAside, ...]


@dataclass(frozen=True)
class DetectorReport:
    """How well a detector finds and outlines things. Fractions from 0 to 1, None of nothing.

    Attributes:
        boxes: AP, AP50, AP75, APs, APm, APl and AR, by COCO's rules.
        masks: the same of masks; None without a mask head.
        by_class: AP of boxes of each class that occurs.
        images: how many were judged.
        detections: how many there are on them.
        backbone: the detector's encoder.
        fingerprint: of all weights.
        seconds: of the whole.
        set_aside: images that could not be used.
    """

    boxes: dict[str, float | None]
    masks: dict[str, float | None] | None
    by_class: dict[str, float]
    images: int
    detections: int
    backbone: str
    fingerprint: str
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def open_detection_dataset(
    source: DetectionSource, *, masks: bool, regions_needed: bool
) -> DetectionDataset:
    """Read annotations, and find the files of their images.

    Args:
        masks: every region needs one: images of which one has none are set aside.
        regions_needed: leave out images without a region, of which nothing is learnt.

    Raises:
        InputError: files that cannot be used, or no image left.
    """
    folder = Path(source.images).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    annotations = read_annotations(
        Path(source.annotations).expanduser(), masks=masks, images=folder
    )
    codes, faults = annotations.segmentations or (), list(annotations.set_aside)
    rows: list[int] = []
    paths: list[Path] = []
    for row, name in enumerate(annotations.file_names):
        regions = annotations.rows(row).tolist()
        if regions_needed and not regions:
            continue
        if masks and not all(
            codes and codes[region] for region in annotations.rows(row, crowd=True)
        ):
            faults.append(SetAside(name, "a region has no mask"))
        elif (path := find_image(folder, name)) is None:
            faults.append(SetAside(name, f"not in {folder}"))
        else:
            rows.append(row)
            paths.append(path)
    if not rows:
        why = f": {faults[0]}" if faults else ""
        raise InputError(f"{source.annotations}: no image to use{why}")
    rows, paths = rows[: source.limit], paths[: source.limit]
    return DetectionDataset(annotations.select(rows), tuple(paths), tuple(faults))


def evaluate_detector(
    model: str | Path | Detector,
    source: DetectionSource,
    *,
    device: str = "cpu",
    save: Path | None = None,
    progress: Progress | None = None,
) -> DetectorReport:
    """Judge a detector on a data set of its classes, by COCO's AP.

    Args:
        model: the folder of a run, of its model, or a detector in memory.
        save: write the detections as COCO results.
        progress: called with (done, total) images.

    Raises:
        InputError: data that cannot be used, or of other classes.
        CheckpointError: a broken folder.
    """
    started = time.perf_counter()
    checked = check_device(device)
    detector = model if isinstance(model, Detector) else load_detector(model)
    dataset = open_detection_dataset(source, masks=detector.config.masks, regions_needed=False)
    check_classes(dataset.annotations, detector.classes, source)
    faults: list[SetAside] = []
    detections, images = detect(
        detector.eval().to(checked), dataset, faults=faults, progress=progress
    )
    if not len(images):
        raise InputError(f"{source.annotations}: no image could be read: {faults[0]}")
    if save is not None:
        with writing(save):
            write_json(save, to_results(detections, dataset.annotations))
    table = average_precision(dataset.annotations, detections, images=images)
    masks = None
    if detector.config.masks:
        by_mask = average_precision(dataset.annotations, detections, kind="mask", images=images)
        masks = by_mask.metrics()
    known = zip(dataset.annotations.categories.names, table.by_class().tolist(), strict=True)
    return DetectorReport(
        boxes=table.metrics(),
        masks=masks,
        by_class={name: value for name, value in known if not np.isnan(value)},
        images=len(images),
        detections=len(detections),
        backbone=detector.encoder.name,
        fingerprint=fingerprint(detector.state_dict().items()),
        seconds=time.perf_counter() - started,
        set_aside=(*dataset.set_aside, *faults),
    )


def detect(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    faults: list[SetAside],
    progress: Progress | None = None,
) -> tuple[Detections, np.ndarray[Any, np.dtype[np.int64]]]:
    """The detections of all images, and the positions of the images that could be read.

    Args:
        detector: in evaluation mode.
        faults: images that cannot be read are added.
    """
    parts: list[Detections] = []
    counted: list[int] = []
    for image, path in enumerate(dataset.paths):
        try:
            detected = detector.predict(read_sized(dataset, image))
        except InputError as error:
            faults.append(SetAside(str(path), str(error)))
        else:
            counted.append(image)
            boxes = detected.boxes.copy()
            boxes[:, 2:] -= boxes[:, :2]  # xywh
            rows = np.full(len(boxes), image, dtype=np.int64)
            part = Detections(rows, detected.labels, detected.scores, boxes, detected.masks)
            parts.append(part)
        if progress is not None:
            progress(image + 1, len(dataset.paths))
    joined = Detections.join(parts)
    if not detector.config.masks:
        joined = replace(joined, masks=None)
    return joined, np.array(counted, dtype=np.int64)


def read_sized(dataset: DetectionDataset, image: int) -> Pixels:
    """The pixels of an image, which must be of the size that its annotations state.

    Raises:
        InputError: it cannot be read, or is of another size.
    """
    pixels = read_image(dataset.paths[image])
    stated = tuple(dataset.annotations.sizes[image].tolist())
    if min(stated) >= 0 and stated != size_of(pixels):
        height, width = size_of(pixels)
        raise InputError(
            f"{dataset.paths[image]}: {width} x {height}, but the annotations say {stated[1]} x "
            f"{stated[0]}"
        )
    return pixels


def check_classes(
    annotations: Annotations, classes: tuple[str, ...], source: DetectionSource
) -> None:
    """Raise `InputError` where annotations have other classes, or in another order."""
    if annotations.categories.names != classes:
        raise InputError(
            f"{source.annotations}: its {len(annotations.categories)} classes are not the "
            f"{len(classes)} that the detector knows, in their order"
        )
