"""LVIS, Objects365, V3Det, ODinW, Pascal VOC and OpenImages: what each does differently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anyregion.data.annotations.folders import DataSet, find_sets
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import find_image
from anyregion.errors import InputError
from tests.helpers.coco_files import content, photo, region, write
from tests.helpers.shared import SHARED, needs_shared


def test_lvis(tmp_path: Path) -> None:
    images = [
        {
            "id": 1,
            "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
            "neg_category_ids": [3, 99],
            "not_exhaustive_category_ids": [2],
        },
        {"id": 2, "file_name": "COCO_val2014_000000000139.jpg", "neg_category_ids": []},
    ]
    categories = [
        {
            "id": k,
            "name": name,
            "synset": "x.n.01",
            "synonyms": [name, *more],
            "frequency": often,
            "image_count": 1,
        }
        for k, name, more, often in (
            (1, "aerosol_can", ["spray_can"], "c"),
            (2, "acorn", [], "r"),
            (3, "cell_phone", ["cell phone", "mobile_phone", "mobile_phone"], "f"),
        )
    ]
    rows = [region(1, 1, 2, [0, 0, 5, 5])]
    value = content(images=images, categories=categories, annotations=rows)
    annotations = read_annotations(write(tmp_path / "lvis.json", value))
    assert annotations.file_names == ("val2017/000000397133.jpg", "COCO_val2014_000000000139.jpg")
    assert annotations.categories.frequency == ("c", "r", "f")
    assert annotations.categories.synonyms == (("spray_can",), (), ("mobile_phone",))
    assert [labels.tolist() for labels in annotations.negatives] == [[2], []]
    assert [labels.tolist() for labels in annotations.not_exhaustive] == [[1], []]
    assert [str(a) for a in annotations.set_aside] == [
        "val2017/000000397133.jpg: unknown category id 99"
    ]
    # both names lead to their files in a folder of COCO 2017
    for name in ("000000397133.jpg", "000000000139.jpg"):
        photo(tmp_path / "val2017" / name)
    for folder in (tmp_path, tmp_path / "val2017"):
        assert (
            find_image(folder, annotations.file_names[0]) == tmp_path / "val2017/000000397133.jpg"
        )
    assert find_image(tmp_path / "val2017", annotations.file_names[1]) is not None


@needs_shared
def test_the_lvis_sample() -> None:
    path = SHARED / "data/coco/annotations/lvis_v0.5_val_sample.json"
    annotations = read_annotations(path)
    assert len(annotations.categories) == 1230
    assert set(annotations.categories.frequency) == {"r", "c", "f"}
    assert (
        "spray_can"
        in annotations.categories.synonyms[annotations.categories.find(["aerosol_can"])[0]]
    )
    assert annotations.negatives[0].tolist() == sorted(
        annotations.categories.find([284, 53, 754, 299, 654, 541, 566]).tolist()
    )


def test_objects365(tmp_path: Path) -> None:
    name = "images/v1/patch8/objects365_v1_00420917.jpg"
    images = [{"id": 420917, "file_name": name, "height": 40, "width": 60}]
    rows = [
        region(1, 420917, 5, [1.5, 2.5, 20.0, 10.0], iscrowd=0, isfake=0, isreflected=0),
        region(2, 420917, 5, [1.5, 2.5, 25.0, 10.0], iscrowd=1, isfake=1),
    ]
    value = content(images=images, annotations=rows)
    annotations = read_annotations(write(tmp_path / "o365.json", value))
    assert annotations.crowd.tolist() == [False, True]
    assert annotations.boxes[0].tolist() == [1.5, 2.5, 21.5, 12.5]
    # the patches lie flat, or below a folder that is given too high or too low
    assert find_image(tmp_path, name) is None
    file = photo(tmp_path / "patch8/objects365_v1_00420917.jpg")
    assert find_image(tmp_path, name) == find_image(tmp_path / "patch8", name) == file


def test_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    secret = photo(tmp_path / "secret.jpg")
    inside = tmp_path / "images"
    inside.mkdir()
    for name in ("../secret.jpg", str(secret), "..\\secret.jpg", "", "..", "COCO_", "/"):
        assert find_image(inside, name) is None
    mine = photo(inside / "a/one.jpg")
    assert find_image(inside, "a\\one.jpg") == find_image(inside, "/data/a/one.jpg") == mine


def test_v3det_names_repeat(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "bat", "name_zh": "", "cat_info": "an animal", "novel": False},
        {"id": 2, "name": "cock"},
        {"id": 3, "name": "bat", "cat_info": "for baseball", "novel": True},
    ]
    rows = [region(k, 7, k, [0, 0, 5, 5]) for k in (1, 2, 3)]
    value = content(categories=categories, annotations=rows)
    annotations = read_annotations(write(tmp_path / "v3det.json", value))
    assert annotations.categories.names == ("bat", "cock")
    assert annotations.labels.tolist() == [0, 1, 0]
    assert [f.count for f in annotations.findings] == [1]


def roboflow() -> dict[str, Any]:
    categories = [
        {"id": 0, "name": "pieces", "supercategory": "none"},
        {"id": 1, "name": "rook", "supercategory": "pieces"},
        {"id": 2, "name": "king", "supercategory": "pieces"},
    ]
    return content(categories=categories, annotations=[region(0, 7, 1, [0, 0, 5, 5])])


def test_odinw_groups_are_no_class(tmp_path: Path) -> None:
    value = roboflow()
    path = write(tmp_path / "valid/_annotations.coco.json", value)
    assert read_annotations(path.parent).categories.names == ("rook", "king")
    assert read_annotations(path).set_aside == ()
    # with regions it is a class, and so is one of which nothing is a kind
    value["annotations"].append(region(1, 7, 0, [0, 0, 6, 6]))
    assert len(read_annotations(write(path, value)).categories) == 3
    value = content(categories=[{"id": 1, "name": "cat", "supercategory": "none"}], annotations=[])
    assert read_annotations(write(path, value)).categories.names == ("cat",)


def test_find_sets_in_odinw(tmp_path: Path) -> None:
    for place in (
        "Drone/large/test",
        "Drone/tiled/test",
        "Aqua/Aqua v2.coco/train",
        "Aqua/Aqua v2.coco/valid",
    ):
        write(tmp_path / place / "_annotations.coco.json", roboflow())
    better = write(tmp_path / "Drone/large/test/annotations_without_background.json", roboflow())
    write(tmp_path / "Plain/_annotations.coco.json", roboflow())
    write(tmp_path / ".trash/test/_annotations.coco.json", roboflow())
    sets = find_sets(tmp_path)
    assert [(s.name, s.split) for s in sets] == [
        ("Aqua", "train"),
        ("Aqua", "valid"),
        ("Drone/large", "test"),
        ("Drone/tiled", "test"),
        ("Plain", "all"),
    ]
    assert sets[2] == DataSet("Drone/large", better, better.parent, "test")
    assert [s.name for s in find_sets(tmp_path / "Drone")] == ["large", "tiled"]
    assert find_sets(tmp_path / "Drone/large")[0].name == "large"


def test_find_sets_beside_images(tmp_path: Path) -> None:
    for place in (
        "a/annotations/instances_val",
        "a/annotations/instances_train",
        "a/annotations/x",
    ):
        write(tmp_path / f"{place}.json", content())
    (tmp_path / "a/images").mkdir()
    write(tmp_path / "coco/annotations/instances_val2017.json", content())
    (tmp_path / "coco/val2017").mkdir()
    sets = find_sets(tmp_path)
    assert [(s.name, s.split, s.images) for s in sets] == [
        ("a", "train", tmp_path / "a/images"),
        ("a", "val", tmp_path / "a/images"),
        ("coco", "val2017", tmp_path / "coco/val2017"),
    ]
    (tmp_path / "a/again").symlink_to(tmp_path)
    assert find_sets(tmp_path) == sets
    assert find_sets(tmp_path / "a")[0].name == "a"


def test_find_sets_finds_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"no data set here|no such folder"):
            find_sets(folder)


@needs_shared
def test_the_shared_sets() -> None:
    sets = find_sets(SHARED / "data/odinw_style")
    assert len(sets) == 10
    assert all(s.images.is_dir() and s.annotations.is_file() for s in sets)
    assert {s.split for s in sets} == {"train"}


VOC = """<annotation><folder>VOC2012</folder><filename>{name}</filename>
<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>person</name><difficult>0</difficult>
 <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
 <part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></part>
