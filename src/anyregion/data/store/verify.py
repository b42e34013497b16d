"""Looking a store through: shards that are missing or damaged, images that changed since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from anyregion.data.image_files import image_path
from anyregion.data.store.load_sample import read_file, short_hash
from anyregion.data.store.shards import NO_HASH, Shard, ShardError
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.files import writing
from anyregion.vocabulary import Progress


@dataclass(frozen=True)
class Problem:
    """Something that a store holds wrongly.

    Attributes:
        shard: its number; computing it anew is the cure.
        item: the shard's or the image's file.
        reason: what is wrong.
    """

    shard: int
    item: str
    reason: str

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"


def verify(
    store: Store, images_folder: str | Path | None = None, *, progress: Progress | None = None
) -> list[Problem]:
    """Read every byte of every shard, and, if asked, of every image file.

    Args:
        store: the index was checked when it was opened.
        images_folder: also look there for files that are not what the features were computed of.
        progress: called with the shards that were read, and all.

    Returns:
        The problems, shard by shard; none if all is well.
    """
    found: list[Problem] = []
    for number in range(store.info.shards):
        if progress is not None:
            progress(number, store.info.shards)
        try:
            shard = store.open_shard(number)
            shard.check()
        except ShardError as error:
            path = str(store.shard_path(number))
            reason = str(error).removeprefix(f"{path}: ").rpartition("; ")[0]
            found.append(Problem(number, path, reason))
            continue
        if images_folder is not None:
            found += _changed(store, shard, number, Path(images_folder))
    if progress is not None:
        progress(store.info.shards, store.info.shards)
    return found


def discard(store: Store, problems: Iterable[Problem]) -> list[int]:
    """Remove the shards that have problems, for `fill` to compute them anew; their numbers.

    Raises:
        AnyRegionError: one cannot be removed.
    """
    numbers = sorted({problem.shard for problem in problems})
    for number in numbers:
        path = store.shard_path(number)
        with writing(path):
            path.unlink(missing_ok=True)
    return numbers


def _changed(store: Store, shard: Shard, number: int, folder: Path) -> list[Problem]:
    found = []
    for i, stored in enumerate(shard.file_hashes):
        path = image_path(folder, store.annotations.file_names[shard.key.first + i])
        before = stored.tobytes()
        try:
            now, reason = short_hash(read_file(path)), ""
        except InputError as error:
            now, reason = NO_HASH, str(error).removeprefix(f"{path}: ")
        if now == before:
            continue
        if before == NO_HASH:
            reason = "could not be read when the store was filled, and can be now"
        found.append(Problem(number, str(path), reason or "changed since the store was filled"))
    return found
