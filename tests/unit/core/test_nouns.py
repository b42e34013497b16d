"""Regions, files of regions, predictions: what goes in comes out, in every form."""

from __future__ import annotations

import ast
import csv
import importlib
import io
import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import anyregion
from anyregion import Predictions, Regions, Vocabulary, load_regions
from anyregion.files import atomic_path, write_json
from anyregion.images import find_images
from anyregion.masks import decode_mask, encode_mask, mask_area, mask_box, segmentation_to_rle


def square(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (10, 20)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_mixed_prompts() -> None:
    regions = Regions.from_prompts(
        boxes=[[1, 2, 5, 6], [np.nan] * 4, [np.nan] * 4],
        points=[[[2, 3]], [[10, 4], [12, 8], [0, 0]], None],
        point_labels=[[0], [1, 1, 0], None],
        masks=[None, None, square(3, 1, 9, 4)],
    )
    assert np.isfinite(regions.boxes[:, 0]).tolist() == [True, False, False]
    # a box is its own extent; points are widened to 4 pixels here; a mask gives its tight box
    assert regions.extents(point_side=4).tolist() == [[1, 2, 5, 6], [9, 4, 13, 8], [3, 1, 9, 4]]
    assert regions[[2, 0]].ids == (2, 0)
    mask = regions.mask(2)
    assert mask is not None
    assert (mask == square(3, 1, 9, 4)).all()


def test_mask_codes_agree() -> None:
    mask = square(3, 1, 9, 4)
    rle = encode_mask(mask)
    assert (decode_mask(rle) == mask).all()
    assert mask_area(rle) == 18
    assert mask_box(rle).tolist() == [3, 1, 9, 4]
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel(), 2])))
    assert segmentation_to_rle({"size": [10, 20], "counts": [int(n) for n in runs]}, 10, 20) == rle
    polygon = segmentation_to_rle([[3, 1, 9, 1, 9, 4, 3, 4]], 10, 20)
    assert (decode_mask(polygon) == mask).all()


def test_coco_file(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 7, "file_name": "a/x.jpg", "height": 10, "width": 20},
            {"id": 8, "file_name": "b/x.jpg", "height": 10, "width": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4]},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4], "iscrowd": 1},
            {
                "id": 3,
                "image_id": 8,
                "category_id": 5,
                "bbox": [3, 1, 6, 3],
                "segmentation": [[3, 1, 9, 1, 9, 4, 3, 4]],
            },
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 5, "name": "pen"}],
    }
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(content))
    file = load_regions(path, masks=True)
    assert file.categories == {3: "cup", 5: "pen"}
    first, second = file.find("photos/a/x.jpg"), file.find(Path("photos/b/x.jpg"))
    assert first is not None
    assert second is not None
    assert first.regions.ids == (1,)  # crowd regions hold many things and are left out
    assert first.regions.boxes.tolist() == [[1, 1, 5, 5]]
    assert second.regions.categories is not None
    assert second.regions.categories.tolist() == [5]
    assert second.regions.masks[0] == encode_mask(square(3, 1, 9, 4))
    assert second.size == (10, 20)
    assert file.find("y.jpg") is None
    with pytest.raises(ValueError, match=r"a/x\.jpg, b/x\.jpg: another folder"):
        file.find("photos/c/x.jpg")


@pytest.mark.parametrize("name", ["000000000139.jpg", "139.png", "deep/139.jpg"])
def test_detector_file_by_id(name: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"139": {"boxes": [[1, 2, 3, 4]], "scores": [0.5], "labels": [2]}}))
    entry = load_regions(path).find(name)
    assert entry is not None
    assert entry.regions.boxes.tolist() == [[1, 2, 3, 4]]
    assert entry.regions.scores is not None
    assert entry.regions.scores.tolist() == [0.5]


