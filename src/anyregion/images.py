"""Images: found, opened with care, and always handed on as upright RGB bytes."""

from __future__ import annotations

import glob
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anyregion.errors import InputError, SetAside

Pixels: TypeAlias = NDArray[np.uint8]
"""One image: (height, width, 3), RGB, 0 to 255, upright."""

ImageLike: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.generic]"

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's decoders raise for broken data; each means that this one file is unusable
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
    with _reading(name, max_pixels):
        if isinstance(image, Image.Image):
            return _to_rgb(image, name, max_pixels)
        source = io.BytesIO(image) if isinstance(image, bytes) else Path(image)
        with Image.open(source) as opened:
            return _to_rgb(opened, name, max_pixels)


def read_ahead(
    images: Sequence[ImageLike], *, batch_size: int
) -> Iterator[list[Pixels | InputError]]:
    """Yield batches of images in order; in the place of one that cannot be read stands its error.

    One batch is read in a thread while the caller works on the one before it: at most two are in
    memory.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-read") as reader:
        upcoming: Future[list[Pixels | InputError]] | None = None
        for batch in [*batches, None]:
            current = upcoming
            upcoming = None if batch is None else reader.submit(_read_batch, batch)
            if current is not None:
                yield current.result()


def _read_batch(images: Sequence[ImageLike]) -> list[Pixels | InputError]:
    batch: list[Pixels | InputError] = []
    for image in images:
        try:
            batch.append(read_image(image))
        except InputError as error:
            batch.append(error)
    return batch


def read_numbers(path: Path, *, first_channel: bool = False) -> NDArray[np.int64]:
    """The numbers of a label map or mask as they are in its file: `(height, width)`.

    Palette indices, not their colours; all of 16 bits; EXIF turns nothing.

    Args:
        path: an image of one channel.
        first_channel: of several channels read the first, as of a grey image that was saved in
            colours; else several are an error.

    Raises:
        InputError: no such file, a broken or too large one, or colours.
    """
    with _reading(str(path), MAX_PIXELS), Image.open(path) as image:
        _check_size(image, str(path), MAX_PIXELS)
        several = image.mode not in _ONE_CHANNEL
        if several and not first_channel:
            raise InputError(f"{path}: has colours ({image.mode}); one number a pixel is meant")
        return np.asarray(image.getchannel(0) if several else image).astype(np.int64)


@contextmanager
def _reading(name: str, max_pixels: int) -> Iterator[None]:
    """Whatever Pillow raises becomes an error that names the file."""
    try:
        with warnings.catch_warnings():
            # the size is checked when it is known, with an error that names the file
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
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


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Pixels:
    _check_size(image, name, max_pixels)
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode == "F" or (image.mode == "I" and not deep):
        raise InputError(f"{name}: 32-bit pixels have no stated range; convert it to 8 or 16 bits")
    image.load()
    # by hand: Pillow's exif_transpose writes all tags anew, and fails where any of them is odd
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if deep:
        # Pillow's own convert would clip 16 bits to white
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"{name}: {width} x {height} is more than {max_pixels:,} pixels")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 (upright) where there is none, or nothing of EXIF can be read."""
    with suppress(*_BROKEN), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags; the pixels are whole
        value = image.getexif().get(_ORIENTATION)
        return value if isinstance(value, int) else 1
    return 1


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
    found: dict[Path, None] = {}
    aside: list[SetAside] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = sorted(
                p for p in path.rglob("*") if is_image_file(p) and not _hidden(p, path)
            )
        else:
            # Path.glob cannot start from an absolute pattern
            hits = glob.glob(str(path), recursive=True)  # noqa: PTH207
            matches = sorted(p for p in map(Path, hits) if is_image_file(p))
        if not matches:
            aside.append(SetAside(str(given), "no image there"))
        found.update(dict.fromkeys(matches))
    return list(found), aside


def _hidden(path: Path, folder: Path) -> bool:
    """Whether it lies in a hidden folder below `folder`: thumbnails, a notebook's copies."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def is_image_file(path: Path) -> bool:
    """Whether a file is an image by its name, and not hidden."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
