"""Data sets of images with people's segments: COCO masks, label maps, CUB-200-2011."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.data.semantic.layouts import draw_masks
from anyregion.errors import InputError, SetAside
from anyregion.files import read_text
from anyregion.images import find_images, read_single_channel

SegmentMap: TypeAlias = NDArray[np.int32]
"""`(height, width)`: 1, 2, ... a segment, 0 the background, -1 void: judged for nothing."""
BACKGROUND = 0
VOID = -1
VOID_VALUE = 255
"""The value of void in label maps, as in Pascal VOC's."""
Split: TypeAlias = Literal["test", "train", "all"]
_ROBOFLOW = "_annotations.coco.json"
# CUB's masks run from 0 to 255 in steps of the five annotators' votes; above it most said bird
_CUB_MAJORITY = 127


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """One image and how to read its segments.

    Attributes:
        name: what it is called in its data set; randomness follows from it.
        path: of the image.
        read_segments: `(height, width)` of the upright image to its map; raises `InputError`.
        box: xyxy in pixels of the one object, where the data set states it beside the masks.
    """

    name: str
    path: Path
    read_segments: Callable[[tuple[int, int]], SegmentMap]
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """Images with people's segments.

    Attributes:
        layout: `coco`, `label maps` or `cub`.
        images: those that have segments.
        skipped: images that are not judged because they have no masks.
    """

    layout: str
    images: tuple[SegmentedImage, ...]
    skipped: int
    set_aside: tuple[SetAside, ...]


def open_segmentation_dataset(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    split: Split | None = None,
    void: int | None = None,
    background: int | None = None,
) -> SegmentationDataset:
    """Open a data set; its layout is recognised by what lies at `annotations`.

    Args:
        annotations: COCO-format JSON (or a folder with Roboflow's `_annotations.coco.json`), the
            folder of CUB-200-2011, or a folder of label maps (PNG).
        images: the folder of the images; may be left out for CUB.
        split: of CUB: the test images by default.
        void, background: values of label maps: 255 and none by default.

    Raises:
        InputError: files that cannot be used, or options of another layout.
    """
    path = Path(annotations).expanduser()
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    cub = all((path / name).is_file() for name in ("images.txt", "train_test_split.txt"))
    # CUB-200-2011 is a folder too, and so is an export of Roboflow's
    maps = not cub and path.is_dir() and not (path / _ROBOFLOW).is_file()
    if split is not None and not cub:
        raise InputError(f"{path}: a split is CUB-200-2011's, and this is not its folder")
    if (void is not None or background is not None) and not maps:
        raise InputError(f"{path}: void and background values are of label maps, a folder of PNGs")
    if cub:
        return _open_cub(path, images, split=split or "test")
    if images is None:
        raise InputError(f"{path}: the folder of its images must be given too")
    folder = Path(images).expanduser()
    if maps:
        void = VOID_VALUE if void is None else void
        return _open_label_maps(path, folder, void=void, background=background)
    return _open_coco(path, folder)


def _open_coco(path: Path, folder: Path) -> SegmentationDataset:
    """The images of COCO annotations of which every region has a mask.

    An image of which only some regions have one is skipped, as one without any: its other objects
    would count as background. Crowd regions are void.
    """
    annotations = read_annotations(path, layout="coco", masks=True)
    masks = annotations.segmentations or ()
    faults = list(annotations.set_aside)
    images: list[SegmentedImage] = []
    skipped = 0
    for row, name in enumerate(annotations.file_names):
        regions = annotations.rows(row).tolist()
        # boxes without masks: of such an image nobody knows what its background is
        if not regions or not all(masks[region] for region in regions):
            skipped += 1
            continue
        image = find_image(folder, name)
        if image is None:
            faults.append(SetAside(name, f"not in {folder}"))
        else:
            images.append(SegmentedImage(name, image, partial(_read_coco, annotations, row)))
    return SegmentationDataset("coco", tuple(images), skipped, tuple(faults))


def _read_coco(annotations: Annotations, image: int, size: tuple[int, int]) -> SegmentMap:
    return draw_masks(annotations, image, size)[0]