def test_fiftyone_documents() -> None:
    document = predictions().to_fiftyone()
    assert document["_cls"] == "Detections"
    first, second = document["detections"]
    assert (first["_cls"], first["label"], second["label"]) == ("Detection", "pen", "cup")
    # an image of 10 x 20: fractions of its width and height
    assert np.allclose(first["bounding_box"], [0.05, 0.2, 0.2, 0.4])
    assert first["confidence"] == pytest.approx(float(predictions().scores[0, 0]))
    mask = np.load(io.BytesIO(zlib.decompress(first["mask"])), allow_pickle=False)
    assert np.array_equal(mask, square(1, 2, 5, 6)[2:6, 1:5])
    assert tuple(first["labels"]) == predictions()[0].labels


def test_supervision_both_ways() -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections(
        xyxy=np.array([[1, 2, 5, 6]], np.float32),
        mask=square(1, 2, 5, 6)[None],
        confidence=np.array([0.25]),
        class_id=np.array([1]),
    )
    regions = Regions.from_supervision(detections)
    assert regions.masks[0] == encode_mask(square(1, 2, 5, 6))
    back = predictions().to_supervision()
    assert back.data["class_name"].tolist() == ["pen", "cup"]
    assert back.xyxy.tolist() == [[1, 2, 5, 6], [2, 2, 8, 9]]
    assert (back.mask[0] == square(1, 2, 5, 6)).all()


def test_supervision_keeps_boxes_of_empty_masks_tracks_and_data() -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections(
        xyxy=np.array([[1, 2, 5, 6], [2, 2, 8, 9], [40, 40, 50, 50], [0, 0, 3, 3]], np.float32),
        mask=np.stack([np.zeros((10, 20), bool), square(2, 2, 8, 9)] * 2),
        confidence=np.array([0.25, 0.5, 0.5, 0.5]),
        class_id=np.array([1, 0, 1, 1]),
        tracker_id=np.array([7, 9, 3, 2]),
        data={"class_name": np.array(list("abcd")), "frame": [10, 11, 12, 13]},
    )
    regions = Regions.from_supervision(detections)
    whole = encode_mask(square(2, 2, 8, 9))
    assert regions.masks == (None, whole, None, whole)
    assert regions.boxes[0].tolist() == [1, 2, 5, 6]
    inside, set_aside = regions.fit(10, 20)
    assert len(set_aside) == 1
    assert inside[::-1].tracker_ids.tolist() == [2, 9, 7]  # type: ignore[union-attr]
    back = replace(
        predictions(), regions=inside, rows=np.array([2, 0]), boxes=inside.boxes[[2, 0]]
    ).to_supervision()
    assert back.tracker_id.tolist() == [2, 7]
    assert back.data["frame"] == [13, 10]
    assert back.data["class_name"].tolist() == ["pen", "cup"]  # the new names
    assert len(back[0:1]) == 1
    assert len(Regions.from_supervision(supervision.Detections.empty())) == 0


def predictions() -> Predictions:
    words = Vocabulary.from_names(["cup", "pen", "key"], ids=[3, 5, 9])
    regions = Regions.from_boxes([[1, 2, 5, 6], [2, 2, 8, 9]], ids=["a", "b"])
    return Predictions(
        vocabulary=words,
        regions=regions,
        size=(10, 20),
        rows=np.array([0, 1]),
        indices=np.array([[1, 0], [0, 2]]),
        scores=np.array([[0.75, 0.125], [0.5, 0.25]], np.float32),
        boxes=regions.boxes,
        embeddings=np.zeros((2, 4), np.float32),
        masks=(encode_mask(square(1, 2, 5, 6)), encode_mask(square(2, 2, 8, 9))),
    )


