"""Files of annotation tools: YOLO, LabelMe, Label Studio, CVAT, CSV, folders of crops."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from anyregion.cli.arguments import LAYOUTS
from anyregion.data import read_annotations
from anyregion.data.annotations.brush_rle import decode_brush, encode_brush
from anyregion.data.annotations.reading import Layout
from anyregion.data.image_files import find_image
from anyregion.errors import InputError
from anyregion.io.regions import RegionFile, load_regions
from anyregion.masks import decode_mask
from tests.helpers import tool_files as tools
from tests.helpers.coco_files import photo, write

READERS: dict[str, Callable[[Path], Path]] = {
    "yolo": lambda folder: tools.yolo(folder),
    "labelme": lambda folder: tools.labelme(folder / "labelme"),
    "label-studio": lambda folder: tools.label_studio(folder / "export.json"),
    "cvat": lambda folder: tools.cvat(folder / "annotations.xml"),
    "csv": lambda folder: tools.boxes_csv(folder / "boxes.csv"),
    "crops": lambda folder: tools.crops(folder / "crops"),
}
# what tools call the regions of a.jpg
IDS = {
    "yolo": (1, 2), "labelme": (0, 1), "label-studio": ("ra0", "ra1"), "cvat": ("0:0", "0:1"),
    "csv": ("r0", "r1"), "crops": (0, 1),
}  # fmt: skip


def named(file: RegionFile) -> dict[str, list[tuple[str, list[float]]]]:
    """By the last part of the image's name: names and boxes."""
    return {
        Path(str(entry.file_name)).name: [
            (file.categories[int(c)], box)
            for c, box in zip(
                entry.regions.categories if entry.regions.categories is not None else (),
                entry.regions.boxes.round(3).tolist(),
                strict=True,
            )
        ]
        for entry in file.images.values()
    }


def test_layouts_of_the_command_line_are_those_that_are_read() -> None:
    assert get_args(Layout) == LAYOUTS


@pytest.mark.parametrize("layout", READERS)
def test_regions_of_a_tool_are_read_by_content_and_by_name(tmp_path: Path, layout: str) -> None:
    path = READERS[layout](tmp_path)
    tools.photos(tmp_path / "photos")
    expected = {
        f"{name}.jpg": list(zip(tools.LABELS[name], boxes, strict=True))
        for name, boxes in tools.BOXES.items()
    }
    file = load_regions(path)
    assert named(file) == expected
    assert named(load_regions(path, layout=layout)) == expected  # type: ignore[arg-type]
    assert file.set_aside == ()
    entry = next(e for e in file.images.values() if str(e.file_name).endswith("a.jpg"))
    assert entry.regions.ids == IDS[layout]
    annotations = read_annotations(path)
    assert annotations.set_aside == ()
    assert annotations.boxes.round(3).tolist() == [b for v in tools.BOXES.values() for b in v]
    names = [annotations.categories.names[i] for i in annotations.labels]
    assert names == [name for v in tools.LABELS.values() for name in v]


@pytest.mark.parametrize("layout", sorted(set(READERS) - {"csv"}))
def test_sizes_of_images_are_known(tmp_path: Path, layout: str) -> None:
    assert read_annotations(READERS[layout](tmp_path)).sizes.tolist() == [[40, 60], [40, 60]]


def test_the_regions_of_tools_have_a_digest_that_changes_with_them(tmp_path: Path) -> None:
    before = load_regions(tools.yolo(tmp_path)).digest
    assert load_regions(tmp_path).digest == before
    (tmp_path / "labels" / "val" / "b.txt").write_text("0 0.1 0.125 0.2 0.25\n")
    assert load_regions(tmp_path).digest != before


# YOLO


def test_yolo_labels_find_their_images_in_another_folder(tmp_path: Path) -> None:
    config = tools.yolo(tmp_path / "set", images=False)
    shutil.rmtree(tmp_path / "set" / "labels" / "val")
    config.write_text('{"train": "images/train", "names": {"0": "cat", "1": "dog"}}')
    (tmp_path / "set" / "images" / "train").mkdir(parents=True)
    left = load_regions(config)
    assert "its labels are left out" in str(read_annotations(config).findings)
    assert not left.images
    photos = tools.photos(tmp_path / "photos")
    photo(photos / "train" / "a.jpg")
    assert len(load_regions(config, images=photos).images) == 1


