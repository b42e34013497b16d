"""Images, case by case: each gives the documented pixels or an error that names it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from anyregion import InputError, images, read_image
from anyregion.data.image_files import in_threads
from anyregion.images import ImageSize, read_batches, read_single_channel, read_size

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


TWELVE_BITS = np.linspace(0, 4095, 240).astype(np.uint16).reshape(12, 20)


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
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "not one of the"),
    "PDF": (b"%PDF-1.4\n", "not one of the formats that are read: JPEG, PNG, "),
    "icon": (coded(Image.new("RGB", (16, 16)), "ICO"), "not one of the formats"),
    "DDS": (coded(Image.new("RGB", (16, 16)), "DDS"), "not one of the formats"),
    "PCX": (coded(Image.new("RGB", (16, 16)), "PCX"), "not one of the formats"),
    "TGA": (coded(Image.new("RGB", (16, 16)), "TGA"), "not one of the formats"),
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
    "16-bit grey of the whole range keeps its high byte": (
        sixteen_bit(),
        (12, 20),
        lambda p: (p[..., 0].ravel() == np.arange(240)).all() and (p[..., 0] == p[..., 2]).all(),
    ),
    "twelve bits in sixteen": (
        coded(Image.fromarray(TWELVE_BITS)),
        (12, 20),
        lambda p: (p[..., 0] == TWELVE_BITS >> 4).all() and p.max() == 255,
    ),
    "twelve bits in sixteen, TIFF": (
        coded(Image.fromarray(TWELVE_BITS), "TIFF"),
        (12, 20),
        lambda p: (p[..., 1] == TWELVE_BITS >> 4).all(),
    ),
    "twelve bits in sixteen, PGM": (
        b"P5 20 12 65535\n" + TWELVE_BITS.astype(">u2").tobytes(),
        (12, 20),
        lambda p: (p[..., 2] == TWELVE_BITS >> 4).all(),
    ),
    "ten bits in sixteen": (
        coded(Image.fromarray(TWELVE_BITS >> 2)),
        (12, 20),
        lambda p: (p[..., 0] == TWELVE_BITS >> 4).all(),
    ),
    "fifteen bits are a dark picture of sixteen": (
        coded(Image.fromarray(TWELVE_BITS * 7)),
        (12, 20),
        lambda p: (p[..., 0] == TWELVE_BITS * 7 >> 8).all(),
    ),
    "eight bits in sixteen": (
        coded(Image.fromarray(TWELVE_BITS >> 5)),
        (12, 20),
        lambda p: (p[..., 0] == TWELVE_BITS >> 5).all(),
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


@pytest.mark.parametrize("at_once", [1, 60, 100])
@pytest.mark.parametrize(
    "mode", ["RGB", "L", "LA", "P", "PA", "RGBA", "RGBa", "La", "CMYK", "1", "YCbCr", "LAB", "HSV"]
)
def test_large_images_are_converted_part_by_part(
    mode: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(255, size=(11, 20, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    via = {"PA": "P", "La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB"}.get(mode)
    image = image.convert(via) if via else image
    if mode == "LAB":
        image = Image.merge("LAB", Image.fromarray(noise).split()[:3])
    image = image.convert(mode)
    whole = read_image(image)
    monkeypatch.setattr(images, "_PIXELS_AT_ONCE", at_once)
    assert (read_image(image) == whole).all()
    if mode == "P":
        coloured = coded(image, transparency=image.getpixel((0, 0)))
        parts = read_image(coloured)
        monkeypatch.undo()
        assert (parts == read_image(coloured)).all()
        assert (parts[0, 0] == 255).all()


def test_a_large_image_takes_no_more_than_its_pixels_and_pillows(tmp_path: Path) -> None:
    """64 by two million bilevel pixels, in a process of its own."""
    height = 2_000_000
    Image.new("1", (64, height), 1).save(tmp_path / "a.png")
    code = (
        "import sys; from pathlib import Path; from anyregion.images import read_image; "
        "Path('/proc/self/clear_refs').write_text('5'); "
        "read_image(sys.argv[1]); "
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    # one byte a pixel in Pillow, three in the array, and what is converted at once
    assert int(done.stdout) * 1024 < 64 * height * 4 + 2**28


@pytest.mark.parametrize("case", READ_IMAGES)
def test_image_rule(case: str) -> None:
    image, size, holds = READ_IMAGES[case]
    pixels = read_image(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)
    assert holds(pixels)


FORMATS = {
    "JPEG": ".jfif", "MPO": ".mpo", "PNG": ".apng", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif",
    "GIF": ".gif", "PPM": ".pnm", "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_documented_format_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    content = coded(Image.new("RGB", (20, 12), (200, 30, 30)), kind)
    for name in ("x.jpg", f"x{FORMATS[kind]}"):
        (tmp_path / name).write_bytes(content)
        pixels = read_image(tmp_path / name)
        assert pixels.shape == (12, 20, 3)
        assert np.abs(pixels.astype(int) - [200, 30, 30]).max() < 12
        assert read_size(tmp_path / name) == ImageSize((12, 20), (12, 20), None)


@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_a_reader_raises_is_the_images_reason(kind: str, tmp_path: Path) -> None:
    content = coded(Image.fromarray(RGB), kind)
    rng = np.random.default_rng(3)
    path = tmp_path / "x.jpg"
    for _ in range(60):
        spoiled = bytearray(content)
        for at in rng.integers(0, len(content), 3):
            spoiled[at] = rng.integers(256)
        path.write_bytes(bytes(spoiled)[: rng.integers(1, len(content) + 60)])
        for read in (read_image, read_size, read_single_channel):
            with suppress(InputError):
                read(path)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, ZeroDivisionError])
def test_no_error_of_a_reader_escapes(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(InputError, match=rf"broken or truncated image \({error.__name__}"):
        read_image(coded(Image.fromarray(RGB)))


def test_postscript_starts_no_program(tmp_path: Path) -> None:
    (tmp_path / "gs").write_text("#!/bin/sh\ntouch started")
    (tmp_path / "gs").chmod(0o755)
    (tmp_path / "x.jpg").write_bytes(REFUSED_IMAGES["PostScript"][0])
    code = """
