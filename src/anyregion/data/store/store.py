"""The store of frozen features: a folder that is a whole training set, read at random."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import FeatureExtractor, Features
from anyregion.data.store.index import (
    INFO,
    StoreInfo,
    differences,
    hash_columns,
    read_index,
    read_info,
    to_columns,
    write_index,
)
from anyregion.data.store.shards import (
    HASH_BYTES,
    Columns,
    Keys,
    Record,
    Shards,
    ShardSpec,
    as_bytes,
    short_hash,
)
from anyregion.errors import InputError

# each keeps its file mapped, and a dictionary of its arrays' names
OPEN_SHARDS = 64


class Store:
    """Features of the images of one data set, computed before: a `FeatureReader`.

    Opening reads the annotations alone; see `Shards` for the rest. Safe in several threads, and in
    processes that are forked or that it is sent to.

    Attributes:
        folder: where it lies.
        info: what it was made of.
        annotations, fingerprint: see `FeatureReader`.
        shards: image `i` is row `i % info.images_per_shard` of shard `i // info.images_per_shard`.

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
        self.shards: Shards[Features] = Shards(
            _shard_specs(self.folder, self.info),
            FeatureCodec(mirrored=self.info.mirrored),
            open_shards,
        )
        self._options: dict[str, Any] = {"masks": masks, "open_shards": open_shards}

    def __len__(self) -> int:
        return self.info.images

    def __reduce__(self) -> Any:
        # the annotations are mapped from their file, and a copy would be as large as they
        return partial(Store, **self._options), (self.folder,)

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
        # by arithmetic: no shard but the image's own has to be opened
        number, row = divmod(image, self.info.images_per_shard)
        shard = self.shards.get(number)
        if (reason := shard.records.skipped.get(image)) is not None:
            name = self.annotations.file_names[image]
            raise InputError(f"{name}: set aside when the store was filled: {reason}")
        return shard.read(row, int(flipped))

    def set_aside(self) -> dict[int, str]:
        """The images that have no features, and why; `InputError` where a shard is damaged."""
        # the headers alone are read
        skipped: dict[int, str] = {}
        for number in range(len(self.shards)):
            skipped |= self.shards.open(number).records.skipped
        return skipped

    def usable(self) -> NDArray[np.int64]:
        """The images that have features, in order; `InputError` where a shard is damaged."""
        return np.setdiff1d(np.arange(len(self)), np.array(list(self.set_aside()), dtype=np.int64))


def create_store(
    folder: str | Path,
    annotations: Annotations,
    extractor: FeatureExtractor,
    *,
    mirrored: bool = True,
    images_per_shard: int = 64,
    notes: Mapping[str, Any] | None = None,
) -> Store:
    """Write the index of a new store, or open one that is there and would be the same.

    Args:
        folder: made where it is missing.
        annotations: copied into the store, with segmentations where they were read.
        extractor: whose features it is for.
        mirrored: also hold every image's mirror image.
        images_per_shard: a shard is what is lost when a filling process is killed, and is held in
            memory until it is written.
        notes: the caller's own, for `store.json`.

    Raises:
        InputError: annotations without any region but crowds; a store is there that was made of
            something else (says what differs).
        AnyRegionError: it cannot be written.
    """
    folder = Path(folder)
    if images_per_shard < 1:
        raise InputError("images_per_shard must be at least 1")
    if annotations.crowd.all():
        raise InputError(f"{folder}: the annotations hold no region that can be used")
    columns = to_columns(annotations)
    new = StoreInfo(
        fingerprint=extractor.fingerprint,
        extractor=dict(extractor.describe()),
        mirrored=mirrored,
        images_per_shard=images_per_shard,
        images=len(annotations),
        regions=len(annotations.boxes),
        columns=hash_columns(columns, annotations.categories),
        notes=dict(notes or {}),
    )
    if not (folder / INFO).exists():
        write_index(folder, new, columns, annotations.categories)
    # read even if just written: another process may have been first, with something else
    info, _ = read_info(folder)
    if reasons := differences(info, new):
        raise InputError(
            f"{folder}: holds a store of something else ({'; '.join(reasons)}); use another folder"
        )
    try:
        return Store(folder)
    except InputError:
        # the index is lost or damaged, and equal annotations give it again
        write_index(folder, new, columns, annotations.categories)
        return Store(folder)


