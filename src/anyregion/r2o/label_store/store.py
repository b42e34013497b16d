"""The store of label maps: computed once, by any number of processes, and read ever after.

A store is a folder of shards that are only ever added. A record belongs to an image by path, size
and time of change of its file: an image that changed is a new image, an added one has no record
yet, a removed one is not looked up; what is stored of the others stays.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads, read_file
from anyregion.data.store.fill import fill_shards
from anyregion.data.store.shards import (
    NOWHERE,
    Columns,
    Keys,
    Record,
    ShardError,
    Shards,
    ShardSpec,
    short_hash,
)
from anyregion.errors import InputError, SetAside, require
from anyregion.files import read_json, write_json, writing
from anyregion.images import read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store.image_list import UNREACHABLE, ImageList, image_keys
from anyregion.r2o.superpixels import LabelMap, PriorConfig, read_label_map, segment
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
        if not 0 <= image < len(self._row_of):
            raise InputError(f"{self.folder}: there is no image {image} of {len(self)}")
        if (reason := self._skipped.get(image)) is not None:
            raise InputError(f"{self.images.path(image)}: set aside: {reason}")
        try:
            return self.shards.get(int(self._shard_of[image])).read(int(self._row_of[image]))
        except ShardError:
            # a damaged cache costs SLIC's 37 ms, never a training of days
            self.recomputed += 1
            content = read_file(self.images.path(image))
            return compute_labels(
                self.images, image, content=content, size=self.size, prior=self.prior
            )

    def _fill(self, keys: NDArray[np.uint64], workers: int, progress: Progress) -> None:
        """Compute the maps of the images `missing`.

        Processes with the same images share the work, shard by shard; with other images in the
        same store, each does its own.
        """
        starts = range(0, len(self.missing), IMAGES_PER_SHARD)
        chunks = [self.missing[start : start + IMAGES_PER_SHARD] for start in starts]
        specs: list[ShardSpec] = []
        for chunk in chunks:
            # a name that other images do not get, and other processes with the same ones do
            path = self.folder / "shards" / f"{short_hash(keys[chunk].tobytes()).hex()}.safetensors"
            specs.append(ShardSpec(path, identity_of(self.size, self.prior), keys[chunk]))

        def compute(number: int) -> Iterator[Record | None]:
            # threads suffice: scikit-image lets others run while it computes
            return in_threads(self._record, chunks[number].tolist(), threads=workers)

        before = len(self) - len(self.missing)
        fill_shards(Shards(specs, self.shards.codec), compute, progress=progress, before=before)

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
                self.images, image, content=content, size=self.size, prior=self.prior
            )
        except InputError as error:
            return Record(reason=str(error).removeprefix(f"{path}: "))
        return Record((pack(labels),))


def compute_labels(
    images: ImageList, image: int, *, content: bytes, size: int, prior: PriorConfig
) -> LabelMap:
    """The label map of one image, from the `content` of its file.

    Raises:
        InputError: the image, or the label map that was made for it, cannot be used.
    """
    path = images.path(image)
    try:
        pixels = read_image(content)
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


class LabelMapCodec:
    """A `Codec`: records of one part, an image's label map `(size, size)`, compressed by `pack`.

    Keys say which state of which image a map belongs to (`image_keys`). Columns: `keys` uint64,
    `ends` int64 (where each record ends in the array `maps`), `checks` uint32 (`checksum`).
    """

    format = "anyregion.label-maps/1"
    # 20 bytes a map, read when a shard opens: 330,000 maps open in half a second
    # (docs/design/priors.md)
    columns: tuple[str, ...] = ("keys", "ends", "checks")
    header_entry: str | None = "about"

    def __init__(self, size: int) -> None:
        self.size = size

    def header(self, keys: Keys, records: Sequence[Record]) -> dict[str, Any]:
        reasons = {str(row): r.reason for row, r in enumerate(records) if r.reason is not None}
        return {"set_aside": reasons}

    def encode(self, keys: Keys, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
        contents: list[bytes] = [record.parts[0] if record.parts else b"" for record in records]
        pairs = zip(keys.tolist(), contents, strict=True)
        return {
            "keys": keys,
            "ends": np.cumsum([len(content) for content in contents], dtype=np.int64),
            "checks": np.array([checksum(key, content) for key, content in pairs], dtype=np.uint32),
            "maps": np.frombuffer(b"".join(contents), dtype=np.uint8),
        }

    def open(self, file: Any, header: Mapping[str, Any], columns: Columns) -> LabelMapRecords:
        return LabelMapRecords(file, header, columns, self.size)

    def cure(self, path: Path) -> str:
        return "it is computed anew when the store is next opened"


class LabelMapRecords:
    """The label maps in an open shard, as `OpenRecords`."""

    parts = 1

    def __init__(self, file: Any, header: Mapping[str, Any], columns: Columns, size: int) -> None:
        self.keys: Keys = columns["keys"]  # (n,), as the other two
        self._ends: NDArray[np.int64] = columns["ends"]
        self._checks: NDArray[np.uint32] = columns["checks"]
        self.skipped: dict[int, str] = {
            int(self.keys[int(row)]): reason for row, reason in header["set_aside"].items()
        }
        self._size = size
        self._maps = file.get_slice("maps")
        if self._maps.get_shape() != [int(self._ends[-1]) if len(self._ends) else 0]:
            raise ValueError("it is cut off")

    def read(self, row: int, part: int) -> LabelMap:
        start, end = (int(self._ends[row - 1]) if row else 0), int(self._ends[row])
        content: memoryview = self._maps[start:end].data
        if checksum(int(self.keys[row]), content) != int(self._checks[row]):
            raise ValueError(f"record {row} does not have its checksum")
        try:
            numbers = zlib.decompress(content)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        # the width of an id shows in the length alone: one byte, else two
        if len(numbers) == self._size**2:
            return np.frombuffer(numbers, dtype=np.uint8).reshape(self._size, -1).copy()
        labels = np.frombuffer(numbers, dtype="<u2").reshape(self._size, self._size)
        return labels.astype(np.uint16)


def pack(labels: LabelMap) -> bytes:
    """A label map compressed: about 4.4 KB for 100 superpixels at 224."""
    # little-endian on every machine; superpixels are runs of equal numbers, which zlib packs well
    return zlib.compress(labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes(), 6)


def checksum(key: int, content: bytes | memoryview) -> int:
    """A checksum that also tells one image's record from another's."""
    # against damage, not against people: CRC32 is quick, and 4 bytes of a record's 4,000
    return zlib.crc32(content, zlib.crc32(key.to_bytes(8, "little")))
