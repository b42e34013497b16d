"""Images, case by case: each gives the documented pixels or an error that names it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion import InputError, read_image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def coded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(orientation: int = 6, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6 is shown turned by 90 degrees
    return coded(Image.fromarray(RGB), "PNG", exif=exif, **options)


def odd_exif() -> bytes:
    """Turned, and with another tag whose value is of a type that cannot be written again."""
    tags = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x0129, 5, 1, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + tags + struct.pack("<I", 0)
    return coded(Image.fromarray(RGB), "PNG", exif=exif)


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def animated() -> bytes:
    frames = [Image.new("RGB", (20, 12), c) for c in ("red", "green", "blue")]
    return coded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(16)


def sixteen_bit() -> bytes:
    return coded(Image.fromarray((np.arange(240).reshape(12, 20) * 256).astype(np.uint16)))


JPEG = coded(Image.fromarray(RGB), "JPEG")

REFUSED_IMAGES: dict[str, tuple[Any, str]] = {
    "missing file": (Path("nowhere.jpg"), "no such file"),
    "zero bytes": (b"", "not an image"),
    "text": (b"hello, I am no image", "not an image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated png": (coded(Image.fromarray(RGB))[:60], "broken or truncated"),
    "decompression bomb": (bomb(), "pixels"),
    "float TIFF": (coded(Image.new("F", (20, 12), 0.5), "TIFF"), "no stated range"),
    "int32 TIFF": (coded(Image.new("I", (20, 12), 200), "TIFF"), "no stated range"),
    "an open file": (io.BytesIO(JPEG), "cannot read a BytesIO"),
    "nothing": (None, "cannot read a NoneType"),
    "float array": (RGB / 255, "uint8"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"\(height, width, 3\)"),
    "array without pixels": (np.zeros((0, 4, 3), np.uint8), r"\(height, width, 3\)"),
    "one row of numbers": (np.zeros(4, np.uint8), r"\(height, width, 3\)"),
}


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_image_refused(case: str) -> None:
    image, reason = REFUSED_IMAGES[case]
    with pytest.raises(InputError, match=reason):
        read_image(image)


def grey(value: int) -> Callable[[np.ndarray], bool]:
    return lambda pixels: bool((pixels == value).all())


READ_IMAGES: dict[str, tuple[Any, tuple[int, int], Callable[[Any], bool]]] = {
    "16-bit grey keeps its high byte": (
        sixteen_bit(),
        (12, 20),
        lambda p: (p[..., 0].ravel() == np.arange(240)).all() and (p[..., 0] == p[..., 2]).all(),
    ),
    "CMYK becomes RGB": (
        coded(Image.new("CMYK", (20, 12), (0, 255, 255, 0)), "JPEG"),
        (12, 20),
        lambda p: p[..., 0].min() > 240 and p[..., 1].max() < 15,
    ),
    "palette becomes RGB": (
        coded(palette()),
        (12, 20),
        lambda p: (p == np.asarray(palette().convert("RGB"))).all(),
    ),
    "transparency is laid on white": (
        coded(Image.new("RGBA", (20, 12), (0, 0, 0, 0))),
        (12, 20),
        grey(255),
    ),
    "transparent palette too": (
        coded(Image.new("P", (20, 12), 0), transparency=0),
        (12, 20),
        grey(255),
    ),
    "an animation's first frame": (
        animated(),
        (12, 20),
        lambda p: (p == [255, 0, 0]).all(),
    ),
    "EXIF turns the image": (
        rotated(),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "EXIF with another tag damaged": (
        odd_exif(),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "EXIF that is none": (
        coded(Image.fromarray(RGB), exif=b"garbage-garbage"),
        (12, 20),
        lambda p: (p == RGB).all(),
    ),
    "EXIF of no known turn": (rotated(9), (12, 20), lambda p: (p == RGB).all()),
    "TIFF turned once, not twice": (
        coded(Image.fromarray(RGB), "TIFF", exif=Image.open(io.BytesIO(rotated())).getexif()),
        (20, 12),
        lambda p: (p == np.rot90(RGB, -1)).all(),
    ),
    "premultiplied transparency": (
        Image.new("RGBA", (20, 12), (0, 0, 0, 0)).convert("RGBa"),
        (12, 20),
        grey(255),
    ),
    "one pixel": (np.full((1, 1, 3), 9, np.uint8), (1, 1), grey(9)),
    "grey array": (np.full((3, 4), 9, np.uint8), (3, 4), grey(9)),
    "bilevel": (coded(Image.new("1", (20, 12), 1)), (12, 20), grey(255)),
    "bytes of a file": (JPEG, (12, 20), lambda p: p.std() > 5),
}


@pytest.mark.parametrize("case", READ_IMAGES)
def test_image_rule(case: str) -> None:
    image, size, holds = READ_IMAGES[case]
    pixels = read_image(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)
    assert holds(pixels)


def test_a_frame_that_is_written_over_stays_as_it_was() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    pixels = read_image(frame)
    frame[:] = 255
    assert not pixels.any()