def _shard_specs(folder: Path, info: StoreInfo) -> list[ShardSpec]:
    identity = info.identity  # a hash, computed once for all
    firsts = range(0, info.images, info.images_per_shard)
    return [
        ShardSpec(
            path=folder / "shards" / f"{number:06d}.safetensors",
            identity=identity,
            keys=np.arange(first, min(first + info.images_per_shard, info.images), dtype=np.uint64),
        )
        for number, first in enumerate(firsts)
    ]


FLIPPED = ".flipped"
_FILES, _RECORDS = "hashes.files", "hashes.records"


class FeatureCodec:
    """A `Codec`: records of one or two parts, the `Features` of an image and its mirror image.

    Keys are positions of images in the annotations; those of a shard follow each other. Arrays are
    named `12/tokens`, and `12/tokens.flipped` for the mirror image. Two columns hold the hashes of
    the image files and of the features.

    Args:
        mirrored: whether there are mirror images.
    """

    format = "anyregion.shard/1"
    columns: tuple[str, ...] = (_FILES, _RECORDS)
    header_entry: str | None = None

    def __init__(self, *, mirrored: bool) -> None:
        self.mirrored = mirrored

    def header(self, keys: Keys, records: Sequence[Record]) -> dict[str, Any]:
        pairs = zip(keys.tolist(), records, strict=True)
        reasons = {
            str(image): record.reason for image, record in pairs if record.reason is not None
        }
        return {"first": str(keys[0]), "set_aside": json.dumps(reasons)}

    def encode(self, keys: Keys, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        # (n, parts, 16), zeros for what is set aside
        hashes = np.zeros((len(keys), 1 + self.mirrored, HASH_BYTES), dtype=np.uint8)
        for row, (image, record) in enumerate(zip(keys.tolist(), records, strict=True)):
            for part, features in enumerate(record.parts):
                hashes[row, part] = np.frombuffer(hash_features(features), dtype=np.uint8)
                for name, values in features.items():
                    arrays[_array_name(image, name, part)] = np.ascontiguousarray(values)
        files = np.frombuffer(b"".join(record.file_hash for record in records), dtype=np.uint8)
        arrays[_FILES], arrays[_RECORDS] = files.reshape(len(keys), HASH_BYTES), hashes
        return arrays

    def open(self, file: Any, header: Mapping[str, Any], columns: Columns) -> FeatureRecords:
        return FeatureRecords(file, header, columns)

    def cure(self, path: Path) -> str:
        return f"`anyregion cache --out {path.parent.parent} --verify --repair` computes it"


class FeatureRecords:
    """The features in an open shard.

    Attributes:
        keys, skipped, parts: see `OpenRecords`.
        file_hashes: `(n, 16)` uint8, of the image files as they were read.
    """

    def __init__(self, file: Any, header: Mapping[str, Any], columns: Columns) -> None:
        first, reasons = int(header["first"]), json.loads(header["set_aside"])
        self.file_hashes: NDArray[np.uint8] = columns[_FILES]  # (n, 16)
        self._hashes: NDArray[np.uint8] = columns[_RECORDS]  # (n, parts, 16)
        self.keys = np.arange(first, first + len(self.file_hashes), dtype=np.uint64)
        self.skipped: dict[int, str] = {int(image): reason for image, reason in reasons.items()}
        self.parts: int = self._hashes.shape[1]
        self._file = file
        # (image, part) to names of arrays; names without a slash are columns
        self._names: dict[tuple[int, int], list[str]] = {}
        for text in file.keys():  # noqa: SIM118 (the library's file is no mapping)
            image, _, name = text.partition("/")
            if name:
                record = (int(image), int(name.endswith(FLIPPED)))
                self._names.setdefault(record, []).append(name.removesuffix(FLIPPED))

    def read(self, row: int, part: int) -> Features:
        image = int(self.keys[row])
        names = self._names.get((image, part), ())
        features = {name: self._file.get_tensor(_array_name(image, name, part)) for name in names}
        if hash_features(features) != self._hashes[row, part].tobytes():
            which = f"the mirror image of image {image}" if part else f"image {image}"
            raise ValueError(f"the features of {which} do not have their hash")
        return features


def hash_features(features: Features) -> bytes:
    """16 bytes that differ where a name, a type, a shape or a number does."""
    parts: list[bytes | memoryview] = []
    for name in sorted(features):
        array = np.ascontiguousarray(features[name])
        parts += [f"{name} {array.dtype.str} {array.shape};".encode(), as_bytes(array)]
    return short_hash(*parts)


def _array_name(image: int, name: str, part: int) -> str:
    return f"{image}/{name}{FLIPPED if part else ''}"
