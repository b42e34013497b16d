"""The results folder of a run, written from an index and its labels: no image is read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from anyregion.errors import InputError, SetAside
from anyregion.index.labels import Labeler
from anyregion.index.region_index import row_starts
from anyregion.index.shards import IndexedImage, boxes_of
from anyregion.masks import RLE
from anyregion.predictions import Predictions
from anyregion.regions import Regions
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.recognize import OutputOptions, RunReport, vocabulary_digest
from anyregion.runs.results_folder import ResultsFolder


def write_results(
    labeler: Labeler,
    out: Path,
    *,
    min_score: float = 0.0,
    masks: bool = False,
    output: OutputOptions | None = None,
    track: Track = silent,
) -> RunReport:
    """Write what `recognize_images` writes, from labels that are all there.

    Up to the half precision in which embeddings are stored it is equal to what that would write of
    the same images: names whose scores are as near as that may change places.

    Args:
        labeler: whose labels.
        out: the folder; an interrupted export is continued by the same call.
        min_score: regions whose best name scores less are marked as refused.
        masks: also write the masks of an index that has them.
        output: what is written; pictures need the images.
        track: shows how far the work is.

    Raises:
        InputError: other results in the folder, or damaged labels.
        AnyRegionError: it cannot be written.
    """
    from anyregion import __version__

    output = output or OutputOptions(pictures=False)
    index, vocabulary = labeler.index, labeler.vocabulary.vocabulary
    manifest, options = index.manifest, labeler.options
    settings = {
        **(manifest.model or {}),
        "index": str(index.folder.resolve()),
        "fingerprint": manifest.fingerprint,
        "top_k": options.top_k,
        "score": options.score or "the model's own",
        "min_score": min_score,
        "masks": masks,
        "pictures": output.pictures,
        "use_scores": options.use_scores,
        "merge": options.merge,
        "vocabulary": vocabulary_digest(labeler.vocabulary),
        "regions": manifest.settings["regions"],
    }
    if output.pictures and (look := output.picture.to_dict()):
        settings["picture"] = look
    folder = ResultsFolder(
        out,
        settings=settings,
        root=Path(manifest.root),
        version=__version__,
        overwrite=output.overwrite,
    )
    started = time.perf_counter()
    images = duplicates = 0
    set_aside: list[SetAside] = []
    progress = track("writing results", "images")
    try:
        folder.renew(manifest.models)
        earlier = frozenset(folder.journal.entries)
        progress(0, manifest.images)
        done = 0
        for number in range(len(index)):
            for image, predictions in shard_predictions(labeler, number, masks=masks):
                name = image.image.name
                done += 1
                if image.quarantined is not None:
                    reason = SetAside("image", image.quarantined)
                    folder.skip([reason], image=name)
                    set_aside.append(SetAside(name, image.quarantined))
                    continue
                set_aside += [SetAside(f"{name}, {a.item}", a.reason) for a in image.set_aside]
                if predictions is None or name in earlier:
                    continue
                duplicates += image.regions - len(predictions)
                images += 1
                key = image.key or ""
                place = image.image
                mark = {"bytes": place.bytes, "modified_ns": place.modified_ns}
                folder.finish(
                    name,
                    predictions,
                    image_id=int(key) if key.isascii() and key.isdecimal() else None,
                    file=mark if place.kind == "file" else None,
                    set_aside=image.set_aside,
                    pixels=index.pixels(image) if output.pictures else None,
                    min_score=min_score,
                    picture=output.picture,
                    draw_refused=output.keep_refused,
                )
            progress(done, manifest.images)
        entries = folder.journal.entries
        folder.write_coco(vocabulary, refused=output.keep_refused)
        if output.csv:
            folder.write_csv()
        return RunReport(
            out=out,
            images=images,
            earlier=len(earlier),
            regions=sum(entry.regions - entry.refused for entry in entries.values()),
            refused=sum(entry.refused for entry in entries.values()),
            seconds=time.perf_counter() - started,
            set_aside=tuple(set_aside),
            unreadable=labeler.vocabulary.unreadable,
            only=next(folder.journal.lines()) if len(entries) == 1 else None,
            duplicates=duplicates,
        )
    finally:
        folder.journal.file.close()


def shard_predictions(
    labeler: Labeler, number: int, *, masks: bool = False
) -> Iterator[tuple[IndexedImage, Predictions | None]]:
    """The images of a shard, and what their regions are called; None of those in quarantine.

    Args:
        labeler: whose labels.
        number: of the shard.
        masks: also give masks.

    Raises:
        InputError: masks of an index that has none, or labels of another index.
    """
    index, vocabulary = labeler.index, labeler.vocabulary.vocabulary
    if masks and not index.manifest.layout.masks:
        raise InputError(f"{index.folder}: has no masks: index with --masks")
    columns = ["id", "x0", "y0", "x1", "y1", "objectness"]
    columns += ["mask", "mask_score"] if masks else []
    images, labels = index.images(number), labeler.read(number)
    blocks = list(index.blocks(number, columns))
    starts = row_starts(images)
    if sum(len(block) for block in blocks) != starts[-1] or len(labels.indices) != starts[-1]:
        raise InputError(f"{labeler.path(number)}: not of this index; name again")
    # whole columns of the shard at once: slices of Arrow's tables cost more than what is in them
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes_of(block) for block in blocks)])  # (M, 4)
    ids: list[int | str] = [json.loads(i) for i in _column(blocks, "id")]
    objectness = np.array(_column(blocks, "objectness"), dtype=np.float64)  # (M,), NaN for none
    codes = _column(blocks, "mask") if masks else []
    mask_scores = np.array(_column(blocks, "mask_score") if masks else [], dtype=np.float32)
    for image, (start, end) in zip(images, pairwise(starts.tolist()), strict=True):
        if image.quarantined is not None:
            yield image, None
            continue
        scored = end > start and not np.isnan(objectness[start:end]).any()
        regions = Regions.from_boxes(
            boxes[start:end],
            ids=ids[start:end],
            scores=objectness[start:end] if scored else None,
        )
        rows = np.flatnonzero(~labels.duplicate[start:end])  # (R,)
        at = start + rows
        has_mask = masks and all(codes[i] is not None for i in at)
        rated = has_mask and not np.isnan(mask_scores[at]).any()
        yield (
            image,
            Predictions(
                vocabulary=vocabulary,
                regions=regions,
                size=image.size,
                rows=rows,
                indices=labels.indices[at].astype(np.int64),
                scores=labels.scores[at],
                boxes=boxes[at],
                # the names are known already
                embeddings=np.zeros((len(rows), 0), dtype=np.float32),
                masks=tuple(RLE(size=list(image.size), counts=codes[i]) for i in at)
                if has_mask
                else None,
                mask_scores=mask_scores[at] if rated else None,
                none=None if labels.none is None else labels.none[at],
                refused=None if labels.none is None else labels.refused[at],
            ),
        )


def _column(blocks: list[pa.Table], name: str) -> list[Any]:
    """The values of a column of a whole shard, None where there is none."""
    return [value for block in blocks for value in block.column(name).to_pylist()]
