"""Search in an index: the regions nearest to words or to another region, exactly."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, to_line, writing
from anyregion.images import Pixels
from anyregion.index.region_index import RegionIndex
from anyregion.index.shards import (
    ROWS_OF_GROUP,
    IndexedImage,
    boxes_of,
    halves_of,
    read_blocks,
)
from anyregion.proposals import DuplicateOptions, without_duplicates
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import name_embeddings
from anyregion.runs.crop_sheets import Crop, write_sheets
from anyregion.runs.pipeline import Track, silent
from anyregion.scoring import logits

Floats = NDArray[np.float32]

MATCHES, SHEETS = "matches.jsonl", "sheets"
# candidates for each match that is asked for: some show what a better match shows
_CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for.

    Attributes:
        text: what people call it.
        direction: `(E,)` in the space of the words, length 1.
        words: whether it stands for words, so that matches have a score.
    """

    text: str
    direction: Floats
    words: bool = True

    @classmethod
    def from_text(cls, recognizer: Recognizer, text: str) -> Query:
        """Words, as a vocabulary of one name.

        Raises:
            InputError: words that the text model cannot read.
        """
        encoded = recognizer.encode_vocabulary([text])
        if encoded.unreadable:
            raise InputError(f"{text!r}: the text model has no words for it")
        return cls(encoded.vocabulary.names[0], encoded.matrix[0])

    @classmethod
    def from_embedding(cls, text: str, embedding: Floats) -> Query:
        """A region `(E,)`, as `Recognizer.embed` gives it."""
        length = np.linalg.norm(embedding)
        return cls(text, (embedding / np.maximum(length, 1e-7)).astype(np.float32), words=False)


@dataclass(frozen=True, eq=False)
class Match:
    """One region that was found.

    Attributes:
        image: its image.
        id: its id in the image.
        box: `(4,)` xyxy in pixels.
        similarity: the cosine with the query, by which matches are ranked (of `compact` of the
            stacked embeddings, see `compact.region_head`).
        score: what the model says of a vocabulary of these words alone, times the objectness; None
            of a query that is no words.
        objectness: None where the region was stated without one.
    """

    image: IndexedImage
    id: int | str
    box: NDArray[np.float64]
    similarity: float
    score: float | None
    objectness: float | None

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        place = self.image.image
        record: dict[str, Any] = {
            "image": place.name,
            "location": place.location,
            "id": self.id,
            "box": [round(v, 3) for v in self.box.tolist()],
            "similarity": float(f"{self.similarity:.6g}"),
        }
        if self.score is not None:
            record["score"] = float(f"{self.score:.6g}")
        if self.objectness is not None:
            record["objectness"] = float(f"{self.objectness:.6g}")
        return record


def search_index(
    index: RegionIndex,
    query: Query,
    recognizer: Recognizer,
    *,
    top: int = 50,
    duplicates: DuplicateOptions | None = None,
    threads: int | None = None,
) -> list[Match]:
    """The regions most alike a query, best first; of equal ones the earlier comes first.

    Every region is compared: the search is exact. Memory does not grow with the index.

    Args:
        index: where to search.
        query: words or a region.
        recognizer: the model that made the index.
        top: how many.
        duplicates: which regions of one image show one thing, so that the best stays; None for
            `DuplicateOptions()`.
        threads: shards compared at once; None for one a core, 4 at most.

    Raises:
        InputError: a query of another model, or a damaged shard.
    """
    if top < 1:
        raise InputError("at least one match has to be asked for")
    if len(query.direction) != index.manifest.layout.width:
        raise InputError(
            f"the query is {len(query.direction)} wide, the index {index.manifest.layout.width}: "
            "it was encoded by another model"
        )
    index.check(recognizer)
    threads = threads or min(4, os.cpu_count() or 1)
    count = top * _CANDIDATES
    while True:
        with ThreadPoolExecutor(threads, thread_name_prefix="anyregion-search") as pool:
            parts = list(pool.map(partial(_nearest, index, query, count), range(len(index))))
        shards = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
        rows = np.concatenate([rows for rows, _ in parts])
        similarities = np.concatenate([values for _, values in parts])
        # stable: of equal ones the earlier shard and row first
        order = np.argsort(-similarities, kind="stable")[:count]
        matches = _read_matches(index, query, recognizer, shards[order], rows[order])
        kept = _distinct(matches, duplicates or DuplicateOptions())[:top]
        # fewer than asked for only where there are no more regions
        if len(kept) == top or len(order) < count:
            return kept
        count *= 4


