"""Which regions each image of a run is asked about: the same for all, or those of a file."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from anyregion.errors import InputError, SetAside
from anyregion.region_files import ImageEntry, RegionFile, load_regions
from anyregion.regions import Regions


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of one image: its regions, and its id and size in the region file, if stated.

    The size is `(height, width)`: regions drawn on an image of another size mean other things.
    """

    regions: Regions
    image_id: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RegionSource:
    """Regions by image.

    Attributes:
        assign: of each image file what is asked of it, or the reason why nothing is.
        digest: changes whenever the regions do.
        set_aside: regions of the source that cannot be used, and why.
    """

    assign: Callable[[Sequence[Path]], dict[Path, Asked | str]]
    digest: str
    set_aside: tuple[SetAside, ...] = ()


def same_regions(regions: Regions) -> RegionSource:
    """The same boxes and points for every image."""
    content = json.dumps(
        [
            regions.boxes.tolist(),
            [p.tolist() for p in regions.points],
            [p.tolist() for p in regions.point_labels],
        ]
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    return RegionSource(lambda paths: dict.fromkeys(paths, Asked(regions)), f"sha256:{digest}")


def regions_from_file(path: Path, *, masks: bool = False, scores: bool = True) -> RegionSource:
    """The regions of a file that `load_regions` reads.

    An entry of the file belongs to one image. Where several images fit it (`a/x.jpg` and
    `b/x.jpg`), the one whose path agrees best has it; where they agree equally, none has.

    Args:
        path: COCO annotations or results, or a detector's boxes, as JSON.
        masks: also use the masks as prompts.
        scores: multiply the names' scores by the regions' own, where the file has any.

    Raises:
        InputError: the file cannot be read, or has none of the known layouts.
    """
    file = load_regions(path, masks=masks, scores=scores)
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return RegionSource(lambda paths: _assign(file, paths), f"sha256:{digest}", file.set_aside)


def _assign(file: RegionFile, paths: Sequence[Path]) -> dict[Path, Asked | str]:
    assigned: dict[Path, Asked | str] = {}
    fitting: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        assigned[path] = "no regions for this image"
        try:
            entry = file.find(path)
        except InputError as error:
            assigned[path] = str(error)
            continue
        if entry is not None and len(entry.regions):
            fitting[entry.key].append(path)
    for key, images in fitting.items():
        entry = file.images[key]
        agreeing = _best(images, entry)
        if len(agreeing) > 1:
            reason = f"the regions of {entry.file_name or key} fit several images of this run"
            assigned.update(dict.fromkeys(agreeing, reason))
        else:
            image_id = int(key) if key.isascii() and key.isdecimal() else None
            assigned[agreeing[0]] = Asked(entry.regions, image_id, entry.size)
    return assigned


def _best(images: list[Path], entry: ImageEntry) -> list[Path]:
    """The images whose path shares the longest tail with the entry's file name."""
    name = PurePath(entry.file_name or "").parts
    shared = [
        next((n for n in range(len(name), 0, -1) if image.parts[-n:] == name[-n:]), 0)
        for image in images
    ]
    return [image for image, n in zip(images, shared, strict=True) if n == max(shared)]