def test_yolo_folders_of_labels_with_their_names_beside(tmp_path: Path) -> None:
    tools.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    for path in (tmp_path, tmp_path / "labels"):
        assert named(load_regions(path))["a.jpg"][0] == ("cat", tools.BOXES["a"][0])
    with pytest.raises(InputError, match=r"YOLO.*give data\.yaml"):
        load_regions(tmp_path / "labels" / "train" / "a.txt")


def test_yolo_splits_that_are_gone_and_images_that_share_labels_are_said(tmp_path: Path) -> None:
    config = tools.yolo(tmp_path, test="images/test", val="images/gone")
    photo(tmp_path / "images" / "train" / "a.png")
    file = load_regions(config)
    assert len(file.images) == 1
    skipped = [str(item) for item in file.set_aside]
    assert skipped[0] == "val: images/gone: there is no such folder or list"
    assert skipped[1].startswith("a.png: its labels are a.jpg's too")
    assert len(skipped) == 2
    assert "test: images/test" in str(read_annotations(config).findings)


def test_yolo_of_cvat_with_lists_beside_the_labels(tmp_path: Path) -> None:
    tools.yolo(tmp_path / "set")
    folder = tmp_path / "cvat" / "obj_train_data"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "set" / "labels" / "train" / "a.txt", folder)
    shutil.copy(tmp_path / "set" / "images" / "train" / "a.jpg", folder)
    (tmp_path / "cvat" / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (tmp_path / "cvat" / "obj.names").write_text("cat\ndog\n")
    file = load_regions(tmp_path / "cvat")
    assert file.set_aside == ()
    assert named(file) == {"a.jpg": list(zip(tools.LABELS["a"], tools.BOXES["a"], strict=True))}


LINES = {
    "0 0.5 0.5 1.5 0.2": "numbers outside 0 to 1",
    "0 0.5 0.5 -0.2 0.2": "numbers outside 0 to 1",
    "cat 0.5 0.5 0.2 0.2": "'cat' is no whole number",
    "0 0.5 0.5 0.2": "3 numbers after the class",
    "0 0.5 0.5 nan 0.2": "not finite",
    "0 0.5 0.5 0.2 x": "could not convert",
    "0 0.5 0.5 0 0.2": "empty",
}


@pytest.mark.parametrize("line", LINES)
def test_yolo_lines_that_are_malformed_are_set_aside(tmp_path: Path, line: str) -> None:
    config = tools.yolo(tmp_path)
    text = tmp_path / "labels" / "train" / "a.txt"
    text.write_text(f"{line}\n{text.read_text()}")
    file = load_regions(config)
    assert LINES[line] in str(file.set_aside[0])
    assert "a.jpg, line 1" in str(file.set_aside[0]) or "region 1" in str(file.set_aside[0])
    assert file.images["images/train/a"].regions.ids == (2, 3)


def test_yolo_scores_outlines_and_unknown_classes(tmp_path: Path) -> None:
    config = tools.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(
        "0 0.1 0.2 0.5 0.2 0.5 0.7 0.9\n0 0.3 0.45 0.4 0.5 0.25\n7 0.3 0.45 0.4 0.5 0.5\n"
    )
    entry = load_regions(config, masks=True).images["images/train/a"]
    assert entry.regions.scores is not None
    assert entry.regions.scores.tolist() == [0.9, 0.25, 0.5]
    assert entry.regions.boxes[0].round(3).tolist() == [6, 8, 30, 28]
    assert entry.regions.masks[0] is not None
    assert entry.regions.masks[1] is None
    assert "unknown category id 7" in str(read_annotations(config).set_aside)


def test_yolo_pixels_poses_and_missing_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.yaml: labels of poses"):
        load_regions(tools.yolo(tmp_path, kpt_shape=[17, 3]))
    with pytest.raises(InputError, match="no names"):
        load_regions(tools.yolo(tmp_path, names=None))
    with pytest.raises(InputError, match="none of the folders of its splits"):
        load_regions(tools.yolo(tmp_path, train="elsewhere", val=["nowhere"]))
    config = tools.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 18 18 24 20\n" * 4)
    with pytest.raises(InputError, match="4 of 5 lines hold numbers outside 0 to 1"):
        load_regions(config)


def test_yolo_fractions_are_of_the_upright_image(tmp_path: Path) -> None:
    config = tools.yolo(tmp_path)
    photo(tmp_path / "images" / "train" / "a.jpg", turn=6)
    assert load_regions(config).images["images/train/a"].size == (60, 40)


def test_yolo_labels_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    config = tools.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"0 0.5 \xff\n")
    assert "a.txt: not UTF-8" in str(load_regions(config).set_aside)