def write_matches(
    index: RegionIndex,
    query: Query,
    matches: Sequence[Match],
    out: Path,
    *,
    pictures: bool = True,
    track: Track = silent,
) -> list[SetAside]:
    """Write `matches.jsonl`, and contact sheets of the matches: the only images that are read.

    Args:
        index: where they were found.
        query: what was looked for.
        matches: best first.
        out: the folder.
        pictures: also write the sheets.
        track: shows how far the work is.

    Returns:
        Images that could not be read.

    Raises:
        AnyRegionError: it cannot be written.
    """
    path = out / MATCHES
    with writing(path), atomic_path(path) as temporary:
        lines = [to_line({"rank": i, **m.to_record()}) for i, m in enumerate(matches, 1)]
        temporary.write_bytes(b"".join(lines))
    images = {match.image.image.name: match.image for match in matches}

    def read(name: str) -> Pixels:
        return index.pixels(images[name])

    crops = []
    for rank, match in enumerate(matches, 1):
        score = f" {match.similarity:.3f}" if match.score is None else f" {match.score:.2f}"
        lines_of = ((query.text, score), (f"{rank}", f" {match.image.image.name}"))
        crops.append(Crop(match.image.image.name, match.box, query.text, lines_of))
    return write_sheets(out / SHEETS, crops, read if pictures else None, track)


def _nearest(
    index: RegionIndex, query: Query, count: int, number: int
) -> tuple[NDArray[np.int64], Floats]:
    """Rows of the `count` regions of a shard most alike the query, and how much."""
    rows = np.zeros(0, dtype=np.int64)
    values = np.zeros(0, dtype=np.float32)
    start = 0
    for block in index.blocks(number, ["embedding"]):
        embeddings = halves_of(block, "embedding").astype(np.float32)
        # as `logits` has it, without copies of all embeddings
        lengths = np.sqrt(np.einsum("me,me->m", embeddings, embeddings)) + np.float32(1e-7)
        products = embeddings @ query.direction / lengths  # (M,)
        rows = np.concatenate([rows, np.arange(start, start + len(products))])
        values = np.concatenate([values, products])
        best = np.sort(np.argsort(-values, kind="stable")[:count])
        rows, values = rows[best], values[best]
        start += len(products)
    return rows, values


def _read_matches(
    index: RegionIndex,
    query: Query,
    recognizer: Recognizer,
    shards: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> list[Match]:
    """The regions at some rows of some shards, in that order."""
    matches: dict[tuple[int, int], Match] = {}
    columns = ["id", "image_row", "embedding", "objectness", "x0", "y0", "x1", "y1"]
    by_shard: dict[int, list[int]] = defaultdict(list)
    for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
        by_shard[shard].append(row)
    for shard, of_shard in by_shard.items():
        images = index.images(shard)
        by_group: dict[int, list[int]] = defaultdict(list)
        for row in of_shard:
            by_group[row // ROWS_OF_GROUP].append(row % ROWS_OF_GROUP)
        for block, (group, of_group) in zip(
            read_blocks(index.paths(shard), columns, groups=list(by_group)),
            by_group.items(),
            strict=True,
        ):
            part = block.take(of_group)
            embeddings = halves_of(part, "embedding").astype(np.float32)
            similarities = logits(embeddings, query.direction[None], scale=1.0)[:, 0]
            _, scores = name_embeddings(
                recognizer.encoder, embeddings, query.direction[None], top_k=1, score=None
            )
            boxes = boxes_of(part)
            objectness = part.column("objectness").to_pylist()
            ids, image_rows = (part.column(c).to_pylist() for c in ("id", "image_row"))
            for i, row in enumerate(of_group):
                factor = 1.0 if objectness[i] is None else objectness[i]
                matches[shard, group * ROWS_OF_GROUP + row] = Match(
                    images[image_rows[i]],
                    json.loads(ids[i]),
                    boxes[i],
                    float(similarities[i]),
                    float(scores[i, 0]) * factor if query.words else None,
                    objectness[i],
                )
    return [matches[pair] for pair in zip(shards.tolist(), rows.tolist(), strict=True)]


def _distinct(matches: Sequence[Match], options: DuplicateOptions) -> list[Match]:
    """Matches, without those of an image that show what a better one shows."""
    by_image: dict[str, list[int]] = defaultdict(list)
    for i, match in enumerate(matches):
        by_image[match.image.image.name].append(i)
    kept: list[int] = []
    for rows in by_image.values():
        boxes = np.stack([matches[i].box for i in rows])
        values = [matches[i].similarity for i in rows]
        kept += [rows[i] for i in without_duplicates(boxes, [0] * len(rows), values, options)]
    return [matches[i] for i in sorted(kept)]
