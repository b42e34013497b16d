"""Names what is drawn in a CVAT task, in place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.integrations.cvat_attributes import carry_attributes
from anyregion.integrations.cvat_backup import save_backup
from anyregion.integrations.cvat_server import (
    BATCH,
    CvatError,
    CvatServer,
    CvatTarget,
)
from anyregion.integrations.cvat_shapes import REGION_TYPES, shape_box, shape_mask
from anyregion.predictions import Prediction
from anyregion.recognizer import Recognizer, VocabularyLike
from anyregion.regions import Regions
from anyregion.runs.pipeline import ReadSample, Sample, Track, run_pipeline, silent
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, name_key

Shape = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CvatNameOptions:
    """Which shapes are named, and how.

    Attributes:
        only_labels: shapes with one of these labels alone, which are no names then: they stand for
            "not named yet". None for all shapes.
        use_masks: outlines and masks are prompts too, not only the boxes around them.
        score: see `Recognizer.predict`.
        min_score: shapes whose best name scores less are left as they are.
        score_attribute: an attribute that gets the score, of labels that have one of this name.
        batch_size: images at once.
        dry_run: change nothing on the server.
    """

    only_labels: tuple[str, ...] = ()
    use_masks: bool = False
    score: Score | None = None
    min_score: float = 0.0
    score_attribute: str = "score"
    batch_size: int = 4
    dry_run: bool = False


@dataclass(eq=False)
class CvatNameReport:
    """What was done to the shapes of a task.

    Attributes:
        shapes: all that are there.
        named: those that got a name, which may be the one they had.
        relabelled: of these, those whose label is another one now.
        names: how many got each name.
        refused: left as they are: "none of these", or too low a score.
        no_label: left as they are: their name is no label of the task, or none for such a shape.
        others: left alone: no regions (lines, points, cuboids, skeletons), or with other labels.
        changed: left alone, since somebody changed or removed them meanwhile.
        tracks, tags: how many there are, which are not touched.
        lost_attributes: values that the new label has no place for, by the attribute's name.
        set_aside: shapes and frames that cannot be used, and why.
        backup: the file with all annotations as they were; None where nothing was written.
    """

    shapes: int = 0
    named: int = 0
    relabelled: int = 0
    names: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    no_label: Counter[str] = field(default_factory=Counter)
    others: int = 0
    changed: int = 0
    tracks: int = 0
    tags: int = 0
    lost_attributes: Counter[str] = field(default_factory=Counter)
    set_aside: list[SetAside] = field(default_factory=list)
    backup: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        # not by `asdict`, which makes counters of pairs
        record: dict[str, Any] = {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }
        record["set_aside"] = [asdict(item) for item in self.set_aside]
        record["backup"] = None if self.backup is None else str(self.backup)
        return record


def name_task(
    server: CvatServer,
    target: CvatTarget,
    recognizer: Recognizer,
    vocabulary: VocabularyLike | None,
    options: CvatNameOptions,
    *,
    backup: Path,
    track: Track = silent,
) -> CvatNameReport:
    """Name the shapes of a task or job, and write the new labels to the server.

    Everything else of a shape stays as it is. Values of attributes stay where the new label has an
    attribute of the same name that can hold them. Before the first shape is written, all
    annotations are saved; a shape that was changed meanwhile is not touched.

    Args:
        server, target: where.
        recognizer: the model.
        vocabulary: the names; None for the task's labels. A name that is no label changes nothing.
        options: which shapes, and how.
        backup: a file that is not there yet.
        track: shows how far the work is.

    Raises:
        InputError: no label of the task can be a name, `only_labels` that it does not have, a
            backup that is there already.
        CvatError: the server cannot be reached or refuses. What was written until then is named.
    """
    missing = set(options.only_labels) - {label.name for label in target.labels}
    if missing:
        listed = ", ".join(label.name for label in target.labels)
        raise InputError(f"task {target.task} has no label {min(missing)!r}: it has {listed}")
    if backup.exists():
        raise InputError(f"{backup}: there is a file already; a backup overwrites nothing")
    before = server.annotations(target)
    report = CvatNameReport(
        shapes=len(before["shapes"]),
        tracks=len(before.get("tracks") or ()),
        tags=len(before.get("tags") or ()),
    )
    names = _Names(target, recognizer, vocabulary, options)
    report.set_aside += names.set_aside
    frames = _frames(before["shapes"], target, options, report)
    changes: dict[int, dict[str, Any]] = {}
    progress = track("naming", "images")
    progress(0, len(frames))
    done = 0
    for part in _parts(sorted(frames), options.batch_size):
        samples = _samples(server, target, {n: frames[n] for n in part}, options, report)
        shapes = {shape["id"]: shape for number in part for shape in frames[number]}
        for batch in run_pipeline(
            samples,
            recognizer.encoder,
            partial(names.answer, shapes),
            batch_size=options.batch_size,
        ):
            report.set_aside += batch.set_aside
            for _, answers in batch.results:
                for shape_id, prediction in answers.items():
                    change = names.change(shapes[shape_id], prediction, report)
                    if change is not None:
                        changes[shape_id] = change
        done += len(part)
        progress(done, len(frames))
    if changes and not options.dry_run:
        save_backup(backup, server, target, before, sorted(changes))
        report.backup = backup
        _write(server, target, before, changes, report, track)
    _count(changes, target, before, report)
    return report


class _Names:
    """The vocabulary of each type of shape, and what a name changes in a shape."""

    def __init__(
        self,
        target: CvatTarget,
        recognizer: Recognizer,
        vocabulary: VocabularyLike | None,
        options: CvatNameOptions,
    ) -> None:
        self.target, self.recognizer, self.options = target, recognizer, options
        self.labels = {label.id: label for label in target.labels}
        usable = [label for label in target.labels if label.name not in options.only_labels]
        self._by_name = {label.name: label for label in usable}
        # as names are compared elsewhere: a vocabulary may write `Traffic light`, the task another
        self._by_key = {name_key(label.name): label for label in reversed(usable)}
        self._kinds: dict[str, EncodedVocabulary] = {}
        self.set_aside: list[SetAside] = []
        for kind in REGION_TYPES:
            fitting = [label.name for label in usable if label.fits(kind)]
            if vocabulary is not None:
                self._kinds[kind] = recognizer.encode_vocabulary(vocabulary)
            elif fitting:
                names = Vocabulary.from_names(fitting)
                self.set_aside = list(dict.fromkeys([*self.set_aside, *names.set_aside]))
                self._kinds[kind] = recognizer.encode_vocabulary(names)
        if not self._kinds:
            raise InputError(
                f"task {target.task}: no label of it can name a region"
                + (" beside those of --only-label" if options.only_labels else "")
            )

    def answer(
        self, shapes: Mapping[Any, Shape], encoded: Sequence[Any], items: Sequence[ReadSample]
    ) -> list[dict[Any, tuple[Prediction, bool]]]:
        """By shape its best name, and whether that is refused; image by image."""
        answers: list[dict[Any, tuple[Prediction, bool]]] = [{} for _ in items]
        for kind, vocabulary in self._kinds.items():
            parts = [
                item.regions[[shapes[i]["type"] == kind for i in item.regions.ids]]
                for item in items
            ]
            # only images with such a shape
            used = [i for i, part in enumerate(parts) if len(part)]
            if not used:
                continue
            predictions = self.recognizer.predict_encoded(
                [encoded[i] for i in used],
                [parts[i] for i in used],
                [items[i].size for i in used],
                vocabulary,
                top_k=1,
                score=self.options.score,
            )
            for i, named in zip(used, predictions, strict=True):
                refused = np.zeros(len(named), bool) if named.refused is None else named.refused
                for row, prediction in enumerate(named):
                    answers[i][prediction.id] = (prediction, bool(refused[row]))
        return answers

    def change(
        self, shape: Shape, answer: tuple[Prediction, bool], report: CvatNameReport
    ) -> dict[str, Any] | None:
        """The shape under its new label; None where it is to stay as it is."""
        prediction, refused = answer
        if refused or prediction.score < self.options.min_score:
            report.refused += 1
            return None
        label = self._by_name.get(prediction.label)
        label = label or self._by_key.get(name_key(prediction.label))
        if label is None or not label.fits(shape["type"]):
            report.no_label[prediction.label] += 1
            return None
        values, lost = carry_attributes(
            shape, self.labels.get(shape["label_id"]), label,
            score=prediction.score, score_attribute=self.options.score_attribute,
        )  # fmt: skip
        report.lost_attributes.update(lost)
        return {**shape, "label_id": label.id, "attributes": values}


def _frames(
    shapes: Sequence[Shape],
    target: CvatTarget,
    options: CvatNameOptions,
    report: CvatNameReport,
) -> dict[int, list[Shape]]:
    """By frame the shapes that are to be named."""
    label_ids = {label.id for label in target.labels if label.name in options.only_labels}
    frames: dict[int, list[Shape]] = defaultdict(list)
    for shape in shapes:
        labelled = not options.only_labels or shape.get("label_id") in label_ids
        usable = shape.get("type") in REGION_TYPES and shape.get("frame") not in target.deleted
        if labelled and usable and type(shape.get("id")) is int:
            frames[shape["frame"]].append(shape)
        else:
            report.others += 1
    return frames


def _samples(
    server: CvatServer,
    target: CvatTarget,
    frames: Mapping[int, Sequence[Shape]],
    options: CvatNameOptions,
    report: CvatNameReport,
) -> list[Sample]:
    """The images of frames, with their shapes as regions; the shapes' ids are the regions'."""
    samples: list[Sample] = []
    for number, shapes in frames.items():
        try:
            name, size = target.frame(number)
            regions = _regions(name, size, shapes, options, report)
            if not len(regions):
                continue
            image = server.frame(target, number)
        except InputError as error:
            report.set_aside.append(SetAside(f"frame {number}", str(error)))
            continue
        mismatch = "the image is {} upright, but CVAT says {}"
        samples.append(Sample(name, image, regions, None, size, mismatch))
    return samples


def _regions(
    name: str,
    size: tuple[int, int] | None,
    shapes: Sequence[Shape],
    options: CvatNameOptions,
    report: CvatNameReport,
) -> Regions:
    boxes: list[tuple[float, ...]] = []
    masks: list[Any] = []
    ids: list[int] = []
    for shape in shapes:
        try:
            box = shape_box(shape)
            Regions.from_boxes([box])  # raises for one without an area
            mask = shape_mask(shape, size) if options.use_masks and size is not None else None
        except (InputError, ValueError) as error:
            report.set_aside.append(SetAside(f"{name}, shape {shape['id']}", str(error)))
            continue
        boxes.append(box)
        masks.append(mask)
        ids.append(shape["id"])
    return Regions.from_prompts(
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4), masks=masks, ids=ids
    )


def _parts(numbers: Sequence[int], count: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), count):
        yield list(numbers[start : start + count])


def _write(
    server: CvatServer,
    target: CvatTarget,
    before: Mapping[str, Any],
    changes: dict[int, dict[str, Any]],
    report: CvatNameReport,
    track: Track,
) -> None:
    """Write the changed shapes; those that are not as they were are taken out of `changes`."""
    old = {shape["id"]: shape for shape in before["shapes"]}
    # a shape that is gone would be made anew, and one that was moved would be moved back
    now = {shape["id"]: shape for shape in server.annotations(target)["shapes"]}
    for shape_id in [i for i in changes if now.get(i) != old[i]]:
        del changes[shape_id]
        report.changed += 1
    pending = [shape for i, shape in changes.items() if shape != old[i]]
    progress = track("writing", "shapes")
    for start in range(0, len(pending), BATCH):
        try:
            server.update(target, pending[start : start + BATCH])
        except CvatError as error:
            raise CvatError(
                f"{error}. Written until then: {start} of {len(pending)} shapes; all as it was is "
                f"in {report.backup} (anyregion cvat restore)"
            ) from None
        progress(min(start + BATCH, len(pending)), len(pending))


def _count(
    changes: Mapping[int, Shape],
    target: CvatTarget,
    before: Mapping[str, Any],
    report: CvatNameReport,
) -> None:
    names = {label.id: label.name for label in target.labels}
    old = {shape["id"]: shape["label_id"] for shape in before["shapes"]}
    report.named = len(changes)
    report.relabelled = sum(shape["label_id"] != old[i] for i, shape in changes.items())
    report.names.update(names[shape["label_id"]] for shape in changes.values())
