"""Which state of which image a stored label map belongs to, without reading the image."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.image_files import in_threads
from anyregion.r2o.label_store.image_list import ImageList
from anyregion.r2o.superpixel_files import map_paths
from anyregion.r2o.superpixels import PriorConfig

UNREACHABLE = 0
"""Stands for the key of a file that is not there, or that nothing can be learned of."""

_AT_ONCE = 256  # images a task: a file server's delays overlap, a local disk's calls stay cheap


def image_keys(images: ImageList, prior: PriorConfig) -> NDArray[np.uint64]:
    """`(N,)` keys: path, size and time of change of each image file, and of its own label map.

    The whole path: files of one data set often have one time and, uncompressed, one size, so that
    a name below the folder would not tell two data sets apart. Images that move get new maps.
    64 bits: in two million images, two share a key with a chance of 1 in 10 million.
    """
    starts = range(0, len(images), _AT_ONCE)
    parts = list(in_threads(partial(_keys_from, images, prior), starts))
    return np.concatenate(parts)


def _keys_from(images: ImageList, prior: PriorConfig, first: int) -> NDArray[np.uint64]:
    count = min(_AT_ONCE, len(images) - first)
    keys = (_key(images, prior, first + i) for i in range(count))
    return np.fromiter(keys, dtype=np.uint64, count=count)


def _key(images: ImageList, prior: PriorConfig, image: int) -> int:
    path = images.path(image)
    state = _state(path)
    if state is None:
        return UNREACHABLE
    if prior.folder:
        maps = map_paths(Path(prior.folder).expanduser(), images.name(image))
        state += "".join(f";{_state(each)}" for each in maps)
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + state.encode()).digest()
    return int.from_bytes(digest[:8], "little") or 1


def _state(path: Path) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size} {found.st_mtime_ns}"
