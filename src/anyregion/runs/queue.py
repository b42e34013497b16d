"""`queue_regions`: which regions are best corrected next, in files to correct them in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.files import write_csv, write_json, writing
from anyregion.predictions import record_to_coco
from anyregion.recognizer import Recognizer
from anyregion.runs.crop_sheets import Crop, write_sheets
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.region_tables import ListedRegions, SeenRegions, read_source, see_regions
from anyregion.runs.run_file import is_results_folder
from anyregion.scoring import best_names
from anyregion.teaching.corrections import NONE_OF_THESE, Corrections
from anyregion.teaching.queue import CANDIDATES, Queue, order_regions
from anyregion.teaching.region_table import SAME_PIXELS, RegionTable
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, name_key

FEATURES, QUEUE_JSON, QUEUE_CSV = "features.safetensors", "queue.json", "queue.csv"
SHEETS = "queue_sheets"
NAMES = 5
# words for `why`
_NOVEL, _UNDECIDED, _NONE = 0.5, 0.3, 0.3


@dataclass(frozen=True)
class QueueItem:
    """One region to be corrected.

    Attributes:
        image: the file's name.
        id, box: of the region; xyxy in pixels.
        labels, probabilities: the best names, best first.
        none: the probability of "none of these".
        margin: between the best two names.
        novelty: how little corrections tell of regions like this one, 0 to 1.
        alike: how many of all regions it stands for.
        gain: the share of all that is not known that its name would tell.
        why: these in words.
    """

    image: str
    id: int | str
    box: tuple[float, float, float, float]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    none: float
    margin: float
    novelty: float
    alike: int
    gain: float
    why: str

    def to_record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "image": self.image,
            "id": self.id,
            "box": list(self.box),
            "label": self.labels[0],
            "probability": self.probabilities[0],
            "margin": self.margin,
            "none": self.none,
            "novelty": self.novelty,
            "alike": self.alike,
            "gain": self.gain,
            "why": self.why,
            "labels": list(self.labels),
            "probabilities": list(self.probabilities),
        }


@dataclass(frozen=True)
class QueueReport:
    """What `queue_regions` returns.

    Attributes:
        items: the regions, the first to be corrected first.
        regions: how many there are that are not corrected yet, and could be asked about.
        corrected: how many are.
        kept: whether their features were kept by an earlier call, so that no image was read.
        seconds: what it took, without loading the model.
        out: the folder of the files.
        set_aside: images and regions that cannot be used, and why.
    """

    items: tuple[QueueItem, ...]
    regions: int
    corrected: int
    kept: bool
    seconds: float
    out: Path
    set_aside: tuple[SetAside, ...]


def queue_regions(
    regions: str | Path | RegionTable,
    vocabulary: Vocabulary | EncodedVocabulary,
    *,
    recognizer: Recognizer | Callable[[], Recognizer],
    images: str | Path | None = None,
    out: str | Path | None = None,
    count: int = 50,
    crops: bool = False,
    use_masks: bool = False,
    batch_size: int = 4,
    track: Track = silent,
) -> QueueReport:
    """Order the regions of a run by what correcting them would teach, and write the first ones.

    `queue.json` is a COCO file with these regions alone, in that order: correct their categories in
    any tool, and hand it to `teach_images`. `queue.csv` says why each is there. Features of the
    regions are kept in `features.safetensors` beside them, so that the next queue, with a
    vocabulary that was taught since, needs no image.

    Args:
        regions: the folder of a run, a file that `load_regions` reads, or regions that the model
            has seen already.
        vocabulary: the names, taught or not. Regions that it was taught by are not asked again.
        recognizer: the model, or what loads it.
        images: the folder of the images; of a run that where they were, unless given.
        out: where to write; of a run its own folder, unless given.
        count: how many regions.
        crops: also show the regions, cut out of their images, on sheets (`queue_sheets`).
        use_masks: give the masks of a file as prompts too.
        batch_size: images at once.
        track: shows how far the work is.

    Raises:
        InputError: no region, or none that is not corrected; no folder to write to.
        CheckpointError: a vocabulary that another model was taught.
        AnyRegionError: a file cannot be written.
    """
    if not 1 <= count <= CANDIDATES:
        raise InputError(f"a queue has 1 to {CANDIDATES:,} regions; it is to have {count:,}")
    folder_of_images = None if images is None else Path(images)
    source: ListedRegions | None = None
    if isinstance(regions, RegionTable):
        title = "the queue"
        if out is None:
            raise InputError("say where to write the queue")
        folder = Path(out)
    else:
        path = Path(regions)
        title = str(path)
        if not path.exists():
            raise InputError(f"{path}: there is no such folder or file")
        if out is None and not is_results_folder(path):
            raise InputError(f"{path} is no run's folder, so say where to write")
        folder = path if out is None else Path(out)
        source = read_source(path, folder_of_images, use_masks=use_masks)
        folder_of_images = source.folder
    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    encoded = recognizer.encode_vocabulary(vocabulary)
    started = time.perf_counter()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if isinstance(regions, RegionTable):
        seen = SeenRegions(regions, True, 0.0, ())
    else:
        assert source is not None
        seen = see_regions(
            source,
            recognizer,
            keep=folder / FEATURES,
            use_masks=use_masks,
            batch_size=batch_size,
            track=track,
        )
    corrections = encoded.corrections if isinstance(encoded, TaughtVocabulary) else None
    rows = uncorrected(seen.table, corrections)
    if not len(rows):
        raise InputError(f"{title}: all {len(seen.table)} regions are corrected: nothing to ask")
    table = seen.table.select(rows)
    probabilities = table.probabilities(recognizer.encoder, encoded)
    known = np.zeros((0, 0), dtype=np.float32)
    if corrections is not None:
        known = corrections.rows.astype(np.float32)
    queue = order_regions(table.rows(), probabilities, known, count)
    items = _items(table, queue, probabilities, encoded.vocabulary, taught=len(known) > 0)
    _write_csv(folder / QUEUE_CSV, items)
    _write_coco(folder / QUEUE_JSON, items, table, encoded.vocabulary)
    set_aside = list(seen.set_aside)
    if crops:
        if folder_of_images is None:
            raise InputError("crops are cut out of the images: give their folder")
        set_aside += write_sheets(folder / SHEETS, _crops(items), folder_of_images, track)
    return QueueReport(
        items=tuple(items),
        regions=len(rows),
        corrected=len(seen.table) - len(rows),
        kept=seen.kept,
        seconds=time.perf_counter() - started,
        out=folder,
        set_aside=tuple(set_aside),
    )


def uncorrected(table: RegionTable, corrections: Corrections | None) -> NDArray[np.int64]:
    """The rows that are not among corrections: none there has that box, of the same image."""
    if corrections is None:
        return np.arange(len(table))
    place = {image.digest: i for i, image in enumerate(corrections.images)}
    is_new = np.ones(len(table), dtype=bool)
    for i, image in enumerate(table.images):
        own = np.flatnonzero(table.image_of == i)
        others = corrections.boxes[corrections.image_of == place.get(image.digest, -1)]
        if len(own) and len(others):
            apart = np.abs(table.boxes[own][:, None] - others[None]).max(axis=2)  # (n, m)
            is_new[own] = apart.min(axis=1) > SAME_PIXELS
    return np.flatnonzero(is_new)


def _items(
    table: RegionTable,
    queue: Queue,
    probabilities: NDArray[np.float64],
    names: Vocabulary,
    *,
    taught: bool,
) -> list[QueueItem]:
    def digits(value: float) -> float:
        return float(f"{value:.6g}")

    items: list[QueueItem] = []
    for k, row in enumerate(queue.rows.tolist()):
        indices, scores = best_names(probabilities[row : row + 1, :-1].astype(np.float32), NAMES)
        labels = tuple(names.names[i] for i in indices[0])
        values = tuple(map(digits, scores[0].tolist()))
        x0, y0, x1, y1 = (round(v, 3) for v in table.boxes[row].tolist())
        item = QueueItem(
            image=table.images[table.image_of[row]].name,
            id=table.ids[row],
            box=(x0, y0, x1, y1),
            labels=labels,
            probabilities=values,
            none=digits(probabilities[row, -1]),
            margin=digits(values[0] - values[1]) if len(values) > 1 else values[0],
            novelty=digits(queue.novelty[k]),
            alike=int(queue.alike[k]),
            gain=digits(queue.gains[k]),
            why="",
        )
        items.append(replace(item, why=_reason(item, taught=taught)))
    return items


def _reason(item: QueueItem, *, taught: bool) -> str:
    """What the numbers say, in words; `taught`: whether anything was corrected so far."""
    reasons: list[str] = []
    if item.margin < _UNDECIDED and len(item.labels) > 1:
        reasons.append(f"{item.labels[0]} or {item.labels[1]}?")
    if item.none > _NONE:
        reasons.append("perhaps none of the names")
    if taught and item.novelty > _NOVEL:
        reasons.append("unlike what was corrected")
    if item.alike > 1:
        reasons.append(f"stands for {item.alike} regions")
    return "; ".join(reasons) or f"not quite sure: {item.labels[0]}"


def _write_csv(path: Path, items: list[QueueItem]) -> None:
    """One row a region, in their order."""
    columns = ("order", "image", "id", "x0", "y0", "x1", "y1", "label", "probability", "second",
               "margin", "none", "novelty", "alike", "gain", "why")  # fmt: skip
    rows = [
        [order, item.image, item.id, *item.box, item.labels[0], item.probabilities[0],
         item.labels[1] if len(item.labels) > 1 else "", item.margin, item.none, item.novelty,
         item.alike, item.gain, item.why]
        for order, item in enumerate(items, start=1)
    ]  # fmt: skip
    with writing(path):
        write_csv(path, columns, rows)


def _write_coco(
    path: Path, items: list[QueueItem], table: RegionTable, vocabulary: Vocabulary
) -> None:
    """COCO's layout: images by their first region, regions in their order."""
    sizes = {image.name: image.size for image in table.images}
    ids = {name: i for i, name in enumerate(dict.fromkeys(item.image for item in items), start=1)}
    categories = dict(zip(vocabulary.names, vocabulary.ids, strict=True))
    listed = [{"id": i, "name": name, "supercategory": ""} for name, i in categories.items()]
    # so that a tool can give it
    if name_key(NONE_OF_THESE) not in map(name_key, categories):
        free = max(categories.values(), default=0) + 1
        listed.append({"id": free, "name": NONE_OF_THESE, "supercategory": ""})
    annotations = []
    for number, item in enumerate(items, start=1):
        record = item.to_record()
        record |= {"score": record["probability"], "scores": record["probabilities"]}
        annotation = record_to_coco(record, ids[item.image], number, categories[item.labels[0]])
        more = ("margin", "none", "novelty", "alike", "gain", "why")
        annotations.append({**annotation, **{key: record[key] for key in more}})
    content = {
        "info": {"description": "regions to correct, ordered by anyregion"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
            for name, i in ids.items()
        ],
        "categories": listed,
        "annotations": annotations,
    }
    with writing(path):
        write_json(path, content, indent=1)


def _crops(items: list[QueueItem]) -> list[Crop]:
    """What the sheets show of each: its place in the queue, and its best two names."""
    return [
        Crop(
            item.image,
            np.array(item.box),
            item.labels[0],
            (
                (item.labels[0], f"  #{order}"),
                (item.labels[1] if len(item.labels) > 1 else NONE_OF_THESE, " ?"),
            ),
        )
        for order, item in enumerate(items, start=1)
    ]
