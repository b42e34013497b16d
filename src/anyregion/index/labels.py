"""Labels: the names of all regions of an index by one vocabulary, beside the index.

An index has as many as it is asked for. They are computed shard by shard from what is stored; no
image is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.files import atomic_path, to_line, writing
from anyregion.index.manifest import LABELS
from anyregion.index.region_index import RegionIndex, StoredRules
from anyregion.index.shards import FEATURE, IndexedImage, boxes_of, halves_of, statement, states
from anyregion.masks import RLE
from anyregion.proposals import DuplicateOptions, without_duplicates
from anyregion.region_encoder import REGIONS_AT_ONCE, RegionEmbeddings, name_embedded
from anyregion.regions import Boxes
from anyregion.runs.recognize import vocabulary_digest
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary

_FORMAT = "anyregion.labels/1"
_STATEMENT = b"anyregion_labels"


@dataclass(frozen=True)
class LabelOptions:
    """How the regions of an index are named.

    Attributes:
        top_k: names kept of each region.
        score: see `Recognizer.predict`; None for the model's own.
        use_scores: multiply the names' scores by the regions' own.
        merge: of regions of one name that are of one thing (`DuplicateOptions`) keep the best;
            None: of those that were found, not of those that were stated.
    """

    top_k: int = 5
    score: Score | None = None
    use_scores: bool = True
    merge: bool | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError("top_k must be at least 1")


@dataclass(frozen=True, eq=False)
class ShardLabels:
    """The names of a shard's regions, row by row.

    Attributes:
        indices: `(M, K)` int32, the best names as positions in the vocabulary, best first.
        scores: `(M, K)` float32.
        none: `(M,)` float32, of "none of these"; None where the vocabulary was not taught.
        refused: `(M,)`, whether a taught vocabulary refuses the best name.
        duplicate: `(M,)`, whether a better region of the same name stands for it.
    """

    indices: NDArray[np.int32]
    scores: NDArray[np.float32]
    none: NDArray[np.float32] | None
    refused: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Labeler:
    """Names shards of an index; it can be sent to another process.

    Attributes:
        index: the index.
        rules: how its model scores.
        vocabulary: encoded by that model.
        options: how regions are named.
    """

    index: RegionIndex
    rules: StoredRules
    vocabulary: EncodedVocabulary
    options: LabelOptions

    @property
    def key(self) -> str:
        """Changes whenever a label would; what the folder of the labels is called."""
        content = (
            _FORMAT,
            self.index.manifest.fingerprint,
            vocabulary_digest(self.vocabulary),
            repr(self.options),
        )
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the labels lie."""
        return self.index.folder / LABELS / self.key

    def path(self, number: int) -> Path:
        """The labels of one shard."""
        return self.folder / f"{number:05}.parquet"

    def begin(self) -> None:
        """Write what the labels are of.

        Raises:
            InputError: a taught vocabulary, and an index without features.
            AnyRegionError: the folder cannot be written.
        """
        if self.vocabulary.classifier is not None:
            self.index.require_features()
        names = self.vocabulary.vocabulary
        content = {
            "format": _FORMAT,
            "index": self.index.manifest.fingerprint,
            "names": names.names,
            "ids": names.ids,
            "vocabulary": vocabulary_digest(self.vocabulary),
            "options": repr(self.options),
        }
        path = self.folder / "labels.json"
        with writing(path), atomic_path(path) as temporary:
            temporary.write_bytes(to_line(content, indent=2))

    def is_named(self, number: int) -> bool:
        """Whether the labels of a shard are there."""
        return states(self.path(number), _STATEMENT, number) == self.key

    def name(self, number: int) -> int:
        """Name one shard, unless it is named; returns how many regions it has.

        Raises:
            InputError: a damaged shard.
            AnyRegionError: the labels cannot be written.
        """
        if self.is_named(number):
            return 0
        images = self.index.images(number)
        sizes = np.repeat(
            np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
            [image.regions for image in images],
            axis=0,
        )  # (M, 2)
        parts = [self._no_labels()]
        boxes: list[Boxes] = [np.zeros((0, 4))]
        own_masks: dict[int, str] = {}
        row = 0
        taught = self.vocabulary.classifier is not None
        features = [name for name, _ in self.index.manifest.layout.features if taught]
        columns = ["embedding", "objectness", "own_mask", "x0", "y0", "x1", "y1"]
        for block in self.index.blocks(number, [*columns, *(FEATURE + f for f in features)]):
            halves = {name: halves_of(block, FEATURE + name) for name in features}
            embedded = RegionEmbeddings(
                halves_of(block, "embedding").astype(np.float32),
                boxes_of(block),
                features={name: v.astype(np.float32) for name, v in halves.items()} or None,
            )
            labels = self._answer(embedded, sizes[row : row + len(block)])
            objectness = block.column("objectness").to_numpy()  # (M,), NaN where none is known
            if self.options.use_scores:
                factors = np.where(np.isnan(objectness), 1.0, objectness)
                # as `Recognizer.predict_encoded` multiplies them
                scores = (labels.scores * factors[:, None]).astype(np.float32)
                labels = replace(labels, scores=scores)
            parts.append(labels)
            boxes.append(embedded.boxes)
            own = block.column("own_mask")
            if own.null_count < len(own):
                counts = enumerate(own.to_pylist(), row)
                own_masks |= {i: code for i, code in counts if code is not None}
            row += len(block)
        labels = _join(parts)
        if self.index.proposed if self.options.merge is None else self.options.merge:
            _mark_duplicates(labels, np.concatenate(boxes), images, own_masks)
        self._write(number, labels)
        return row

    def read(self, number: int) -> ShardLabels:
        """The labels of one shard.

        Raises:
            InputError: not there, or damaged.
        """
        path = self.path(number)
        try:
            table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
            rows = table.num_rows
            indices = _flat(table, "names").reshape(rows, -1) if rows else np.zeros((0, 1))
            scores = _flat(table, "scores").reshape(rows, -1) if rows else np.zeros((0, 1))
            none = table.column("none")
            return ShardLabels(
                indices.astype(np.int32, copy=False),
                scores.astype(np.float32, copy=False),
                None if none.null_count else none.to_numpy(),
                table.column("refused").to_numpy(),
                table.column("duplicate").to_numpy(),
            )
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: missing or damaged ({error}); name again") from None

    def _no_labels(self) -> ShardLabels:
        kept = min(self.options.top_k, len(self.vocabulary.matrix))
        none = None if self.vocabulary.classifier is None else np.zeros(0, dtype=np.float32)
        no, nothing = np.zeros(0, dtype=bool), np.zeros((0, kept))
        return ShardLabels(nothing.astype(np.int32), nothing.astype(np.float32), none, no, no)

    def _answer(self, embedded: RegionEmbeddings, sizes: NDArray[np.int64]) -> ShardLabels:
        """The names of a block, before the regions' own scores count."""
        vocabulary, options, rows = self.vocabulary, self.options, len(sizes)
        no = np.zeros(rows, dtype=bool)
        if vocabulary.classifier is None:
            named = name_embedded(
                self.rules, embedded, vocabulary, (0, 0), top_k=options.top_k, score=options.score
            )
            return ShardLabels(named.indices.astype(np.int32), named.scores, None, no, no.copy())
        kept = min(options.top_k, len(vocabulary.matrix))
        labels = ShardLabels(
            np.zeros((rows, kept), np.int32), np.zeros((rows, kept), np.float32),
            np.zeros(rows, np.float32), no, no.copy(),
        )  # fmt: skip
        assert labels.none is not None
        # where a region lies in its image counts, too
        for size in np.unique(sizes, axis=0):
            of_size = np.flatnonzero((sizes == size).all(axis=1))
            for start in range(0, len(of_size), REGIONS_AT_ONCE):
                at = of_size[start : start + REGIONS_AT_ONCE]
                features = embedded.features
                part = RegionEmbeddings(
                    embedded.embeddings[at],
                    embedded.boxes[at],
                    features=features and {name: values[at] for name, values in features.items()},
                )
                named = name_embedded(
                    self.rules, part, vocabulary, (int(size[0]), int(size[1])),
                    top_k=options.top_k, score=options.score,
                )  # fmt: skip
                labels.indices[at], labels.scores[at] = named.indices, named.scores
                labels.none[at], labels.refused[at] = named.none, named.refused
        return labels

    def _write(self, number: int, labels: ShardLabels) -> None:
        """Write the labels of one shard, whole or not at all."""
        rows, kept = labels.indices.shape
        names = np.array(self.vocabulary.vocabulary.names, dtype=object)
        best = pa.DictionaryArray.from_arrays(labels.indices[:, 0], pa.array(names, pa.string()))
        columns = {
            # for people and their SQL: the rest is what this package reads
            "label": best,
            "score": labels.scores[:, 0],
            "names": pa.FixedSizeListArray.from_arrays(labels.indices.reshape(-1), kept),
            "scores": pa.FixedSizeListArray.from_arrays(labels.scores.reshape(-1), kept),
            "none": pa.nulls(rows, pa.float32()) if labels.none is None else labels.none,
            "refused": labels.refused,
            "duplicate": labels.duplicate,
        }
        table = pa.table(columns)
        table = table.replace_schema_metadata({_STATEMENT: statement(self.key, number)})
        path = self.path(number)
        with writing(path), atomic_path(path, durable=True) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _join(parts: list[ShardLabels]) -> ShardLabels:
    none = [part.none for part in parts if part.none is not None]
    return ShardLabels(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(none) if none else None,
        np.concatenate([part.refused for part in parts]),
        np.concatenate([part.duplicate for part in parts]),
    )


