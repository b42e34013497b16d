"""Labels written in every format and read again, by this package and by others' readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version
from PIL import Image

from anyregion.cli.export_labels import FORMATS
from anyregion.data.annotations.brush_rle import decode_brush, encode_brush
from anyregion.errors import InputError, SetAside
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion, labels_of_file
from anyregion.io.outlines import mask_parts, outline_polygons, ring_area, simplify, single_outline
from anyregion.io.regions import load_regions
from anyregion.io.relabel import relabel
from anyregion.io.writers.formats import WRITERS
from anyregion.io.writers.writing import WriteOptions
from anyregion.masks import RLE, decode_mask, encode_mask, mask_box, mask_iou, segmentation_to_rle
from tests.helpers import tool_files as tools
from tests.helpers.coco_files import photo

CLASSES = ClassNames(("dog", 'cat & "co", <kit>'), (18, 17))
SIZE = (40, 60)


def holed() -> RLE:
    """Two parts, one with a hole."""
    mask = np.zeros(SIZE, bool)
    mask[5:25, 10:30] = True
    mask[10:18, 14:22] = False
    mask[30:36, 40:50] = True
    return encode_mask(mask)


def boxed(i: int, *corners: float, label: int = 0, **more: Any) -> LabelledRegion:
    return LabelledRegion(i, corners, CLASSES.names[label], 0.5, **more)  # type: ignore[arg-type]


NAMES = ("a.jpg", "sub folder/b, c.jpg")
PLAIN = [
    LabelledImage(NAMES[0], SIZE, (boxed(7, 6, 8, 30, 28), boxed(9, 30, 10, 54, 30, label=1)), "4"),
    LabelledImage(NAMES[1], SIZE, (boxed(2, 0, 0, 12, 10, label=1),), "6"),
]
BOX: tuple[float, ...] = tuple(mask_box(holed()).tolist())
MASKED = [replace(PLAIN[0], regions=(boxed(7, *BOX, mask=holed()), boxed(9, 30, 10, 54, 30)))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in NAMES:
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def write(
    to: str, out: Path, images: Path, listed: list[LabelledImage] = PLAIN, **options: Any
) -> Any:
    return WRITERS[to](listed, CLASSES, out, WriteOptions(images=images, **options))


# what `load_regions` is given of each format
READ: dict[str, Callable[[Path], Path]] = {
    "coco": lambda out: out / "annotations.json",
    "yolo": lambda out: out,
    "yolo-segment": lambda out: out / "data.yaml",
    "voc": lambda out: out,
    "labelme": lambda out: out,
    "label-studio": lambda out: out / "tasks.json",
    "cvat": lambda out: out,
    "csv": lambda out: out / "labels.csv",
    "crops": lambda out: out,
}


def test_formats_of_the_command_line_are_those_that_are_written() -> None:
    assert tuple(WRITERS) == FORMATS


@pytest.mark.parametrize("to", READ)
def test_boxes_and_names_come_back(tmp_path: Path, images: Path, to: str) -> None:
    out = tmp_path / "out"
    report = write(to, out, images)
    assert (report.images, report.regions) == (2, 3)
    file = load_regions(READ[to](out), images=images)
    assert not [a for a in file.set_aside if "ImageSets" not in str(a)]
    for image in PLAIN:
        entry = file.find(images / image.name, root=images)
        assert entry is not None
        assert entry.size == SIZE
        assert np.allclose(entry.regions.boxes, [r.box for r in image.regions], atol=0.001)
        assert entry.regions.categories is not None
        names = [file.categories[i] for i in entry.regions.categories.tolist()]
        assert names == [r.label for r in image.regions]
        if to in ("coco", "csv", "crops", "label-studio"):
            assert list(map(str, entry.regions.ids)) == [str(r.id) for r in image.regions]
        if to in ("coco", "label-studio", "csv", "labelme"):
            assert entry.regions.scores is not None
            assert entry.regions.scores.tolist() == [0.5] * len(image.regions)
        if to in ("coco", "label-studio", "cvat"):
            assert entry.key == image.key


def test_coco_results_come_back(tmp_path: Path, images: Path) -> None:
    write("coco-results", tmp_path, images, MASKED)
    results, listed = tmp_path / "results.json", tmp_path / "images.json"
    file = load_regions(results, masks=True, annotations=listed)
    entry = file.images["4"]
    assert entry.file_name == "a.jpg"
    assert entry.regions.ids == (7, 9)
    assert entry.regions.masks[0] == holed()


# the IoU of what comes back with the mask that has a hole and two parts
KEPT = {
    ("coco", "auto"): 1.0, ("coco", "polygons"): 1.0, ("yolo-segment", "auto"): 1.0,
    ("labelme", "auto"): 1.0, ("labelme", "polygons"): 1.0, ("cvat", "auto"): 1.0,
    ("label-studio", "auto"): 1.0,
}  # fmt: skip


@pytest.mark.parametrize(("to", "shapes"), KEPT)
def test_masks_with_holes_and_parts_come_back(
    tmp_path: Path, images: Path, to: str, shapes: str
) -> None:
    out = tmp_path / "out"
    write(to, out, images, MASKED, shapes=shapes)
    file = load_regions(READ[to](out), masks=True, images=images)
    entry = file.find(images / "a.jpg", root=images)
    assert entry is not None
    mask = next(m for m in entry.regions.masks if m is not None)
    assert mask_iou(mask, holed()) == KEPT[to, shapes]


@pytest.mark.parametrize("to", ["cvat", "label-studio"])
def test_parts_of_masks_are_shapes_of_their_own_as_polygons(
    tmp_path: Path, images: Path, to: str
) -> None:
    write(to, tmp_path / "out", images, MASKED, shapes="polygons")
    (entry,) = load_regions(READ[to](tmp_path / "out"), masks=True).images.values()
    masks = [m for m in entry.regions.masks if m is not None]
    assert len(masks) == 2
    together = encode_mask(np.any([decode_mask(m) for m in masks], axis=0))
    assert mask_iou(together, holed()) == 1.0


def test_outlines_are_exact_until_they_are_simplified() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        shape = tuple(rng.integers(2, 25, 2).tolist())
        mask = rng.random(shape) < rng.random()
        if not mask.any():
            continue
        rle = encode_mask(mask)
        parts = mask_parts(rle)
        areas = [abs(ring_area(p.outer)) - sum(abs(ring_area(h)) for h in p.holes) for p in parts]
        assert sum(areas) == mask.sum()
        assert areas[0] >= 1
        for polygons in (outline_polygons(rle), [single_outline(rle)]):
            assert mask_iou(segmentation_to_rle(polygons, *shape), rle) == 1.0


def test_a_simplified_ring_stays_within_the_tolerance() -> None:
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 50 + 40 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = simplify(circle, 1.0)
    assert 6 < len(ring) < 40
    ends = np.roll(ring, -1, axis=0)
    for point in circle:
        along = np.clip(((point - ring) * (ends - ring)).sum(1) / ((ends - ring) ** 2).sum(1), 0, 1)
        nearest = ring + along[:, None] * (ends - ring)
        assert np.hypot(*(point - nearest).T).min() <= 1.0 + 1e-9


def test_the_report_says_what_an_outline_loses(tmp_path: Path, images: Path) -> None:
    disc = np.hypot(*(np.mgrid[:40, :60] - np.array([[[20]], [[30]]]))) < 15
    region = boxed(1, *mask_box(encode_mask(disc)).tolist(), mask=encode_mask(disc))
    image = replace(PLAIN[0], regions=(region,))
    exact = write("yolo-segment", tmp_path / "a", images, [image], tolerance=0)
    rough = write("yolo-segment", tmp_path / "b", images, [image], tolerance=3)
    assert exact.outlines == [("a.jpg", 1, 1.0)]
    assert 0.7 < rough.outlines[0][2] < 0.99
    text = [(tmp_path / o / "labels" / "a.txt").read_text() for o in ("a", "b")]
    assert len(text[1]) < len(text[0]) / 4


def test_images_whose_labels_would_lie_in_one_file(tmp_path: Path, images: Path) -> None:
    twins = [PLAIN[0], replace(PLAIN[1], name="A.png")]
    report = write("yolo", tmp_path / "out", images, twins)
    assert report.images == 1
    assert "the file of a.jpg's" in str(report.set_aside)


def test_images_are_copied_or_said_to_be_missing(tmp_path: Path, images: Path) -> None:
    gone = replace(PLAIN[1], name="gone.jpg")
    report = write("yolo", tmp_path / "out", images, [*PLAIN, gone], copy_images=True)
    assert [a.item for a in report.set_aside] == ["gone.jpg"]
    for name in NAMES:
        copy = tmp_path / "out" / "images" / name
        assert copy.read_bytes() == (images / name).read_bytes()
    assert len(load_regions(tmp_path / "out").images) == 2


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("name", ["../../a.jpg", "/tmp/a.jpg", "C:\\x\\..\\a.jpg"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, images: Path, to: str, name: str) -> None:
    out = tmp_path / "far" / "below" / "out"
    before = sorted(p for p in tmp_path.rglob("*"))
    write(to, out, images, [replace(PLAIN[0], name=name)], copy_images=True)
    made = {p for p in tmp_path.rglob("*") if p.is_file()} - set(before)
    assert made
    assert all(p.is_relative_to(out) for p in made)
    assert not Path("/tmp/a.json").exists()
    assert not Path("/tmp/a.xml").exists()


@pytest.mark.parametrize("to", WRITERS)
def test_names_of_images_that_are_no_utf8(tmp_path: Path, images: Path, to: str) -> None:
    name = "caf\udce9 1.jpg"
    (images / "a.jpg").rename(images / name)
    report = write(to, tmp_path / "out", images, [replace(PLAIN[0], name=name)], copy_images=True)
    assert (report.images, report.regions) == (1, 2)
    for path in (tmp_path / "out").rglob("*.*"):
        if path.suffix in (".json", ".xml", ".csv", ".yaml", ".txt"):
            path.read_text(encoding="utf-8")


def test_crops_need_images_of_the_stated_size(tmp_path: Path, images: Path) -> None:
    other = replace(PLAIN[0], size=(20, 30))
    report = write("crops", tmp_path / "out", images, [other, PLAIN[1]])
    assert "the image is (40, 60)" in str(report.set_aside)
    crops = list((tmp_path / "out").rglob("*.jpg"))
    assert len(crops) == 1
    with Image.open(crops[0]) as crop:
        assert crop.size == (12, 10)
    with pytest.raises(InputError, match="give their folder"):
        WRITERS["crops"](PLAIN, CLASSES, tmp_path, WriteOptions())


@pytest.mark.parametrize("to", ["cvat", "voc", "label-studio", "yolo", "csv", "crops", "labelme"])
def test_names_that_no_file_or_xml_may_hold(tmp_path: Path, images: Path, to: str) -> None:
    names = ("a/b\\c", "..", "new\nline", "half \ud800", "bell \x07", "%2e")
    classes = ClassNames.from_names(names)
    regions = tuple(LabelledRegion(i, (0, 0, 10, 10 + i), name) for i, name in enumerate(names))
    out = tmp_path / "out"
    WRITERS[to]([LabelledImage("a.jpg", SIZE, regions)], classes, out, WriteOptions(images=images))
    outside = [p for p in tmp_path.iterdir() if p.name not in ("photos", "out")]
    assert outside == []
    entry = load_regions(READ[to](out), images=images).find(images / "a.jpg", root=images)
    assert entry is not None
    assert len(entry.regions) == len(names)


def test_a_file_without_sizes_or_names_is_set_aside_by_image(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a.jpg": {"boxes": [[1, 2, 9, 9]]}}))
    assert list(labels_of_file(load_regions(path))) == [
        SetAside("a.jpg", "no size: give the folder of the images")
    ]


# names put back into a tool's own file


def named(*regions: tuple[Any, str]) -> dict[str, LabelledRegion]:
    return {str(i): LabelledRegion(i, (0, 0, 1, 1), label, 0.25) for i, label in regions}


def test_names_are_put_back_into_label_studio(tmp_path: Path) -> None:
    source = tools.label_studio(tmp_path / "export.json")
    before = json.loads(source.read_text())
    report = relabel(source, {"101": named(("ra1", "fox"), ("ra0", "cat"))}, tmp_path / "out")
    assert (report.named, report.left) == (2, 1)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [t["annotations"] for t in tasks] == [t["annotations"] for t in before]
    (made,) = tasks[0]["predictions"]
    assert [(r["id"], r["value"]["rectanglelabels"]) for r in made["result"]] == [
        ("ra0", ["cat"]), ("ra1", ["fox"]),
    ]  # fmt: skip
    assert made["score"] == 0.25
    assert {r["from_name"] for r in made["result"]} == {"label"}
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(p["task"], len(p["result"])) for p in predictions] == [(101, 2)]
    # once it is imported, an export without annotations reads as it was named
    for task in tasks:
        task["annotations"] = []
    (tmp_path / "again.json").write_text(json.dumps(tasks))
    again = load_regions(tmp_path / "again.json")
    assert again.images["101"].regions.ids == ("ra0", "ra1")
    assert sorted(again.categories.values()) == ["cat", "fox"]


def test_names_are_put_back_into_shapes_and_labels_apart(tmp_path: Path) -> None:
    shape = tools.ls_result(
        "r", "brush", {"format": "rle", "rle": encode_brush(np.ones(SIZE, bool))}
    )
    label = tools.ls_result("r", "labels", {"labels": ["cat"]}, from_name="names")
    path = tmp_path / "a.json"
    path.write_text(json.dumps([tools.ls_task(1, "a.jpg", [shape, label])]))
    relabel(path, {"1": named(("r", "dog"))}, tmp_path)
    (made,) = json.loads((tmp_path / "tasks.json").read_text())[0]["predictions"]
    kinds = [(r["type"], r["from_name"], r["value"].get("labels")) for r in made["result"]]
    assert kinds == [("brush", "label", None), ("labels", "names", ["dog"])]


def test_names_are_put_back_into_cvat(tmp_path: Path) -> None:
    source = tools.cvat(tmp_path / "annotations.xml")
    names = {"0": named(("0:1", "fox <red>")), "1": named(("1:0", "cat"))}
    report = relabel(source, names, tmp_path / "out")
    assert (report.named, report.left, report.new_labels) == (2, 1, ["fox <red>"])
    text = (tmp_path / "out" / "annotations.xml").read_text()
    assert '<attribute name="age">3</attribute>' in text
    assert text.count("<label>") == 3
    file = load_regions(tmp_path / "out")
    assert [file.categories[i] for i in file.images["0"].regions.categories.tolist()] == [  # type: ignore[union-attr]
        "cat", "fox <red>",
    ]  # fmt: skip
    assert file.images["0"].regions.boxes.tolist() == tools.BOXES["a"]


def test_names_are_put_back_into_labelme_and_coco(tmp_path: Path) -> None:
    folder = tools.labelme(tmp_path / "labelme")
    report = relabel(folder, {"a": named((1, "fox"))}, tmp_path / "out")
    assert (report.named, report.left) == (1, 2)
    file = load_regions(tmp_path / "out")
    assert set(file.categories.values()) == {"cat", "fox", "dog"}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 5, "name": "Cat"}],
        "annotations": [
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "own": "stays"},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [9, 2, 3, 4]},
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    report = relabel(path, {"7": named((3, "cat"), ("#1", "dog"))}, tmp_path / "out")
    assert (report.named, report.new_labels) == (2, ["dog"])
    rows = json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"]
    assert [r["category_id"] for r in rows] == [5, 6]
    assert rows[0]["own"] == "stays"
    path.write_text(json.dumps({**content, "scale": float("nan")}))
    with pytest.raises(InputError, match=r"coco\.json: the file holds numbers that are not finite"):
        relabel(path, {}, tmp_path / "out")
    with pytest.raises(InputError, match="names are put back into"):
        relabel(tools.boxes_csv(tmp_path / "a.csv"), {}, tmp_path)


# others' readers


def test_a_brush_of_label_studios_converter() -> None:
    """`label_studio_sdk.converter.brush.mask2rle` 2.1.2 of this mask."""
    codes = [
        0, 0, 0, 216, 57, 27, 254, 43, 0, 194, 127, 247, 192, 35, 255, 140, 2, 223, 253, 240, 12,
        39, 255, 124, 3, 9, 255, 226, 112, 8, 255, 192,
    ]  # fmt: skip
    mask = np.zeros((6, 9), bool)
    mask[1:5, 2:7] = True
    mask[2, 3] = False
    mask[5, 8] = True
    assert np.array_equal(decode_brush(codes, 6, 9), mask)
    assert np.array_equal(decode_brush(encode_brush(mask), 6, 9), mask)


def test_supervision_reads_yolo_voc_and_coco(tmp_path: Path, images: Path) -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.DetectionDataset
    flat = [PLAIN[0]]
    write("yolo", tmp_path / "yolo", images, flat, copy_images=True)
    write("voc", tmp_path / "voc", images, flat)
    write("coco", tmp_path, images, MASKED, shapes="polygons")
    folder = tmp_path / "flat"
    photo(folder / "a.jpg")
    sets = {
        "yolo": detections.from_yolo(
            str(tmp_path / "yolo" / "images"),
            str(tmp_path / "yolo" / "labels"),
            str(tmp_path / "yolo" / "data.yaml"),
        ),
        "voc": detections.from_pascal_voc(str(folder), str(tmp_path / "voc" / "Annotations")),
    }
    for name, dataset in sets.items():
        (_, _, read), *_ = list(dataset)
        assert np.allclose(read.xyxy, [r.box for r in PLAIN[0].regions], atol=1.01), name
        labels = [dataset.classes[i] for i in read.class_id]
        assert labels == [r.label for r in PLAIN[0].regions], name
    if Version(supervision.__version__) < Version("0.28"):
        pytest.skip("this supervision cannot read regions of several polygons from COCO's layout")
    coco = detections.from_coco(str(folder), str(tmp_path / "annotations.json"), force_masks=True)
    (_, _, read), *_ = list(coco)
    # it fills each polygon by itself, with OpenCV, which counts the border in
    overlap = (read.mask[0] & decode_mask(holed())).sum() / decode_mask(holed()).sum()
    assert overlap > 0.99


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "labelme", "cvat"])
def test_globox_reads_what_is_written(tmp_path: Path, images: Path, to: str) -> None:
    globox = pytest.importorskip("globox")
    listed = [PLAIN[0]]
    out = tmp_path / "out"
    write(to, out, images, listed)
    sets = globox.AnnotationSet
    read = {
        "coco": lambda: sets.from_coco(out / "annotations.json"),
        "yolo": lambda: sets.from_yolo_v5(out / "labels", image_folder=images),
        "voc": lambda: sets.from_pascal_voc(out / "Annotations"),
        "labelme": lambda: sets.from_labelme(out),
        "cvat": lambda: sets.from_cvat(out / "annotations.xml"),
    }[to]()
    boxes = [box for annotation in read for box in annotation.boxes]
    corners = [[b.xmin, b.ymin, b.xmax, b.ymax] for b in boxes]
    # of VOC's corners, which count from 1, it takes them as they are
    expected = np.array([r.box for r in PLAIN[0].regions]) + ([1, 1, 0, 0] if to == "voc" else 0)
    assert np.allclose(corners, expected, atol=0.01)
    if to == "yolo":
        assert [b.label for b in boxes] == ["0", "1"]
    else:
        assert [b.label for b in boxes] == [r.label for r in PLAIN[0].regions]
