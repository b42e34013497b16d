"""Segmentation of an image before anything is learned: superpixels, a grid, label maps in files.

R2O (arXiv 2208.11821, section 3.1) calls it the prior, and takes SLIC, about 100 segments of the
whole image squashed to a square. Label maps are computed once and stored: see `label_store`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, require
from anyregion.images import MAX_PIXELS, Pixels, read_single_channel, size_of

PriorKind: TypeAlias = Literal["slic", "felzenszwalb", "grid", "whole", "files"]
# (S, S) ids of segments, 0 to n - 1, none left out; 8 bits as long as they suffice
LabelMap: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"

# the settings that each kind reads: the others change neither maps nor caches
_SETTINGS: dict[PriorKind, tuple[str, ...]] = {
    "slic": ("segments", "compactness", "normalised"),
    "felzenszwalb": ("scale", "sigma", "min_size"),
    "grid": ("segments",),
    "whole": (),
    "files": ("folder",),
}
_FLOATS = frozenset({"compactness", "scale", "sigma"})
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
# of label maps in files; where an image has both, the first counts
SUFFIXES = (".png", ".npy")


@dataclass(frozen=True)
class PriorConfig:
    """Settings of the prior segmentation. Each kind reads only its own.

    Attributes:
        kind: `slic` (k-means of colour and place, in scikit-image), `felzenszwalb` (a graph's
            regions, few and of all sizes), `grid` (squares, blind to the image), `whole` (one
            segment: BYOL), `files` (label maps made elsewhere).
        segments: about how many, for `slic` and `grid`.
        compactness: for `slic`: place against colour; more makes segments squarer.
        normalised: for `slic`: segment the image after ImageNet's mean and deviation, as the
            published code does. Colours are then not what SLIC's Lab conversion takes them for,
            yet people's borders are found as well (docs/design/priors.md); False is the plain
            image.
        scale, sigma, min_size: for `felzenszwalb`: more makes larger segments; blur before;
            fewest pixels of a segment.
        folder: for `files`: `dog/7.jpg`'s map is `dog/7.png` or `dog/7.npy` in it.

    Raises:
        InputError: a value out of range, with its name.
    """

    kind: PriorKind = "slic"
    segments: int = 100
    compactness: float = 10.0
    normalised: bool = True
    scale: float = 100.0
    sigma: float = 0.8
    min_size: int = 50
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _SETTINGS:
            raise InputError(f"prior.kind: {self.kind!r} is none of {', '.join(_SETTINGS)}")
        if not 1 <= self.segments < 2**16:
            raise InputError(f"prior.segments must be 1 to 65535, not {self.segments}")
        for name in ("compactness", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"prior.{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.sigma < math.inf:
            raise InputError(f"prior.sigma must not be negative: {self.sigma}")
        if self.min_size < 0:
            raise InputError(f"prior.min_size must not be negative: {self.min_size}")
        if self.kind == "files" and not self.folder:
            raise InputError("prior.kind files needs prior.folder, where the label maps lie")
        if self.kind != "files" and self.folder:
            raise InputError(f"prior.folder belongs to kind files, not {self.kind}")

    def describe(self) -> dict[str, Any]:
        """The kind and the settings that count for it: another whenever a segment could be."""
        settings = {name: getattr(self, name) for name in _SETTINGS[self.kind]}
        # 10 and 10.0 are one setting
        settings |= {name: float(settings[name]) for name in _FLOATS & settings.keys()}
        if self.folder:
            settings["folder"] = str(Path(self.folder).expanduser().resolve())
        return {"kind": self.kind, **settings}


def segment(pixels: Pixels, config: PriorConfig) -> LabelMap:
    """Divide a spanning view, `(S, S, 3)` uint8 RGB, into segments: `(S, S)` ids 0 to n - 1.

    Raises:
        InputError: kind `files` (see `read_label_map`), or more than 65,536 segments.
        MissingExtraError: `slic` and `felzenszwalb` need scikit-image.
    """
    height, width = size_of(pixels)
    if config.kind == "whole":
        return np.zeros((height, width), dtype=np.uint8)
    if config.kind == "grid":
        return _grid(height, width, config.segments)
    if config.kind == "files":
        raise InputError("label maps from files are read, not computed: see read_label_map")
    require("train", "skimage")
    from skimage import segmentation

    if config.kind == "felzenszwalb":
        ids = segmentation.felzenszwalb(
            pixels, scale=config.scale, sigma=config.sigma, min_size=config.min_size
        )
    else:
        ids = segmentation.slic(
            (pixels / 255 - np.array(_MEAN)) / np.array(_STD) if config.normalised else pixels,
            n_segments=config.segments,
            compactness=config.compactness,
            start_label=0,
            channel_axis=-1,
        )
    return renumbered(ids)


def renumbered(ids: NDArray[Any]) -> LabelMap:
    """Ids of any whole numbers, made consecutive from 0 in their order, in 8 bits or 16."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= 2**20:
        values, inverse = np.unique(ids, return_inverse=True)
        labels, count = inverse.reshape(ids.shape), len(values)
    else:  # counting is many times quicker than sorting, and what superpixels need
        plain = ids.astype(np.int64)
        present = np.bincount(plain.reshape(-1)) > 0
        labels, count = (np.cumsum(present) - 1)[plain], int(present.sum())
    if count > 2**16:
        raise InputError(f"{count} segments are more than a label map holds (65536)")
    return labels.astype(np.uint16) if count > 2**8 else labels.astype(np.uint8)


def _grid(height: int, width: int, segments: int) -> LabelMap:
    """Rows and columns alike in number, as near to `segments` in all as squares allow."""
    side = max(1, round(math.sqrt(segments)))
    rows, columns = min(side, height), min(side, width)
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return renumbered(row[:, None] * columns + column)


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
