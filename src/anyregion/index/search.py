"""Search in an index: the regions, or images, nearest to words or to another region, exactly."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
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
from anyregion.index.sources import PlannedImage
from anyregion.proposals import DuplicateOptions, without_duplicates
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import name_embeddings
from anyregion.runs.crop_sheets import Crop, write_sheets
from anyregion.runs.pipeline import Track, silent

Floats = NDArray[np.float32]

By: TypeAlias = Literal["region", "image"]

MATCHES, IMAGES, SHEETS = "matches.jsonl", "images.txt", "sheets"
TOP = 50
"""Matches where neither a number nor a least similarity is given."""
MOST_MATCHES = 100_000
"""Matches where a least similarity alone is given: they are in memory together, 1 KB each."""
MOST_SHOWN = 900
"""Matches on sheets, of 30 each: nobody looks through more."""
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
        regions: of a search by image with a least similarity, how many regions of the image have
            it, of several that show one thing the best alone; else None.
    """

    image: IndexedImage
    id: int | str
    box: NDArray[np.float64]
    similarity: float
    score: float | None
    objectness: float | None
    regions: int | None = None

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
        if self.regions is not None:
            record["regions"] = self.regions
        return record


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Rows of one shard, or of all, that may be matches.

    Attributes:
        rows: `(K,)` int64, in their shard.
        similarities: `(K,)`.
        regions: `(K,)` int64, see `Match`; 0 where they are not counted.
        shards: `(K,)` int64; of one shard 0.
    """

    rows: NDArray[np.int64]
    similarities: Floats
    regions: NDArray[np.int64]
    shards: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        similarities: Floats,
        regions: NDArray[np.int64] | None = None,
    ) -> _Candidates:
        """Those of one shard."""
        no = np.zeros(len(rows), dtype=np.int64)
        return cls(rows, similarities, no if regions is None else regions, no)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, order: NDArray[np.int64]) -> _Candidates:
        """Some of them, in this order."""
        return _Candidates(
            self.rows[order], self.similarities[order], self.regions[order], self.shards[order]
        )

    def best(self, count: int | None) -> _Candidates:
        """The most alike, best first; of equal ones the earlier; None: all."""
        return self.take(np.argsort(-self.similarities, kind="stable")[:count])


def search_index(
    index: RegionIndex,
    query: Query,
    recognizer: Recognizer,
    *,
    top: int | None = None,
    min_similarity: float | None = None,
    by: By = "region",
    duplicates: DuplicateOptions | None = None,
    threads: int | None = None,
) -> list[Match]:
    """The regions most alike a query, best first; of equal ones the earlier comes first.

    Every region is compared: the search is exact. Memory grows with the matches, not with the
    index.

    Args:
        index: where to search.
        query: words or a region.
        recognizer: the model that made the index.
        top: how many; None for all from `min_similarity` on, and for `TOP` without one.
        min_similarity: the lowest similarity of a match, -1 to 1; what it is worth is measured in
            docs/results/search.md. None for any.
        by: `image`: a match an image, its best region.
        duplicates: which regions of one image show one thing, so that the best stays; None for
            `DuplicateOptions()`.
        threads: shards compared at once; None for one a core, 4 at most.

    Raises:
        InputError: a query of another model, a damaged shard, a limit that makes no sense, or more
            than `MOST_MATCHES` without `top`.
    """
    if top is not None and top < 1:
        raise InputError("at least one match has to be asked for")
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        raise InputError(f"a similarity lies between -1 and 1; {min_similarity} does not")
    if by not in ("region", "image"):
        raise InputError(f"search by region or image, not by {by!r}")
    if len(query.direction) != index.manifest.layout.width:
        raise InputError(
            f"the query is {len(query.direction)} wide, the index {index.manifest.layout.width}: "
            "it was encoded by another model"
        )
    index.check(recognizer)
    if top is None and min_similarity is None:
        top = TOP
    threads = threads or min(4, os.cpu_count() or 1)
    duplicates = duplicates or DuplicateOptions()
    if by == "image":
        # the best region of an image is never a duplicate: no more are needed than asked for
        best = partial(_best_of_images, index, query, top, min_similarity, duplicates)
        candidates = _gather(len(index), best, top, threads)
        counted = min_similarity is not None
        return _read_matches(index, query, recognizer, candidates, counted=counted)
    count = None if top is None else top * _CANDIDATES
    while True:
        nearest = partial(_nearest, index, query, count, min_similarity)
        candidates = _gather(len(index), nearest, count, threads)
        matches = _read_matches(index, query, recognizer, candidates)
        kept = _distinct(matches, duplicates)[:top]
        # fewer than asked for only where there are no more regions
        if count is None or len(kept) == top or len(candidates) < count:
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
    """Write `matches.jsonl`, `images.txt`, and contact sheets of the first `MOST_SHOWN` matches.

    `images.txt` lists the images, a path or an address a line, each once, best first, as `anyregion
    index` and `recognize` read lists. For the sheets alone images are read.

    Args:
        index: where they were found.
        query: what was looked for.
        matches: best first.
        out: the folder.
        pictures: also write the sheets.
        track: shows how far the work is.

    Returns:
        Images that could not be read, and those that a list cannot name.

    Raises:
        AnyRegionError: it cannot be written.
    """
    path = out / MATCHES
    with writing(path), atomic_path(path) as temporary:
        lines = [to_line({"rank": i, **m.to_record()}) for i, m in enumerate(matches, 1)]
        temporary.write_bytes(b"".join(lines))
    images = {match.image.image.name: match.image for match in matches}
    reasons = {name: _not_listed(image.image) for name, image in images.items()}
    set_aside = [SetAside(n, f"not in {IMAGES}: {r}") for n, r in reasons.items() if r is not None]
    locations = [i.image.location for n, i in images.items() if reasons[n] is None]
    path = out / IMAGES
    with writing(path), atomic_path(path) as temporary:
        temporary.write_text("".join(f"{text}\n" for text in locations), "utf-8", newline="\n")

    def read(name: str) -> Pixels:
        return index.pixels(images[name])

    crops = []
    for rank, match in enumerate(matches[:MOST_SHOWN], 1):
        lines_of = (
            (query.text, f" {match.similarity:.3f}"),
            (f"{rank}", f" {match.image.image.name}"),
        )
        crops.append(Crop(match.image.image.name, match.box, query.text, lines_of))
    return set_aside + write_sheets(out / SHEETS, crops, read if pictures else None, track)


def _not_listed(image: PlannedImage) -> str | None:
    """Why no line of a list leads to an image; None where one does."""
    if image.kind not in ("file", "address"):
        return f"it lies in {image.location}"
    try:
        image.location.encode()
    except UnicodeEncodeError:
        return "its path is not UTF-8"
    # lists are read line by line, without the spaces around
    if image.location.splitlines() != [image.location.strip()]:
        return "its path has a line break, or a space at an end"
    return None


def _gather(
    shards: int, search: Callable[[int], _Candidates], count: int | None, threads: int
) -> _Candidates:
    """The best of all shards.

    Raises:
        InputError: no `count`, and more than `MOST_MATCHES`.
    """
    parts: list[_Candidates] = []
    total = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="anyregion-search") as pool:
        for part in pool.map(search, range(shards)):
            parts.append(part)
            total += len(part)
            if count is None and total > MOST_MATCHES:
                pool.shutdown(wait=False, cancel_futures=True)
                raise InputError(
                    f"more than {MOST_MATCHES:,} matches: state a higher least similarity "
                    "(--min-similarity), or how many are wanted (--top)"
                )
    # stable: of equal ones the earlier shard and row first
    return _Candidates(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.similarities for part in parts]),
        np.concatenate([part.regions for part in parts]),
        np.repeat(np.arange(shards), [len(part) for part in parts]),
    ).best(count)


def _similarities(query: Query, block: pa.Table) -> Floats:
    """The cosine of each region of a block with a query, `(M,)`.

    As `scoring.logits` has it, without copies of all embeddings.
    """
    embeddings = halves_of(block, "embedding").astype(np.float32)
    lengths = np.sqrt(np.einsum("me,me->m", embeddings, embeddings)) + np.float32(1e-7)
    products: Floats = embeddings @ query.direction / lengths
    return products


def _nearest(
    index: RegionIndex, query: Query, count: int | None, lowest: float | None, number: int
) -> _Candidates:
    """The `count` regions of a shard most alike the query, in the order of their rows."""
    rows = np.zeros(0, dtype=np.int64)
    values = np.zeros(0, dtype=np.float32)
    start = 0
    for block in index.blocks(number, ["embedding"]):
        products = _similarities(query, block)
        at = np.arange(len(products)) if lowest is None else np.flatnonzero(products >= lowest)
        rows = np.concatenate([rows, start + at])
        values = np.concatenate([values, products[at]])
        if count is not None:
            best = np.sort(np.argsort(-values, kind="stable")[:count])
            rows, values = rows[best], values[best]
        start += len(products)
    return _Candidates.of(rows, values)


def _best_of_images(
    index: RegionIndex,
    query: Query,
    count: int | None,
    lowest: float | None,
    duplicates: DuplicateOptions,
    number: int,
) -> _Candidates:
    """The best region of the `count` images of a shard most alike the query, by their rows."""
    # what a shard holds of this is small beside a block of embeddings
    rows = [np.zeros(0, dtype=np.int64)]
    values = [np.zeros(0, dtype=np.float32)]
    images = [np.zeros(0, dtype=np.int64)]
    boxes = [np.zeros((0, 4))]
    corners = [] if lowest is None else ["x0", "y0", "x1", "y1"]
    start = 0
    for block in index.blocks(number, ["embedding", "image_row", *corners]):
        products = _similarities(query, block)
        at = np.arange(len(products)) if lowest is None else np.flatnonzero(products >= lowest)
        rows.append(start + at)
        values.append(products[at])
        images.append(block.column("image_row").to_numpy()[at])
        if corners:
            boxes.append(boxes_of(block)[at])
        start += len(products)
    similarities, image_of = np.concatenate(values), np.concatenate(images)
    # best first, so that the first of each image is its best
    order = np.argsort(-similarities, kind="stable")
    _, first, group = np.unique(image_of[order], return_index=True, return_inverse=True)
    best = order[first]  # (K,), of each image
    regions = np.bincount(group, minlength=len(best)).astype(np.int64)
    if corners:
        joined = np.concatenate(boxes)
        for i in np.flatnonzero(regions > 1).tolist():
            of_image = order[group == i]
            same = [0] * len(of_image)
            distinct = without_duplicates(
                joined[of_image], same, similarities[of_image], duplicates
            )
            regions[i] = len(distinct)
    candidates = _Candidates.of(np.concatenate(rows)[best], similarities[best], regions)
    chosen = candidates.best(count)
    return chosen.take(np.argsort(chosen.rows))


def _read_matches(
    index: RegionIndex,
    query: Query,
    recognizer: Recognizer,
    candidates: _Candidates,
    *,
    counted: bool = False,
) -> list[Match]:
    """The candidates as matches, in their order; with their numbers of regions if `counted`."""
    matches: dict[tuple[int, int], Match] = {}
    pairs = list(zip(candidates.shards.tolist(), candidates.rows.tolist(), strict=True))
    similarities = dict(zip(pairs, candidates.similarities.tolist(), strict=True))
    regions = dict(zip(pairs, candidates.regions.tolist(), strict=True))
    columns = ["id", "image_row", "embedding", "objectness", "x0", "y0", "x1", "y1"]
    by_shard: dict[int, list[int]] = defaultdict(list)
    for shard, row in pairs:
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
            _, scores = name_embeddings(
                recognizer.encoder, embeddings, query.direction[None], top_k=1, score=None
            )
            boxes = boxes_of(part)
            objectness = part.column("objectness").to_pylist()
            ids, image_rows = (part.column(c).to_pylist() for c in ("id", "image_row"))
            for i, row in enumerate(of_group):
                factor = 1.0 if objectness[i] is None else objectness[i]
                pair = (shard, group * ROWS_OF_GROUP + row)
                matches[pair] = Match(
                    images[image_rows[i]],
                    json.loads(ids[i]),
                    boxes[i],
                    similarities[pair],
                    float(scores[i, 0]) * factor if query.words else None,
                    objectness[i],
                    regions[pair] if counted else None,
                )
    return [matches[pair] for pair in pairs]


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
