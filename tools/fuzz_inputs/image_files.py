"""Damaged images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from fuzz_inputs.originals import Originals, Rng, Words, photo, picture_words, recognize_words
from fuzz_inputs.spoiling import spoil_bytes

# with Pillow's names for them; those beyond the documented ones must be refused, not tried
FORMATS = [
    "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX",
    "SGI", "DDS", "EPS", "PDF", "IM", "MSP", "SPIDER", "XBM", "BLP", "ICNS", "QOI", "MPO",
]  # fmt: skip
SUFFIXES = [
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".jfif", ".avif", ".jp2",
    ".pgm", ".apng", ".mpo", ".heic", ".dds", ".eps",
]  # fmt: skip
MODES = ["RGB", "L", "P", "RGBA", "CMYK", "1", "I", "I;16", "F", "LA", "YCbCr", "LAB"]


def image_bytes(rng: Rng, format: str) -> bytes | None:
    """A small image of a format, in a mode that it can hold; None where Pillow writes none."""
    for mode in rng.sample(MODES, len(MODES)):
        buffer = io.BytesIO()
        try:
            image = (
                photo(rng.randrange(100)).convert("L").convert("I").convert("I;16")
                if mode == "I;16"
                else photo(rng.randrange(100)).convert(mode)
            )
            options: dict[str, Any] = {}
            if format in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.4:
                exif = Image.Exif()
                exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
                options["exif"] = exif
            image.save(buffer, format=format, **options)
        except Exception:
            continue
        return buffer.getvalue()
    return None


def images(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Damaged images of all formats, under names of the documented ones, beside a whole one."""
    photo(7).save(folder / "whole.png")
    for i in range(rng.randint(1, 3)):
        content = image_bytes(rng, rng.choice(FORMATS if rng.random() < 0.5 else FORMATS[:9]))
        if content is None:
            content = rng.choice(
                [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", b"%PDF-1.4"]
            )
        elif rng.random() < 0.9:
            content = spoil_bytes(rng, content)
        (folder / f"{i}{rng.choice(SUFFIXES)}").write_bytes(content)
    return recognize_words(
        folder, folder, "--box", "1,1,40,40", "--vocabulary", "cat,dog", *picture_words(rng)
    )
