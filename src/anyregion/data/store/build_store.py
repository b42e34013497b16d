"""Filling a store: every image once through the frozen models, by any number of processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from anyregion.data.features import DescribedExtractor, FeatureExtractor, Features
from anyregion.data.image_files import image_path
from anyregion.data.store.index import other_models
from anyregion.data.store.load_sample import decode_input, mirrored_input, read_file, short_hash
from anyregion.data.store.locks import HEARTBEAT, STALE, shared_work
from anyregion.data.store.shards import NO_HASH, Entry, ShardError, write_shard
from anyregion.data.store.store import SHARDS, Store
from anyregion.errors import InputError, SetAside
from anyregion.files import writing
from anyregion.images import Pixels
from anyregion.regions import Regions
from anyregion.vocabulary import Progress

WAIT = 1.0


@dataclass(frozen=True)
class FillReport:
    """What one process did, and what the store holds now.

    Attributes:
        computed: images that this process saw; the others were there or came from elsewhere.
        seconds: that it took.
        set_aside: all images of the store without features.
        bytes: of all shards.
    """

    computed: int
    seconds: float
    set_aside: tuple[SetAside, ...]
    bytes: int


@dataclass(frozen=True, eq=False)
class _Read:
    """One image, read: what the models are given, or why not."""

    file_hash: bytes
    example: tuple[Pixels, Regions] | None = None
    reason: str = ""


def fill_store(
    store: Store,
    extractor: DescribedExtractor,
    images_folder: str | Path,
    *,
    batch_size: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
    heartbeat: float = HEARTBEAT,
    stale: float = STALE,
) -> FillReport:
    """Compute every shard that is missing, and return when all are there.

    Run it in as many processes, on as many machines, as can reach the folder: each takes the next
    shard that nobody has. What is finished stays, whatever stops a process (Ctrl-C, `kill -9`, a
    full disk); its shard is begun anew by the next one. An image that cannot be used is set aside
    in its shard, with its reason.

    Args:
        store: from `create_store`.
        extractor: the one that the store is for.
        images_folder: where file names start from; see `find_image`.
        batch_size: images handed to the extractor at once, each with its mirror image.
        workers: threads that read images ahead.
        progress: called with the images that are finished, and all.
        heartbeat, stale: see `claims`.

    Raises:
        InputError: another extractor than the store's, or no such folder.
        AnyRegionError: the store cannot be written.
    """
    folder = Path(images_folder)
    if extractor.fingerprint != store.fingerprint:
        other = other_models(store.info.extractor, extractor.describe())
        raise InputError(f"{store.folder}: made by other models ({'; '.join(other)})")
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images")
    with writing(store.folder / SHARDS):
        (store.folder / SHARDS).mkdir(exist_ok=True)
    report = progress or (lambda done, total: None)
    started, computed, done = time.monotonic(), 0, 0
    aside: dict[int, str] = {}
    report(0, len(store))

    def make(number: int) -> dict[int, str]:
        nonlocal computed
        found = _fill_shard(
            store,
            extractor,
            folder,
            number,
            batch_size=batch_size,
            workers=workers,
            progress=partial(_further, report, done, len(store)),
        )
        computed += store.shard_key(number).images
        return found

    for number, found in shared_work(
        range(store.info.shards),
        lock=partial(_lock, store),
        finished=partial(_finished, store),
        make=make,
        wait=WAIT,
        heartbeat=heartbeat,
        stale=stale,
    ):
        aside |= found
        done += store.shard_key(number).images
        report(done, len(store))
    names = store.annotations.file_names
    return FillReport(
        computed=computed,
        seconds=time.monotonic() - started,
        set_aside=tuple(SetAside(names[i], aside[i]) for i in sorted(aside)),
        bytes=sum(store.shard_path(n).stat().st_size for n in range(store.info.shards)),
    )


def _fill_shard(
    store: Store,
    extractor: FeatureExtractor,
    folder: Path,
    number: int,
    *,
    batch_size: int,
    workers: int,
    progress: Callable[[int], None],
) -> dict[int, str]:
    """Compute and write one shard; returns what was set aside."""
    for leftover in (store.folder / SHARDS).glob(f".{number:06d}-*.safetensors"):
        # of a killed process: who has the claim is the only writer
        leftover.unlink(missing_ok=True)
    entries: list[Entry] = []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="anyregion-read") as pool:
        for batch in _read_ahead(pool, store, folder, number, batch_size):
            entries += _compute(extractor, batch, store.info.mirrored)
            progress(len(entries))
    key = store.shard_key(number)
    write_shard(store.shard_path(number), key, entries)
    return {key.first + i: e.reason for i, e in enumerate(entries) if e.reason is not None}


def _read_ahead(
    pool: ThreadPoolExecutor, store: Store, folder: Path, number: int, batch_size: int
) -> Iterator[list[_Read]]:
    """The images of one shard in batches; the next batch is read while one is worked on."""
    key = store.shard_key(number)
    images = iter(range(key.first, key.first + key.images))
    coming: deque[Future[_Read]] = deque()
    try:
        while True:
            for image in islice(images, 2 * batch_size - len(coming)):
                coming.append(pool.submit(_read, store, folder, image))
            if not coming:
                return
            yield [coming.popleft().result() for _ in range(min(batch_size, len(coming)))]
    finally:
        for future in coming:
            future.cancel()


def _read(store: Store, folder: Path, image: int) -> _Read:
    path = image_path(folder, store.annotations.file_names[image])
    file_hash = NO_HASH
    try:
        content = read_file(path)
        file_hash = short_hash(content)
        return _Read(file_hash, decode_input(content, path, store.annotations, image))
    except InputError as error:
        return _Read(file_hash, reason=str(error).removeprefix(f"{path}: "))


def _compute(extractor: FeatureExtractor, batch: Sequence[_Read], mirrored: bool) -> list[Entry]:
    usable = [read for read in batch if read.example is not None]
    try:
        features = iter(_extract(extractor, usable, mirrored))
    except InputError as error:
        if len(usable) == len(batch) == 1:
            return [Entry(batch[0].file_hash, reason=str(error))]
        # which of them it is shows when each goes alone
        return [entry for read in batch for entry in _compute(extractor, [read], mirrored)]
    return [
        Entry(read.file_hash, reason=read.reason)
        if read.example is None
        else Entry(read.file_hash, next(features))
        for read in batch
    ]


def _extract(
    extractor: FeatureExtractor, batch: Sequence[_Read], mirrored: bool
) -> list[tuple[Features, ...]]:
    examples = [read.example for read in batch if read.example is not None]
    if not examples:
        return []
    if mirrored:
        examples = [both for e in examples for both in (e, mirrored_input(*e))]
    found = extractor.extract([e[0] for e in examples], [e[1] for e in examples])
    step = 1 + mirrored
    return [tuple(found[i : i + step]) for i in range(0, len(found), step)]


def _finished(store: Store, number: int) -> dict[int, str] | None:
    """What a finished shard has set aside; None if it has to be computed. Reads the header only."""
    try:
        return store.open_shard(number).set_aside
    except ShardError:
        return None


def _lock(store: Store, number: int) -> Path:
    return store.folder / SHARDS / f"{number:06d}.lock"


def _further(report: Progress, before: int, total: int, more: int) -> None:
    report(before + more, total)
