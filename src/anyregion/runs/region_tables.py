"""Regions of many images seen once: their features, from the images or from a file kept before."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyregion.data.image_files import find_image
from anyregion.errors import InputError, SetAside
from anyregion.files import read_json, reading
from anyregion.images import image_digest
from anyregion.io.regions import ImageEntry, load_regions
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs.pipeline import ReadSample, Track, annotated_samples, run_pipeline, silent
from anyregion.runs.run_file import is_results_folder
from anyregion.runs.teach import prompts
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.region_table import RegionTable

# changes whenever tables hold something else
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class ListedRegions:
    """Regions that are asked about, and where their images are.

    Attributes:
        entries: the images with their regions.
        folder: what the entries' names start from; None: not known.
        categories: `{category id: name}`; empty where the source names none.
        marks: by an entry's key a cheap sign that its image's file was changed, where a run took
            it; of others that is looked up.
        set_aside: what of the source cannot be used, and why.
    """

    entries: tuple[ImageEntry, ...]
    folder: Path | None
    categories: Mapping[int, str]
    marks: Mapping[str, Any]
    set_aside: tuple[SetAside, ...] = ()


@dataclass(frozen=True, eq=False)
class SeenRegions:
    """What `see_regions` returns.

    Attributes:
        table: the regions.
        kept: whether they were seen before, and no image was read.
        seconds: what it took.
        set_aside: images and regions that cannot be used, and why.
    """

    table: RegionTable
    kept: bool
    seconds: float
    set_aside: tuple[SetAside, ...]


def read_source(path: Path, images: Path | None, *, use_masks: bool = False) -> ListedRegions:
    """The regions of a results folder, or of a file that `load_regions` reads.

    Of a run those that it refused are there too. Every region counts by its box: that is what
    `teach` is given when they come back.

    Args:
        path: the folder of a run, or a file of regions.
        images: the folder of the images; of a run that where they were, unless given.
        use_masks: also read masks as prompts; a run does not keep them.

    Raises:
        InputError: neither of the two.
    """
    if not is_results_folder(path):
        if (path / "predictions.jsonl").exists():
            raise InputError(f"{path}: run.json is missing or is no run's")
        file = load_regions(path, masks=use_masks, scores=False, images=images)
        entries = tuple(file.images.values())
        return ListedRegions(entries, images, file.categories, {}, file.set_aside)
    if use_masks:
        raise InputError(f"{path}: a run does not keep the masks that it was given: give the file")
    journal = path / "predictions.jsonl"
    listed: list[ImageEntry] = []
    marks: dict[str, Any] = {}
    with reading(journal), journal.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.endswith(b"\n"):
                break  # a run was interrupted, or is at it
            entry, mark = _entry(raw, f"{journal}: line {number}")
            listed.append(entry)
            marks[entry.key] = mark
    root = read_json(path / "run.json").get("root")
    folder = images if images is not None else Path(str(root))
    return ListedRegions(tuple(listed), folder, {}, marks)


def _entry(raw: bytes, where: str) -> tuple[ImageEntry, Any]:
    """An image of a run's journal, and its file's mark."""
    try:
        line = json.loads(raw)
        # candidates of one region have one id: the first is the best
        records = {record["id"]: record for record in reversed(line["regions"])}
        rows = list(reversed(records.values()))
        regions = Regions.from_boxes(
            [record["box"] for record in rows], ids=[record["id"] for record in rows]
        )
        size = (int(line["height"]), int(line["width"]))
        name = str(line["image"])
        return ImageEntry(name, regions, name, size), line.get("file")
    except (ValueError, LookupError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{where} is malformed ({error})") from None


def see_regions(
    source: ListedRegions,
    recognizer: Recognizer,
    *,
    keep: Path | None = None,
    use_masks: bool = False,
    limit: int | None = None,
    batch_size: int = 4,
    track: Track = silent,
) -> SeenRegions:
    """Embed all regions of a source with their features, or take them from where they were kept.

    Args:
        source: the regions.
        recognizer: the model.
        keep: a file to take them from, if it holds the same regions as the same model sees them,
            and else to keep them in. None: nowhere.
        use_masks: give masks as prompts too.
        limit: no more than the first so many images that have regions.
        batch_size: images at once.
        track: shows how far the work is.

    Raises:
        InputError: no region that can be used.
        AnyRegionError: the file cannot be written.
    """
    started = time.perf_counter()
    encoder = recognizer.encoder
    key = _key(source, encoder.fingerprint, use_masks=use_masks, limit=limit)
    if keep is not None and (table := RegionTable.load(keep, key)) is not None:
        return SeenRegions(table, True, time.perf_counter() - started, source.set_aside)
    set_aside = list(source.set_aside)
    if source.folder is None:
        raise InputError("these regions were not seen before: give the folder of their images")
    samples = annotated_samples(source.entries, source.folder, limit=limit, set_aside=set_aside)
    names = {entry.key: str(entry.file_name) for entry in source.entries}

    def embed(encoded: Sequence[Any], items: Sequence[ReadSample]) -> list[RegionEmbeddings]:
        return encoder.embed_regions(
            encoded, [prompts(i.regions, masks=use_masks) for i in items], features=True
        )

    parts: list[tuple[CorrectedImage, Regions, RegionEmbeddings]] = []
    for batch in run_pipeline(
        samples, encoder, embed, batch_size=batch_size, progress=track("seeing regions", "images")
    ):
        set_aside += batch.set_aside
        for item, embedded in batch.results:
            digest = image_digest(item.sample.image).hex()
            image = CorrectedImage(names[str(item.sample.key)], digest, item.size)
            parts.append((image, item.regions, embedded))
    if not parts:
        last = f"; the last that was set aside: {set_aside[-1]}" if set_aside else ""
        raise InputError(f"no region that can be used{last}")
    table = RegionTable.from_images(parts)
    # what could not be read may be there the next time
    if keep is not None and len(set_aside) == len(source.set_aside):
        table.save(keep, key)
    return SeenRegions(table, False, time.perf_counter() - started, tuple(set_aside))


def _key(source: ListedRegions, fingerprint: str, *, use_masks: bool, limit: int | None) -> str:
    """A hash of all that a table follows from."""
    digest = hashlib.sha256(repr((_FORMAT, fingerprint, use_masks, limit)).encode())
    for entry in source.entries:
        mark: Any = source.marks.get(entry.key)
        if mark is None and source.folder is not None:
            path = find_image(source.folder, entry.file_name or "")
            if path is not None:
                stat = path.stat()
                mark = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        regions = entry.regions
        masks = regions.masks if use_masks else ()
        content = (entry.key, entry.file_name, entry.size, mark, regions.ids, masks)
        digest.update(repr(content).encode(errors="replace"))
        digest.update(regions.boxes.tobytes())
        digest.update(b"" if regions.categories is None else regions.categories.tobytes())
    return digest.hexdigest()
