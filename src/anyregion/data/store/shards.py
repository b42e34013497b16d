"""One shard of a store: the features of some images in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from anyregion.data.features import Features
from anyregion.data.store.columns import as_bytes
from anyregion.data.store.load_sample import HASH_BYTES, short_hash
from anyregion.errors import AnyRegionError, InputError
from anyregion.files import atomic_path, writing

FORMAT = "anyregion.shard/1"
FLIPPED = ".flipped"
_FILES, _RECORDS = "hashes.files", "hashes.records"
# what a file with wrong bytes in its header may raise, here and in the library
_BROKEN = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError,
)  # fmt: skip
NO_HASH = bytes(HASH_BYTES)
"""Stands for the hash of a file that could not be read, and of features that are not there."""


class ShardError(InputError):
    """A shard is missing, truncated or damaged."""


@dataclass(frozen=True)
class ShardKey:
    """Which shard of which store.

    Attributes:
        identity: of the store (annotations, extractor, mirror images).
        first: the first image in it.
        images: how many follow each other.
        mirrored: whether there are records of mirror images.
    """

    identity: str
    first: int
    images: int
    mirrored: bool


@dataclass(frozen=True, eq=False)
class Entry:
    """What a shard holds of one image.

    Attributes:
        file_hash: of the image file's bytes, or `NO_HASH`.
        features: of the image, and of its mirror image if the store has them; none if set aside.
        reason: why the image was set aside, or None.
    """

    file_hash: bytes
    features: tuple[Features, ...] = ()
    reason: str | None = None


def write_shard(path: Path, key: ShardKey, entries: Sequence[Entry]) -> None:
    """Write the entries of `key`'s images, in their order, whole or not at all.

    Raises:
        AnyRegionError: it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    hashes = np.zeros((key.images, 1 + key.mirrored, HASH_BYTES), dtype=np.uint8)
    for i, entry in enumerate(entries):
        for flipped, features in enumerate(entry.features):
            hashes[i, flipped] = np.frombuffer(hash_features(features), dtype=np.uint8)
            for name, values in features.items():
                arrays[_name(key.first + i, name, bool(flipped))] = np.ascontiguousarray(values)
    files = np.frombuffer(b"".join(e.file_hash for e in entries), dtype=np.uint8)
    arrays[_FILES], arrays[_RECORDS] = files.reshape(key.images, HASH_BYTES), hashes
    aside = {str(key.first + i): e.reason for i, e in enumerate(entries) if e.reason is not None}
    metadata = {
        "format": FORMAT,
        "identity": key.identity,
        "first": str(key.first),
        "set_aside": json.dumps(aside),
    }
    metadata["hash"] = _hash_header(metadata, arrays)
    with writing(path), atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata=metadata)
        except SafetensorError as error:  # what the library makes of an `OSError`
            raise AnyRegionError(f"{path}: cannot be written ({error})") from None


class Shard:
    """An open shard. What is read of it is held against its hash, every time.

    That costs about half a millisecond for a megabyte; checking whole shards when they are opened
    would make the first steps of a training wait, and not notice what breaks later.

    Attributes:
        set_aside: images that have no features, and why.
        file_hashes: `(images, 16)` uint8, of the image files as they were read.

    Raises:
        ShardError: missing, truncated, damaged, or of another store.
    """

    def __init__(self, path: Path, key: ShardKey) -> None:
        self.path, self.key = path, key
        if not path.is_file():
            raise ShardError(f"{path}: missing; {self._cure()}")
        try:
            self._file = _open(path)
            metadata: dict[str, str] = self._file.metadata() or {}
            hashes = {name: self._file.get_tensor(name) for name in (_FILES, _RECORDS)}
            stated = metadata.pop("hash", "")
            if stated != _hash_header(metadata, hashes):
                raise ValueError("its header does not have its hash")
            found = (metadata["identity"], int(metadata["first"]), len(hashes[_FILES]))
            if metadata["format"] != FORMAT or found != (key.identity, key.first, key.images):
                raise ValueError("it belongs to another store, or to another place in it")
            aside: Mapping[str, str] = json.loads(metadata["set_aside"])
            self._names = _records(self._file.keys())
        except _BROKEN as error:
            raise self._damaged(str(error)) from None
        self.set_aside = {int(image): reason for image, reason in aside.items()}
        self.file_hashes: NDArray[np.uint8] = hashes[_FILES]
        self._hashes: NDArray[np.uint8] = hashes[_RECORDS]

    def read(self, image: int, *, flipped: bool) -> Features:
        """The arrays of one image that was not set aside; they are the caller's own copies.

        Raises:
            ShardError: they are not what was written.
        """
        names = self._names.get((image, flipped), ())
        try:
            found = {name: self._file.get_tensor(_name(image, name, flipped)) for name in names}
        except _BROKEN as error:
            raise self._damaged(str(error)) from None
        if hash_features(found) != self._hashes[image - self.key.first, int(flipped)].tobytes():
            which = f"the mirror image of image {image}" if flipped else f"image {image}"
            raise self._damaged(f"the features of {which} do not have their hash")
        return found

    def check(self) -> None:
        """Read everything once.

        Raises:
            ShardError: something is not what was written.
        """
        for image in range(self.key.first, self.key.first + self.key.images):
            if image not in self.set_aside:
                for flipped in range(self._hashes.shape[1]):
                    self.read(image, flipped=bool(flipped))

    def _damaged(self, reason: str) -> ShardError:
        return ShardError(f"{self.path}: damaged ({reason}); {self._cure()}")

    def _cure(self) -> str:
        return f"`anyregion cache --out {self.path.parent.parent} --verify --repair` computes it"


def _open(path: Path) -> Any:
    return safe_open(path, framework="numpy")


def _records(stored: Iterable[str]) -> dict[tuple[int, bool], list[str]]:
    """Names in the file to the names of the arrays of each image and mirror image."""
    found: dict[tuple[int, bool], list[str]] = {}
    for text in stored:
        image, _, name = text.partition("/")
        if name:
            record = (int(image), name.endswith(FLIPPED))
            found.setdefault(record, []).append(name.removesuffix(FLIPPED))
    return found


def hash_features(features: Features) -> bytes:
    """16 bytes that differ where a name, a type, a shape or a number does."""
    parts: list[bytes | memoryview] = []
    for name in sorted(features):
        array = np.ascontiguousarray(features[name])
        parts += [f"{name} {array.dtype.str} {array.shape};".encode(), as_bytes(array)]
    return short_hash(*parts)


def _hash_header(metadata: Mapping[str, str], hashes: Mapping[str, NDArray[Any]]) -> str:
    text = json.dumps(dict(metadata), sort_keys=True)
    return short_hash(text.encode(), hashes[_FILES].tobytes(), hashes[_RECORDS].tobytes()).hex()


def _name(image: int, name: str, flipped: bool) -> str:
    return f"{image}/{name}{FLIPPED if flipped else ''}"
