"""Which regions each image of a run is asked about: the same for all, a file's, or found ones."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from anyregion.errors import InputError, SetAside
from anyregion.images import Pixels
from anyregion.io.regions import ImageEntry, RegionFile, load_regions
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of one image: its regions, and its id and size in the region file, if stated.

    Regions are None where a proposer is to find them once the image is read. The size is `(height,
    width)`: regions drawn on an image of another size mean other things.
    """

    regions: Regions | None
    image_id: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RegionSource:
    """Regions by image.

    Attributes:
        assign: of each image file what is asked of it, or the reason why nothing is.
        digest: changes whenever the regions do.
        set_aside: regions of the source that cannot be used, and why.
        load_proposer: of the run's recogniser what finds the regions, where `assign` gives none.
    """

    assign: Callable[[Sequence[Path]], dict[Path, Asked | str]]
    digest: str
    set_aside: tuple[SetAside, ...] = ()
    load_proposer: Callable[[Recognizer], RegionProposer] | None = None


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


def found_regions(
    load: Callable[[Recognizer], RegionProposer],
    *,
    about: str,
    masks: bool = False,
    scores: bool = True,
) -> RegionSource:
    """Regions that a proposer finds in each image.

    Args:
        load: called once, with the recogniser, if there is anything to do. The proposer's
            fingerprint is pinned beside the recogniser's, so that no run mixes two.
        about: what is asked of `load`, in words, to tell runs apart before anything is loaded.
        masks: also use the masks as prompts.
        scores: multiply the names' scores by the regions' objectness.
    """

    def trimmed(recognizer: Recognizer) -> RegionProposer:
        return _Trimmed(load(recognizer), masks, scores)

    def assign(paths: Sequence[Path]) -> dict[Path, Asked | str]:
        return dict.fromkeys(paths, Asked(None))

    return RegionSource(assign, f"found by {about}, {masks=}, {scores=}", load_proposer=trimmed)


class _Trimmed:
    """A proposer whose masks or scores are not wanted."""

    def __init__(self, proposer: RegionProposer, masks: bool, scores: bool) -> None:
        self.name = proposer.name
        self.fingerprint = proposer.fingerprint
        self._proposer, self._masks, self._scores = proposer, masks, scores

    def propose(self, image: Pixels) -> Regions:
        found = self._proposer.propose(image)
        return replace(
            found,
            masks=found.masks if self._masks else (None,) * len(found),
            scores=found.scores if self._scores else None,
        )


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
