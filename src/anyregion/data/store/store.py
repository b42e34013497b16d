"""The store of frozen features: a folder that is a whole training set, read at random."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import DescribedExtractor, Features
from anyregion.data.store.index import (
    ABOUT,
    differences,
    make_index,
    read_index,
    read_info,
    write_index,
)
from anyregion.data.store.shards import Shard, ShardKey
from anyregion.errors import InputError

SHARDS = "shards"
OPEN_SHARDS = 64


class Store:
    """Features of the images of one data set, computed before: a `FeatureReader`.

    Opening reads the annotations alone. Shards open when they are asked for; what is read is held
    against its hash (see `Shard`). Safe in several threads, and in processes that are forked or
    that it is sent to.

    Attributes:
        folder: where it lies.
        info: what it was made of.
        annotations, fingerprint: see `FeatureReader`.

    Args:
        folder: as `create_store` or `anyregion cache` made it.
        masks: also read the annotations' segmentations, where the store holds them.
        open_shards: how many stay open.

    Raises:
        InputError: no store there, or a damaged index.
    """

    def __init__(
        self, folder: str | Path, *, masks: bool = False, open_shards: int = OPEN_SHARDS
    ) -> None:
        self.folder = Path(folder)
        self.info, self.annotations = read_index(self.folder, masks=masks)
        self.fingerprint = self.info.fingerprint
        self._options = (masks, open_shards)
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.info.images

    def __reduce__(self) -> Any:
        masks, open_shards = self._options
        return _reopen, (self.folder, masks, open_shards)

    def read(self, image: int, *, flipped: bool = False) -> Features:
        """The features of one image, or of its mirror image. See `FeatureReader`.

        Raises:
            InputError: a shard that is missing or damaged, naming it and the command that computes
                it; an image that was set aside; a store without mirror images.
        """
        if not 0 <= image < len(self):
            raise InputError(f"{self.folder}: there is no image {image} of {len(self)}")
        if flipped and not self.info.mirrored:
            raise InputError(f"{self.folder}: made without mirror images")
        shard = self._shard(image // self.info.images_per_shard)
        if (reason := shard.set_aside.get(image)) is not None:
            name = self.annotations.file_names[image]
            raise InputError(f"{name}: set aside when the store was filled: {reason}")
        return shard.read(image, flipped=flipped)

    def set_aside(self) -> dict[int, str]:
        """The images that have no features, and why. Looks into every shard's header.

        Raises:
            InputError: a shard is missing or damaged.
        """
        found: dict[int, str] = {}
        for number in range(self.info.shards):
            found |= self.open_shard(number).set_aside
        return found

    def usable(self) -> NDArray[np.int64]:
        """The images that have features: all that were not set aside, in order.

        Raises:
            InputError: a shard is missing or damaged.
        """
        return np.setdiff1d(np.arange(len(self)), np.array(list(self.set_aside()), dtype=np.int64))

    def shard_path(self, number: int) -> Path:
        """Where shard `number` lies, or will."""
        return self.folder / SHARDS / f"{number:06d}.safetensors"

    def shard_key(self, number: int) -> ShardKey:
        """Which images belong to shard `number`."""
        first = number * self.info.images_per_shard
        return ShardKey(
            identity=self.info.identity,
            first=first,
            images=min(self.info.images_per_shard, len(self) - first),
            mirrored=self.info.mirrored,
        )

    def open_shard(self, number: int) -> Shard:
        """Open shard `number` anew; its header is checked.

        Raises:
            ShardError: missing, truncated, damaged, or of another store.
        """
        return Shard(self.shard_path(number), self.shard_key(number))

    def _shard(self, number: int) -> Shard:
        with self._lock:
            if (shard := self._open.get(number)) is not None:
                self._open.move_to_end(number)
                return shard
        shard = self.open_shard(number)  # not under the lock: other threads read on
        with self._lock:
            self._open[number] = shard
            while len(self._open) > max(1, self._options[1]):
                self._open.popitem(last=False)
        return shard


def create_store(
    folder: str | Path,
    annotations: Annotations,
    extractor: DescribedExtractor,
    *,
    mirrored: bool = True,
    images_per_shard: int = 64,
    made_with: Mapping[str, Any] | None = None,
) -> Store:
    """Write the index of a new store, or open one that is there and would be the same.

    Args:
        folder: made where it is missing.
        annotations: copied into the store, with segmentations where they were read.
        extractor: whose features it is for.
        mirrored: also hold every image's mirror image.
        images_per_shard: a shard is what is lost when a filling process is killed, and is held in
            memory until it is written.
        made_with: notes for `store.json`.

    Raises:
        InputError: a store is there that was made of something else; says what differs.
        AnyRegionError: it cannot be written.
    """
    folder = Path(folder)
    if images_per_shard < 1:
        raise InputError("images_per_shard must be at least 1")
    wanted, columns = make_index(
        annotations,
        fingerprint=extractor.fingerprint,
        extractor=extractor.describe(),
        mirrored=mirrored,
        images_per_shard=images_per_shard,
        made_with=made_with or {},
    )
    if not (folder / ABOUT).exists():
        write_index(folder, wanted, columns, annotations)
    about, _ = read_info(folder)  # another process may have been first
    if found := differences(about, wanted):
        raise InputError(
            f"{folder}: holds a store of something else ({'; '.join(found)}); use another folder"
        )
    try:
        return Store(folder)
    except InputError:  # the index is lost, and can be had again
        write_index(folder, wanted, columns, annotations)
        return Store(folder)


def _reopen(folder: Path, masks: bool, open_shards: int) -> Store:
    return Store(folder, masks=masks, open_shards=open_shards)
