"""Data sets with a class for every pixel, in each layout as it is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyregion.data.semantic.class_lists import CAMVID, CITYSCAPES, VOC
from anyregion.data.semantic.dataset import SemanticDataset, SemanticSource, open_semantic_dataset
from anyregion.data.semantic.layouts import has_parts
from anyregion.errors import InputError
from tests.helpers import semantic_folders as folders


def classes_of(dataset: SemanticDataset, image: int = 0) -> list[int]:
    """The classes of the stripes, from left to right."""
    row = dataset.images[image].read_classes(folders.SIZE)[0]
    return row[np.flatnonzero(np.diff(row, prepend=row[0] - 1))].tolist()


def names(dataset: SemanticDataset) -> list[str]:
    return [image.name for image in dataset.images]


def test_voc(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    folders.write_voc(root)
    train = open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    val = open_semantic_dataset(SemanticSource(str(root.parent)), training=False)
    assert (train.layout, train.classes, len(VOC)) == ("voc", VOC, 21)
    assert names(train) == ["2007_000001", "2007_000002"]
    assert names(val) == ["2007_000003"]
    assert classes_of(val) == [0, 20, -1]
    with pytest.raises(InputError, match="no split 'tset': there are train, val"):
        open_semantic_dataset(SemanticSource(str(root), split="tset"), training=True)


def test_voc_with_the_augmented_set(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    root = tmp_path / "VOCdevkit" / "VOC2012"
    folders.write_voc(root)
    augmented = SemanticSource(str(root), split="trainaug")
    with pytest.raises(InputError, match="trainaug needs SegmentationClassAug"):
        open_semantic_dataset(augmented, training=True)
    # beside VOC2012, as its archive unpacks
    folders.write_sbd(tmp_path / "VOCdevkit" / "benchmark_RELEASE" / "dataset", root)
    dataset = open_semantic_dataset(augmented, training=True)
    assert names(dataset) == ["2007_000001", "2007_000002", "2008_000007"]
    assert classes_of(dataset, 0) == [0, 20, -1], "VOC's own map where it has one"
    assert classes_of(dataset, 2) == [0, 5]
    # as people hand it on
    for name in ("2007_000002", "2008_000007"):
        folders.write_map(root / "SegmentationClassAug" / f"{name}.png", (3, 255))
    listed = root / "ImageSets" / "Segmentation" / "trainaug.txt"
    folders.write_names(listed, ["2007_000002", "2008_000007", "2008_000008"])
    dataset = open_semantic_dataset(augmented, training=True)
    assert names(dataset) == ["2007_000002", "2008_000007"]
    assert classes_of(dataset) == [3, -1]
    assert "2008_000008" in str(dataset.set_aside[0])


def test_a_damaged_map_of_sbd(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    folders.write_voc(tmp_path / "VOC2012")
    folders.write_sbd(tmp_path / "sbd", tmp_path / "VOC2012")
    source = SemanticSource(str(tmp_path), split="trainaug", sbd=str(tmp_path / "sbd"))
    image = open_semantic_dataset(source, training=True).images[2]
    (tmp_path / "sbd" / "cls" / "2008_000007.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    with pytest.raises(InputError, match=r"2008_000007\.mat: not a file of SBD's"):
        image.read_classes(folders.SIZE)


@pytest.mark.parametrize(
    ("suffix", "values", "expected"),
    [("labelIds", (7, 33, 0), [0, 18, -1]), ("labelTrainIds", (0, 18, 255), [0, 18, -1])],
)
def test_cityscapes(
    tmp_path: Path, suffix: str, values: tuple[int, ...], expected: list[int]
) -> None:
    folders.write_cityscapes(tmp_path, suffix=suffix, values=values)
    train = open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    val = open_semantic_dataset(SemanticSource(str(tmp_path)), training=False)
    assert (train.layout, train.classes) == ("cityscapes", CITYSCAPES)
    assert names(train) == ["aachen/aachen_000000_000019"]
    assert names(val) == ["lindau/lindau_000000_000019"]
    assert classes_of(train) == expected
    with pytest.raises(InputError, match="tset: there is no such folder"):
        open_semantic_dataset(SemanticSource(str(tmp_path), split="tset"), training=True)


def test_camvid(tmp_path: Path) -> None:
    folders.write_camvid(tmp_path)
    train = open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    test = open_semantic_dataset(SemanticSource(str(tmp_path), split="test"), training=False)
    assert (train.layout, train.classes) == ("camvid", CAMVID)
    assert (names(train), names(test)) == (["0001TP_000"], ["0001TP_002"])
    assert classes_of(train) == [0, 10, -1]


def test_ade20k(tmp_path: Path) -> None:
    folders.write_ade20k(tmp_path)
    train = open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    val = open_semantic_dataset(SemanticSource(str(tmp_path)), training=False)
    assert (train.layout, len(train.classes)) == ("ade20k", 150)
    assert train.classes[:3] == ("wall", "building", "class 3")
    assert (names(train), names(val)) == (["ADE_train_00000001"], ["ADE_val_00000001"])
    assert classes_of(train) == [-1, 0, 149]


@pytest.mark.parametrize("background", ["class", "void"])
def test_masks_of_coco(tmp_path: Path, background: str) -> None:
    folders.write_coco(tmp_path / "a.json", tmp_path / "images")
    source = SemanticSource(
        str(tmp_path / "a.json"),
        images=str(tmp_path / "images"),
        background=background,  # type: ignore[arg-type]
    )
    dataset = open_semantic_dataset(source, training=True)
    first = int(background == "class")
    assert dataset.classes == ("background", "cup", "table")[1 - first :]
    classes = dataset.images[1].read_classes(folders.SIZE)
    expected = np.full(folders.SIZE, 0 if first else -1)
    expected[:16, :16] = first + 1
    expected[4:10, 4:10] = first  # the smaller lies on top
    expected[:8, 24:] = -1  # a crowd
    assert np.array_equal(classes, expected)


def test_an_image_of_which_a_region_has_no_mask_is_set_aside(tmp_path: Path) -> None:
    path, images = tmp_path / "a.json", tmp_path / "images"
    folders.write_coco(path, images)
    text = path.read_text()
    at = text.index('"segmentation": [[0,')
    path.write_text(text[:at] + '"segmentation": []' + text[text.index("]]", at) + 2 :])
    dataset = open_semantic_dataset(SemanticSource(str(path), images=str(images)), training=True)
    assert names(dataset) == ["b.jpg"]
    assert [str(fault) for fault in dataset.set_aside] == ["a.jpg: a region has no mask"]


def test_label_maps(tmp_path: Path) -> None:
    maps, images = tmp_path / "maps", tmp_path / "images"
    for number, name in enumerate(("street/a", "street/b", "c")):
        folders.write_image(images / f"{name}.png", seed=number)
        folders.write_map(maps / f"{name}.png", (0, 2, 9))
    folders.write_names(tmp_path / "classes.txt", ["road", "sky", "car"])
    source = SemanticSource(
        str(maps), images=str(images), classes=str(tmp_path / "classes.txt"), void=(9,)
    )
    dataset = open_semantic_dataset(source, training=True)
    assert (dataset.layout, dataset.classes) == ("maps", ("road", "sky", "car"))
    assert names(dataset) == ["c", "street/a", "street/b"]
    assert classes_of(dataset) == [0, 2, -1]
    folders.write_names(tmp_path / "split.txt", ["street/b", "street/z.jpg"])
    part = SemanticSource(
        str(maps),
        images=str(images),
        classes=str(tmp_path / "classes.txt"),
        split=str(tmp_path / "split.txt"),
        limit=1,
    )
    dataset = open_semantic_dataset(part, training=True)
    assert names(dataset) == ["street/b"]
    assert "street/z" in str(dataset.set_aside[0])
    # 9 is neither a class nor void now: said, with the file
    with pytest.raises(InputError, match=r"b\.png: the value 9 \(row 0, column 22\) is no class"):
        dataset.images[0].read_classes(folders.SIZE)


def test_what_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    folders.write_camvid(tmp_path)
    folders.write_image(tmp_path / "train" / "without.png")
    dataset = open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    assert len(dataset.images) == 1
    assert "without" in str(dataset.set_aside[0])
    with pytest.raises(InputError, match="32 x 24, but its image is 7 x 5"):
        dataset.images[0].read_classes((5, 7))
    Image.new("RGB", (32, 24)).save(tmp_path / "trainannot" / "0001TP_000.png")
    with pytest.raises(InputError, match="has colours"):
        dataset.images[0].read_classes(folders.SIZE)


def test_options_of_another_layout_are_refused(tmp_path: Path) -> None:
    folders.write_camvid(tmp_path / "camvid")
    for option in ({"sbd": "x"}, {"classes": "x"}, {"images": "x"}, {"background": "void"}):
        with pytest.raises(InputError, match=f"{next(iter(option))} is of"):
            open_semantic_dataset(
                SemanticSource(str(tmp_path / "camvid"), **option),  # type: ignore[arg-type]
                training=True,
            )
    with pytest.raises(InputError, match="not in the layout of voc, it seems camvid"):
        open_semantic_dataset(SemanticSource(str(tmp_path / "camvid"), layout="voc"), training=True)
    with pytest.raises(InputError, match="needs `images`"):
        open_semantic_dataset(SemanticSource(str(tmp_path)), training=True)
    with pytest.raises(InputError, match="there is no such"):
        open_semantic_dataset(SemanticSource(str(tmp_path / "nowhere")), training=True)
    assert has_parts(tmp_path / "camvid")
    assert not has_parts(tmp_path)
