"""The shards of a store: safetensors files of records that are checked whenever they are read.

Stores of features and of label maps are both folders of shards. What they share is here: a header
with its hash, which store and which records a file belongs to, and which records are set aside.
How records lie in a file's arrays is up to a `Codec`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anyregion.errors import InputError
from anyregion.files import atomic_path, order_metadata, writing

Content = TypeVar("Content", covariant=True)
Columns: TypeAlias = Mapping[str, NDArray[Any]]
Keys: TypeAlias = NDArray[np.uint64]

# what a file with wrong bytes in its header may raise, here and in the library
_BROKEN = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError,
)  # fmt: skip
HASH_BYTES = 16
# the hash of a file that could not be read, and of features that are not there
NO_HASH = bytes(HASH_BYTES)
# the shard and the row of a record that no shard has
NOWHERE = -1


class ShardError(InputError):
    """A shard is missing, truncated, damaged, or of another store.

    Attributes:
        reason: the error's text without the file and the cure.
    """

    reason: str = ""


@dataclass(frozen=True, eq=False)
class ShardSpec:
    """Which shard of which store.

    Attributes:
        path: its file, there or to be written.
        identity: of the store; every shard repeats it.
        keys: `(n,)` uint64, the records that belong into it; None where the file alone knows.
    """

    path: Path
    identity: str
    keys: Keys | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """What is stored of one image.

    Attributes:
        parts: contents, as the codec's `encode` takes them; none if the image is set aside.
        reason: why it is set aside, or None.
        file_hash: of the image file's bytes, for codecs that keep it.
    """

    parts: tuple[Any, ...] = ()
    reason: str | None = None
    file_hash: bytes = NO_HASH


class OpenRecords(Protocol[Content]):
    """The records of an open shard.

    Attributes:
        keys: `(n,)` uint64, of the rows.
        skipped: keys of the records without contents, and why.
        parts: contents of one record.
    """

    keys: Keys
    skipped: dict[int, str]
    parts: int

    def read(self, row: int, part: int) -> Content:
        """One content, the caller's own copy; ValueError where it is not what was written."""