def test_prediction_forms() -> None:
    result = predictions()
    assert result.labels == ["pen", "cup"]
    assert result.above(0.6).labels == ["pen"]
    assert list(result.top_pairs(3)) == [(0, 1, 0.75), (1, 0, 0.5), (1, 2, 0.25)]
    first, second = result.to_coco(image_id=4, first_id=10)
    assert (first["id"], first["image_id"], first["category_id"]) == (10, 4, 5)
    assert first["bbox"] == [1, 2, 4, 4]
    assert first["area"] == 16
    assert first["region_id"] == "a"
    assert (second["category_id"], second["score"]) == (3, 0.5)
    lines = result.to_jsonl().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(result.to_records()))
    header, row, _ = csv.reader(io.StringIO(result.to_csv("a,b.jpg")))
    assert dict(zip(header, row, strict=True)) == {
        "image": "a,b.jpg", "id": "a", "x0": "1.0", "y0": "2.0", "x1": "5.0", "y1": "6.0",
        "label": "pen", "score": "0.75", "margin": "0.625", "none": "",
        "label_2": "cup", "score_2": "0.125",
    }  # fmt: skip
    assert (first["labels"], first["scores"]) == (["pen", "cup"], [0.75, 0.125])


def test_regions_are_a_sequence() -> None:
    regions = Regions.from_prompts(
        boxes=[[1, 2, 5, 6], [np.nan] * 4, [3, 1, 9, 4]],
        points=[None, [[10, 4]], None],
        ids=["a", "b", "c"],
        scores=[0.5, 0.25, 1],
        categories=[7, 8, 9],
    )
    a, b, c = regions
    assert [r.id for r in (a, b, c)] == ["a", "b", "c"] == [regions[i].id for i in range(3)]
    assert a.box is not None
    assert (a.box.tolist(), a.score, a.category, a.mask) == ([1, 2, 5, 6], 0.5, 7, None)
    assert b.box is None
    assert (b.points.tolist(), b.point_labels.tolist()) == ([[10, 4]], [1])
    assert regions[-1].id == "c"
    with pytest.raises(IndexError):
        regions[3]
    for index, ids in [
        (slice(1, None), ("b", "c")),
        (slice(None, None, -1), ("c", "b", "a")),
        ([2, 0], ("c", "a")),
        (np.array([2, 2]), ("c", "c")),
        (regions.boxes[:, 0] == 1, ("a",)),
        ([True, False, True], ("a", "c")),
        ([], ()),
    ]:
        part = regions[index]
        assert isinstance(part, Regions)
        assert part.ids == ids
        assert part.scores is not None
        assert len(part) == len(part.boxes) == len(part.points) == len(part.scores) == len(ids)
    with pytest.raises(IndexError):
        regions[[True, False]]


def test_regions_that_fit_are_not_checked_again() -> None:
    regions = Regions.from_boxes([[1, 2, 5, 6], [3, 1, 9, 4]])
    assert regions.fit(10, 20) == (regions, [])
    clipped, outside = Regions.from_boxes([[1, 2, 50, 6], [30, 1, 39, 4]]).fit(10, 20)
    assert clipped.boxes.tolist() == [[1, 2, 20, 6]]
    assert [str(o) for o in outside] == [
        "region 1: box [30.0, 1.0, 39.0, 4.0] lies outside the 20 x 10 image"
    ]


def test_predictions_are_a_sequence() -> None:
    both = predictions()
    first, second = both
    assert (first.id, first.label, first.score) == ("a", "pen", 0.75)
    assert (second.labels, second.scores) == (("cup", "key"), (0.5, 0.25))
    assert second.box.tolist() == [2, 2, 8, 9]
    assert second.mask == both[-1].mask == encode_mask(square(2, 2, 8, 9))
    with pytest.raises(IndexError):
        both[2]
    for index in (slice(1, 2), [1], np.array([False, True]), np.array([1])):
        part = both[index]
        assert isinstance(part, Predictions)
        assert part.labels == ["cup"]
        assert part.regions is both.regions, "rows still say which region they answer"
        assert [p.id for p in part] == ["b"]
        assert part.masks == (second.mask,)
    assert len(both[:0]) == 0
    assert str(both[::-1]) == "cup 0.500\npen 0.750"


