"""The store of label maps: computed once, by any number of processes, and read ever after.

A store is a folder of shards that are only ever added. A record belongs to an image by path, size
and time of change of its file: an image that changed is a new image, an added one has no record
yet, a removed one is not looked up; what is stored of the others stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads, read_file
from anyregion.data.store.fill import fill_shards
from anyregion.data.store.hashing import short_hash
from anyregion.data.store.shards import NOWHERE, Record, ShardError, Shards, ShardSpec
from anyregion.errors import InputError, SetAside, require
from anyregion.files import read_json, write_json, writing
from anyregion.images import read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store.codec import LabelMapCodec, pack
from anyregion.r2o.label_store.image_list import UNREACHABLE, ImageList, image_keys
from anyregion.r2o.superpixel_files import read_label_map
from anyregion.r2o.superpixels import LabelMap, PriorConfig, segment
from anyregion.vocabulary import Progress

INFO = "prior.json"
# what is computed anew, at most, for each process that is killed: half a minute of one core
IMAGES_PER_SHARD = 1024
_UNREAD = "cannot be read; looked at again when training next begins"


class LabelStore:
    """The label maps of a list of images. `open_or_fill` makes one.

    Maps are held against their checksum whenever they are read; one that is damaged is computed
    again on the spot, from the image, each time it is needed. Safe in several threads, and in
    processes that are forked or that it is sent to.

    Attributes:
        folder: where it lies.
        images: what it belongs to.
        size: side of the maps.
        prior: what divides the images.
        shards: files of the maps, of these and perhaps of other images.
        usable: `(M,)` int64, the images that have a map, in order.
        set_aside: the others, and why.
        missing: the images that can be reached and have no record.
        recomputed: how many damaged maps were met, in this process.
    """

    def __init__(
        self, folder: Path, images: ImageList, keys: NDArray[np.uint64], size: int,
        prior: PriorConfig,
    ) -> None:  # fmt: skip
        self.folder, self.images, self.size, self.prior = folder, images, size, prior
        self.recomputed = 0
        identity = identity_of(size, prior)
        paths = sorted((folder / "shards").glob("[!.]*.safetensors"))
        self.shards: Shards[LabelMap] = Shards(
            [ShardSpec(path, identity) for path in paths], LabelMapCodec(size)
        )
        # (N,) shard and row of each image; 8 bytes an image, light at millions
        self._shard_of, self._row_of, reason_of = self.shards.locate(keys)
        no_record = self._shard_of == NOWHERE
        self.missing = np.flatnonzero(no_record & (keys != UNREACHABLE))
        unusable = np.isin(keys, np.array(list(reason_of), dtype=np.uint64))
        self._skipped = {i: reason_of[int(keys[i])] for i in np.flatnonzero(unusable).tolist()}
        self._skipped |= dict.fromkeys(np.flatnonzero(no_record).tolist(), _UNREAD)
        self.set_aside = tuple(
            SetAside(images.name(i), self._skipped[i]) for i in sorted(self._skipped)
        )
        skipped = np.array(list(self._skipped), dtype=np.int64)
        self.usable: NDArray[np.int64] = np.setdiff1d(np.arange(len(images)), skipped)

    @classmethod
    def open_or_fill(
        cls,
        cache: str | Path,
        images: ImageList,
        size: int,
        prior: PriorConfig,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> LabelStore:
        """Open the store of these images, after computing what it does not have.

        Stores of several sizes and priors lie in one cache beside each other. Several processes
        may fill at once, and any may be stopped; see `fill_shards`.

        Args:
            cache: a folder, made where it is missing.
            images: from `list_images`.
            size: side of the spanning view and of the maps, in pixels.
            prior: what divides the images.
            workers: threads that compute; None for one a core.
            progress: called with the images that are finished, and all; not where nothing is to do.

        Raises:
            InputError: settings out of range; `cache` holds something else in the store's place.
            AnyRegionError: the store cannot be written.
            MissingExtraError: the prior needs scikit-image.
        """
        if size < 1 or (workers is not None and workers < 1):
            raise InputError(f"label maps: size {size} and workers {workers} must be at least 1")
        folder = Path(cache) / identity_of(size, prior)[:16]
        _check_info(folder / INFO, size, prior)
        keys = image_keys(images, prior)
        store = cls(folder, images, keys, size, prior)
        if not len(store.missing):
            return store
        if prior.kind in ("slic", "felzenszwalb"):
            require("train", "skimage")  # here, not in a thread, image by image
        store._fill(keys, workers or os.cpu_count() or 1, progress or (lambda done, total: None))
        return cls(folder, images, keys, size, prior)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, image: int) -> LabelMap:
        """The label map of one image, `(size, size)` uint8 or uint16; the caller's own copy.

        Raises:
            InputError: it was set aside; or its map is damaged, and the image cannot be read again.
        """
        if not 0 <= image < len(self):
            raise InputError(f"{self.folder}: there is no image {image} of {len(self)}")
        if (reason := self._skipped.get(image)) is not None:
            raise InputError(f"{self.images.path(image)}: set aside: {reason}")
        try:
            return self.shards.get(int(self._shard_of[image])).read(int(self._row_of[image]))
        except ShardError:
            # a damaged cache costs SLIC's 37 ms, never a training of days
            self.recomputed += 1
            return compute_labels(self.images, image, size=self.size, prior=self.prior)

    def describe(self) -> dict[str, Any]:
        """What it holds, in words and numbers, for a log."""
        return {
            "prior": self.prior.describe(),
            "size": self.size,
            "images": len(self),
            "set_aside": len(self.set_aside),
            "other_files": self.images.ignored,
            "shards": len(self.shards),
            "bytes": sum(spec.path.stat().st_size for spec in self.shards.specs),
        }

    def _fill(self, keys: NDArray[np.uint64], workers: int, progress: Progress) -> None:
        """Compute the maps of the images `missing`.

        Processes with the same images share the work, shard by shard; with other images in the
        same store, each does its own.
        """
        starts = range(0, len(self.missing), IMAGES_PER_SHARD)
        chunks = [self.missing[start : start + IMAGES_PER_SHARD] for start in starts]
        specs = [self._new_shard(keys[chunk]) for chunk in chunks]

        def compute(number: int) -> Iterator[Record | None]:
            # threads suffice: scikit-image lets others run while it computes
            return in_threads(self._record, chunks[number].tolist(), threads=workers)

        before = len(self) - len(self.missing)
        fill_shards(Shards(specs, self.shards.codec), compute, progress=progress, before=before)

    def _new_shard(self, keys: NDArray[np.uint64]) -> ShardSpec:
        # a name that other images do not get, and other processes with the same ones do
        name = short_hash(keys.tobytes()).hex()
        path = self.folder / "shards" / f"{name}.safetensors"
        return ShardSpec(path, identity_of(self.size, self.prior), keys)

    def _record(self, image: int) -> Record | None:
        """The packed map; why the image is set aside; None if its file cannot be read just now."""
        path = self.images.path(image)
        try:
            content = read_file(path)
        except InputError:
            # a failing disk or file server is no verdict on the image
            return None
        try:
            labels = compute_labels(
                self.images, image, size=self.size, prior=self.prior, content=content
            )
        except InputError as error:
            return Record(reason=str(error).removeprefix(f"{path}: "))
        return Record((pack(labels),))


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
    if prior.folder:
        # the image was decoded all the same, so that a broken one is set aside now, not met later
        return read_label_map(Path(prior.folder).expanduser(), images.name(image), size)
    return segment(spanning_view(pixels, size), prior)


def identity_of(size: int, prior: PriorConfig) -> str:
    """What tells stores apart: format, size, and the prior's settings."""
    text = json.dumps([LabelMapCodec.format, size, prior.describe()], sort_keys=True)
    return short_hash(text.encode()).hex()


def _check_info(path: Path, size: int, prior: PriorConfig) -> None:
    """Write what the folder holds, for people to read; or compare what is written there."""
    info = {"format": LabelMapCodec.format, "size": size, "prior": prior.describe()}
    if not path.exists():
        with writing(path):
            write_json(path, info, indent=1)
    elif (stored := read_json(path)) != info:
        raise InputError(f"{path}: the store is of {stored}, not of {info}; use another cache")