class Codec(Protocol[Content]):
    """How records lie in the arrays and the header of a shard.

    Attributes:
        format: name and version, stated in every shard.
        columns: the small arrays that a shard reads when it is opened; the header's hash covers
            them.
        header_entry: the entry of the file's metadata with the header as one JSON text. None: each
            statement of the header is an entry of its own.
    """

    format: str
    columns: tuple[str, ...]
    header_entry: str | None

    def header(self, keys: Keys, records: Sequence[Record]) -> dict[str, Any]:
        """What the header states beside format and identity: which records are set aside."""

    def encode(self, keys: Keys, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
        """The arrays of a shard, `columns` among them."""

    def open(self, file: Any, header: Mapping[str, Any], columns: Columns) -> OpenRecords[Content]:
        """The records of an open safetensors file; ValueError where they are malformed."""

    def cure(self, path: Path) -> str:
        """What to do about a damaged shard, for error messages."""


def write_shard(spec: ShardSpec, codec: Codec[Any], records: Sequence[Record]) -> None:
    """Write the records of `spec.keys`, in their order, whole or not at all."""
    if spec.keys is None:
        raise ValueError(f"{spec.path}: written without keys")
    arrays = codec.encode(spec.keys, records)
    header = {"format": codec.format, "identity": spec.identity, **codec.header(spec.keys, records)}
    header["hash"] = _hash_header(header, arrays, codec)
    entries = header if codec.header_entry is None else {codec.header_entry: json.dumps(header)}
    content = save(arrays, metadata=entries)
    # written here, not by the library, whose errors do not tell a full disk from others; moved into
    # place when whole, so that who reads is not disturbed by who fills
    with writing(spec.path), atomic_path(spec.path) as temporary:
        temporary.write_bytes(content)
        order_metadata(temporary)


class Shard(Generic[Content]):
    """An open shard. Its header and columns are checked when it opens, a record when it is read.

    The file is mapped into memory: an open shard keeps no file handle. Safe in several threads.

    Attributes:
        spec: which one.
        records: see `OpenRecords`.

    Raises:
        ShardError: missing, truncated, damaged, or of another store.
    """

    def __init__(self, spec: ShardSpec, codec: Codec[Content]) -> None:
        self.spec, self._codec = spec, codec
        if not spec.path.is_file():
            raise self._error("missing")
        try:
            file: Any = safe_open(spec.path, framework="numpy")
            metadata: dict[str, str] = file.metadata() or {}
            header: dict[str, Any] = (
                metadata if codec.header_entry is None else json.loads(metadata[codec.header_entry])
            )
            columns = {name: file.get_tensor(name) for name in codec.columns}
            if header.pop("hash", "") != _hash_header(header, columns, codec):
                raise ValueError("its header does not have its hash")
            if (header["format"], header["identity"]) != (codec.format, spec.identity):
                raise ValueError("it belongs to another store")
            self.records: OpenRecords[Content] = codec.open(file, header, columns)
            # fewer than the spec's: an image that could not be read just now has no record yet
            if spec.keys is not None and not np.isin(self.records.keys, spec.keys).all():
                raise ValueError("it belongs to another place in its store")
        except _BROKEN as error:
            raise self._error(f"damaged ({error})") from None

    def read(self, row: int, part: int = 0) -> Content:
        """One content of a record that is not set aside, the caller's own copy.

        Raises:
            ShardError: it is not what was written.
        """
        # here, not for all records when the shard opens: that would make the first steps of a
        # training wait, and not notice what breaks later. Half a millisecond for a megabyte
        try:
            return self.records.read(row, part)
        except _BROKEN as error:
            raise self._error(f"damaged ({error})") from None

    def check(self) -> None:
        """Read everything once; `ShardError` where something is not what was written."""
        for row, key in enumerate(self.records.keys.tolist()):
            if key not in self.records.skipped:
                for part in range(self.records.parts):
                    self.read(row, part)

    def _error(self, reason: str) -> ShardError:
        path = self.spec.path
        error = ShardError(f"{path}: {reason}; {self._codec.cure(path)}")
        error.reason = reason
        return error


class Shards(Generic[Content]):
    """All shards of one store, opened when they are needed and then kept open.

    Safe in several threads, and in processes that are forked or that it is sent to.

    Attributes:
        specs: of each shard.
        codec: of their records.

    Args:
        specs, codec: see above.
        open_at_most: those used longest ago are closed; None keeps all open.
    """

    def __init__(
        self, specs: Sequence[ShardSpec], codec: Codec[Content], open_at_most: int | None = None
    ) -> None:
        self.specs, self.codec = specs, codec
        self._limit = open_at_most
        self._open: OrderedDict[int, Shard[Content]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.specs)

    def __reduce__(self) -> Any:
        # neither mapped files nor locks can be sent to another process
        return Shards, (self.specs, self.codec, self._limit)

    def open(self, number: int) -> Shard[Content]:
        """Open a shard anew, whatever is open already. Raises as `Shard` does."""
        return Shard(self.specs[number], self.codec)

    def get(self, number: int) -> Shard[Content]:
        """The open shard `number`; opened where it is not. Raises as `open` does."""
        with self._lock:
            if (shard := self._open.get(number)) is not None:
                self._open.move_to_end(number)
                return shard
        shard = self.open(number)  # not under the lock: other threads read on
        with self._lock:
            self._open[number] = shard
            while self._limit is not None and len(self._open) > max(1, self._limit):
                self._open.popitem(last=False)
        return shard

    def locate(self, keys: Keys) -> tuple[NDArray[np.int32], NDArray[np.int32], dict[int, str]]:
        """Where the records of `keys`, `(N,)`, lie. Opens every shard; damaged ones count as empty.

        Returns:
            Shard and row of each, `(N,)`, `NOWHERE` where there is none; the keys of all records
            that are set aside, and why.
        """
        stored: list[Keys] = []
        places: list[NDArray[np.int32]] = []  # (2, n) shard and row of each record
        skipped: dict[int, str] = {}
        # opened anew and closed: columns alone are kept, of a thousand shards at ImageNet's size
        for number in range(len(self)):
            try:
                records = self.open(number).records
            except ShardError:
                continue  # its images have no record then, and are computed anew
            rows = np.arange(len(records.keys), dtype=np.int32)
            stored.append(records.keys)
            places.append(np.stack([np.full_like(rows, number), rows]))
            skipped |= records.skipped
        located = np.full((2, len(keys)), NOWHERE, dtype=np.int32)
        if stored:
            all_keys = np.concatenate(stored)  # (K,) of all shards, in no order
            order = np.argsort(all_keys, kind="stable")
            nearest = np.searchsorted(all_keys, keys, sorter=order).clip(max=len(all_keys) - 1)
            position = order[nearest]  # (N,) where each key would lie in `all_keys`
            is_stored = all_keys[position] == keys
            located[:, is_stored] = np.concatenate(places, axis=1)[:, position[is_stored]]
        return located[0], located[1], skipped


def _hash_header(header: Mapping[str, Any], arrays: Columns, codec: Codec[Any]) -> str:
    text = json.dumps(dict(header), sort_keys=True)
    return short_hash(text.encode(), *(arrays[name].tobytes() for name in codec.columns)).hex()


def short_hash(*parts: bytes | memoryview) -> bytes:
    """The first 16 bytes of SHA-256 of all parts, one after the other."""
    # SHA-256, because processors have instructions for it, as for no other hash of hashlib
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()[:HASH_BYTES]


def hash_array(array: NDArray[Any]) -> bytes:
    """16 bytes that differ where type, shape or a number does."""
    contiguous = np.ascontiguousarray(array)
    return short_hash(f"{contiguous.dtype.str} {contiguous.shape};".encode(), as_bytes(contiguous))


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data
