"""Whose regions are named: the annotators', a detector's, or those that a proposer finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from anyregion.errors import InputError
from anyregion.evaluation.walk import Photo
from anyregion.proposals import RegionProposer
from anyregion.region_files import load_regions
from anyregion.regions import Regions

GROUND_TRUTH = "ground-truth"

RegionChoice: TypeAlias = str | Path | RegionProposer
"""`ground-truth`, a detector's JSON as `load_regions` reads it, or what finds regions."""


def is_ground_truth(regions: RegionChoice) -> bool:
    """Whether the annotations' own regions are asked for."""
    return isinstance(regions, str) and regions == GROUND_TRUTH


def region_source(
    regions: RegionChoice, *, masks: bool = False
) -> Callable[[Photo], Regions | None]:
    """What gives the regions of an image.

    Args:
        regions: see `RegionChoice`. A detector's images are found by the annotations' id of the
            image, or else by its file name; its classes are not looked at, its scores are.
        masks: also read the detector's masks.

    Raises:
        InputError: a file that is none of the known layouts.
    """
    if is_ground_truth(regions):
        return lambda photo: photo.entry.regions
    if not isinstance(regions, (str, Path)):
        propose = regions.propose
        return lambda photo: propose(photo.pixels)
    file = load_regions(regions, masks=masks)
    if not file.images:
        raise InputError(f"{regions}: no image has regions")

    def detected(photo: Photo) -> Regions | None:
        entry = file.images.get(photo.entry.key) or file.find(photo.path)
        return None if entry is None else entry.regions

    return detected
