"""`teach_images`: corrections of many images to a taught vocabulary."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.data.annotations.reading import Layout
from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.files import name_parts, shared_tail
from anyregion.images import image_digest
from anyregion.io.regions import ImageEntry, RegionFile, load_regions
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs.pipeline import ReadSample, Track, annotated_samples, run_pipeline, silent
from anyregion.teaching.corrections import NONE_OF_THESE, CorrectedImage, region_keys
from anyregion.teaching.region_table import RegionTable
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary, is_taught
from anyregion.vocabulary import Vocabulary, name_key


@dataclass(frozen=True, kw_only=True)
class TeachReport:
    """What was taught.

    Attributes:
        vocabulary: the names with all that they were taught.
        images: images that were read.
        added: regions that were taught for the first time.
        stored: those of them that the model had seen before, so that no image was read.
        known: regions that were corrected before; their names are those said now.
        names_added: names of the corrections that the vocabulary did not have.
        seconds: without loading the model.
        set_aside: images and regions that could not be used, and why.
    """

    vocabulary: TaughtVocabulary
    images: int
    added: int
    stored: int
    known: int
    names_added: tuple[str, ...]
    seconds: float
    set_aside: tuple[SetAside, ...]


def teach_images(
    corrections: str | Path,
    images: str | Path | None,
    names: Vocabulary | TaughtVocabulary | None = None,
    *,
    recognizer: Recognizer | Callable[[], Recognizer],
    use_masks: bool = False,
    layout: Layout = "auto",
    batch_size: int = 4,
    table: RegionTable | None = None,
    track: Track = silent,
) -> TeachReport:
    """Teach a vocabulary by a file of corrections.

    Every region of the file counts as looked over: its category is its right name, and one that is
    called "none of these" has none. Regions that a taught vocabulary has seen are given the names
    of the file without their image; only of others are images read.

    Args:
        corrections: a file or folder that `load_regions` reads, with categories: COCO's layout
            (that of `predictions.json` too), or an annotation tool's.
        images: the folder of its images; None where all regions were seen before.
        names: the names as words, or a taught vocabulary to go on with; names of corrections that
            are missing join them. None for the file's categories.
        recognizer: the model, or what loads it.
        use_masks: give the masks of the corrections as prompts too.
        layout: of the corrections; `auto` goes by the content.
        batch_size: images at once.
        table: regions that the model has seen before, with their features; the images of those are
            not read. They are known again by the name of their image and their box.
        track: shows how far the work is.

    Raises:
        InputError: a file that cannot be used, or says no right name of any region.
        CheckpointError: a taught vocabulary of another model.
    """
    if images is not None and not Path(images).is_dir():
        raise InputError(f"{images}: there is no such folder of images")
    if Path(corrections).is_file() and is_taught(corrections):
        raise InputError(
            f"{corrections}: a taught vocabulary, not corrections (give it as --vocabulary)"
        )
    file = load_regions(corrections, masks=use_masks, scores=False, images=images, layout=layout)
    if not file.categories:
        raise InputError(f"{corrections}: no categories, so nothing says what its regions are")
    if names is None:
        names = file_names(file, corrections)
    teacher = Teacher(recognizer if isinstance(recognizer, Recognizer) else recognizer(), names)
    started = time.perf_counter()
    set_aside = list(file.set_aside)
    before = set(teacher.names.names if teacher.names else ())
    folder = None if images is None else Path(images)
    said = _Said(set_aside)
    if folder is not None:
        teacher.folders = tuple(dict.fromkeys([*teacher.folders, str(folder.absolute())]))
    known, from_table, entries = 0, 0, []
    stored = None if table is None else _Stored(table)
    for entry in file.images.values():
        entry = _named(entry, file, set_aside)
        if not len(entry.regions):
            continue
        path = None if folder is None else find_image(folder, entry.file_name or "")
        record = None if stored is None else stored.image(entry)
        if record is None:
            record = _corrected_image(teacher, entry, path)
        if record is not None:
            regions, outside = entry.regions.fit(*record.size)
            set_aside += [SetAside(f"{record.name}, {o.item}", o.reason) for o in outside]
            regions = prompts(regions, masks=use_masks)
            labels = _labels(regions, file)
            said.add(record, regions, labels)
            new = teacher.update(record, regions, labels)
            known += len(regions) - len(new)
            if stored is not None:
                count = len(teacher)
                new = stored.add(teacher, record, regions, labels, new)
                from_table += len(teacher) - count
            entry = replace(entry, regions=regions[new])
        if len(entry.regions):
            entries.append(entry)
    if folder is None:
        set_aside += [
            SetAside(
                str(e.file_name or e.key),
                f"{len(e.regions)} regions were not seen before: give the folder of the images",
            )
            for e in entries
        ]
        entries = []
    samples = [] if folder is None else annotated_samples(entries, folder, set_aside=set_aside)
    encoder, added, read = teacher.recognizer.encoder, 0, 0

    def embed(encoded: Sequence[Any], items: Sequence[ReadSample]) -> list[RegionEmbeddings]:
        regions = [prompts(item.regions, masks=use_masks) for item in items]
        return encoder.embed_regions(encoded, regions, features=True)

    for batch in run_pipeline(
        samples, encoder, embed, batch_size=batch_size, progress=track("seeing regions", "images")
    ):
        set_aside += batch.set_aside
        for item, embedded in batch.results:
            # the sample's name is the path as it was found; that of the file is the user's
            entry = file.images[str(item.sample.key)]
            digest = image_digest(item.sample.image).hex()
            record = CorrectedImage(str(entry.file_name), digest, item.size)
            regions = prompts(item.regions, masks=use_masks)
            count, labels = len(teacher), _labels(regions, file)
            said.add(record, regions, labels)
            teacher.add_embedded(record, regions, embedded, labels)
            added += len(teacher) - count
            read += 1
    if not len(teacher):
        last = f"; the last that was set aside: {set_aside[-1]}" if set_aside else ""
        raise InputError(f"{corrections}: no region that could be taught{last}")
    taught = teacher.vocabulary()
    return TeachReport(
        vocabulary=taught,
        images=read,
        added=added + from_table,
        stored=from_table,
        known=known,
        names_added=tuple(n for n in taught.vocabulary.names if n not in before),
        seconds=time.perf_counter() - started,
        set_aside=tuple(set_aside),
    )


class _Stored:
    """Regions that the model has seen before, found again by their image's name and their box."""

    def __init__(self, table: RegionTable) -> None:
        self.table = table
        # images by the last part of their names
        self._images: dict[str, list[tuple[tuple[str, ...], CorrectedImage]]] = defaultdict(list)
        for image in dict.fromkeys(table.images):
            parts = name_parts(image.name, alike=True)
            self._images[parts[-1]].append((parts, image))

    def image(self, entry: ImageEntry) -> CorrectedImage | None:
        """The image of an entry; None where there is none, or several fit."""
        name = name_parts(entry.file_name or "", alike=True)
        agree = [
            (count, image)
            for parts, image in self._images.get(name[-1] if name else "", ())
            if (count := shared_tail(name, parts)) in (len(name), len(parts))
        ]
        best = [image for count, image in agree if count == max(c for c, _ in agree)]
        return best[0] if len(best) == 1 else None

    def add(
        self,
        teacher: Teacher,
        image: CorrectedImage,
        regions: Regions,
        labels: Sequence[str],
        new: Sequence[int],
    ) -> list[int]:
        """Teach what the table has of an image's new regions; the positions of all others."""
        rows = self.table.find(image.digest, regions.boxes[list(new)])  # (n,)
        if (is_stored := rows >= 0).any():
            at = np.array(new)[is_stored].tolist()
            embedded = self.table.embedded(rows[is_stored])
            teacher.add_embedded(image, regions[at], embedded, [labels[i] for i in at])
        return [i for i, row in zip(new, rows.tolist(), strict=True) if row < 0]


