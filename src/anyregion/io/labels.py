"""Images with labelled regions, as the writers of label formats take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from anyregion.errors import SetAside
from anyregion.io.regions import RegionFile
from anyregion.masks import RLE


@dataclass(frozen=True)
class LabelledRegion:
    """One region and its name.

    Attributes:
        id: the region's id in the tool or file that it came from.
        box: xyxy in pixels of the upright image.
        label: its name.
        score: how sure the name is, from 0 to 1, or None.
        mask: COCO's run-length code, or None.
        labels, scores: the best names and their scores, best first; empty where only one is known.
        refused: a run's own verdict that the name is not to be trusted.
    """

    id: int | str
    box: tuple[float, float, float, float]
    label: str
    score: float | None = None
    mask: RLE | None = None
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    refused: bool = False


@dataclass(frozen=True)
class LabelledImage:
    """One image and its regions.

    Attributes:
        name: its path from the folder of the images, with `/` between.
        size: height and width of the upright image.
        regions: in their order.
        key: its id in the tool or file that it came from, or None.
    """

    name: str
    size: tuple[int, int]
    regions: tuple[LabelledRegion, ...]
    key: str | None = None


@dataclass(frozen=True)
class ClassNames:
    """The classes of a labelled set, in their order.

    Attributes:
        names: each once.
        ids: COCO's category ids; other formats count from 0 or go by the name.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ClassNames:
        """The names in their order, each once, with ids from 1."""
        unique = tuple(dict.fromkeys(names))
        return cls(unique, tuple(range(1, len(unique) + 1)))


def labels_of_file(file: RegionFile) -> Iterator[LabelledImage | SetAside]:
    """The images of a file of regions with a size and a name; what cannot be written is set aside.

    Regions without a category that the file names are set aside with their image's name.
    """
    for entry in file.images.values():
        regions = entry.regions
        name = entry.file_name or entry.key
        if entry.size is None:
            yield SetAside(name, "no size: give the folder of the images")
            continue
        categories = [-1] * len(regions) if regions.categories is None else regions.categories
        labelled: list[LabelledRegion] = []
        boxes = regions.extents(entry.size)
        for row, category in enumerate(categories):
            label = file.categories.get(int(category))
            if label is None:
                yield SetAside(f"{name}, region {regions.ids[row]}", "it has no name")
                continue
            x0, y0, x1, y1 = boxes[row].tolist()
            score = None if regions.scores is None else float(regions.scores[row])
            mask = regions.masks[row]
            labelled.append(LabelledRegion(regions.ids[row], (x0, y0, x1, y1), label, score, mask))
        yield LabelledImage(name, entry.size, tuple(labelled), entry.key)


def image_number(key: str | None) -> int | None:
    """The id of an image as COCO has it, a whole number; None for another kind of id."""
    return int(key) if key is not None and key.isascii() and key.isdecimal() else None


def image_ids(images: Sequence[LabelledImage]) -> list[int]:
    """COCO ids of images: their own where each has a whole number of its own, else 1, 2, ..."""
    own = [image_number(image.key) for image in images]
    ids = [number for number in own if number is not None]
    return ids if len(set(ids)) == len(images) else list(range(1, len(images) + 1))
