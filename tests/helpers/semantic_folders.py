"""Data sets with a class for every pixel as their authors publish them, of a few tiny images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (24, 32)


def write_image(path: Path, *, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    """A photograph of noise, `(height, width)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def stripes(values: Sequence[int], *, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Upright stripes of these values, from left to right."""
    columns = np.arange(size[1]) * len(values) // size[1]
    return np.broadcast_to(np.array(values, dtype=np.uint8)[columns], size).copy()


def write_map(path: Path, values: Sequence[int], *, palette: bool = False) -> NDArray[np.uint8]:
    """A label map of stripes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label_map = stripes(values)
    image = Image.fromarray(label_map)
    if palette:  # VOC's files: indices into colours
        image.putpalette([channel for i in range(256) for channel in (i, 255 - i, 7 * i % 256)])
    image.save(path)
    return label_map


def write_names(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_voc(root: Path) -> None:
    """`VOC2012`: two images to train on, one to judge on."""
    for number, name in enumerate(("2007_000001", "2007_000002", "2007_000003")):
        write_image(root / "JPEGImages" / f"{name}.jpg", seed=number)
        write_map(root / "SegmentationClass" / f"{name}.png", (0, 20, 255), palette=True)
    lists = root / "ImageSets" / "Segmentation"
    write_names(lists / "train.txt", ["2007_000001", "2007_000002"])
    write_names(lists / "val.txt", ["2007_000003"])


def write_sbd(root: Path, voc: Path) -> None:
    """SBD's `dataset`: an image of its own, one that VOC trains on, one that VOC judges on."""
    from scipy.io import savemat  # type: ignore[import-untyped]

    names = ["2008_000007", "2007_000001", "2007_000003"]
    for name in names:
        (root / "cls").mkdir(parents=True, exist_ok=True)
        parts = {"Segmentation": stripes((0, 5)), "CategoriesPresent": np.array([[5]])}
        savemat(root / "cls" / f"{name}.mat", {"GTcls": parts})
    write_image(voc / "JPEGImages" / "2008_000007.jpg", seed=9)
    write_names(root / "train.txt", names[:2])
    write_names(root / "val.txt", names[2:])


def write_cityscapes(
    root: Path, *, suffix: str = "labelIds", values: Sequence[int] = (7, 33, 0)
) -> None:
    """One city to train on and one to judge on."""
    for number, (split, city) in enumerate((("train", "aachen"), ("val", "lindau"))):
        name = f"{city}_000000_000019"
        write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", seed=number)
        write_map(root / "gtFine" / split / city / f"{name}_gtFine_{suffix}.png", values)


def write_camvid(root: Path) -> None:
    """SegNet's folders."""
    for number, split in enumerate(("train", "val", "test")):
        write_image(root / split / f"0001TP_00{number}.png", seed=number)
        write_map(root / f"{split}annot" / f"0001TP_00{number}.png", (0, 10, 11))


def write_ade20k(root: Path) -> None:
    """`ADEChallengeData2016`."""
    for number, (split, short) in enumerate((("training", "train"), ("validation", "val"))):
        write_image(root / "images" / split / f"ADE_{short}_00000001.jpg", seed=number)
        write_map(root / "annotations" / split / f"ADE_{short}_00000001.png", (0, 1, 150))
    rows = [
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        "1\t0.1\t1\t1\t1\twall",
        "2\t0.1\t1\t1\t1\tbuilding, edifice",
    ]
    write_names(root / "objectInfo150.txt", rows)


def write_coco(path: Path, images: Path, names: Sequence[str] = ("a.jpg", "b.jpg")) -> None:
    """COCO-format JSON: a large square of class 9, a small one of class 3 on it, a crowd."""
    squares = [(9, 0, 0, 16, 0), (3, 4, 4, 6, 0), (3, 24, 0, 8, 1)]
    annotations = [
        {
            "id": 10 * image + number,
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, side, side],
            "area": side * side,
            "iscrowd": crowd,
            "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
        }
        for image in range(1, len(names) + 1)
        for number, (category, x, y, side, crowd) in enumerate(squares)
    ]
    for number, name in enumerate(names):
        write_image(images / name, seed=number)
    height, width = SIZE
    content = {
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width}
            for i, name in enumerate(names, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cup"}, {"id": 9, "name": "table"}],
    }
    path.write_text(json.dumps(content))
