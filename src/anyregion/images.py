"""Reads image files and arrays as upright RGB pixels, and finds image files in folders."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anyregion.errors import InputError, SetAside
from anyregion.files import read_text

Pixels: TypeAlias = NDArray[np.uint8]
"""One image: (height, width, 3), RGB, 0 to 255, upright."""

ImageLike: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.generic]"

_ORIENTATION = 0x0112  # EXIF's tag; the turn that makes each of its values upright:
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_PIXELS = 178_956_970  # Pillow's own threshold for a decompression bomb: 0.5 GB of RGB
BATCH_BYTES = 512 * 2**20  # of decoded RGB, as much as one image of MAX_PIXELS has
DECODING_BYTES = 2**30  # of images that are being decoded, in all threads together
# the bytes of each of them; guarded, and waited for
_decoding: list[int] = []
_decoding_changed = threading.Condition()
if hasattr(os, "register_at_fork"):
    # the threads that were at them are not in a forked process
    os.register_at_fork(after_in_child=_decoding.clear)
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
# the formats that are read, by Pillow's names for them, and the endings of their files
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
# pictures that are never read: passed over in folders, but not without a word
_OTHER_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".cur", ".dcm", ".dcx", ".dds", ".dib", ".dng", ".eps", ".erf",
    ".exr", ".fits", ".hdr", ".icns", ".ico", ".iiq", ".jng", ".jxl", ".jxr", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pcx", ".pef", ".pfm", ".psb", ".psd", ".qoi", ".raf", ".rw2",
    ".rwl", ".sgi", ".sr2", ".srf", ".srw", ".svg", ".svgz", ".tga", ".x3f", ".xbm", ".xcf", ".xpm",
}  # fmt: skip
# Pillow is built with or without these
_CODECS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
# what a message adds where the stated size is the stored one
AS_STORED = (
    ": so it is stored, before EXIF turns it. Boxes have to refer to the upright image; or write "
    "the image anew without EXIF's rotation"
)
# of a large image that are converted together: 32 MB in Pillow
_PIXELS_AT_ONCE = 2**23
UNSURE_TURN = (
    "and no size says whether their boxes were drawn before or after that. They were taken to "
    "refer to the upright images"
)
SUFFIXES = frozenset(_OTHER_SUFFIXES).union(*_FORMATS.values())
"""Endings of files that are pictures by their name, whether they can be read or not."""


@dataclass(frozen=True)
class ImageSize:
    """Heights and widths of one image file.

    Attributes:
        stored: of the pixels as they are in the file.
        upright: after EXIF's rotation, as `read_image` returns them and boxes should count.
        turn: what EXIF makes of the pixels, or None; an image that is turned by 180 degrees or
            mirrored, or is square, keeps its size.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    turn: Image.Transpose | None = None

    def hides_turn(self, stated: tuple[int, int] | None) -> bool:
        """Whether EXIF turns the image and the size that somebody states does not tell which way up
        they saw it."""
        return self.turn is not None and (stated is None or self.stored == self.upright)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """The pixels of an image, and the size of its file."""

    pixels: Pixels
    size: ImageSize


def read_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a path, the bytes of a file, a PIL image or an array as `(height, width, 3)` RGB uint8.

    Rules: EXIF rotation is applied, so boxes refer to the upright image (unreadable EXIF turns
    nothing); transparency is laid on white; palette, grey and CMYK become RGB; of an animation the
    first frame is read. Of 16-bit grey the highest 8 bits in use are kept: the range is the
    smallest of 8, 10, 12, 14 and 16 bits that holds the image's maximum, as a camera's 12 bits are
    stored in 16. Arrays must be uint8, `(H, W)` or `(H, W, 3)` in RGB order.

    A file is of one of `readable_formats`, by its content, whatever it is called.

    Raises:
        InputError: another format, broken, truncated or empty data, more than `max_pixels` pixels,
            a wrong array.
    """
    return decode(image, max_pixels=max_pixels).pixels


def image_digest(image: ImageLike) -> bytes:
    """SHA-256 of an image's file, or of its pixels where it has none.

    Raises:
        InputError: a file that cannot be read, or pixels that are no image.
    """
    if isinstance(image, (str, Path)):
        try:
            with Path(image).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"{image}: cannot be read ({error.strerror})") from None
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    pixels = read_image(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def decode(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """What `read_image` reads, and whether EXIF turned it."""
    if isinstance(image, np.ndarray):
        pixels = _from_array(image)
        return DecodedImage(pixels, ImageSize(size_of(pixels), size_of(pixels)))
    if not isinstance(image, (str, Path, bytes, Image.Image)):
        raise InputError(f"cannot read a {type(image).__name__} as an image: see read_image")
    name = str(image) if isinstance(image, (str, Path)) else f"<{type(image).__name__}>"
    with _open(image, name, max_pixels) as opened:
        mode = opened.mode
        sixteen_bits = mode.startswith("I;16") or (mode == "I" and opened.format in ("PNG", "PPM"))
        if mode == "F" or (mode == "I" and not sixteen_bits):
            raise InputError(
                f"{name}: 32-bit pixels have no stated range; convert it to 8 or 16 bits"
            )
        opened.load()
        size = _size(opened)
        # by hand: Pillow's exif_transpose writes all tags anew, and fails where any of them is odd
        if size.turn is not None:
            opened = opened.transpose(size.turn)
        if sixteen_bits:
            # Pillow's own convert would clip 16 bits to white
            values = np.asarray(opened)  # (H, W)
            if values.dtype != np.uint16:
                values = values.clip(0, 65535).astype(np.uint16)
            bits = max(8, (int(values.max()).bit_length() + 1) // 2 * 2)
            grey = (values >> (bits - 8)).astype(np.uint8)
            return DecodedImage(np.repeat(grey[:, :, None], 3, axis=2), size)
        return DecodedImage(_to_rgb(opened), size)


def _to_rgb(image: Image.Image) -> Pixels:
    """The colours of an image `(H, W, 3)`; what is transparent lies on white.

    Part by part: Pillow's copies of a whole image take four times the memory of its pixels.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // max(1, width))
    for top in range(0, height, rows):
        part = image
        if rows < height:
            part = image.crop((0, top, width, min(top + rows, height)))
        if part.mode in ("RGBa", "La"):
            part = part.convert(part.mode.upper())  # alpha not multiplied in any more
        if "A" in part.getbands() or "transparency" in part.info:
            rgba = part.convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels[top : top + rows] = np.asarray(part.convert("RGB"))
    return pixels


