"""Whose regions are named: the annotators', a detector's, or those that a proposer finds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from anyregion.errors import InputError
from anyregion.evaluation.regions.walk import Photo
from anyregion.io.regions import ImageEntry, RegionFile, load_regions
from anyregion.proposals import RegionProposer
from anyregion.regions import Regions

GROUND_TRUTH = "ground-truth"

RegionChoice: TypeAlias = str | Path | RegionProposer
"""`ground-truth`, a detector's JSON as `load_regions` reads it, or what finds regions."""


def is_ground_truth(regions: RegionChoice) -> bool:
    """Whether the annotations' own regions are asked for."""
    return isinstance(regions, str) and regions == GROUND_TRUTH


def region_source(
    regions: RegionChoice,
    found: Sequence[tuple[ImageEntry, Path]],
    *,
    ids: Collection[str],
    masks: bool = False,
) -> Callable[[Photo], Regions | None]:
    """What gives the regions of an image.

    Args:
        regions: see `RegionChoice`. A detector's images are found by the annotations' id of the
            image, or else by its file name; its classes are not looked at, its scores are.
        found: the images that will be looked at, as `find_files` gives them.
        ids: the ids of all images of the annotations.
        masks: also read the detector's masks.

    Raises:
        InputError: a file that is none of the known layouts, or that has none of the images.
    """
    if is_ground_truth(regions):
        return lambda photo: photo.entry.regions
    if not isinstance(regions, (str, Path)):
        propose = regions.propose
        return lambda photo: propose(photo.pixels)
    file = load_regions(regions, masks=masks)
    if not file.images:
        raise InputError(f"{regions}: no image has regions")
    detected = {entry.key: _detected(file, entry.key, path, ids) for entry, path in found}
    if not any(detected.values()):
        entry, path = found[0]
        raise InputError(
            f"{regions}: none of the annotations' images is in it, neither by id ({entry.key}) nor "
            f"by file name ({path.name}); it has {next(iter(file.images))}, for one"
        )
    own = {key: entry.regions for key, entry in detected.items() if entry is not None}
    return lambda photo: own.get(photo.entry.key)


def _detected(file: RegionFile, key: str, path: Path, ids: Collection[str]) -> ImageEntry | None:
    same = file.images.get(key)
    # a file that names its images may have ids of its own: 1 may be another photograph
    if same is not None and PurePath(same.file_name or path.name).name == path.name:
        return same
    found = file.find(path)
    # nor does 139.jpg stand for the image 139, if another image of the annotations has that id
    if found is not None and found.file_name is None and found.key in ids:
        return None
    return found