def _open_label_maps(
    maps: Path, images: Path, *, void: int, background: int | None
) -> SegmentationDataset:
    """Match PNGs with images by their paths below the two folders, without suffixes.

    All pixels of one value are one segment, connected or not. Images without a map are skipped.
    """
    for folder in (maps, images):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    if maps.resolve() == images.resolve():
        raise InputError(f"{maps}: label maps and images must be in folders of their own")
    if void == background:
        raise InputError(f"the value {void} cannot be both void and background")
    map_of = {
        path.relative_to(maps).with_suffix(""): path
        for path in find_images([maps])[0]
        if path.suffix.lower() == ".png"
    }
    paths, faults = find_images([images])
    matched: dict[Path, SegmentedImage] = {}
    skipped = 0
    for path in paths:
        name = path.relative_to(images).with_suffix("")
        if name in matched:
            faults.append(SetAside(str(path), f"{matched[name].path.name} has the same map"))
        elif name in map_of:
            read = partial(_read_label_map, map_of[name], void, background)
            matched[name] = SegmentedImage(name.as_posix(), path, read)
        else:
            skipped += 1
    faults += [
        SetAside(str(path), f"no image in {images}")
        for name, path in map_of.items()
        if name not in matched
    ]
    return SegmentationDataset("label maps", tuple(matched.values()), skipped, tuple(faults))


def _read_label_map(
    path: Path, void: int, background: int | None, size: tuple[int, int]
) -> SegmentMap:
    values = _read_values(path, size)
    is_void = values == void
    is_background = np.zeros_like(is_void) if background is None else values == background
    rest = ~(is_void | is_background)
    segments: SegmentMap = np.full(size, BACKGROUND, dtype=np.int32)
    segments[is_void] = VOID
    # numbered from 1, in the order of the values
    segments[rest] = np.unique(values[rest], return_inverse=True)[1].reshape(-1) + 1
    return segments


def _open_cub(root: Path, images: str | Path | None, *, split: Split) -> SegmentationDataset:
    """The birds of one split of CUB-200-2011 (Wah et al., 2011), one an image.

    `root` holds `images.txt`, `train_test_split.txt` (1 is training) and `images/`;
    `segmentations/`, an archive of its own, is looked for there and beside it. Boxes are those of
    `bounding_boxes.txt` (x, y, width, height), where it is there.
    """
    folder = root / "images" if images is None else Path(images).expanduser()
    candidates = (root / "segmentations", root.parent / "segmentations")
    masks = next((path for path in candidates if path.is_dir()), None)
    if masks is None:
        raise InputError(f"{root}: no folder segmentations there or beside it")
    names = _read_numbered_lines(root / "images.txt")
    training = _read_numbered_lines(root / "train_test_split.txt")
    boxes = _read_boxes(root / "bounding_boxes.txt")
    birds: list[SegmentedImage] = []
    faults: list[SetAside] = []
    skipped = 0
    for number, name in names.items():
        flag = training.get(number)
        if flag not in ("0", "1"):
            faults.append(SetAside(name, "train_test_split.txt does not say its split"))
            continue
        if split != "all" and (flag == "1") != (split == "train"):
            continue
        # lists name images .jpg, masks are .png under the same folders
        mask = find_image(masks, str(PurePosixPath(name).with_suffix(".png")))
        path = find_image(folder, name)
        if mask is None:
            skipped += 1
        elif path is None:
            faults.append(SetAside(name, f"not in {folder}"))
        else:
            birds.append(SegmentedImage(name, path, partial(_read_bird, mask), boxes.get(number)))
    return SegmentationDataset("cub", tuple(birds), skipped, tuple(faults))


def _read_bird(path: Path, size: tuple[int, int]) -> SegmentMap:
    bird = _read_values(path, size, first_channel=True) > _CUB_MAJORITY
    if not bird.any():
        raise InputError(f"{path}: no pixel is above {_CUB_MAJORITY}: no bird")
    return bird.astype(np.int32)


def _read_boxes(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """Boxes as xyxy by the image's number; none where there is no such file."""
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for number, text in (_read_numbered_lines(path) if path.is_file() else {}).items():
        try:
            x, y, width, height = map(float, text.split())
        except ValueError:
            raise InputError(
                f"{path}, image {number}: four numbers are meant: {text!r:.60}"
            ) from None
        boxes[number] = (x, y, x + width, y + height)
    return boxes


def _read_numbered_lines(path: Path) -> dict[str, str]:
    """Lines `number text`."""
    texts: dict[str, str] = {}
    for at, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split(maxsplit=1)
        if len(parts) == 2:
            texts[parts[0]] = parts[1].strip()
        elif parts:
            raise InputError(f"{path}, line {at}: a number and a text are meant, not {line!r:.60}")
    return texts


def _read_values(
    path: Path, size: tuple[int, int], *, first_channel: bool = False
) -> NDArray[np.int64]:
    """The numbers of a label map or mask, which must be `(height, width)`."""
    values = read_single_channel(path, first_channel=first_channel)
    if values.shape != size:
        height, width = values.shape
        raise InputError(f"{path}: {width} x {height}, but its image is {size[1]} x {size[0]}")
    return values
