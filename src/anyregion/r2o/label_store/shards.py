"""One shard of a label store: the compressed label maps of some images in one safetensors file.

A shard is written once and never changed, so that who reads it is not disturbed by who fills.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anyregion.data.store.load_sample import short_hash
from anyregion.errors import InputError
from anyregion.files import atomic_path, writing
from anyregion.r2o.superpixels import LabelMap

FORMAT = "anyregion.label-maps/1"
_ABOUT = "about"
_COLUMNS = ("keys", "ends", "checks")
# what a file with wrong bytes in its header may raise, here and in the library
_BROKEN = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError,
)  # fmt: skip


class MapShardError(InputError):
    """A shard of label maps is missing, truncated or damaged."""


def pack(labels: LabelMap) -> bytes:
    """A label map compressed: about 4.4 KB for 100 superpixels at 224."""
    return zlib.compress(labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes(), 6)


def unpack(content: bytes | memoryview, size: int) -> LabelMap:
    """What `pack` made, `(size, size)`; ValueError or zlib.error where it is something else."""
    plain = zlib.decompress(content)
    if len(plain) == size * size:
        return np.frombuffer(plain, dtype=np.uint8).reshape(size, size).copy()
    labels = np.frombuffer(plain, dtype="<u2").reshape(size, size)
    return labels.astype(np.uint16)


def check_of(key: int, content: bytes | memoryview) -> int:
    """A checksum that also tells one image's record from another's."""
    return zlib.crc32(content, zlib.crc32(key.to_bytes(8, "little")))


def write_shard(
    path: Path, identity: str, keys: NDArray[np.uint64], records: Sequence[bytes | str]
) -> None:
    """Write the records of the images `keys`: packed maps, or why an image was set aside.

    Raises:
        AnyRegionError: it cannot be written.
    """
    contents = [record if isinstance(record, bytes) else b"" for record in records]
    pairs = zip(keys.tolist(), contents, strict=True)
    arrays: dict[str, NDArray[Any]] = {
        "keys": keys,
        "ends": np.cumsum([len(content) for content in contents], dtype=np.int64),
        "checks": np.array([check_of(key, content) for key, content in pairs], dtype=np.uint32),
        "maps": np.frombuffer(b"".join(contents), dtype=np.uint8),
    }
    about = {
        "format": FORMAT,
        "identity": identity,
        "set_aside": {
            str(i): record for i, record in enumerate(records) if isinstance(record, str)
        },
    }
    # one entry: the library keeps several in no order, and equal stores shall be equal files
    text = json.dumps({**about, "hash": _hash(about, arrays)})
    content = save(arrays, metadata={_ABOUT: text})
    # written here, not by the library, whose errors do not tell a full disk from others
    with writing(path), atomic_path(path) as temporary:
        temporary.write_bytes(content)


class MapShard:
    """An open shard. Opening checks its columns; a record is checked whenever it is read.

    The file is mapped into memory: an open shard keeps no file handle. Safe in several threads.

    Attributes:
        keys: `(n,)` uint64, of the images; see `image_keys`.
        ends: `(n,)` int64, where each record ends.
        checks: `(n,)` uint32, of each record; see `check_of`.
        set_aside: rows without a map, and why.

    Raises:
        MapShardError: missing, truncated, damaged, or of another store.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        try:
            file = _open(path)
            about: dict[str, Any] = json.loads((file.metadata() or {})[_ABOUT])
            columns = {name: file.get_tensor(name) for name in _COLUMNS}
            stated = about.pop("hash")
            if stated != _hash(about, columns):
                raise ValueError("its columns do not have their hash")
            if (about["format"], about["identity"]) != (FORMAT, identity):
                raise ValueError("it belongs to another store")
            self._maps = file.get_slice("maps")
            last = int(columns["ends"][-1]) if len(columns["ends"]) else 0
            if self._maps.get_shape() != [last]:
                raise ValueError("it is cut off")
        except _BROKEN as error:
            raise MapShardError(f"{path}: missing or damaged ({error})") from None
        self.keys: NDArray[np.uint64] = columns["keys"]
        self.ends: NDArray[np.int64] = columns["ends"]
        self.checks: NDArray[np.uint32] = columns["checks"]
        self.set_aside: dict[int, str] = {int(i): text for i, text in about["set_aside"].items()}

    def read(self, row: int, size: int) -> LabelMap:
        """One map, `(size, size)`, the caller's own copy.

        Raises:
            MapShardError: it is not what was written.
        """
        start, end = (int(self.ends[row - 1]) if row else 0), int(self.ends[row])
        try:
            found: NDArray[np.uint8] = self._maps[start:end]
            content = found.data
            if check_of(int(self.keys[row]), content) != int(self.checks[row]):
                raise ValueError(f"record {row} does not have its checksum")
            return unpack(content, size)
        except (*_BROKEN, zlib.error) as error:
            raise MapShardError(f"{self.path}: damaged ({error})") from None


def _open(path: Path) -> Any:
    return safe_open(path, framework="numpy")


def _hash(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    text = json.dumps(dict(about), sort_keys=True)
    return short_hash(text.encode(), *(arrays[name].tobytes() for name in _COLUMNS)).hex()
