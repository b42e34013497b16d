"""The layouts of data sets with a class for every pixel, as their authors publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.data.semantic.class_lists import (
    ADE20K,
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_IDS,
    CITYSCAPES_LARGEST_ID,
    VOC,
)
from anyregion.data.semantic.dataset import (
    VOID,
    ClassMap,
    LabelledImage,
    Layout,
    SemanticDataset,
    SemanticSource,
    map_values,
)
from anyregion.errors import InputError, SetAside, require
from anyregion.files import read_text
from anyregion.images import find_images, read_single_channel
from anyregion.masks import decode_mask, segmentation_to_rle

_UNKNOWN = VOID - 1
_SBD = ("benchmark_RELEASE/dataset", "sbd", "SBD/dataset", "dataset")
"""Where the Semantic Boundaries Dataset may lie beside `VOC2012`."""


def find_layout(path: Path) -> tuple[Path, Layout]:
    """The layout of a folder or file, and where it begins (`VOCdevkit` holds `VOC2012`)."""
    if path.is_file():
        return path, "coco"
    for folder in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir() and (folder / "ImageSets" / "Segmentation").is_dir():
            return folder, "voc"
    if (path / "leftImg8bit").is_dir() or (path / "gtFine").is_dir():
        return path, "cityscapes"
    if any((path / f"{split}annot").is_dir() for split in ("train", "val", "test")):
        return path, "camvid"
    if (path / "annotations" / "training").is_dir() and (path / "images").is_dir():
        return path, "ade20k"
    return path, "maps"


def has_parts(path: Path) -> bool:
    """Whether what lies there has a part to train on and one to judge on, by its layout."""
    return path.exists() and find_layout(path)[1] not in ("coco", "maps")


def read_voc(root: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """Pascal VOC 2012 (Everingham et al., 2010), also with the augmented training set.

    `trainaug` are the 10,582 images of Hariharan et al. (2011): VOC's own maps of its training
    part, and SBD's of what is neither there nor in `val`; from `SegmentationClassAug`, as people
    hand it on, or from SBD itself.
    """
    split = source.split or ("train" if training else "val")
    if split in ("trainaug", "train_aug"):
        images = _voc_augmented(root, source.sbd)
    else:
        images = _Images()
        listed = _voc_list(root, split)
        if not listed.is_file():
            known = ", ".join(sorted(p.stem for p in listed.parent.glob("*.txt")))
            raise InputError(f"{root}: no split {split!r}: there are {known or 'none'}, trainaug")
        images.add_voc(root, _read_names(listed))
    faults: list[SetAside] = []
    labelled = images.labelled(_table(range(len(VOC)), void=(255,)), faults)
    return SemanticDataset("voc", VOC, labelled, tuple(faults))


def _voc_augmented(root: Path, sbd: str | None) -> _Images:
    images, joined = _Images(), root / "SegmentationClassAug"
    lists = [p for name in ("trainaug", "train_aug") if (p := _voc_list(root, name)).is_file()]
    if joined.is_dir() and lists and sbd is None:
        images.add_voc(root, _read_names(lists[0]), joined.name)
        return images
    folder = _sbd_folder(root, sbd)
    train, val = (_read_names(_voc_list(root, name)) for name in ("train", "val"))
    images.add_voc(root, train)
    excluded = {*train, *val}
    for name in (n for part in ("train", "val") for n in _read_names(folder / f"{part}.txt")):
        if name not in excluded:
            image = root / "JPEGImages" / f"{name}.jpg"
            # SBD has the photographs too, all of them VOC's
            image = image if image.is_file() else folder / "img" / image.name
            images.add(name, image, folder / "cls" / f"{name}.mat")
    return images


def _voc_list(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def read_cityscapes(root: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """Cityscapes (Cordts et al., 2016): `leftImg8bit/SPLIT/CITY` and `gtFine`; its 19 classes.

    Either `*_labelIds.png`, as published, or `*_labelTrainIds.png`, as its scripts make them.
    """
    split = source.split or ("train" if training else "val")
    folder = root / "leftImg8bit" / split
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    images, suffix = _Images(), "_leftImg8bit.png"
    paths = sorted(folder.glob(f"*/*{suffix}"))
    fine = root / "gtFine" / split
    made = next(fine.glob("*/*_gtFine_labelTrainIds.png"), None) is not None
    published = next(fine.glob("*/*_gtFine_labelIds.png"), None) is not None
    ids = "labelTrainIds" if made and not published else "labelIds"
    for path in paths:
        name, city = path.name.removesuffix(suffix), path.parent.name
        images.add(f"{city}/{name}", path, fine / city / f"{name}_gtFine_{ids}.png")
    values = _table(range(len(CITYSCAPES)), void=(255,))
    if ids == "labelIds":
        others = set(range(CITYSCAPES_LARGEST_ID + 1)) - set(CITYSCAPES_IDS)
        values = _table(CITYSCAPES_IDS, void=others)
    faults: list[SetAside] = []
    return SemanticDataset("cityscapes", CITYSCAPES, images.labelled(values, faults), tuple(faults))


def read_camvid(root: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """CamVid as SegNet's authors publish it: `train` and `trainannot`, and so on; 11 classes."""
    split = source.split or ("train" if training else "val")
    folder, maps = root / split, root / f"{split}annot"
    for part in (folder, maps):
        if not part.is_dir():
            raise InputError(f"{part}: there is no such folder")
    images = _Images()
    faults: list[SetAside] = []
    for path in find_images([folder])[0]:
        images.add(path.stem, path, maps / f"{path.stem}.png")
    values = _table(range(len(CAMVID)), void=(len(CAMVID),))
    return SemanticDataset("camvid", CAMVID, images.labelled(values, faults), tuple(faults))