_NONE = name_key(NONE_OF_THESE)


def file_names(file: RegionFile, path: str | Path) -> Vocabulary:
    """The categories of a file of corrections as names, but for "none of these".

    Raises:
        InputError: it names nothing; `path` is what messages call it.
    """
    listed = {i: n for i, n in file.categories.items() if name_key(n) != _NONE}
    if not listed:
        raise InputError(f"{path}: its only category is none of these: give names")
    places = [f"category {i}" for i in listed]
    return Vocabulary.from_names(list(listed.values()), ids=list(listed), places=places)


def _named(entry: ImageEntry, file: RegionFile, set_aside: list[SetAside]) -> ImageEntry:
    """The entry with the regions that have a category with a name; others are set aside."""
    categories = entry.regions.categories
    listed = [-1] * len(entry.regions) if categories is None else categories.tolist()
    rows = [i for i, category in enumerate(listed) if name_key(file.categories.get(category, ""))]
    missing = len(listed) - len(rows)
    if missing:
        reason = f"{missing} of {len(listed)} regions have no category that the file names"
        set_aside.append(SetAside(str(entry.file_name or entry.key), reason))
    return replace(entry, regions=entry.regions[rows])


def _labels(regions: Regions, file: RegionFile) -> list[str]:
    categories = [] if regions.categories is None else regions.categories.tolist()
    return [file.categories[category] for category in categories]


class _Said:
    """What was said of each region so far: who says two things of one is told which one counts."""

    def __init__(self, set_aside: list[SetAside]) -> None:
        self._set_aside = set_aside
        # by the image's digest and the region's key
        self._names: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, image: CorrectedImage, regions: Regions, labels: Sequence[str]) -> None:
        """Remember names; those that others take the place of are set aside."""
        for key, region, name in zip(region_keys(regions), regions.ids, labels, strict=True):
            place = f"{image.name}, region {region}"
            before, other = self._names.get((image.digest, key), (place, name))
            if name_key(other) != name_key(name):
                reason = f"called {other!r}, but the same region is called {name!r} later ({place})"
                self._set_aside.append(SetAside(before, reason))
            self._names[image.digest, key] = (place, name)


def _corrected_image(
    teacher: Teacher, entry: ImageEntry, path: Path | None
) -> CorrectedImage | None:
    """The image of an entry, if it was corrected before: by its content, or by its name alone."""
    images = [] if teacher.corrections is None else teacher.corrections.images
    if path is not None:
        try:
            digest = image_digest(path).hex()
        except InputError:
            return None  # the pipeline says so when it reads it
        return next((m for m in images if m.digest == digest), None)
    name = name_parts(entry.file_name or "", alike=True)
    same = [m for m in images if name_parts(m.name, alike=True) == name]
    return same[0] if name and len(same) == 1 else None


def prompts(regions: Regions, *, masks: bool) -> Regions:
    """The regions as they are shown to the model: with their masks, or without."""
    return regions if masks else replace(regions, masks=(None,) * len(regions))


def left_out_figures(taught: TaughtVocabulary) -> list[tuple[str, int, float | None]]:
    """Per name its examples, and the share that a fit without their image names rightly."""
    labels = taught.labels
    right = np.zeros(0, dtype=bool)
    if taught.left_out is not None:
        right = taught.left_out.right(labels)
    return [
        (name, int(count), float(right[labels == i].mean()) if count else None)
        for i, (name, count) in enumerate(zip(taught.vocabulary.names, taught.counts, strict=True))
    ]