# Label Studio


def result_file(tmp_path: Path, results: list[Any], **more: Any) -> Path:
    return write(tmp_path / "ls.json", [tools.ls_task(5, "s3://bucket/a.jpg", results, **more)])


def test_label_studio_shapes_become_outlines(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:25] = True
    brush = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["cat"]}
    polygon = {"points": [[10, 10], [50, 10], [50, 60]], "polygonlabels": ["dog"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 0, "ellipselabels": []}
    path = result_file(
        tmp_path,
        [
            tools.ls_result("brush", "brushlabels", brush),
            tools.ls_result("polygon", "polygonlabels", polygon),
            tools.ls_result("ellipse", "ellipselabels", ellipse),
            # 20 x 10 pixels around its first corner, a quarter to the right
            tools.ls_rectangle("turned", "cat", [30, 10, 50, 20], rotation=90),
        ],
    )
    file = load_regions(path, masks=True)
    regions = file.images["5"].regions
    assert regions.ids == ("brush", "polygon", "ellipse", "turned")
    boxes = [[5, 10, 25, 20], [6, 4, 30, 24], [18, 16, 42, 24], [20, 10, 30, 30]]
    assert np.allclose(regions.boxes, boxes, atol=0.01)
    assert np.array_equal(decode_mask(regions.masks[0]), mask)  # type: ignore[arg-type]
    assert all(rle is not None for rle in regions.masks)
    assert regions.categories is not None
    assert regions.categories[2] == -1  # nobody named it
    findings = read_annotations(path).findings
    assert [(f.count, f.wrong) for f in findings if "nobody named" in f.what] == [(1, True)]
    rotated = [f for f in findings if "rotated" in f.what]
    assert (rotated[0].count, rotated[0].wrong) == (2, False)


def test_label_studio_shape_and_label_may_be_two_results(tmp_path: Path) -> None:
    shape = tools.ls_result("r", "rectangle", {"x": 10, "y": 10, "width": 20, "height": 50})
    label = tools.ls_result("r", "labels", {"labels": ["cat"], "x": 10, "y": 10})
    file = load_regions(result_file(tmp_path, [shape, label]))
    assert named(file) == {"a.jpg": [("cat", [6, 4, 18, 24])]}


def test_label_studio_newest_annotation_counts_then_predictions(tmp_path: Path) -> None:
    boxes = tools.BOXES["a"]
    task = tools.ls_task(5, "a.jpg", [tools.ls_rectangle("old", "cat", boxes[0])])
    task["annotations"][0]["updated_at"] = "2026-01-01T10:00:00Z"
    newer = {"result": [tools.ls_rectangle("new", "cat", boxes[0])], "updated_at": "2026-01-02"}
    cancelled = {"result": [], "was_cancelled": True, "updated_at": "2026-01-03"}
    task["annotations"] += [newer, cancelled]
    predicted = {
        "id": 6, "data": {"image": "b.jpg"}, "annotations": [],
        "predictions": [{"score": 0.5, "result": [tools.ls_rectangle("p", "dog", boxes[1])]}],
    }  # fmt: skip
    path = write(tmp_path / "a.json", [task, predicted])
    file = load_regions(path)
    assert file.images["5"].regions.ids == ("new",)
    assert file.images["6"].regions.scores is not None
    assert file.images["6"].regions.scores.tolist() == [0.5]
    assert "2 annotations; the newest counts" in str(read_annotations(path).findings)


BAD_RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "texts for numbers": (tools.ls_rectangle("bad", "cat", [1, 1, 9, 9], x="10"), "x '10' is not"),
    "a boolean": (tools.ls_rectangle("bad", "cat", [1, 1, 9, 9], y=True), "y True is not"),
    "no size": (
        {**tools.ls_rectangle("bad", "cat", [1, 1, 9, 9]), "original_width": None},
        "no original_width",
    ),
    "a turned image": (
        {**tools.ls_rectangle("bad", "cat", [1, 1, 9, 9]), "image_rotation": 90},
        "turned by 90 degrees",
    ),
    "a line": (
        tools.ls_result("bad", "polygonlabels", {"points": [[1, 1], [9, 9]], "polygonlabels": []}),
        "three points",
    ),
    "a key point": (
        tools.ls_result("bad", "keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["cat"]}),
        "no regions",
    ),
    "a brush of another size": (
        tools.ls_result(
            "bad", "brushlabels", {"format": "rle", "rle": encode_brush(np.ones((4, 4), bool))}
        ),
        "a brush mask of 16 pixels",
    ),
    "a brush that ends early": (
        tools.ls_result(
            "bad",
            "brushlabels",
            {"format": "rle", "rle": encode_brush(np.ones((40, 60), bool))[:-2]},
        ),
        "ends before the image does",
    ),
    "a brush of no bytes": (
        tools.ls_result("bad", "brushlabels", {"format": "rle", "rle": [300]}),
        "no list of bytes",
    ),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_label_studio_results_that_are_malformed_are_set_aside(tmp_path: Path, case: str) -> None:
    bad, words = BAD_RESULTS[case]
    path = result_file(tmp_path, [bad, tools.ls_rectangle("good", "cat", tools.BOXES["a"][0])])
    file = load_regions(path)
    assert file.images["5"].regions.ids == ("good",)
    findings = read_annotations(path).findings
    assert words in str(findings)
    assert "region bad" in str(findings)


def test_label_studio_percent_beyond_the_image_is_clipped_or_set_aside(tmp_path: Path) -> None:
    over = tools.ls_rectangle("over", "cat", [-2, -2, 20, 20])
    outside = tools.ls_rectangle("outside", "cat", [61, 1, 80, 20])
    annotations = read_annotations(result_file(tmp_path, [over, outside]))
    assert annotations.boxes.tolist() == [[0, 0, 20, 20]]
    assert "wholly outside" in str(annotations.set_aside)


def test_label_studio_uploaded_names(tmp_path: Path) -> None:
    path = tools.label_studio(tmp_path / "ls.json")
    photos = tools.photos(tmp_path / "photos")
    assert [e.file_name for e in load_regions(path).images.values()] == ["a.jpg", "b.jpg"]
    photo(photos / "0a1b2c3d-a.jpg")
    names = [e.file_name for e in load_regions(path, images=photos).images.values()]
    assert names == ["0a1b2c3d-a.jpg", "b.jpg"]
    local = [tools.ls_task(1, "/data/local-files/?d=set/a%2C b.jpg", [])]
    file = load_regions(write(tmp_path / "local.json", local))
    assert file.images["1"].file_name == "set/a, b.jpg"


def test_label_studio_tasks_without_an_image_and_ids_twice(tmp_path: Path) -> None:
    boxes = tools.BOXES["a"]
    twice = tools.ls_task(5, "b.jpg", [tools.ls_rectangle("x", "cat", boxes[0])])
    task = tools.ls_task(5, "a.jpg", [tools.ls_rectangle("y", "cat", boxes[0])])
    tasks = [
        task,
        twice,
        tools.ls_task(7, "text", []),
        {"id": 8, "data": "a.jpg", "annotations": []},
    ]
    annotations = read_annotations(write(tmp_path / "a.json", tasks))
    assert annotations.file_names == ("a.jpg",)
    words = str(annotations.set_aside)
    assert "task 7" in words
    assert "task 8" in words
    assert "its id 5 is a.jpg's" in words


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 1000), (300, 301)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_brush_masks_come_back(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(3).random(shape) < share
    assert np.array_equal(decode_brush(encode_brush(mask), *shape), mask)


def test_brush_runs_longer_than_their_count_and_literal_values() -> None:
    full = np.ones((300, 300), bool)  # 360,000 values, of which a run holds 65,536
    assert decode_brush(encode_brush(full), 300, 300).all()
    # a block of eight values that are not repeated, as Label Studio's front end writes them
    header = f"{8:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    values = "".join(f"{v:08b}" for v in (1, 2, 3, 255, 9, 9, 9, 0))
    bits = header + "0" + "00" + f"{7:03b}" + values
    bits += "0" * (-len(bits) % 8)
    codes = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_brush(codes, 1, 2).tolist() == [[True, False]]


# CVAT


def cvat_file(tmp_path: Path, shapes: str) -> Path:
    path = tmp_path / "annotations.xml"
    path.write_text(tools.CVAT.format(images=tools.cvat_image(3, "a &amp; b,\nc.jpg", shapes)))
    return path


def test_cvat_shapes(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="cat" points="6.0,4.0;30.0,4.0;30.0,24.0" />'
        '<points label="cat" points="6.0,4.0" />'
        '<mask label="dog" rle="3, 2, 1" left="4" top="5" width="3" height="2" />'
        '<ellipse label="dog" cx="30" cy="20" rx="12" ry="4" rotation="90" />'
        + tools.cvat_box("cat", [20, 10, 40, 20], ' rotation="90"')
    )
    path = cvat_file(tmp_path, shapes)
    file = load_regions(path, masks=True)
    entry = file.images["3"]
    assert entry.file_name == "a & b, c.jpg"  # XML makes a space of a line's end in an attribute
    assert entry.regions.ids == ("3:0", "3:2", "3:3", "3:4")
    boxes = [[6, 4, 30, 24], [4, 6, 6, 7], [26, 8, 34, 32], [25, 5, 35, 25]]
    assert np.allclose(entry.regions.boxes, boxes, atol=0.01)
    mask = decode_mask(entry.regions.masks[1])  # type: ignore[arg-type]
    assert mask[6, 4:6].all()
    assert mask.sum() == 2
    assert file.categories == {1: "dog", 2: "cat"}
    assert "no regions" in str(read_annotations(path).findings)


BAD_SHAPES = {
    '<mask label="dog" rle="3, 2" left="4" top="5" width="3" height="2" />': "do not fill",
    '<mask label="dog" rle="6" left="58" top="5" width="3" height="2" />': "a mask of 3 x 2 at 58",
    '<polygon label="cat" points="6.0,4.0;30.0" />': "is not x,y",
    '<polygon label="cat" points="6.0,4.0;30.0,4.0" />': "three points",
    '<box label="cat" xtl="1" ytl="2" xbr="x" ybr="4" />': "could not convert",
    '<box label="cat" xtl="1" ytl="2" ybr="4" />': "KeyError: 'xbr'",
    '<box label="cat" xtl="nan" ytl="2" xbr="9" ybr="4" />': "not finite",
    '<ellipse label="cat" cx="30" cy="20" rx="0" ry="4" />': "radii 0 and 4",
}


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_cvat_shapes_that_are_malformed_are_set_aside(tmp_path: Path, shape: str) -> None:
    path = cvat_file(tmp_path, shape + tools.cvat_box("cat", [1, 1, 9, 9]))
    file = load_regions(path)
    assert file.images["3"].regions.ids == ("3:1",)
    assert BAD_SHAPES[shape] in str(read_annotations(path).set_aside)


def test_cvat_tracks_and_entities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text("<annotations><track id='0' label='cat'></track></annotations>")
    with pytest.raises(InputError, match=r"CVAT for video \(tracks\)"):
        load_regions(path)
    bomb = "<!DOCTYPE a [<!ENTITY x 'y'>]><annotations>&x;</annotations>"
    path.write_text(bomb)
    with pytest.raises(InputError, match="entities is refused"):
        load_regions(path, layout="cvat")
    path.write_text("<annotations><image id='0' name='a.jpg'>")
    with pytest.raises(InputError, match="malformed XML at line 1"):
        load_regions(path)


# LabelMe


def labelme_file(tmp_path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    page = {"imagePath": "..\\photos\\a.jpg", "imageHeight": 40, "imageWidth": 60, **more}
    return write(tmp_path / "a.json", {**page, "shapes": list(shapes)})


def polygon(label: str, *points: float, **more: Any) -> dict[str, Any]:
    pairs = np.array(points).reshape(-1, 2).tolist()
    return {"label": label, "points": pairs, "shape_type": "polygon", **more}


def test_labelme_shapes(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(np.array([[255, 0, 0], [255, 255, 0]], np.uint8)).save(png, "PNG")
    mask = {
        "label": "dog", "shape_type": "mask", "points": [[4, 5], [6, 6]],
        "mask": base64.b64encode(png.getvalue()).decode(),
    }  # fmt: skip
    circle = {"label": "dog", "shape_type": "circle", "points": [[30, 20], [34, 23]]}
    path = labelme_file(
        tmp_path,
        polygon("cat", 1, 1, 9, 1, 9, 9, group_id=1),
        mask,
        circle,
        polygon("cat", 20, 1, 29, 1, 29, 9, group_id=1),
        {"label": "cat", "shape_type": "line", "points": [[1, 1], [2, 2]]},
    )
    file = load_regions(path, masks=True)
    (entry,) = file.images.values()
    assert entry.file_name == "photos/a.jpg"
    # the parts of one group are one region, called by the first of them
    assert entry.regions.ids == (1, 2, 0)
    assert np.allclose(entry.regions.boxes, [[4, 5, 6, 7], [25, 15, 35, 25], [1, 1, 29, 9]])
    assert decode_mask(entry.regions.masks[0]).sum() == 3  # type: ignore[arg-type]
    assert "shape 4" in str(read_annotations(path).findings)


def test_labelme_photographs_that_were_copied_beside_their_json(tmp_path: Path) -> None:
    """`imagePath` leads to `../photos`, and the same file lies beside the JSON, or only there."""
    shape = polygon("cat", 1, 1, 9, 1, 9, 9)
    deep = tmp_path / "labels" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    page = {"imagePath": "../../photos/a.png", "imageHeight": 40, "imageWidth": 60}
    write(deep / "a.json", {**page, "shapes": [shape]})
    photograph = tmp_path / "photos" / "a.png"
    Image.new("RGB", (60, 40), "navy").save(photograph)
    labels = tmp_path / "labels"

    def name() -> str:
        # of a folder and of the file alone
        (entry,) = load_regions(labels).images.values()
        (alone,) = load_regions(deep / "a.json").images.values()
        folder, _, file = str(entry.file_name).rpartition("/")
        assert (alone.file_name == file) == (folder == "deep")
        return str(entry.file_name)

    assert name() == "photos/a.png"  # nothing beside it
    assert not read_annotations(labels).findings
    copy = deep / "a.png"
    copy.write_bytes(photograph.read_bytes())
    assert name() == "deep/a.png"
    assert "whose imagePath leads elsewhere" in str(read_annotations(labels).findings)
    # from either folder it is one image
    for folder in (labels, tmp_path / "photos"):
        assert find_image(folder, name()) is not None
    # another photograph of that name is not taken for it
    Image.new("RGB", (60, 40), "olive").save(copy)
    assert name() == "photos/a.png"
    assert "leads to another" in str(read_annotations(labels).findings)
    photograph.unlink()
    assert name() == "deep/a.png"


BAD_LABELME: dict[str, tuple[Any, str]] = {
    "text": (polygon("cat", 1, 1, 9, 1, 9, 9) | {"points": [["1", 1]]}, "'1' is not"),
    "two points": (polygon("cat", 1, 1, 9, 1), "three points"),
    "a label that is none": (polygon("cat", 1, 1, 9, 1, 9, 9) | {"label": 3}, "label 3 is no text"),
    "no object": ("cat", "not an object"),
    "no PNG": (
        {"label": "a", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "aGk="},
        "no PNG",
    ),
}


@pytest.mark.parametrize("case", BAD_LABELME)
def test_labelme_shapes_that_are_malformed_are_set_aside(tmp_path: Path, case: str) -> None:
    bad, words = BAD_LABELME[case]
    path = labelme_file(tmp_path, bad, polygon("cat", 1, 1, 9, 1, 9, 9))
    (entry,) = load_regions(path).images.values()
    assert entry.regions.ids == (1,)
    assert words in str(read_annotations(path).set_aside)
    assert "shape 0" in str(read_annotations(path).set_aside)


def test_labelme_folders_go_on_past_a_broken_file(tmp_path: Path) -> None:
    tools.labelme(tmp_path)
    (tmp_path / "broken.json").write_text('{"shapes": [')
    file = load_regions(tmp_path)
    assert len(file.images) == 2
    assert "broken" in str(file.set_aside)


# CSV and crops


def test_csv_tables_of_others(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        'filename,width,height,class,xmin,ymin,xmax,ymax\n"a, b.jpg",60,40,cat,1,2,9,8\n'
    )
    file = load_regions(path)
    assert named(file) == {"a, b.jpg": [("cat", [1, 2, 9, 8])]}
    assert file.images["a, b.jpg"].size == (40, 60)
    path.write_text("image;x1;y1;x2;y2;label\na.jpg;1;2;9;8;cat\na.jpg;1;2;z;8;cat\na.jpg;1\n")
    file = load_regions(path)
    assert named(file) == {"a.jpg": [("cat", [1, 2, 9, 8])]}
    assert "row 2" in str(file.set_aside)
    assert "row 3" in str(file.set_aside)


def test_csv_boxes_that_are_fractions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,x0,y0,x1,y1,label\na.jpg,0.1,0.1,0.5,0.5,cat\n")
    with pytest.raises(InputError, match="fractions of the image"):
        load_regions(path)


def test_a_crop_that_was_moved_was_corrected(tmp_path: Path) -> None:
    folder = tools.crops(tmp_path)
    (folder / "fox").mkdir()
    (folder / "dog" / "a_1.png").rename(folder / "fox" / "a_1.png")
    (folder / "dog" / "b_0.png").unlink()
    file = load_regions(folder)
    cat, dog = tools.BOXES["a"]
    assert named(file) == {"a.jpg": [("cat", cat), ("fox", dog)], "b.jpg": []}


def test_class_folders_are_crops_only_where_that_is_said(tmp_path: Path) -> None:
    folder = tools.crops(tmp_path / "crops")
    (folder / "crops.csv").unlink()
    with pytest.raises(InputError, match="a folder without annotations"):
        load_regions(folder)
    file = load_regions(folder, layout="crops")
    assert file.images["cat/a_0.png"].regions.boxes.tolist() == [[0, 0, 24, 20]]
    assert file.categories == {1: "cat", 2: "dog"}


def test_json_of_a_tool_from_a_wrong_layout_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.loads("[1, 2]"))
    with pytest.raises(InputError):
        load_regions(path, layout="cvat")
    with pytest.raises(InputError):
        load_regions(path, layout="labelme")
    assert "task #0" in str(load_regions(path, layout="label-studio").set_aside)


def spoil(path: Path) -> None:
    content = path.read_bytes().replace(b"dog", b"d\xff\xfeg").replace(b"cat", b"\xff\xfe")
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["yolo", "label-studio", "cvat", "csv", "crops"])
def test_files_that_are_no_text_are_refused_by_name(tmp_path: Path, layout: str) -> None:
    path = READERS[layout](tmp_path)
    inner = path / "crops.csv" if layout == "crops" else path
    spoil(inner)
    with pytest.raises(InputError, match=f"{inner.name}.*(UTF-8|malformed XML)"):
        load_regions(path)


def test_a_folder_goes_on_past_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tools.labelme(tmp_path)
    spoil(path / "a.json")
    file = load_regions(path)
    assert "a.json: not UTF-8" in str(file.set_aside)
    assert len(file.images) == 1