</object>
<object><bndbox><ymin>5</ymin><xmin>4.5</xmin><xmax>4.5</xmax><ymax>5</ymax></bndbox>
 <name>{other}</name><difficult>1</difficult></object>
</annotation>"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOC2012"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    for stem, other in (("2008_000002", "dog"), ("2008_000008", "aeroplane")):
        text = VOC.format(name=f"{stem}.jpg", other=other)
        (folder / f"Annotations/{stem}.xml").write_text(text)
    (folder / "ImageSets/Main/val.txt").write_text("2008_000008\n\n")
    (folder / "ImageSets/Main/dog_train.txt").write_text("2008_000002  1\n2008_000008 -1\n")
    return folder


def test_voc(voc: Path) -> None:
    annotations = read_annotations(voc)
    assert annotations.image_ids == ("2008_000002", "2008_000008")
    assert annotations.file_names[0] == "2008_000002.jpg"
    assert annotations.sizes[0].tolist() == [40, 60]
    # the whole image, counted from 1; and one pixel's width around 4.5
    assert annotations.boxes[:2].tolist() == [[0, 0, 60, 40], [3.5, 4, 4.5, 5]]
    assert annotations.crowd.tolist() == [False, True, False, True]
    assert len(annotations.categories) == 20
    names = [annotations.categories.names[label] for label in annotations.labels]
    assert names == ["person", "dog", "person", "aeroplane"]
    assert annotations.set_aside == ()
    assert read_annotations(voc / "Annotations").image_ids == annotations.image_ids


