"""Which regions each image of a run has: the same for all, a file's, or proposed ones."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeAlias

from anyregion import factory
from anyregion.errors import InputError, SetAside
from anyregion.io.regions import ImageEntry, load_regions
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import Sample


@dataclass(frozen=True, eq=False)
class SameRegions:
    """The same boxes and points for every image."""

    regions: Regions
    set_aside: tuple[SetAside, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the prompts."""
        regions = self.regions
        columns = (regions.points, regions.point_labels)
        content = [regions.boxes.tolist(), *([p.tolist() for p in column] for column in columns)]
        # only where there are any: the digests of earlier runs are not to change
        if any(mask is not None for mask in regions.masks):
            content.append(list(regions.masks))
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def samples(self, images: Mapping[str, Path]) -> dict[str, Sample | str]:
        """By the images' names, each with its regions."""
        return {name: Sample(name, path, self.regions) for name, path in images.items()}


class FileRegions:
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

    def __init__(self, path: str | Path, *, masks: bool = False, scores: bool = True) -> None:
        self.file = load_regions(path, masks=masks, scores=scores)
        self.set_aside = self.file.set_aside
        # of the file, not of what was read of it: ids and names count too
        with Path(path).open("rb") as opened:
            self.digest = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"

    def samples(self, images: Mapping[str, Path]) -> dict[str, Sample | str]:
        """By the images' names: each with its regions, or the reason why it has none."""
        samples: dict[str, Sample | str] = {}
        # by entry, the images that fit it
        candidates: dict[str, list[str]] = defaultdict(list)
        for name, path in images.items():
            samples[name] = "no regions for this image"
            try:
                entry = self.file.find(path)
            except InputError as error:
                samples[name] = str(error)
                continue
            if entry is not None and len(entry.regions):
                candidates[entry.key].append(name)
        for key, names in candidates.items():
            entry = self.file.images[key]
            if len(names) > 1:
                tails = {name: _shared_tail(images[name], entry) for name in names}
                names = [name for name in names if tails[name] == max(tails.values())]
            if len(names) > 1:
                # a guess would name the regions of another photograph
                reason = f"the regions of {entry.file_name or key} fit several images of this run"
                samples.update(dict.fromkeys(names, reason))
            else:
                (name,) = names
                samples[name] = Sample(name, images[name], entry.regions, key, entry.size)
        return samples


@dataclass(frozen=True)
class ProposedRegions:
    """Regions that a proposer finds in each image, with its objectness as score.

    The proposer's fingerprint is pinned beside the recogniser's, so that no run mixes two.

    Attributes:
        proposer: `own`, `compact` or `sam`, as `load_proposer` takes it, or a proposer.
        localizer, device: see `load_proposer`.
        masks: also use the masks as prompts.
        scores: multiply the names' scores by the regions' objectness.
    """

    proposer: factory.Proposer | RegionProposer = "own"
    localizer: str | None = None
    device: str = "cpu"
    masks: bool = False
    scores: bool = True
    set_aside: tuple[SetAside, ...] = ()

    @property
    def digest(self) -> str:
        """What is to be proposed, in words: known before anything is loaded."""
        # run.json of earlier runs has these words
        name = self.proposer if isinstance(self.proposer, str) else self.proposer.name
        return f"found by {name}, masks={self.masks}, scores={self.scores}"

    def samples(self, images: Mapping[str, Path]) -> dict[str, Sample | str]:
        """By the images' names, each without regions as yet."""
        return {name: Sample(name, path, None) for name, path in images.items()}

    def load(self, recognizer: Recognizer) -> RegionProposer:
        """The proposer. A RegionSpot has a localizer, which is loaded already."""
        if not isinstance(self.proposer, str):
            return self.proposer
        return factory.load_proposer(
            self.proposer, localizer=self.localizer, recognizer=recognizer, device=self.device
        )


RegionSource: TypeAlias = SameRegions | FileRegions | ProposedRegions
"""Each has `samples(images)`, a `digest` that changes whenever the regions do, and `set_aside`,
those that cannot be used."""


def _shared_tail(image: Path, entry: ImageEntry) -> int:
    """How many parts, from the end, an image's path and the entry's file name share."""
    name = PurePath(entry.file_name or "").parts
    return next((n for n in range(len(name), 0, -1) if image.parts[-n:] == name[-n:]), 0)
