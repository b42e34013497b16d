"""How the features of images lie in a shard: one array per image and name, mirror images beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.features import Features
from anyregion.data.store.hashing import HASH_BYTES, as_bytes, short_hash
from anyregion.data.store.shards import Columns, Keys, Record

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