def _mark_duplicates(
    labels: ShardLabels,
    boxes: Boxes,
    images: list[IndexedImage],
    masks: Mapping[int, str],
) -> None:
    """Mark regions for which a better one of their name in their image stands.

    Args:
        labels: `duplicate` is filled in.
        boxes: `(M, 4)`.
        images: of the shard.
        masks: by their rows, the codes of regions that brought a mask.
    """
    best, scores = labels.indices[:, 0], labels.scores[:, 0]
    image_of = np.repeat(np.arange(len(images)), [image.regions for image in images])  # (M,)
    # most names of an image are those of one region, which has no duplicate
    name_of = image_of * (int(best.max(initial=0)) + 1) + best.astype(np.int64)
    _, group, sizes = np.unique(name_of, return_inverse=True, return_counts=True)
    several = np.flatnonzero(sizes[group] > 1)
    cuts = np.flatnonzero(np.diff(image_of[several])) + 1
    for rows in np.split(several, cuts) if len(several) else []:
        size = list(images[image_of[rows[0]]].size)
        rles = [
            RLE(size=size, counts=masks[row]) if row in masks else None for row in rows.tolist()
        ]
        kept = without_duplicates(
            boxes[rows], best[rows], scores[rows], DuplicateOptions(), masks=rles
        )
        labels.duplicate[np.delete(rows, kept)] = True


def _flat(table: pa.Table, column: str) -> NDArray[Any]:
    """All values of a column of lists, one list after the other."""
    values = table.column(column).combine_chunks()
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return np.concatenate([np.zeros(0), *(c.flatten().to_numpy() for c in chunks)])