def read_size(path: Path) -> ImageSize:
    """The size of an image file, from its header; `InputError` where none can be read."""
    # a header may promise any size: nothing is decoded
    with _open(path, str(path), None) as image:
        return _size(image)


def read_batches(
    images: Sequence[ImageLike], *, batch_size: int, batch_bytes: int = BATCH_BYTES
) -> Iterator[list[DecodedImage | InputError]]:
    """Yield batches of images in order; in the place of one that cannot be read stands its error.

    One batch is read in a thread while the caller works on the one before it: at most two are in
    memory. A batch has `batch_size` images, or fewer where they would take more than `batch_bytes`
    once decoded, but always one.
    """
    end: Any = object()
    # one thread reads: Pillow decodes without Python's lock, and more would hold more in memory
    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-read") as reader, ExitStack() as stack:
        # who is interrupted does not wait for what nobody is to see
        stack.callback(reader.shutdown, wait=False, cancel_futures=True)
        current: list[Future[DecodedImage]] = []
        upcoming: list[Future[DecodedImage]] = []
        total = 0  # bytes of those in `upcoming`, once decoded
        # the first end completes the last batch, and the second one hands it out
        for image in (*images, end, end):
            decoded = 0  # what cannot be opened takes nothing
            if isinstance(image, np.ndarray):
                decoded = image.nbytes
            elif isinstance(image, (str, Path, bytes, Image.Image)):
                with suppress(InputError), _open(image, "", None) as opened:
                    decoded = 3 * opened.width * opened.height
            is_full = len(upcoming) == batch_size or total + decoded > batch_bytes
            if image is end or (upcoming and is_full):
                results: list[DecodedImage | InputError] = []
                for future in current:
                    try:
                        results.append(future.result())
                    except InputError as error:
                        results.append(error)
                current, upcoming, total = upcoming, [], 0
                if results:
                    yield results
                    del results, future  # the caller is done with them
            if image is not end:
                upcoming.append(reader.submit(decode, image))
                total += decoded


def read_single_channel(path: Path, *, first_channel: bool = False) -> NDArray[np.int64]:
    """The numbers of a label map or mask as they are in its file: `(height, width)`.

    Palette indices, not their colours; all of 16 bits; EXIF turns nothing.

    Args:
        path: an image of one channel.
        first_channel: of several channels read the first, as of a grey image that was saved in
            colours; else several are an error.

    Raises:
        InputError: no such file, a broken or too large one, or colours.
    """
    with _open(path, str(path), MAX_PIXELS) as image:
        several = image.mode not in _ONE_CHANNEL
        if several and not first_channel:
            raise InputError(f"{path}: has colours ({image.mode}); one number a pixel is meant")
        return np.asarray(image.getchannel(0) if several else image).astype(np.int64)