import sys
sys.addaudithook(lambda name, args: name == "subprocess.Popen" and sys.exit("started a program"))
from pathlib import Path
from anyregion import InputError, images
for read in (images.read_image, images.read_size, images.read_single_channel):
    try:
        read(Path("x.jpg"))
    except InputError as error:
        assert "not one of the formats" in str(error), error
    else:
        sys.exit("was read")
"""
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert not (tmp_path / "started").exists()


def test_a_batch_holds_no_more_than_its_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40 if i == 3 else 10, 10), (i, 0, 0)).save(path)
    paths.insert(2, tmp_path / "none.png")
    content = paths[0].read_bytes()
    mixed = [*paths, content, np.zeros((10, 10, 3), np.uint8)]
    # 300 bytes each, 1200 the large one: alone, though it is more than a batch may hold
    batches = list(read_batches(mixed, batch_size=4, batch_bytes=700))
    assert [len(batch) for batch in batches] == [3, 1, 1, 2, 2, 1]
    whole = [image for batch in read_batches(mixed, batch_size=99) for image in batch]
    parts = [image for batch in batches for image in batch]
    for one, other in zip(parts, whole, strict=True):
        if isinstance(one, InputError) or isinstance(other, InputError):
            assert str(one) == str(other)
        else:
            assert (one.pixels == other.pixels).all()
    assert [len(b) for b in read_batches(mixed, batch_size=4)] == [4, 4, 2]
    assert list(read_batches([], batch_size=4)) == []


def test_two_batches_are_in_memory_at_most(tmp_path: Path) -> None:
    for i in range(8):
        Image.new("L", (4000, 4000), i).save(tmp_path / f"{i}.png")
    code = """
import resource, sys
from pathlib import Path
from anyregion.images import read_batches, read_image
paths = sorted(Path(".").glob("*.png"))
read_image(paths[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for batch in read_batches(paths, batch_size=8, batch_bytes=50_000_000):
    assert len(batch) == 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    # an image is 48 MB: all eight would be 384 MB
    assert int(done.stdout) < 150_000


def test_threads_wait_where_images_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(RGB).save(path)
    running, most, load = [0], [0], PngImageFile.load

    def slow(image: PngImageFile) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.03)
        running[0] -= 1
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", slow)
    for limit, threads in ((7 * RGB.size // 3 * 2, 2), (1, 1)):
        monkeypatch.setattr(images, "DECODING_BYTES", limit)
        most[0] = 0
        assert len(list(in_threads(read_image, paths, threads=6))) == 6
        assert most[0] == threads


def test_a_frame_that_is_written_over_stays_as_it_was() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    pixels = read_image(frame)
    frame[:] = 255
    assert not pixels.any()
