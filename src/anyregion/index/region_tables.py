"""Regions of an index as a `RegionTable`, to be taught and asked about: no image is read."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.files import name_parts
from anyregion.index.labels import Labeler
from anyregion.index.region_index import RegionIndex, row_starts
from anyregion.index.shards import FEATURE, ROWS_OF_GROUP, boxes_of, halves_of, read_blocks
from anyregion.index.stats import doubts_of
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.queue import CANDIDATES
from anyregion.teaching.region_table import RegionTable

Rows = NDArray[np.int64]


def table_of_images(index: RegionIndex, file_names: Iterable[str]) -> RegionTable:
    """All regions of the images that files of annotations may mean by these names.

    Args:
        index: with features, and without masks as prompts.
        file_names: whose last parts count; which image is meant, who has the table finds out.

    Raises:
        InputError: an index without what is learnt from, or a damaged one.
    """
    _check(index)
    names = {parts[-1] for name in file_names if (parts := name_parts(name, alike=True))}
    rows: dict[int, Rows] = {}
    for number in range(len(index)):
        images = index.images(number)
        chosen = [
            np.arange(start, end)
            for image, (start, end) in zip(images, pairwise(row_starts(images)), strict=True)
            if image.regions and name_parts(image.image.name, alike=True)[-1] in names
        ]
        if chosen:
            rows[number] = np.concatenate(chosen)
    return _read(index, rows)


def table_of_doubtful(labeler: Labeler, count: int = CANDIDATES) -> RegionTable:
    """The most doubtful regions of an index by its labels (see `DoubtfulRegion`).

    Args:
        labeler: whose labels, which have to be there.
        count: how many, at most; a queue compares no more than `CANDIDATES`.

    Raises:
        InputError: as of `table_of_images`.
    """
    index = labeler.index
    _check(index)
    # (doubt, shard, row); of equal ones the earlier first
    best: list[tuple[float, int, int]] = []
    for number in range(len(index)):
        labels, start = labeler.read(number), 0
        for block in index.blocks(number, ["objectness"]):
            doubts = doubts_of(block, labels, start)
            at = np.argsort(-doubts, kind="stable")[:count]
            rows = [(float(doubts[i]), -number, -(start + int(i))) for i in at if doubts[i] >= 0]
            best = heapq.nlargest(count, [*best, *rows])
            start += len(block)
    by_shard: dict[int, list[int]] = {}
    for _, number, row in best:
        by_shard.setdefault(-number, []).append(-row)
    return _read(index, {n: np.array(sorted(by_shard[n])) for n in sorted(by_shard)})


def _check(index: RegionIndex) -> None:
    index.require_features()
    if index.manifest.settings["use_masks"]:
        raise InputError(
            f"{index.folder}: its regions were seen with their masks as prompts, and a correction "
            "counts by its box: index without --use-masks"
        )


def _read(index: RegionIndex, rows: Mapping[int, Rows]) -> RegionTable:
    """Some regions, by shard and row; rows ascend."""
    features = [name for name, _ in index.manifest.layout.features]
    columns = ["id", "image_row", "embedding", "x0", "y0", "x1", "y1"]
    columns += [FEATURE + name for name in features]
    parts: list[tuple[CorrectedImage, Regions, RegionEmbeddings]] = []
    for number, of_shard in rows.items():
        images = index.images(number)
        groups = np.unique(of_shard // ROWS_OF_GROUP).tolist()
        blocks = read_blocks(index.paths(number), columns, groups=groups)
        for group, block in zip(groups, blocks, strict=True):
            part = block.take(of_shard[of_shard // ROWS_OF_GROUP == group] % ROWS_OF_GROUP)
            # single precision for a moment: what the table keeps is half again
            embeddings = halves_of(part, "embedding").astype(np.float32)
            halves = {n: halves_of(part, FEATURE + n).astype(np.float32) for n in features}
            boxes = boxes_of(part)
            ids = [json.loads(i) for i in part.column("id").to_pylist()]
            image_rows = part.column("image_row").to_numpy()
            for row in np.unique(image_rows).tolist():
                image, at = images[row], np.flatnonzero(image_rows == row)
                parts.append(
                    (
                        CorrectedImage(image.image.name, image.digest, image.size),
                        Regions.from_boxes(boxes[at], ids=[ids[i] for i in at.tolist()]),
                        RegionEmbeddings(
                            embeddings[at],
                            boxes[at],
                            features={name: values[at] for name, values in halves.items()} or None,
                        ),
                    )
                )
    if not parts:
        raise InputError(f"{index.folder}: has no regions of these images, or none at all")
    return RegionTable.from_images(parts)
