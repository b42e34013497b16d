"""Binary masks as COCO run-length codes (RLE), which are small in memory and JSON as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from anyregion.errors import InputError
from anyregion.images import MAX_PIXELS

# pycocotools walks along a polygon's edges in fifths of a pixel, some 120 bytes a pixel: a million
# pixels of edges take 0.3 GB and about a second. No outline that means anything is longer than
# twice the image's pixels, but for the border of a small one
MAX_EDGE_LENGTH = 1_000_000
# each is merged into all before it
MAX_POLYGONS = 10_000


class RLE(TypedDict):
    """COCO's compressed run-length code of one mask; `size` is `[height, width]`."""

    size: list[int]
    counts: str


def encode_mask(mask: NDArray[Any]) -> RLE:
    """Encode a `(height, width)` mask of any number type; non-zero is inside."""
    if mask.ndim != 2:
        raise InputError(f"a mask must be (height, width); this one is {mask.shape}")
    # COCO counts runs down the columns
    rle = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return RLE(size=[int(n) for n in rle["size"]], counts=rle["counts"].decode("ascii"))


def encode_crop(crop: NDArray[np.bool_], x0: int, y0: int, *, size: tuple[int, int]) -> RLE:
    """The code of a mask that is `crop` `(h, w)` from column `x0` and row `y0` on, and else empty.

    The same as `encode_mask` of the full image, at the cost of the crop.
    """
    height, width = size
    rows, columns = crop.shape
    # COCO's code runs down the columns: each with a border, so that runs start and end in it
    bordered = np.zeros((columns, rows + 2), dtype=np.bool_)
    bordered[:, 1:-1] = crop.T
    flat = bordered.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows + 2)
    edges = (x0 + column) * height + y0 + row  # where runs start and end, in turn
    if len(edges):
        apart = edges[2::2] != edges[1:-1:2]  # a run may go on at the top of the next column
        edges = edges[np.concatenate([[True], np.repeat(apart, 2), [True]])]
    runs = np.diff(edges, prepend=0, append=height * width).tolist()
    if runs[-1] == 0 and len(runs) > 1:
        runs.pop()
    coded = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return RLE(size=[height, width], counts=coded["counts"].decode("ascii"))


def decode_mask(rle: RLE) -> NDArray[np.bool_]:
    """Decode to `(height, width)` bool."""
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def filled_box(box: NDArray[np.float64], size: tuple[int, int]) -> RLE:
    """The mask of a box (xyxy), to whole pixels outwards, of an image `(height, width)`."""
    mask = np.zeros(size, dtype=bool)
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    mask[y0:y1, x0:x1] = True
    return encode_mask(mask)


def mask_iou(first: RLE, second: RLE) -> float:
    """Intersection over union of two masks of one image."""
    return float(coco_mask.iou([first], [second], [0])[0, 0])


def mask_area(rle: RLE) -> int:
    """Number of pixels inside."""
    return int(coco_mask.area(rle))


def mask_box(rle: RLE) -> NDArray[np.float64]:
    """The tight box of a mask, `(4,)` xyxy in pixels (all zeros for an empty mask)."""
    x, y, width, height = coco_mask.toBbox(rle)
    return np.array([x, y, x + width, y + height], dtype=np.float64)


def rle_size(segmentation: Mapping[str, Any]) -> tuple[Any, Any]:
    """The height and width that a run-length code states, unchecked; `InputError` without them."""
    size = segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise InputError("RLE without its size")
    return size[0], size[1]


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """COCO `segmentation` (polygons, uncompressed or compressed RLE) to a compressed RLE.

    Raises:
        InputError: malformed polygons or codes, a code of another image size, an image of more
            than `images.MAX_PIXELS`, over `MAX_POLYGONS` polygons, or outlines that are longer
            in all than `MAX_EDGE_LENGTH` pixels, or than the image could hold.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise InputError(f"RLE of size {size}, but the image is {[height, width]}")
        _check_size(height, width)
        if isinstance(counts, list):
            runs = _check_runs(counts, height * width)
            rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
            return RLE(size=[height, width], counts=rle["counts"].decode("ascii"))
        if isinstance(counts, (str, bytes)):
            # latin-1: a byte that COCO does not use is refused below, not here
            text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
            _check_compressed(text, height * width)
            return RLE(size=[height, width], counts=text)
        raise InputError("RLE without counts")
    if isinstance(segmentation, list) and segmentation:
        _check_size(height, width)
        if len(segmentation) > MAX_POLYGONS:
            raise InputError(f"more than {MAX_POLYGONS:,} polygons for one region")
        polygons = [_check_polygon(points, height, width) for points in segmentation]
        _check_edges(polygons, height, width)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return RLE(size=[height, width], counts=rle["counts"].decode("ascii"))
    raise InputError("segmentation is neither polygons nor RLE")


def _check_size(height: Any, width: Any) -> None:
    # decoded, a mask takes a byte a pixel, as an image takes three
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise InputError(f"a mask of {height} x {width} pixels")
    # pycocotools' own codes end at 2 ** 16 a side
    if height * width > MAX_PIXELS or max(height, width) >= 2**16:
        raise InputError(f"a mask of {height} x {width} is more than {MAX_PIXELS:,} pixels")


def _check_polygon(points: Any, height: int, width: int) -> list[float]:
    try:
        values = [float(v) for v in points]
    except (TypeError, ValueError, OverflowError):
        raise InputError("a polygon must be a list of numbers") from None
    if len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise InputError("a polygon must be an even list of at least six finite numbers")
    # pycocotools walks along the edges pixel by pixel, however far they lead
    far = max(height, width)
    if not all(-far <= v <= 2 * far for v in values):
        raise InputError("a polygon reaches farther outside the image than the image is large")
    return values


def _check_edges(polygons: list[list[float]], height: int, width: int) -> None:
    """Refuse outlines whose drawing would take gigabytes or minutes, few as their points are."""
    limit = min(MAX_EDGE_LENGTH, 2 * height * width + 100 * (height + width))
    length = 0.0
    for values in polygons:
        points = np.array(values).reshape(-1, 2)  # (N, 2) x, y
        # pixels walked along each edge: of its longer side
        length += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if length > limit:
        raise InputError(f"outlines of {length:,.0f} pixels in all; {limit:,} are drawn at most")


def _check_runs(counts: list[Any], pixels: int) -> list[int]:
    if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != pixels:
        raise InputError(f"RLE counts do not add up to the image's {pixels} pixels")
    return counts


def _check_compressed(text: str, pixels: int) -> None:
    """Refuse runs that do not fill the image: pycocotools would read past its memory."""
    # a character, counted from "0", holds five bits of a number, and a sixth where more follow; its
    # last fifth bit is the sign; from the fourth run on it is the difference to the run two before
    runs: list[int] = []
    value = shift = 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64:
            raise InputError("RLE counts hold a character that COCO's code does not use")
        value |= (code & 31) << shift
        shift += 5
        # no image has so many pixels, and a number without an end would take hours to add up
        if shift > 60:
            raise InputError(f"RLE counts do not add up to the image's {pixels} pixels")
        if not code & 32:
            if code & 16:
                value |= -1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != pixels:
        raise InputError(f"RLE counts do not add up to the image's {pixels} pixels")
