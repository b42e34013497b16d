"""`name_index`: the names of all regions of an index by a vocabulary, in labels beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyregion.exemplars import ExemplarVocabulary
from anyregion.index.labels import Labeler, LabelOptions
from anyregion.index.region_index import RegionIndex, StoredRules
from anyregion.io.vocabulary import load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import Track, silent
from anyregion.runs.processes import CountDone, ProcessPool
from anyregion.vocabulary import EncodedVocabulary, Vocabulary


@dataclass(frozen=True, eq=False)
class NamedIndex:
    """What `name_index` returns.

    Attributes:
        labeler: reads the labels; their folder is `labeler.folder`.
        regions: that this call named; those of earlier calls are not named again.
        seconds: what it took, without loading the model.
    """

    labeler: Labeler
    regions: int
    seconds: float


def name_index(
    index: str | Path | RegionIndex,
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | Sequence[str] | str,
    *,
    recognizer: Recognizer | None = None,
    options: LabelOptions | None = None,
    workers: int = 1,
    track: Track = silent,
) -> NamedIndex:
    """Name all regions of an index, into labels beside it. No image is read.

    What an earlier call with the same names and options has labelled is not labelled again.

    Args:
        index: an index, or its folder.
        vocabulary: as for `recognize_images`. A taught one needs an index with features.
        recognizer: the model that made the index; None to load it.
        options: how regions are named.
        workers: processes at once; each holds the vocabulary's matrix and a shard's labels.
        track: shows how far the work is.

    Raises:
        InputError: no whole index, another model's, an index without what the vocabulary needs.
        AnyRegionError: the labels cannot be written.
    """
    if not isinstance(index, RegionIndex):
        index = RegionIndex.open(index)
    if recognizer is None:
        recognizer = index.load_recognizer()
    else:
        index.check(recognizer)
    if isinstance(vocabulary, str):
        vocabulary = load_vocabulary(vocabulary)
    encoded = recognizer.encode_vocabulary(
        vocabulary, progress=track("reading the vocabulary", "names")
    )
    rules = StoredRules.of(recognizer.encoder)
    labeler = Labeler(index, rules, encoded, options or LabelOptions())
    started = time.perf_counter()
    labeler.begin()
    progress = track("naming regions", "shards")
    todo = [number for number in range(len(index)) if not labeler.is_named(number)]
    regions = 0
    progress(0, len(todo))
    if workers == 1 or len(todo) < 2:
        for done, number in enumerate(todo, 1):
            regions += labeler.name(number)
            progress(done, len(todo))
    else:
        # the vocabulary is sent to each process once, not with every shard
        with ProcessPool(partial(_same, labeler), min(workers, len(todo))) as pool:
            for done, (_, named) in enumerate(pool.map(_name, todo), 1):
                regions += named
                progress(done, len(todo))
    return NamedIndex(labeler, regions, time.perf_counter() - started)


def _same(labeler: Labeler) -> Labeler:
    return labeler


def _name(labeler: Labeler, number: int, _: CountDone) -> int:
    return labeler.name(number)
