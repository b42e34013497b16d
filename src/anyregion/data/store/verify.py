"""Checks of a whole store: shards that are missing or damaged, images that changed since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anyregion.data.image_files import image_path, read_file
from anyregion.data.store.shards import NO_HASH, Shard, ShardError, Shards, short_hash
from anyregion.data.store.store import FeatureRecords, Store
from anyregion.errors import InputError
from anyregion.files import writing
from anyregion.vocabulary import Progress


class ShardedStore(Protocol):
    """A store of features or of label maps."""

    shards: Shards[Any]


@dataclass(frozen=True)
class Problem:
    """Something that a store holds wrongly: in which shard, in which file, and what."""

    shard: int
    item: str
    reason: str

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"


def verify(
    store: ShardedStore,
    images_folder: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> list[Problem]:
    """Read every byte of every shard; the problems, shard by shard.

    Args:
        store: its index was checked when it was opened.
        images_folder: of a store of features: also look there for files that are not what the
            features were computed of.
        progress: called with the shards that were read, and all.
    """
    problems: list[Problem] = []
    count = len(store.shards)
    for number, spec in enumerate(store.shards.specs):
        if progress is not None:
            progress(number, count)
        try:
            shard = store.shards.open(number)
            shard.check()
        except ShardError as error:
            problems.append(Problem(number, str(spec.path), error.reason))
            continue
        if images_folder is not None and isinstance(store, Store):
            problems += _changed_images(store, shard, number, Path(images_folder))
    if progress is not None:
        progress(count, count)
    return problems


def discard(store: ShardedStore, problems: Iterable[Problem]) -> list[int]:
    """Remove the shards that have problems, for them to be computed anew; their numbers."""
    numbers = sorted({problem.shard for problem in problems})
    for number in numbers:
        path = store.shards.specs[number].path
        with writing(path):
            path.unlink(missing_ok=True)
    return numbers


def _changed_images(store: Store, shard: Shard[Any], number: int, folder: Path) -> list[Problem]:
    problems: list[Problem] = []
    records = shard.records
    if not isinstance(records, FeatureRecords):
        return problems
    for image, stored in zip(records.keys.tolist(), records.file_hashes, strict=True):
        path = image_path(folder, store.annotations.file_names[image])
        before = stored.tobytes()
        try:
            now, reason = short_hash(read_file(path)), ""
        except InputError as error:
            now, reason = NO_HASH, str(error).removeprefix(f"{path}: ")
        # equal also where the file could be read neither then nor now: set aside, and rightly so
        if now == before:
            continue
        if before == NO_HASH:
            reason = "could not be read when the store was filled, and can be now"
        problems.append(Problem(number, str(path), reason or "changed since the store was filled"))
    return problems