def test_voc_boxes_of_another_size_are_said(tmp_path: Path) -> None:
    boxes = [(2, 2, 90, 70), (9, 9, 80, 60), (30, 9, 99, 70)]
    objects = "".join(
        "<object><name>cat</name><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    size = "<size><width>60</width><height>40</height></size>"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (said,) = read_annotations(tmp_path).set_aside
    assert "3 of 3 reach beyond their images by more than a tenth" in said.reason


def test_voc_lists(voc: Path) -> None:
    assert read_annotations(voc / "ImageSets/Main/val.txt").image_ids == ("2008_000008",)
    assert len(read_annotations(voc / "ImageSets/Main/dog_train.txt")) == 2
    once = read_annotations(voc / "ImageSets/Main/val.txt")
    (voc / "ImageSets/Main/val.txt").write_text("2008_000008\n2008_000008\n")
    twice = read_annotations(voc / "ImageSets/Main/val.txt")
    assert twice.boxes.tolist() == once.boxes.tolist(), "an image listed twice is one image"
    (voc / "ImageSets/Main/val.txt").write_text("2008_000008\n2008_000009\n")
    annotations = read_annotations(voc / "ImageSets/Main/val.txt")
    assert "no such file" in str(annotations.set_aside[0])
    (voc.parent / "list.txt").write_text("1\n")
    with pytest.raises(InputError, match="no folder Annotations"):
        read_annotations(voc.parent / "list.txt")


@pytest.mark.parametrize("digits", [30, 5000])
def test_voc_sizes_of_very_many_digits_are_unknown(tmp_path: Path, digits: int) -> None:
    size = f"<size><width>{'9' * digits}</width><height>9</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}</annotation>")
    assert read_annotations(tmp_path).sizes.tolist() == [[9, -1]]


def test_voc_with_own_classes_and_sloppy_files(voc: Path) -> None:
    text = VOC.format(name="without a suffix", other="zebra crossing").replace(
        "<width>60", "<width>0"
    )
    (voc / "Annotations/a.xml").write_text(text.replace("<xmax>4.5<", "<xmax>wide<"))
    (voc / "Annotations/b.xml").write_text(VOC.format(name="b.png", other="arch"))
    annotations = read_annotations(voc)
    assert annotations.categories.names == ("aeroplane", "arch", "dog", "person")
    assert annotations.file_names[2:] == ("a.jpg", "b.png")
    assert annotations.sizes[2].tolist() == [40, -1]
    assert [f.count for f in annotations.findings] == [1]
    assert "wide" in str(annotations.set_aside[0])


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;">
<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&m;&x;</filename></annotation>"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "document type or entities is refused"),
        ("<annotation><object></annotation>", "malformed XML at line 1"),
        ("<annotation>&x;</annotation>", "undefined entity"),
        ("", "no element found"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "malformed XML"),
        # 1.4 MB that took minutes: every level was looked at anew at every level
        (f"<annotation>{'<a>' * 200_000}{'</a>' * 200_000}</annotation>", "nested deeper than 50"),
    ],
)
def test_hostile_xml_is_set_aside(voc: Path, text: str, reason: str) -> None:
    (voc / "Annotations/2008_000002.xml").write_text(text)
    annotations = read_annotations(voc)
    assert annotations.image_ids == ("2008_000008",)
    assert reason in str(annotations.set_aside[0])
    (voc / "Annotations/2008_000008.xml").write_text(text)
    with pytest.raises(InputError, match=r"2008_000002\.xml"):
        read_annotations(voc)


BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf
000a1249af2bc5f0,xclick,/m/0cmf2,1,0.5,1,0.25,0.75,0,1,0
000a1249af2bc5f0,xclick,/m/04_sv,1,0,0.5,0,0.5,0,1,1
00ff,xclick,/m/04_sv,1,0,1,0,1,-1,-1,-1
00ff,xclick,/m/none,1,0,1,0,1,0,0,0
gone,xclick,/m/0cmf2,1,0,1,0,1,0,0,0
00ff,xclick,/m/0cmf2,1,left,1,0,1,0,0,0
00ff,xclick
"""


@pytest.fixture
def openimages(tmp_path: Path) -> Path:
    path = tmp_path / "validation-annotations-bbox.csv"
    path.write_text(BOXES)
    names = "/m/04_sv,Motorcycle\n/m/0cmf2,Airplane\n"
    (tmp_path / "class-descriptions-boxable.csv").write_text(names)
    photo(tmp_path / "images/000a1249af2bc5f0.jpg")
    photo(tmp_path / "images/00ff.jpg", turn=6)
    return path


def test_openimages(openimages: Path) -> None:
    annotations = read_annotations(openimages, images=openimages.parent / "images")
    assert annotations.image_ids == ("000a1249af2bc5f0", "00ff")
    assert annotations.file_names == ("000a1249af2bc5f0.jpg", "00ff.jpg")
    # the second is turned by EXIF, and boxes count in the upright image
    assert annotations.sizes.tolist() == [[40, 60], [60, 40]]
    assert annotations.boxes.tolist() == [[30, 10, 60, 30], [0, 0, 30, 20], [0, 0, 40, 60]]
    assert annotations.crowd.tolist() == [False, True, False]
    assert annotations.categories.names == ("Motorcycle", "Airplane")
    assert annotations.labels.tolist() == [1, 0, 0]
    assert {f.what: f.count for f in annotations.findings} == {
        "malformed entries": 2,
        "classes without a description": 1,
        "images whose size is not known": 1,
        "regions of images that were left out": 1,
        "regions of unknown categories": 1,
    }


def test_openimages_ids_may_have_a_suffix(openimages: Path) -> None:
    openimages.write_text(BOXES.replace("00ff,", "00ff.jpg,"))
    annotations = read_annotations(openimages, images=openimages.parent / "images")
    assert annotations.file_names == ("000a1249af2bc5f0.jpg", "00ff.jpg")


def test_openimages_boxes_in_pixels_are_refused(openimages: Path) -> None:
    openimages.write_text(
        re.sub(r"1,0\.5,1,0\.25,0\.75|1,0,1,0,1|1,0,0\.5,0,0\.5", "1,5,30,4,20", BOXES)
    )
    with pytest.raises(InputError, match="5 of its 5 boxes are no fractions of the image"):
        read_annotations(openimages, images=openimages.parent / "images")


def test_openimages_with_a_file_of_sizes(openimages: Path) -> None:
    sizes = openimages.parent / "sizes.csv"
    sizes.write_text("ImageID,Width,Height\n000a1249af2bc5f0,100,200\n00ff,10,10\ngone,0,9\n")
    names = openimages.parent / "oidv7-names.csv"
    names.write_text("LabelName,DisplayName\n/m/0cmf2,Airplane\n")
    annotations = read_annotations(openimages, sizes=sizes, classes=names)
    assert annotations.boxes.tolist() == [[50, 50, 100, 150]]
    sizes.write_text(f"ImageID,Width,Height\n00ff,{'9' * 30},10\n")
    assert len(read_annotations(openimages, sizes=sizes, classes=names)) == 0
    sizes.write_text("ImageID,Width,Height\n00ff,ten,10\n")
    with pytest.raises(InputError, match="row 1"):
        read_annotations(openimages, sizes=sizes)


def test_openimages_needs_what_it_lacks(openimages: Path) -> None:
    with pytest.raises(InputError, match="give the folder of the images"):
        read_annotations(openimages)
    folder = openimages.parent / "images"
    (openimages.parent / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(InputError, match="no class descriptions"):
        read_annotations(openimages, images=folder)
    openimages.write_text("ImageID,LabelName\n")
    names = openimages.parent / "names.csv"
    names.write_text("/m/04_sv,Motorcycle\n")
    with pytest.raises(InputError, match="no column XMin, YMin, XMax, YMax"):
        read_annotations(openimages, images=folder, classes=names)