@contextmanager
def _open(
    source: str | Path | bytes | Image.Image, name: str, max_pixels: int | None
) -> Iterator[Image.Image]:
    """Open an image of at most `max_pixels`, or its header only where that is None.

    What Pillow raises within the block names the file. Threads wait for each other where they would
    hold more than `DECODING_BYTES`.
    """
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            # of large images: the size is checked below, with an error that names the file; and of
            # damaged tags: the pixels are whole all the same
            warnings.filterwarnings("ignore", module=r"PIL\.")
            if not isinstance(source, Image.Image):
                file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
                # any other of Pillow's readers may start a program, as that of PostScript does
                source = stack.enter_context(Image.open(file, formats=readable_formats()))
            width, height = source.size
            if max_pixels is not None and width * height > max_pixels:
                raise InputError(f"{name}: {width} x {height} is more than {max_pixels:,} pixels")
            # as Pillow holds it, and as an array; nothing of an image whose header alone is read
            cost = 0 if max_pixels is None else 7 * width * height
            with _decoding_changed:
                while cost and sum(_decoding) and sum(_decoding) + cost > DECODING_BYTES:
                    _decoding_changed.wait()
                _decoding.append(cost)
            try:
                yield source
            finally:
                with _decoding_changed:
                    _decoding.remove(cost)
                    _decoding_changed.notify_all()
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: a folder, not an image") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not an image, or not one of the formats that are read: "
            f"{', '.join(readable_formats())}"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more than {MAX_PIXELS:,} pixels") from None
    except InputError:
        raise
    except Exception as error:  # its readers raise anything for broken data
        reason = str(error) or type(error).__name__
        raise InputError(f"{name}: broken or truncated image ({reason})") from None


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read in this installation."""
    # each of these modules adds its format to Pillow's table
    from PIL import (  # noqa: F401
        AvifImagePlugin,
        Jpeg2KImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
        features,
    )

    Image.preinit()
    if find_spec("pillow_heif") is not None:
        with suppress(Exception):  # built for another Pillow: HEIC stays unread
            import pillow_heif  # type: ignore[import-not-found]

            pillow_heif.register_heif_opener()
    missing = {name for name, codec in _CODECS.items() if not features.check(codec)}
    return tuple(name for name in _FORMATS if name in Image.OPEN and name not in missing)


def _size(image: Image.Image) -> ImageSize:
    """Its size, and how EXIF turns it; where that cannot be read, it is upright."""
    orientation: object = None
    with suppress(Exception):
        orientation = image.getexif().get(_ORIENTATION)
    turn = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    width, height = image.size
    exchanged = turn is not None and orientation in (5, 6, 7, 8)
    return ImageSize((height, width), (width, height) if exchanged else (height, width), turn)


def size_of(pixels: Pixels) -> tuple[int, int]:
    """`(height, width)`."""
    return pixels.shape[0], pixels.shape[1]


def _from_array(array: NDArray[np.generic]) -> Pixels:
    shape = array.shape
    if array.dtype != np.uint8:
        raise InputError(f"an image array must be uint8, 0 to 255; this one is {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(f"an image array must be (height, width, 3) in RGB; this one is {shape}")
    # a copy: the caller may write the next frame of a video into the same array
    return np.array(array, dtype=np.uint8)


def find_images(paths: Iterable[str | Path]) -> tuple[list[Path], list[SetAside]]:
    """Expand files, folders (recursively) and globs into a list of files, in order, each once.

    A file named outright is taken whatever its suffix; folders and globs yield the files whose
    suffix is of a format that is read, without those that are hidden or lie in hidden folders.
    Pictures of other formats, links to no file, and a path that leads to nothing, are set aside.
    """
    images: dict[Path, None] = {}
    skipped: dict[str, SetAside] = {}
    readable = {suffix for name in readable_formats() for suffix in _FORMATS[name]}
    for argument in paths:
        path = Path(argument).expanduser()
        if path.is_file():
            images[path] = None
            continue
        if path.is_dir():
            # folders that are hidden hold thumbnails, or a notebook's copies
            entries = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
        else:
            # Path.glob cannot start from an absolute pattern
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207
            entries = sorted(
                p
                for p in map(Path, names)
                if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
            )
        matches = [p for p in entries if p.is_file()]
        for p in entries:
            if not (p.is_file() or p.is_dir()):
                kind = "a link to no file" if p.is_symlink() else "no regular file"
                skipped[str(p)] = SetAside(str(p), f"passed over: {kind}")
        if not entries:
            skipped[str(argument)] = SetAside(str(argument), "no image there")
        for match in matches:
            suffix = match.suffix.lower()
            if suffix in readable:
                images[match] = None
            else:
                reason = f"passed over: {suffix} is not one of the formats that are read"
                if suffix in _FORMATS["HEIF"]:
                    reason += " (it is with pillow-heif installed)"
                skipped[str(match)] = SetAside(str(match), reason)
    return list(images), [a for a in skipped.values() if Path(a.item) not in images]


def read_list(path: Path) -> list[str | Path]:
    """The images of a list (`.txt`), a path or an address a line; paths start from its folder.

    Raises:
        InputError: it cannot be read as text.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line if "://" in line else path.parent / line for line in lines if line]


def is_list(path: str | Path) -> bool:
    """Whether this is a file that `read_list` reads."""
    place = Path(path).expanduser()
    return place.suffix.lower() == ".txt" and place.is_file()


def is_image_file(path: Path) -> bool:
    """Whether a file is a picture by its name, be it of a format that is read, and not hidden."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
