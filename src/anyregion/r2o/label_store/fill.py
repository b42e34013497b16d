"""Computing the label maps that a store does not have yet, in threads and by several processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads
from anyregion.data.store.load_sample import read_file, short_hash
from anyregion.data.store.locks import shared_work
from anyregion.errors import InputError
from anyregion.files import writing
from anyregion.images import read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store.image_list import ImageList
from anyregion.r2o.label_store.shards import MapShard, MapShardError, pack, write_shard
from anyregion.r2o.superpixel_files import read_label_map
from anyregion.r2o.superpixels import LabelMap, PriorConfig, segment
from anyregion.vocabulary import Progress

IMAGES_PER_SHARD = 1024
"""What is computed anew, at most, for each process that is killed: half a minute of one core."""

WAIT = 0.5


def fill(
    folder: Path,
    identity: str,
    images: ImageList,
    keys: NDArray[np.uint64],
    missing: NDArray[np.int64],
    *,
    size: int,
    prior: PriorConfig,
    workers: int,
    progress: Progress,
) -> None:
    """Compute the maps of the images `missing`, and return when all are there.

    Processes with the same images share the work, shard by shard; with other images in the same
    store, each does its own. Threads suffice within one: scikit-image lets others run while it
    computes.

    Args:
        folder: of the shards.
        identity: of the store; every shard repeats it.
        images, keys: all of them.
        missing: positions of those without a record.
        size, prior, workers, progress: see `LabelStore.open_or_fill`.

    Raises:
        AnyRegionError: a shard cannot be written. Those before it stay.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(missing), IMAGES_PER_SHARD)
    chunks = [missing[start : start + IMAGES_PER_SHARD] for start in starts]
    done = len(images) - len(missing)
    compute = partial(_record, images, size, prior)

    def place(chunk: NDArray[np.int64]) -> Path:
        return folder / f"{short_hash(keys[chunk].tobytes()).hex()}.safetensors"

    def make(chunk: NDArray[np.int64]) -> bool:
        _remove_leftovers(place(chunk))
        records: list[bytes | str | None] = []
        for record in in_threads(compute, chunk.tolist(), threads=workers):
            records.append(record)
            progress(done + len(records), len(images))
        _write(place(chunk), identity, keys[chunk], records)
        return True

    for chunk, _ in shared_work(
        chunks,
        lock=lambda chunk: place(chunk).with_suffix(".lock"),
        finished=lambda chunk: _is_whole(place(chunk), identity) or None,
        make=make,
        wait=WAIT,
    ):
        done += len(chunk)
        progress(done, len(images))


def compute_labels(
    images: ImageList, image: int, *, size: int, prior: PriorConfig, content: bytes | None = None
) -> LabelMap:
    """The label map of one image, from its file, or from the file's `content` read before.

    Raises:
        InputError: the image, or the label map that was made for it, cannot be used.
    """
    path = images.path(image)
    try:
        pixels = read_image(read_file(path) if content is None else content)
    except InputError as error:
        raise InputError(str(error).replace("<bytes>", str(path), 1)) from None
    if prior.folder:  # the image was read for this alone: to know that it can be
        return read_label_map(Path(prior.folder).expanduser(), images.name(image), size)
    return segment(spanning_view(pixels, size), prior)


def _record(images: ImageList, size: int, prior: PriorConfig, image: int) -> bytes | str | None:
    """A packed map; why the image is set aside; None where its file cannot be read just now."""
    path = images.path(image)
    try:
        content = read_file(path)
    except InputError:
        return None
    try:
        return pack(compute_labels(images, image, size=size, prior=prior, content=content))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")


def _write(
    path: Path, identity: str, keys: NDArray[np.uint64], records: Sequence[bytes | str | None]
) -> None:
    """Write what is known; an image whose file could not be read stays missing."""
    known = [i for i, record in enumerate(records) if record is not None]
    if known:
        found = [record for record in records if record is not None]
        write_shard(path, identity, keys[known], found)


def _is_whole(path: Path, identity: str) -> bool:
    try:
        MapShard(path, identity)
    except MapShardError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Of a killed process: who has the claim is the only writer."""
    for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        leftover.unlink(missing_ok=True)
