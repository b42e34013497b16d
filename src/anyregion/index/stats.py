"""Statistics of an index by its labels: counts, names that go together, doubt, near duplicates."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anyregion.files import atomic_path, to_line, write_csv, write_json, writing
from anyregion.index.duplicates import near_duplicates
from anyregion.index.labels import Labeler, ShardLabels
from anyregion.index.plan import decode_name
from anyregion.index.region_index import row_starts
from anyregion.index.shards import boxes_of
from anyregion.runs.pipeline import Track, silent


@dataclass(frozen=True)
class NameCount:
    """How often a name is there.

    Attributes:
        name: the name.
        regions: that are called so.
        images: that have such a region.
        mean_score: of those regions.
    """

    name: str
    regions: int
    images: int
    mean_score: float


@dataclass(frozen=True)
class NamePair:
    """Two names in one image.

    Attributes:
        first, second: the names.
        images: that have both.
        lift: how much more often than if the two had nothing to do with each other.
    """

    first: str
    second: str
    images: int
    lift: float


@dataclass(frozen=True)
class DoubtfulRegion:
    """A region that is surely there and has no sure name.

    Attributes:
        image, id, box: which; the box is xyxy in pixels.
        label, score: its best name, and the score.
        doubt: its objectness (1 where none is known) less that score: how probable it is that there
            is one thing and that none of the names is right, as far as scores can be trusted.
    """

    image: str
    id: int | str
    box: tuple[float, float, float, float]
    label: str
    score: float
    doubt: float


@dataclass(frozen=True)
class IndexStats:
    """What `index_stats` returns.

    Attributes:
        images: that can be used.
        regions: in them.
        duplicates: regions for which a better one of the same name stands; not counted below.
        below: regions under the least score, or refused by a taught vocabulary; not counted below.
        names: the most frequent first; without those of no region.
        pairs: of names, the most frequent first.
        doubtful: the most doubtful first.
        near_duplicates: pairs of images that look alike.
    """

    images: int
    regions: int
    duplicates: int
    below: int
    names: tuple[NameCount, ...]
    pairs: tuple[NamePair, ...]
    doubtful: tuple[DoubtfulRegion, ...]
    near_duplicates: tuple[tuple[str, str], ...]


def index_stats(
    labeler: Labeler, *, min_score: float = 0.0, top: int = 100, track: Track = silent
) -> IndexStats:
    """Count what an index holds. No image is read, and one shard at a time is in memory.

    Args:
        labeler: whose labels, which have to be there.
        min_score: regions whose best name scores less do not count.
        top: how many pairs of names and doubtful regions.
        track: shows how far the work is.

    Raises:
        InputError: labels that are missing or damaged.
    """
    index, names = labeler.index, labeler.vocabulary.vocabulary.names
    counts = np.zeros(len(names), dtype=np.int64)
    in_images = np.zeros(len(names), dtype=np.int64)
    sums = np.zeros(len(names))
    pairs: Counter[tuple[int, int]] = Counter()
    hashes: list[int] = []
    hashed: list[str] = []
    doubtful: list[DoubtfulRegion] = []
    images = regions = duplicates = below = 0
    progress = track("counting", "shards")
    progress(0, len(index))
    for number in range(len(index)):
        of_shard, labels = index.images(number), labeler.read(number)
        best, scores = labels.indices[:, 0], labels.scores[:, 0]
        low = ~labels.duplicate & (labels.refused | (scores < min_score))
        counted = ~labels.duplicate & ~low  # (M,)
        regions += len(best)
        duplicates += int(labels.duplicate.sum())
        below += int(low.sum())
        counts += np.bincount(best[counted], minlength=len(names))
        sums += np.bincount(best[counted], weights=scores[counted], minlength=len(names))
        for image, (start, end) in zip(of_shard, pairwise(row_starts(of_shard)), strict=True):
            if image.quarantined is not None:
                continue
            images += 1
            hashes.append(image.hash)
            hashed.append(image.image.name)
            of_image = np.unique(best[start:end][counted[start:end]])
            in_images[of_image] += 1
            pairs.update(combinations(of_image.tolist(), 2))
        doubtful += _doubtful(labeler, number, labels, top)
        doubtful = sorted(doubtful, key=lambda region: -region.doubt)[:top]
        progress(number + 1, len(index))
    listed = [
        NameCount(names[i], int(counts[i]), int(in_images[i]), float(sums[i] / counts[i]))
        for i in np.argsort(-counts, kind="stable")
        if counts[i]
    ]
    together = [
        NamePair(names[i], names[j], count, count * images / float(in_images[i] * in_images[j]))
        for (i, j), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:top]
    ]
    alike = near_duplicates(np.array(hashes, dtype=np.uint64))
    return IndexStats(
        images, regions, duplicates, below, tuple(listed), tuple(together), tuple(doubtful),
        tuple((hashed[i], hashed[j]) for i, j in alike.tolist()),
    )  # fmt: skip


def write_stats(stats: IndexStats, out: Path) -> None:
    """Write `stats.json`, `names.csv`, `doubtful.jsonl` and `near_duplicates.jsonl`.

    Raises:
        AnyRegionError: they cannot be written.
    """
    numbers = {n: getattr(stats, n) for n in ("images", "regions", "duplicates", "below")}
    with writing(out):
        content: dict[str, Any] = {**numbers, "pairs": [asdict(pair) for pair in stats.pairs]}
        write_json(out / "stats.json", content, indent=2)
        rows = [(n.name, n.regions, n.images, f"{n.mean_score:.4f}") for n in stats.names]
        write_csv(out / "names.csv", ("name", "regions", "images", "mean_score"), rows)
        for name, lines in (
            ("doubtful.jsonl", [to_line(asdict(region)) for region in stats.doubtful]),
            ("near_duplicates.jsonl", [to_line({"images": p}) for p in stats.near_duplicates]),
        ):
            with atomic_path(out / name) as temporary:
                temporary.write_bytes(b"".join(lines))


def doubts_of(block: pa.Table, labels: ShardLabels, start: int) -> NDArray[np.float64]:
    """How doubtful the regions of a block are (`DoubtfulRegion`), `(M,)`; -1 of duplicates.

    Args:
        block: with the column `objectness`.
        labels: of the shard.
        start: the block's first row in the shard.
    """
    rows = slice(start, start + len(block))
    objectness = block.column("objectness").to_numpy()
    doubts = np.where(np.isnan(objectness), 1.0, objectness) - labels.scores[rows, 0]
    return np.where(labels.duplicate[rows], -1.0, doubts)


def _doubtful(labeler: Labeler, number: int, labels: ShardLabels, top: int) -> list[DoubtfulRegion]:
    """The most doubtful regions of a shard."""
    index, names = labeler.index, labeler.vocabulary.vocabulary.names
    best, scores = labels.indices[:, 0], labels.scores[:, 0]
    regions: list[DoubtfulRegion] = []
    start = 0
    for block in index.blocks(number, ["image", "id", "objectness", "x0", "y0", "x1", "y1"]):
        rows = slice(start, start + len(block))
        doubt = doubts_of(block, labels, start)
        start += len(block)
        at = np.argsort(-doubt, kind="stable")[:top]
        part = block.take(at)
        boxes = boxes_of(part)
        for i, row in enumerate(at.tolist()):
            if doubt[row] < 0:
                continue
            x0, y0, x1, y1 = (round(v, 3) for v in boxes[i].tolist())
            name = decode_name(part.column("image")[i].as_py())
            regions.append(
                DoubtfulRegion(
                    name,
                    json.loads(part.column("id")[i].as_py()),
                    (x0, y0, x1, y1),
                    names[best[rows][row]],
                    float(f"{scores[rows][row]:.6g}"),
                    float(f"{doubt[row]:.6g}"),
                )
            )
    return regions
