"""Label maps in files of other tools: one PNG or .npy file an image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.images import MAX_PIXELS, read_single_channel
from anyregion.r2o.superpixels import LabelMap, renumbered

# of label maps; where an image has both, the first counts
SUFFIXES = (".png", ".npy")


def map_paths(folder: Path, name: str) -> tuple[Path, ...]:
    """Where the label map of the image `name` (`dog/7.jpg`) may lie, in the order of `SUFFIXES`."""
    place = folder / PurePosixPath(name)
    return tuple(place.with_suffix(suffix) for suffix in SUFFIXES)


def read_label_map(folder: Path, name: str, size: int) -> LabelMap:
    """Read an image's label map and bring it to `(size, size)`, ids consecutive from 0.

    It covers the whole upright image, at any resolution, and is squashed as the image is: each
    cell takes the id at its centre. Ids are whole numbers of any size; those that get lost when a
    map shrinks are left out, and the others renumbered.

    Raises:
        InputError: no file, a broken one, colours, or numbers that are not whole.
    """
    for path in map_paths(folder, name):
        if path.is_file():
            ids = _read_npy(path) if path.suffix == ".npy" else read_single_channel(path)
            height, width = ids.shape
            # the pixel under the centre of each cell, in whole numbers: (size,) each
            row = (2 * np.arange(size) + 1) * height // (2 * size)
            column = (2 * np.arange(size) + 1) * width // (2 * size)
            return renumbered(ids[row[:, None], column])
    raise InputError(f"{map_paths(folder, name)[0]}: there is no such label map (nor a .npy)")


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        ids: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: broken label map ({error})") from None
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "bui":
        raise InputError(f"{path}: a label map is (height, width) whole numbers")
    if not 0 < ids.size <= MAX_PIXELS:
        raise InputError(f"{path}: a label map of {ids.shape[1]} x {ids.shape[0]} pixels")
    # unsigned 64 bits would turn negative
    return ids if ids.dtype == np.uint64 else ids.astype(np.int64)