def test_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"kept": 1})

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"kept": 1}
    assert os.listdir(path.parent) == ["file.json"]  # noqa: PTH208
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"bad": float("nan")})
    assert json.loads(path.read_text()) == {"kept": 1}


def test_find_images(tmp_path: Path) -> None:
    hidden = (".hidden.jpg", ".thumbnails/d.jpg", "sub/.copies/deep/e.png")
    for name in ("a.jpg", "b.PNG", "sub/c.jpeg", "sub/notes.txt", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, faults = find_images([tmp_path, tmp_path / "sub" / "*.jpeg", tmp_path / "none*.jpg"])
    assert [p.name for p in images] == ["a.jpg", "b.PNG", "c.jpeg"]
    assert [a.reason for a in faults] == ["no image there"]
    named, _ = find_images([tmp_path / "sub" / "notes.txt"])
    assert [p.name for p in named] == ["notes.txt"]  # named outright: reading it will tell


def test_pictures_that_are_passed_over_are_listed(tmp_path: Path) -> None:
    read = ["a.jfif", "b.JPE", "c.avif", "d.jp2", "e.pgm", "f.pbm", "g.pnm", "h.apng", "i.mpo"]
    for name in (*read, "x.heic", "y.DNG", "sub/z.tga", ".hidden.psd", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images, aside = find_images([tmp_path])
    assert [p.name for p in images] == read
    assert [Path(a.item).name for a in aside] == ["z.tga", "x.heic", "y.DNG"]
    assert "passed over: .heic is not one of the formats that are read" in aside[1].reason
    # a glob too; what is named outright is tried
    images, aside = find_images([tmp_path / "*.heic", tmp_path / "h*", tmp_path / "y.DNG"])
    assert [p.name for p in images] == ["h.apng", "y.DNG"]
    assert [Path(a.item).name for a in aside] == ["x.heic"]


def test_what_is_called_an_image_and_is_no_file_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "round.png").symlink_to("round.png")
    reasons = {"gone.jpg": "a link to no file", "round.png": "a link to no file"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        reasons["pipe.png"] = "no regular file"
    for given in (tmp_path, tmp_path / "*"):
        images, aside = find_images([given])
        assert [p.name for p in images] == ["a.jpg"]
        said = {Path(a.item).name: a.reason.removeprefix("passed over: ") for a in aside}
        assert said == reasons


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_light() -> None:
    heavy = "('torch', 'onnxruntime', 'transformers', 'numpy', 'PIL')"
    loaded = f"[m for m in {heavy} if m in sys.modules]"
    assert run_python(f"import sys, anyregion; print({loaded})") == "[]"


def test_every_name_of_the_face_is_there_without_the_extras() -> None:
    code = """
import sys
for name in ("torch", "transformers", "jsonargparse", "lightning_fabric", "onnxruntime"):
    sys.modules[name] = None
import anyregion
from anyregion import *
assert set(anyregion.__all__) <= set(dir(anyregion)), "editors complete them"
assert all(getattr(anyregion, name) is globals()[name] for name in anyregion.__all__)
try:
    anyregion.nothing
except AttributeError as error:
    print(error)
"""
    assert run_python(code) == "module 'anyregion' has no attribute 'nothing'"


ROOMS = [
    "anyregion", "anyregion.backbones", "anyregion.compact", "anyregion.data",
    "anyregion.evaluation", "anyregion.localizers", "anyregion.r2o", "anyregion.regionspot",
    "anyregion.training", "anyregion.vlms",
]  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_faces_are_what_type_checkers_see(room: str) -> None:
    """The names that are imported under TYPE_CHECKING are those that are there when it runs."""
    module = importlib.import_module(room)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call))
    listed = ast.literal_eval(call.args[1])
    modules = {name: f"{room}.{part}" for part, names in listed.items() for name in names.split()}
    assert modules == checked
    assert set(checked) <= set(dir(module))
    if room == "anyregion":
        assert sorted(anyregion.__all__) == sorted(checked)
