"""Label Studio's code of brush masks: a stream of bits over the bytes of an RGBA image.

A header holds the number of values (32 bits), the bits of a value less one (5) and four lengths of
runs in bits less one (4 each). Then come blocks: a bit whether one value is repeated, two bits
which length, the count less one in as many bits, and the value or the values. It is the format of
the `rle-pack` library. Alpha is the mask: each pixel is four values, of which the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.images import MAX_PIXELS

_VALUE_BITS = 8
_RUN_BITS = (3, 4, 8, 16)
_HEADER = 32 + 5 + 4 * 4


def decode_brush(codes: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask `(height, width)` of a list of bytes.

    Raises:
        InputError: no list of bytes, of another size, or a stream that ends too early.
    """
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(f"a brush mask of {height} x {width} pixels")
    try:
        # a list of texts or fractions would be cut down to bytes
        if not all(type(code) is int for code in codes):
            raise ValueError
        data = bytes(codes)
    except (TypeError, ValueError):
        raise InputError("a brush mask's rle is no list of bytes") from None
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise InputError("a brush mask's rle ends before the image does")
        # of at most eight bytes around the bits
        first, last = place >> 3, (place + count + 7) >> 3
        value = int.from_bytes(data[first:last], "big") >> (8 * last - place - count)
        place += count
        return value & ((1 << count) - 1)

    count = take(32)
    if count != 4 * height * width:
        raise InputError(f"a brush mask of {count / 4:g} pixels; the image has {height} x {width}")
    value_bits = take(5) + 1
    run_bits = [take(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint8)
    weights = 1 << np.arange(value_bits - 1, -1, -1, dtype=np.int64)
    done = 0
    while done < count:
        repeated = take(1)
        end = min(done + 1 + take(run_bits[take(2)]), count)
        if repeated:
            values[done:end] = take(value_bits) & 255
        else:
            # as many values as the block has, all at once
            length = end - done
            stop = place + length * value_bits
            if stop > len(bits):
                raise InputError("a brush mask's rle ends before the image does")
            block = bits[place:stop].reshape(length, value_bits)
            values[done:end] = (block @ weights) & 255
            place = stop
        done = end
    # the painting of several strokes leaves edges half transparent: Label Studio counts them in
    mask: NDArray[np.bool_] = values.reshape(height, width, 4)[:, :, 3] > 0
    return mask


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The list of bytes of a mask `(height, width)`: all four channels 255 inside, else 0."""
    pixels = np.asarray(mask, dtype=bool).reshape(-1)  # row by row
    edges = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, [len(pixels)]])
    lengths = 4 * np.diff(edges)  # (R,) values of each run
    values = np.where(pixels[edges[:-1]], 255, 0)
    # runs that are longer than the largest count are cut into pieces
    longest = 1 << _RUN_BITS[-1]
    pieces = -(-lengths // longest)
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    sizes = np.full(len(values), longest, dtype=np.int64)
    sizes[last] = lengths - (pieces - 1) * longest
    # (P,) the smallest count of bits that holds the length less one
    kinds = np.searchsorted([1 << bits for bits in _RUN_BITS], sizes)
    widths = 3 + np.array(_RUN_BITS)[kinds] + _VALUE_BITS  # bits of each block
    starts = _HEADER + np.concatenate([[0], np.cumsum(widths)])
    bits = np.zeros(starts[-1], dtype=np.uint8)
    header = 4 * len(pixels)
    for size, value in ((5, _VALUE_BITS - 1), *((4, n - 1) for n in _RUN_BITS)):
        header = header << size | value
    bits[:_HEADER] = [header >> (_HEADER - 1 - i) & 1 for i in range(_HEADER)]
    for kind, run_bits in enumerate(_RUN_BITS):
        rows = np.flatnonzero(kinds == kind)
        width = 3 + run_bits + _VALUE_BITS
        # repeated, which length, the length less one, the value
        block = (((4 | kind) << run_bits) + sizes[rows] - 1) << _VALUE_BITS | values[rows]
        shifts = np.arange(width - 1, -1, -1)
        bits[starts[rows][:, None] + np.arange(width)] = block[:, None] >> shifts & 1
    return np.packbits(bits).tolist()