def read_ade20k(root: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """ADE20K's scene parsing benchmark (`ADEChallengeData2016`): 150 classes from 1, 0 is void."""
    split = source.split or ("training" if training else "validation")
    folder, maps = root / "images" / split, root / "annotations" / split
    for part in (folder, maps):
        if not part.is_dir():
            raise InputError(f"{part}: there is no such folder")
    images = _Images()
    faults: list[SetAside] = []
    for path in find_images([folder])[0]:
        images.add(path.stem, path, maps / f"{path.stem}.png")
    values = _table(range(1, ADE20K + 1), void=(0,))
    labelled = images.labelled(values, faults)
    return SemanticDataset("ade20k", _ade_names(root), labelled, tuple(faults))


def read_maps(root: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """A folder of label maps and one of images, matched by their paths without suffixes."""
    if source.images is None or source.classes is None:
        raise InputError(
            f"{root}: read as a folder of label maps, which needs `images` (their folder) and "
            "`classes` (a text file with a name in each line, the first of the value 0)"
        )
    folder = Path(source.images).expanduser()
    classes = tuple(_read_names(Path(source.classes).expanduser()))
    if len(classes) < 2:
        raise InputError(f"{source.classes}: fewer than two classes")
    listed = None
    if source.split is not None:
        listed = {Path(n).with_suffix("").as_posix() for n in _read_names(Path(source.split))}
    images = _Images()
    faults: list[SetAside] = []
    for path in find_images([folder])[0]:
        name = path.relative_to(folder).with_suffix("")
        if listed is None or name.as_posix() in listed:
            images.add(name.as_posix(), path, root / name.with_name(f"{name.name}.png"))
    if listed is not None:
        missing = sorted(listed - images.paths.keys())
        faults += [SetAside(name, f"not in {folder}") for name in missing]
    values = _table(range(len(classes)), void=source.void)
    return SemanticDataset("maps", classes, images.labelled(values, faults), tuple(faults))


def read_coco(path: Path, source: SemanticSource, training: bool) -> SemanticDataset:
    """Masks of COCO-format JSON, drawn over each other; the file's categories are the classes.

    Images of which a region has no mask are set aside, for its pixels would count as background.
    """
    if source.images is None:
        raise InputError(f"{path}: the folder of its images must be given too")
    folder = Path(source.images).expanduser()
    annotations = read_annotations(path, layout="coco", masks=True)
    codes, faults = annotations.segmentations or (), list(annotations.set_aside)
    first = 1 if source.background == "class" else 0
    images: list[LabelledImage] = []
    for row, name in enumerate(annotations.file_names):
        if not all(codes[region] for region in annotations.rows(row).tolist()):
            faults.append(SetAside(name, "a region has no mask"))
        elif (image := find_image(folder, name)) is None:
            faults.append(SetAside(name, f"not in {folder}"))
        else:
            read = partial(_draw_classes, annotations, row, first)
            images.append(LabelledImage(name, image, read))
    classes = (("background",) if first else ()) + annotations.categories.names
    return SemanticDataset("coco", classes, tuple(images), tuple(faults))


READERS: Mapping[Layout, Callable[[Path, SemanticSource, bool], SemanticDataset]] = {
    "voc": read_voc,
    "cityscapes": read_cityscapes,
    "camvid": read_camvid,
    "ade20k": read_ade20k,
    "coco": read_coco,
    "maps": read_maps,
}


def draw_masks(
    annotations: Annotations, image: int, size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The masks of an image over each other: the smaller on top, of equal ones the later.

    Returns:
        `(height, width)` 1, 2, ... a region, 0 what no mask covers, -1 crowds; and `(N,)` the rows
        of `annotations` that 1, 2, ... are.

    Raises:
        InputError: an image of another size than is stated, or a malformed mask.
    """
    stated = tuple(annotations.sizes[image].tolist())
    if min(stated) >= 0 and stated != size:
        raise InputError(
            f"{size[1]} x {size[0]}, but the annotations say {stated[1]} x {stated[0]}"
        )
    codes = annotations.segmentations or ()

    def mask(row: int) -> NDArray[np.bool_]:
        try:
            return decode_mask(segmentation_to_rle(codes[row], *size))
        except InputError as error:
            raise InputError(f"region {annotations.region_ids[row]}: {error}") from None

    drawn = np.zeros(size, dtype=np.int32)
    rows = annotations.rows(image, crowd=True)
    crowd = annotations.crowd[rows]
    for row in rows[crowd].tolist():
        if codes[row]:
            drawn[mask(row)] = VOID
    things = rows[~crowd]
    masks = [mask(row) for row in things.tolist()]
    # largest first, so that the smaller is written over it
    order = sorted(range(len(masks)), key=lambda i: np.count_nonzero(masks[i]), reverse=True)
    for number, i in enumerate(order, start=1):
        drawn[masks[i]] = number
    return drawn, things[np.array(order, dtype=np.int64)]


def _draw_classes(
    annotations: Annotations, image: int, first: int, size: tuple[int, int]
) -> ClassMap:
    drawn, rows = draw_masks(annotations, image, size)
    # from the number of a region, -1 and 0 included, to its class
    background = 0 if first else VOID
    classes = np.concatenate([[VOID, background], annotations.labels[rows] + first])
    return classes[drawn + 1].astype(np.int32)


class _Images:
    """Images and their maps by name, while a layout is read."""

    def __init__(self) -> None:
        self.paths: dict[str, tuple[Path, Path]] = {}

    def add(self, name: str, image: Path, label_map: Path) -> None:
        self.paths.setdefault(name, (image, label_map))

    def add_voc(self, root: Path, names: Iterable[str], maps: str = "SegmentationClass") -> None:
        for name in names:
            self.add(name, root / "JPEGImages" / f"{name}.jpg", root / maps / f"{name}.png")

    def labelled(
        self, values: NDArray[np.int32], faults: list[SetAside]
    ) -> tuple[LabelledImage, ...]:
        """Those whose two files are there; of the others the fault is added."""
        images = []
        for name, (image, label_map) in self.paths.items():
            missing = next((path for path in (image, label_map) if not path.is_file()), None)
            if missing is not None:
                faults.append(SetAside(name, f"{missing} is missing"))
                continue
            read = partial(_read_map, label_map, values)
            images.append(LabelledImage(name, image, read))
        return tuple(images)


def _read_map(path: Path, positions: NDArray[np.int32], size: tuple[int, int]) -> ClassMap:
    values = _read_sbd(path) if path.suffix == ".mat" else read_single_channel(path)
    if values.shape != size:
        height, width = values.shape
        raise InputError(f"{path}: {width} x {height}, but its image is {size[1]} x {size[0]}")
    return map_values(values, positions, path)


def _read_sbd(path: Path) -> NDArray[np.int64]:
    """The classes of one of SBD's MATLAB files: `GTcls.Segmentation`."""
    require("torch", "scipy")
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        values = loadmat(path)["GTcls"][0]["Segmentation"][0]
    except Exception as error:  # scipy raises anything for a damaged file
        raise InputError(f"{path}: not a file of SBD's classes ({error})") from None
    if getattr(values, "ndim", 0) != 2 or values.dtype.kind not in "ui":
        raise InputError(f"{path}: GTcls.Segmentation is no map of whole numbers")
    return np.asarray(values, dtype=np.int64)


def _sbd_folder(root: Path, stated: str | None) -> Path:
    candidates = [Path(stated).expanduser()] if stated else []
    if not stated:
        candidates = [folder / part for folder in root.parents[:2] for part in _SBD]
    for folder in candidates:
        for inner in (folder, folder / "dataset"):
            if (inner / "cls").is_dir() and (inner / "train.txt").is_file():
                return inner
    raise InputError(
        f"{stated or root}: trainaug needs SegmentationClassAug and its list trainaug.txt in VOC's "
        "folder, or SBD's folder `dataset` with cls, train.txt and val.txt"
    )


def _table(values: Sequence[int], *, void: Iterable[int]) -> NDArray[np.int32]:
    """The class of each value of a label map: see `map_values`."""
    void = tuple(void)
    if clash := set(values) & set(void):
        raise InputError(f"the value {min(clash)} cannot be both void and a class")
    table = np.full(max(*values, *void, 0) + 1, _UNKNOWN, dtype=np.int32)
    table[list(values)] = np.arange(len(values))
    table[list(void)] = VOID
    return table


def _read_names(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _ade_names(root: Path) -> tuple[str, ...]:
    """The first name of each class in `objectInfo150.txt`, where it lies there."""
    path = root / "objectInfo150.txt"
    rows = [line.split("\t") for line in read_text(path).splitlines()] if path.is_file() else []
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in rows if len(row) > 1}
    return tuple(names.get(str(value), f"class {value}") for value in range(1, ADE20K + 1))
