"""The hash of a store: 16 bytes of SHA-256, of bytes and of arrays."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 16
# the hash of a file that could not be read, and of features that are not there
NO_HASH = bytes(HASH_BYTES)


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
