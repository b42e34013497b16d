"""Reads image files and arrays as upright RGB pixels, and finds image files in folders."""

from __future__ import annotations

import glob
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anyregion.errors import InputError, SetAside

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
# what Pillow's decoders raise for broken data; each says that this one file cannot be used
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, MemoryError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip
MAX_PIXELS = 178_956_970  # Pillow's own threshold for a decompression bomb: 0.5 GB of RGB
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def read_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a path, the bytes of a file, a PIL image or an array as `(height, width, 3)` RGB uint8.

    Rules: EXIF rotation is applied, so boxes refer to the upright image (unreadable EXIF turns
    nothing); transparency is laid on white; palette, grey and CMYK become RGB; 16-bit grey keeps
    its high byte; of an animation the first frame is read. Arrays must be uint8, `(H, W)` or
    `(H, W, 3)` in RGB order.

    Raises:
        InputError: broken, truncated or empty data, more than `max_pixels` pixels, a wrong array.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not isinstance(image, (str, Path, bytes, Image.Image)):
        raise InputError(f"cannot read a {type(image).__name__} as an image: see read_image")
    name = str(image) if isinstance(image, (str, Path)) else f"<{type(image).__name__}>"
    with _open(image, name, max_pixels) as opened:
        mode = opened.mode
        sixteen_bits = mode.startswith("I;16") or (mode == "I" and opened.format == "PNG")
        if mode == "F" or (mode == "I" and not sixteen_bits):
            raise InputError(
                f"{name}: 32-bit pixels have no stated range; convert it to 8 or 16 bits"
            )
        opened.load()
        # by hand: Pillow's exif_transpose writes all tags anew, and fails where any of them is odd
        orientation: object = None
        with suppress(*_BROKEN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged tags: the pixels are whole all the same
            orientation = opened.getexif().get(_ORIENTATION)
        if isinstance(orientation, int) and orientation in _TRANSPOSE:
            opened = opened.transpose(_TRANSPOSE[orientation])
        if sixteen_bits:
            # Pillow's own convert would clip 16 bits to white
            grey = np.asarray(opened).astype(np.int64).clip(0, 65535) >> 8  # (H, W)
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        if mode in ("RGBa", "La"):
            opened = opened.convert(mode.upper())  # alpha not multiplied in any more
        if "A" in opened.getbands() or "transparency" in opened.info:
            rgba = opened.convert("RGBA")
            opened = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(opened.convert("RGB"))


def read_batches(
    images: Sequence[ImageLike], *, batch_size: int
) -> Iterator[list[Pixels | InputError]]:
    """Yield batches of images in order; in the place of one that cannot be read stands its error.

    One batch is read in a thread while the caller works on the one before it: at most two are in
    memory.
    """
    # one thread reads: Pillow decodes without Python's lock, and more would hold more in memory
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-read") as reader:
        upcoming: list[Future[Pixels]] = []
        for batch in [*batches, []]:
            current, upcoming = upcoming, [reader.submit(read_image, image) for image in batch]
            results: list[Pixels | InputError] = []
            for future in current:
                try:
                    results.append(future.result())
                except InputError as error:
                    results.append(error)
            if results:
                yield results


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
    source: str | Path | bytes | Image.Image, name: str, max_pixels: int
) -> Iterator[Image.Image]:
    """Open an image of at most `max_pixels`; what Pillow raises within the block names the file."""
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            # the size is checked below, with an error that names the file
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if not isinstance(source, Image.Image):
                file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
                source = stack.enter_context(Image.open(file))
            width, height = source.size
            if width * height > max_pixels:
                raise InputError(f"{name}: {width} x {height} is more than {max_pixels:,} pixels")
            yield source
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more than {max_pixels:,} pixels") from None
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{name}: broken or truncated image ({error})") from None


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

    A file named outright is taken whatever its suffix; folders and globs yield the files of
    `SUFFIXES`, without those that are hidden or lie in hidden folders. A path that leads to
    nothing is set aside.
    """
    images: dict[Path, None] = {}
    skipped: list[SetAside] = []
    for argument in paths:
        path = Path(argument).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            # folders that are hidden hold thumbnails, or a notebook's copies
            matches = sorted(
                p
                for p in path.rglob("*")
                if is_image_file(p)
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
        else:
            # Path.glob cannot start from an absolute pattern
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207
            matches = sorted(p for p in map(Path, names) if is_image_file(p))
        if not matches:
            skipped.append(SetAside(str(argument), "no image there"))
        images.update(dict.fromkeys(matches))
    return list(images), skipped


def is_image_file(path: Path) -> bool:
    """Whether a file is an image by its name, and not hidden."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
