"""How label maps lie in a shard: compressed, one after the other, each with its checksum."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.store.shards import Columns, Keys, Record
from anyregion.r2o.superpixels import LabelMap


class LabelMapCodec:
    """A `Codec`: records of one part, the label map of an image, compressed by `pack`.

    Keys say which state of which image a map belongs to (`image_keys`). Columns: `keys` uint64,
    `ends` int64 (where each record ends in the array `maps`), `checks` uint32 (`checksum`).

    Args:
        size: side of the maps.
    """

    format = "anyregion.label-maps/1"
    # 20 bytes a map, read when a shard opens: 330,000 maps open in half a second (docs/priors.md)
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
    """The label maps in an open shard.

    Attributes:
        keys, skipped, parts: see `OpenRecords`.
    """

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
        return _unpack(content, self._size)


def pack(labels: LabelMap) -> bytes:
    """A label map compressed: about 4.4 KB for 100 superpixels at 224."""
    # little-endian on every machine; superpixels are runs of equal numbers, which zlib packs well
    return zlib.compress(labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes(), 6)


def _unpack(content: memoryview, size: int) -> LabelMap:
    """What `pack` made, `(size, size)`; ValueError where it is something else."""
    try:
        numbers = zlib.decompress(content)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(numbers) == size * size:
        return np.frombuffer(numbers, dtype=np.uint8).reshape(size, size).copy()
    return np.frombuffer(numbers, dtype="<u2").reshape(size, size).astype(np.uint16)


def checksum(key: int, content: bytes | memoryview) -> int:
    """A checksum that also tells one image's record from another's."""
    # against damage, not against people: CRC32 is quick, and 4 bytes of a record's 4,000
    return zlib.crc32(content, zlib.crc32(key.to_bytes(8, "little")))
