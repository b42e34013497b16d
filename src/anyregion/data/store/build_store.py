"""Filling a store of features: every image once through the frozen models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from anyregion.data.features import FeatureExtractor, Features, load_sample, mirror_sample
from anyregion.data.image_files import image_path, in_threads, read_file
from anyregion.data.store.fill import fill_shards
from anyregion.data.store.index import other_models
from anyregion.data.store.shards import NO_HASH, Record, short_hash
from anyregion.data.store.store import Store
from anyregion.errors import InputError, SetAside
from anyregion.images import BATCH_BYTES, Pixels
from anyregion.regions import Regions
from anyregion.vocabulary import Progress


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
class _Sample:
    """One image, decoded: the inputs of the models, or why it cannot be used."""

    file_hash: bytes
    inputs: tuple[Pixels, Regions] | None = None
    reason: str = ""


def fill_store(
    store: Store,
    extractor: FeatureExtractor,
    images_folder: str | Path,
    *,
    batch_size: int = 4,
    workers: int = 2,
    progress: Progress | None = None,
) -> FillReport:
    """Compute every shard that is missing, and return when all are there; see `fill_shards`.

    Run it in as many processes, on as many machines, as can reach the folder. An image that cannot
    be used is set aside in its shard, with its reason.

    Args:
        store: from `create_store`.
        extractor: the one that the store is for.
        images_folder: where file names start from; see `find_image`.
        batch_size: images handed to the extractor at once, each with its mirror image; fewer in a
            shard with images so large that they would take more than `BATCH_BYTES`.
        workers: threads that read images ahead.
        progress: called with the images that are finished, and all.

    Raises:
        InputError: another extractor than the store's, or no such folder.
        AnyRegionError: the store cannot be written.
    """
    folder = Path(images_folder)
    if extractor.fingerprint != store.fingerprint:
        reasons = other_models(store.info.extractor, extractor.describe())
        raise InputError(f"{store.folder}: made by other models ({'; '.join(reasons)})")
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images")
    started = time.monotonic()

    def compute(number: int) -> Iterator[Record]:
        first = number * store.info.images_per_shard
        images = range(first, min(first + store.info.images_per_shard, len(store)))
        read, threads = partial(_read, store, folder), max(1, workers)
        # (n,) bytes of the images, by the sizes that the annotations state
        sizes = 3 * store.annotations.sizes[first : images.stop].prod(axis=1)
        count = max(1, min(batch_size, BATCH_BYTES // int(sizes.max(initial=1))))
        # reading and decoding release the GIL: two threads keep a batch ready while models compute
        with closing(in_threads(read, images, threads=threads, ahead=count + 1)) as samples:
            while batch := list(islice(samples, count)):
                yield from _compute(extractor, batch, store.info.mirrored)

    computed, skipped = fill_shards(
        store.shards, compute, progress=progress or (lambda done, total: None)
    )
    names = store.annotations.file_names
    return FillReport(
        computed=computed,
        seconds=time.monotonic() - started,
        set_aside=tuple(SetAside(names[i], skipped[i]) for i in sorted(skipped)),
        bytes=sum(spec.path.stat().st_size for spec in store.shards.specs),
    )


def _read(store: Store, folder: Path, image: int) -> _Sample:
    path = image_path(folder, store.annotations.file_names[image])
    file_hash = NO_HASH
    try:
        content = read_file(path)
        file_hash = short_hash(content)
        return _Sample(file_hash, load_sample(content, path, store.annotations, image))
    except InputError as error:
        return _Sample(file_hash, reason=str(error).removeprefix(f"{path}: "))


def _compute(extractor: FeatureExtractor, batch: Sequence[_Sample], mirrored: bool) -> list[Record]:
    usable = [sample.inputs for sample in batch if sample.inputs is not None]
    try:
        features = iter(_extract(extractor, usable, mirrored))
    except InputError as error:
        if len(usable) == len(batch) == 1:
            return [Record(reason=str(error), file_hash=batch[0].file_hash)]
        # one image must not cost the others; which one it is shows when each goes alone
        return [record for one in batch for record in _compute(extractor, [one], mirrored)]
    return [
        Record(reason=sample.reason, file_hash=sample.file_hash)
        if sample.inputs is None
        else Record(next(features), file_hash=sample.file_hash)
        for sample in batch
    ]


def _extract(
    extractor: FeatureExtractor, inputs: list[tuple[Pixels, Regions]], mirrored: bool
) -> list[tuple[Features, ...]]:
    if not inputs:
        return []
    # through the models as well: their tokens of a mirror image are not mirrored tokens
    if mirrored:
        inputs = [both for one in inputs for both in (one, mirror_sample(*one))]
    features = extractor.extract(
        [pixels for pixels, _ in inputs], [regions for _, regions in inputs]
    )
    step = 1 + mirrored
    return [tuple(features[i : i + step]) for i in range(0, len(features), step)]
