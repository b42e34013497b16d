"""Images and prompts as the graphs take them, and mask logits as masks; equal to torch's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.errors import InputError
from anyregion.exported.folder import ExportedModel
from anyregion.images import Pixels
from anyregion.localizers.square import Frame, padded_frame, resize_to_frame, to_frame
from anyregion.masks import RLE, encode_mask
from anyregion.regions import Regions

Floats = NDArray[np.float32]

# labels of points beside 0, background, and 1, foreground
NOT_A_POINT, UPPER_LEFT, LOWER_RIGHT = -1, 2, 3


def localizer_input(image: Pixels, model: ExportedModel) -> tuple[Floats, Frame]:
    """The localizer's input `(1, 3, side, side)`, and where the image lies in it.

    The longer side is resized to `side`; what is left right or below is 0 after normalisation.
    """
    frame = padded_frame((image.shape[0], image.shape[1]), model.side)
    height, width = frame.inside
    mean, std = (np.array(v, np.float32) for v in (model.localizer_mean, model.localizer_std))
    padded = np.zeros((frame.side, frame.side, 3), np.float32)
    padded[:height, :width] = (resize_to_frame(image, frame).astype(np.float32) - mean) / std
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None]), frame


def vlm_input(image: Pixels, model: ExportedModel) -> Floats:
    """The VLM's input `(1, 3, S, S)`: the whole image squashed, as floats, and normalised."""
    size = (model.image_size, model.image_size)
    planes = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)  # (3, height, width)
    if model.antialias:
        # Pillow's filter on floats is the one that torch's `antialias=True` has from it
        squares = [
            np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))
            for plane in planes
        ]
        planes = np.stack(squares)
    else:
        planes = resize_bilinear(planes, size)
    mean, std = (np.array(v, np.float32) for v in (model.vlm_mean, model.vlm_std))
    normalised: Floats = (planes - mean[:, None, None]) / std[:, None, None]
    return normalised[None]


def resize_bilinear(maps: Floats, size: tuple[int, int]) -> Floats:
    """`(M, h, w)` to `(M, *size)`: bilinear between the middles of cells, without antialiasing."""
    for axis, length in ((1, size[0]), (2, size[1])):
        old = maps.shape[axis]
        places = np.maximum((np.arange(length) + 0.5) * (old / length) - 0.5, 0)
        first = places.astype(np.int64)
        share = (places - first).astype(np.float32)  # of the second cell
        share = share[:, None] if axis == 1 else share
        second = np.minimum(first + 1, old - 1)
        maps = maps.take(first, axis) * (1 - share) + maps.take(second, axis) * share
    return maps


def prompts(
    regions: Regions, frame: Frame, *, chunk: int
) -> Iterator[tuple[list[int], Floats, NDArray[np.int64]]]:
    """The regions as points, `chunk` at most at a time.

    Yields:
        The rows; points `(P, n, 2)`, x and y in the square; labels `(P, n)`. A box is its two
        corners; points without a box are followed by one that is none, as SAM was trained.

    Raises:
        InputError: a region prompted with a mask, which the graphs do not take.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for row, (rle, logits) in enumerate(zip(regions.masks, regions.mask_logits, strict=True)):
        if rle is not None or logits is not None:
            raise InputError(
                f"region {regions.ids[row]}: a mask as a prompt: models exported to ONNX take "
                "boxes and points"
            )
        has_box = bool(np.isfinite(regions.boxes[row]).all())
        groups.setdefault((len(regions.points[row]), has_box), []).append(row)
    # prompts of unequal length cannot share a batch: padding would be attended to
    for (count, has_box), members in groups.items():
        ends = [UPPER_LEFT, LOWER_RIGHT] if has_box else [NOT_A_POINT]
        for start in range(0, len(members), chunk):
            rows = members[start : start + chunk]
            points = np.zeros((len(rows), count + len(ends), 2), np.float32)
            labels = np.tile(np.array([0] * count + ends, np.int64), (len(rows), 1))
            for i, row in enumerate(rows):
                if count:
                    points[i, :count] = to_frame(regions.points[row], frame)
                    labels[i, :count] = regions.point_labels[row]
                if has_box:
                    points[i, count:] = to_frame(regions.boxes[row], frame).reshape(2, 2)
            yield rows, points, labels


def logits_to_masks(logits: Floats, frame: Frame) -> list[RLE]:
    """Mask logits `(M, h, w)` of the square to masks of the image: inside is above 0."""
    square = resize_bilinear(logits, (frame.side, frame.side))
    # padding is cut off before the second resize: it must not bleed into the image
    inside = square[:, : frame.inside[0], : frame.inside[1]]
    return [encode_mask(mask > 0) for mask in resize_bilinear(inside, frame.size)]
