"""Images that look alike: a hash of each, and pairs whose hashes differ in few bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.images import Pixels

Hashes = NDArray[np.uint64]

MOST_BITS = 3
"""Bits in which the hashes of near duplicates may differ."""
# a hash is cut into one part more: of two that differ in so few bits, one part is the same
_PARTS = MOST_BITS + 1
_PART_BITS = 64 // _PARTS
# of one part that very many images share (a grey wall, say) no more than so many are compared with
# each other at once: 8 MB
_AT_ONCE = 1024
_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


def image_hash(pixels: Pixels) -> int:
    """A number of 64 bits, nearly the same for an image, its smaller copy and its poorer JPEG.

    The difference hash (dHash): whether each of 8 x 9 cells is brighter than the next in its row.

    Args:
        pixels: the image.
    """
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int16)
    bits = (cells[:, :-1] > cells[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Hashes) -> NDArray[np.int64]:
    """Pairs of images `(P, 2)`, ascending, whose hashes differ in at most `MOST_BITS` bits; exact.

    Of images with one and the same hash each is paired with the first, which alone is paired with
    others: a thousand copies are a thousand pairs, not half a million. Images without any detail (a
    hash of 0) are left out: all of those would be one.

    Args:
        hashes: `(N,)`.
    """
    values, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    copies = np.flatnonzero((first[group] != np.arange(len(hashes))) & (hashes != 0))
    pairs = [np.stack([first[group[copies]], copies], axis=1)]
    for part in range(_PARTS):
        shift, mask = np.uint64(part * _PART_BITS), np.uint64(2**_PART_BITS - 1)
        keys = (values >> shift) & mask
        order = np.argsort(keys, kind="stable")
        order = order[values[order] != 0]
        starts = np.flatnonzero(np.diff(keys[order])) + 1
        for rows in np.split(order, starts):
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                others = rows[start:]
                differing = _count_bits(values[some][:, None] ^ values[others])
                i, j = np.nonzero(differing <= MOST_BITS)
                later = j > i  # each pair once, and none with itself
                pairs.append(np.stack([first[some[i[later]]], first[others[j[later]]]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each of `(N, M)` are set; numpy has this from version 2 on."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 8)
    counts: NDArray[np.int64] = _BITS_OF_BYTE[octets].sum(axis=-1)
    return counts
