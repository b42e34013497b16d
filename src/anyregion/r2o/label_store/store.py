"""Label maps of whole images, computed once, by any number of processes, and read ever after.

A store is a folder of shards that are only ever added. A record belongs to an image by path, size
and time of change of its file: an image that changed is a new image, an added one has no record
yet, a removed one is not asked for; what is there of the others stays.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.store.load_sample import short_hash
from anyregion.errors import InputError, SetAside, require
from anyregion.files import read_json, write_json, writing
from anyregion.r2o.label_store.fill import compute_labels, fill
from anyregion.r2o.label_store.image_keys import UNREACHABLE, image_keys
from anyregion.r2o.label_store.image_list import ImageList
from anyregion.r2o.label_store.shards import FORMAT, MapShard, MapShardError
from anyregion.r2o.superpixels import LabelMap, PriorConfig
from anyregion.vocabulary import Progress

ABOUT = "prior.json"
_NOWHERE = -1
_UNREAD = "cannot be read; looked at again when training next begins"


class LabelStore:
    """The label maps of a list of images. `open_or_fill` makes one.

    Maps are held against their checksum whenever they are read; one that is damaged is computed
    again on the spot, from the image, each time it is asked for. Safe in several threads, and in
    processes that are forked or that it is sent to.

    Attributes:
        folder: where it lies.
        images: what it belongs to.
        size: side of the maps.
        prior: what divides the images.
        usable: `(M,)` int64, the images that have a map, in order.
        set_aside: the others, and why.
        recomputed: how many damaged maps were met, in this process.
    """

    def __init__(
        self, folder: Path, images: ImageList, keys: NDArray[np.uint64], size: int,
        prior: PriorConfig,
    ) -> None:  # fmt: skip
        self.folder, self.images, self.size, self.prior = folder, images, size, prior
        self.recomputed = 0
        self._identity = identity_of(size, prior)
        self._paths = sorted((folder / "shards").glob("[!.]*.safetensors"))
        self._open: dict[int, MapShard] = {}
        self._shard_of, self._row_of, aside = self._find(keys)
        self.missing = np.flatnonzero((self._shard_of == _NOWHERE) & (keys != UNREACHABLE))
        for image in np.flatnonzero(self._shard_of == _NOWHERE).tolist():
            aside[image] = _UNREAD
        self.set_aside = tuple(SetAside(images.name(i), aside[i]) for i in sorted(aside))
        left_out = np.array(list(aside), dtype=np.int64)
        self.usable: NDArray[np.int64] = np.setdiff1d(np.arange(len(images)), left_out)
        self._reasons = aside

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

        Stores of several sizes and priors lie in one cache beside each other. What is finished
        stays, whatever stops a process (Ctrl-C, `kill -9`, a full disk); the next one goes on.
        Several processes may fill at once.

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
        _state_contents(folder, size, prior)
        keys = image_keys(images, prior)
        store = cls(folder, images, keys, size, prior)
        if not len(store.missing):
            return store
        if prior.kind in ("slic", "felzenszwalb"):
            require("train", "skimage")  # here, not in a thread, image by image
        fill(
            folder / "shards",
            store._identity,
            images,
            keys,
            store.missing,
            size=size,
            prior=prior,
            workers=workers or os.cpu_count() or 1,
            progress=progress or (lambda done, total: None),
        )
        return cls(folder, images, keys, size, prior)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image: int) -> str:
        """See `ImageList.name`."""
        return self.images.name(image)

    def path(self, image: int) -> Path:
        """See `ImageList.path`."""
        return self.images.path(image)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # mapped files cannot be sent to another process

    def read(self, image: int) -> LabelMap:
        """The label map of one image, `(size, size)` uint8 or uint16; the caller's own copy.

        Raises:
            InputError: it was set aside; or its map is damaged, and the image cannot be read again.
        """
        if not 0 <= image < len(self):
            raise InputError(f"{self.folder}: there is no image {image} of {len(self)}")
        if (reason := self._reasons.get(image)) is not None:
            raise InputError(f"{self.images.path(image)}: set aside: {reason}")
        number, row = int(self._shard_of[image]), int(self._row_of[image])
        try:
            shard = self._open.get(number)
            if shard is None:
                shard = MapShard(self._paths[number], self._identity)
                self._open[number] = shard
            return shard.read(row, self.size)
        except MapShardError:
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
            "shards": len(self._paths),
            "bytes": sum(path.stat().st_size for path in self._paths),
        }

    def _find(
        self, keys: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], dict[int, str]]:
        """Shard and row of every image, `_NOWHERE` for none; and which are set aside, and why."""
        found, shards, rows = [], [], []
        reasons: dict[int, str] = {}
        for number, path in enumerate(self._paths):
            try:
                shard = MapShard(path, self._identity)
            except MapShardError:
                continue  # its images have no record then, and are computed anew
            found.append(shard.keys)
            shards.append(np.full(len(shard.keys), number, dtype=np.int32))
            rows.append(np.arange(len(shard.keys), dtype=np.int32))
            reasons |= {int(shard.keys[row]): reason for row, reason in shard.set_aside.items()}
        nowhere = np.full(len(keys), _NOWHERE, dtype=np.int32)
        if not found:
            return nowhere, nowhere, {}
        stored = np.concatenate(found)
        order = np.argsort(stored, kind="stable")
        place = np.searchsorted(stored, keys, sorter=order).clip(max=len(stored) - 1)
        position = order[place]
        there = stored[position] == keys
        shard_of = np.where(there, np.concatenate(shards)[position], nowhere)
        row_of = np.where(there, np.concatenate(rows)[position], nowhere)
        unusable = np.isin(keys, np.array(list(reasons), dtype=np.uint64))
        aside = {i: reasons[int(keys[i])] for i in np.flatnonzero(unusable).tolist()}
        return shard_of, row_of, aside


def identity_of(size: int, prior: PriorConfig) -> str:
    """What tells stores apart: format, size, and the prior's settings."""
    text = json.dumps([FORMAT, size, prior.describe()], sort_keys=True)
    return short_hash(text.encode()).hex()


def _state_contents(folder: Path, size: int, prior: PriorConfig) -> None:
    """Write what the folder holds, for people to read; or hold it against what is wanted."""
    wanted = {"format": FORMAT, "size": size, "prior": prior.describe()}
    path = folder / ABOUT
    if not path.exists():
        with writing(path):
            write_json(path, wanted, indent=1)
    elif (found := read_json(path)) != wanted:
        raise InputError(f"{path}: the store is of {found}, not of {wanted}; use another cache")
