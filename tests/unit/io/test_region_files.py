"""Files of regions: one set of rules in every command, whoever wrote the file and its names."""

from __future__ import annotations

import json
import os
import re
import threading
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.cli.main import main
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.check import check_data
from anyregion.data.image_files import find_image
from anyregion.errors import InputError
from anyregion.io.regions import load_regions
from anyregion.masks import filled_box
from anyregion.regions import Regions
from anyregion.runs.pipeline import Sample, annotated_samples, file_samples
from tests.helpers.coco_files import content, photo, region, write
from tests.helpers.colours import colour_recognizer
from tests.helpers.shared import SHARED, needs_shared


def counts(path: Path) -> tuple[int, int]:
    """Regions as prompts, and as annotations; crowds apart."""
    regions = sum(len(entry.regions) for entry in load_regions(path).images.values())
    return regions, int((~read_annotations(path).crowd).sum())


@pytest.mark.parametrize(
    ("crowd", "count"), [("0", 3), (0, 3), (None, 3), ("1", 2), (True, 2), (1.0, 2), ("no", 2)]
)
def test_crowd_means_the_same_everywhere(tmp_path: Path, crowd: Any, count: int) -> None:
    rows = [region(k, 7, 5, [k, 2, 9, 9], iscrowd=crowd if k == 2 else 0) for k in (1, 2, 3)]
    path = write(tmp_path / "a.json", content(annotations=rows))
    assert counts(path) == (count, count)
    assert len(load_regions(path).set_aside) == (crowd == "no"), "what is neither is said"


# -1 is OpenImages' "not known"
@pytest.mark.parametrize("key", ["IsGroupOf", "isgroupof", "is_group_of"])
@pytest.mark.parametrize(("group", "count"), [("0", 3), (-1, 3), ("1", 2), (True, 2), ("false", 2)])
def test_groups_are_numbers_too(tmp_path: Path, key: str, group: Any, count: int) -> None:
    rows = [region(k, 7, 5, [k, 2, 9, 9], **{key: group if k == 2 else 0}) for k in (1, 2, 3)]
    path = write(tmp_path / "a.json", content(annotations=rows))
    assert counts(path) == (count, count)
    set_aside = load_regions(path).set_aside
    assert [key in a.reason for a in set_aside] == [True] * (group == "false")


@pytest.mark.parametrize(
    "changed",
    [
        {"image_id": "7"},
        {"image_id": 7.0},
        {"category_id": "5"},
        {"area": "large"},
        {"area": None},
        {"isgroupof": 1},
        {"bbox": "1234"},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("nan"), 3]},
        {"bbox": [5, 5, -3, 4]},
        {"bbox": [70, 5, 3, 4]},
        {"bbox": None, "segmentation": [[3, 1, 9, 1, 9, 4]]},
        {"bbox": [], "segmentation": {"size": [40, 60], "counts": [41, 5, 2354]}},
        {"bbox": [], "segmentation": {"size": [40, 60], "counts": [2400]}},
        {"bbox": [], "segmentation": [[1, 1]]},
    ],
)
def test_a_row_counts_in_every_command_or_in_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    rows = [region(1, 7, 5, [2, 2, 9, 9]), {**region(2, 7, 5, [4, 4, 9, 9]), **changed}]
    path = write(tmp_path / "a.json", content(annotations=rows))
    entry = load_regions(path).images["7"]
    fitting, _ = entry.regions.fit(40, 60)
    assert len(fitting) == counts(path)[1]


def test_masks_without_boxes_are_regions(tmp_path: Path) -> None:
    """As `loadRes` takes them: the box of a result is its mask's."""
    mask = filled_box(np.array([3.0, 1, 9, 4]), (40, 60))
    rows = [
        {"image_id": 7, "category_id": 5, "segmentation": mask, "score": 0.5},
        {"image_id": 3, "category_id": 5, "segmentation": [[3, 1, 9, 1, 9, 4, 3, 4]], "score": 1},
    ]
    path = write(tmp_path / "segm.json", rows)
    listed = write(tmp_path / "coco.json", content())
    file = load_regions(path, masks=True, annotations=listed)
    for key, name in (("7", "one.jpg"), ("3", "two.jpg")):
        entry = file.images[key]
        assert (entry.file_name, entry.size) == (name, (40, 60))
        assert entry.regions.boxes.tolist() == [[3, 1, 9, 4]]
        assert entry.regions.masks == (mask,)
    assert file.categories == {5: "cat", 90: "dog"}
    assert file.find("photos/one.jpg") is file.images["7"]
    # without the annotations their names are not known, and polygons have no size
    alone = load_regions(path, masks=True)
    assert alone.images["7"].file_name is None
    assert "height and width" in str(alone.set_aside[0])


@pytest.mark.parametrize("layout", ["coco", "results"])
def test_the_box_of_a_mask_of_another_size_is_none(tmp_path: Path, layout: str) -> None:
    masks = [filled_box(np.array([5, 5, 20, 20.0]), size) for size in ((40, 60), (60, 40))]
    rows = [
        {"id": i, "image_id": 7, "category_id": 5, "segmentation": dict(mask), "score": 0.5}
        for i, mask in enumerate(masks)
    ]
    listed = write(tmp_path / "coco.json", content(annotations=rows if layout == "coco" else []))
    path = listed if layout == "coco" else write(tmp_path / "results.json", rows)
    files = [load_regions(path, annotations=None if layout == "coco" else listed)]
    if layout == "coco":
        assert read_annotations(path).region_ids.tolist() == [0]
    else:
        # without the images' list the masks say how large the image is
        files.append(load_regions(path))
    for file in files:
        assert [e.regions.ids for e in file.images.values() if len(e.regions)] == [(0,)]
        (said,) = file.set_aside
        assert "mask of size [60, 40], but the image is [40, 60]" in said.reason


def test_a_mask_without_its_size_is_set_aside(tmp_path: Path) -> None:
    rows = [{"image_id": 7, "bbox": [1, 1, 9, 9], "segmentation": {"counts": "x"}}]
    (reason,) = load_regions(write(tmp_path / "r.json", rows), masks=True).set_aside
    assert "RLE without its size" in reason.reason


def test_results_of_unlisted_images_are_set_aside(tmp_path: Path) -> None:
    rows = [{"image_id": i, "bbox": [1, 1, 5, 5], "category_id": 5} for i in (7, 8)]
    file = load_regions(
        write(tmp_path / "r.json", rows), annotations=write(tmp_path / "a.json", content())
    )
    assert [str(a) for a in file.set_aside] == ["region #1: unknown image id 8"]
    with pytest.raises(InputError, match=r"none of its image ids is listed in .*a\.json"):
        load_regions(write(tmp_path / "r.json", rows[1:]), annotations=tmp_path / "a.json")


def test_a_detectors_ids_have_the_names_of_the_annotations(tmp_path: Path) -> None:
    boxes = write(tmp_path / "d.json", {"7": {"boxes": [[1, 1, 5, 5]], "scores": [0.5]}})
    listed = write(tmp_path / "a.json", content())
    file = load_regions(boxes, annotations=listed)
    assert (file.images["7"].file_name, len(file.images["7"].regions)) == ("one.jpg", 1)
    for path in (listed, write(tmp_path / "b.txt", content())):
        with pytest.raises(InputError, match="lists its images itself"):
            load_regions(path, annotations=listed)


def test_an_id_in_two_spellings_is_one_image(tmp_path: Path) -> None:
    rows = [{"image_id": i, "bbox": [1, 1, 5, 5]} for i in (7, "7", 7.0)]
    file = load_regions(write(tmp_path / "r.json", rows))
    assert (len(file.images["7"].regions), file.set_aside) == (3, ())


NAMES = [
    "images\\one photo.jpg",
    "..\\..\\label-studio\\media\\upload\\4\\one photo.jpg",
    "C:\\data\\one photo.jpg",
    "/home/bob/photos/one photo.jpg",
    "./one photo.jpg",
    "one%20photo.jpg",
    "https://example.org/photos/one%20photo.jpg?size=large",
    "file:///home/bob/one%20photo.jpg",
    "/data/local-files/?d=photos/one%20photo.jpg",
    "one photo.JPG",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_fit_alike_in_every_command(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    file = photo(folder / "one photo.jpg")
    images = [{"id": 7, "file_name": name, "height": 40, "width": 60}]
    rows = [region(1, 7, 5, [2, 2, 9, 9])]
    path = write(tmp_path / "a.json", content(images=images, annotations=rows))
    assert find_image(folder, name) == file
    regions = load_regions(path)
    sample = file_samples(regions, {"one photo.jpg": file}, folder)["one photo.jpg"]
    assert isinstance(sample, Sample)
    assert check_data(read_annotations(path), folder).wrong == 0
    (evaluated,) = annotated_samples(regions.images.values(), folder, set_aside=[])
    assert evaluated.image == file


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_are_one_name(tmp_path: Path, forms: tuple[Any, Any]) -> None:
    stated, stored = (unicodedata.normalize(form, "é/café.jpg") for form in forms)
    file = photo(tmp_path / "photos" / stored)
    assert find_image(tmp_path / "photos", stated) == file
    images = [{"id": 7, "file_name": stated}]
    regions = load_regions(write(tmp_path / "a.json", content(images=images)))
    assert regions.find(file) is regions.images["7"]


def test_of_several_spellings_the_same_one_counts(tmp_path: Path) -> None:
    """And where none is the same, nobody guesses."""
    files = [photo(tmp_path / "photos" / name) for name in ("a b.jpg", "a%20b.jpg", "a b.JPG")]
    for file in files:
        assert find_image(file.parent, file.name) == file
    assert find_image(tmp_path / "photos", "a%20b.JPG") is None
    images = [{"id": i, "file_name": file.name} for i, file in enumerate(files)]
    regions = load_regions(write(tmp_path / "a.json", content(images=images, annotations=[])))
    for i, file in enumerate(files):
        assert regions.find(file) is regions.images[str(i)]


@pytest.mark.parametrize("name", ["cam1/0001.jpg", "/data/cam1/0001.jpg", "D:\\cam1\\0001.jpg"])
def test_the_image_of_another_folder_is_never_taken(tmp_path: Path, name: str) -> None:
    for camera in ("cam1", "cam2"):
        photo(tmp_path / camera / "0001.jpg")
    images = [{"id": 7, "file_name": name, "height": 40, "width": 60}]
    regions = load_regions(write(tmp_path / "a.json", content(images=images)))
    other = tmp_path / "cam2" / "0001.jpg"
    with pytest.raises(InputError, match="another folder's image"):
        regions.find(other, root=other.parent)
    with pytest.raises(InputError, match="another folder's image"):
        regions.find(other, root=tmp_path)
    assert find_image(tmp_path / "cam2", name) is None
    assert find_image(tmp_path, name) == tmp_path / "cam1" / "0001.jpg"


def test_two_entries_that_fit_are_said(tmp_path: Path) -> None:
    file = photo(tmp_path / "photos" / "0001.jpg")
    images = [{"id": i, "file_name": f"cam{i}/0001.jpg"} for i in (1, 2)]
    regions = load_regions(write(tmp_path / "a.json", content(images=images)))
    with pytest.raises(InputError, match=r"cam1/0001\.jpg and cam2/0001\.jpg and each could"):
        regions.find(file, root=file.parent)


FRACTIONS = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("layout", ["coco", "results", "detector", "voc"])
def test_boxes_that_are_fractions_are_refused(tmp_path: Path, layout: str) -> None:
    rows = [region(i, 7, 5, box) for i, box in enumerate(FRACTIONS)]
    value: Any = content(annotations=rows)
    if layout == "results":
        value = rows
    elif layout == "detector":
        value = {"one.jpg": {"boxes": [[0.1, 0.2, 0.3, 0.4]]}}
    path = write(tmp_path / "a.json", value)
    if layout == "voc":
        box = "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.4</xmax><ymax>0.9</ymax>"
        path = tmp_path / "voc"
        (path / "Annotations").mkdir(parents=True)
        (path / "Annotations" / "x.xml").write_text(
            f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        )
    with pytest.raises(InputError, match="look like fractions") as caught:
        load_regions(path)
    assert path.name in str(caught.value)
    if layout in ("coco", "voc"):
        with pytest.raises(InputError, match="look like fractions"):
            read_annotations(path)


def test_some_fractions_are_said(tmp_path: Path) -> None:
    rows = [region(1, 7, 5, [0.1, 0.2, 0.3, 0.4]), region(2, 7, 5, [10, 10, 20, 20])]
    path = write(tmp_path / "a.json", content(annotations=rows))
    for set_aside in (load_regions(path).set_aside, read_annotations(path).set_aside):
        assert "1 of 2 lie within 0 to 1" in str(set_aside[0])


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([[30, 20, 58, 38], [25, 10, 50, 35], [40, 5, 59, 39]], "3 of 3.*are they corners"),
        ([[2, 2, 90, 80], [3, 3, 99, 70], [1, 1, 70, 60]], "3 of 3.*more than a tenth"),
        ([[2, 2, 90, 80], [3, 3, 20, 20], [1, 1, 9, 9]], None),
        ([[50, 30, 11, 11], [50, 30, 10.5, 10.5]], None),
    ],
)
def test_most_boxes_beyond_their_images_are_said(
    tmp_path: Path, boxes: list[list[float]], reason: str | None
) -> None:
    rows = [region(i, 7, 5, box) for i, box in enumerate(boxes)]
    path = write(tmp_path / "a.json", content(annotations=rows))
    for set_aside in (load_regions(path).set_aside, read_annotations(path).set_aside):
        reported = [str(a) for a in set_aside if "the boxes of" in a.item]
        assert len(reported) == (reason is not None)
        assert reason is None or re.search(reason, reported[0])


BEYOND: dict[str, tuple[str, list[list[float]]]] = {
    "drawn on twice the size": (
        "more than a tenth",
        [[2, 2, 90, 70], [9, 9, 80, 60], [30, 9, 99, 70]],
    ),
    "corners as sizes": ("are they corners", [[30, 20, 88, 58], [25, 10, 75, 45], [40, 5, 99, 44]]),
}


@pytest.mark.parametrize("case", BEYOND)
@pytest.mark.parametrize("layout", ["coco", "detector", "typed"])
def test_boxes_beyond_images_of_no_stated_size_are_said(
    tmp_path: Path, case: str, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, corners = BEYOND[case]
    photo(tmp_path / "photos" / "one.jpg")
    images = [{"id": 7, "file_name": "one.jpg"}]
    rows = [region(i, 7, 5, [x, y, a - x, b - y]) for i, (x, y, a, b) in enumerate(corners)]
    path = write(tmp_path / "a.json", content(images=images, annotations=rows))
    regions = ["--regions", str(path)]
    if layout == "detector":
        write(path, {"one.jpg": {"boxes": corners}})
    elif layout == "typed":
        regions = [f"--box={','.join(map(str, box))}" for box in corners]
    else:
        assert main(["data", "check", str(path), str(tmp_path / "photos")]) == 3
        assert words in capsys.readouterr().out
    command = ["recognize", str(tmp_path / "photos"), *regions, "--vocabulary", "cat,dog"]
    assert main([*command, "--no-pictures", "--out", str(tmp_path / "out")]) == 0
    assert "of the boxes 3 of 3 reach beyond their images" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["--box=0.1,0.1,0.9,0.9", "--point=0.5,0.5"])
def test_typed_fractions_are_refused(
    tmp_path: Path, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recognize", str(photo(tmp_path / "one.jpg")), prompt, "--vocabulary", "cat,dog"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "look like fractions of the image" in capsys.readouterr().err


def test_fractions_of_python_are_refused() -> None:
    recognizer = colour_recognizer()
    recognizer.set_image(np.zeros((40, 60, 3), np.uint8))
    recognizer.predict(Regions.from_prompts(boxes=[[0, 0, 1, 1]]), ["red", "blue"])  # a pixel
    for regions in (
        Regions.from_prompts(boxes=[[0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1]]),
        Regions.from_prompts(points=[[[0.5, 0.5]]]),
    ):
        with pytest.raises(InputError, match="look like fractions"):
            recognizer.predict(regions, ["red", "blue"])


def test_regions_of_a_pipe_are_told_apart(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    digests = []
    for i, box in enumerate(([5, 5, 9, 9], [6, 6, 9, 9], [6, 6, 9, 9])):
        pipe = tmp_path / f"pipe{i}"
        os.mkfifo(pipe)
        text = json.dumps(content(annotations=[region(1, 7, 5, box)]))
        thread = threading.Thread(target=pipe.write_text, args=[text])
        thread.start()
        digests.append(load_regions(pipe).digest)
        thread.join()
    # what continues a run is the same regions, which a second reading of a pipe would not give
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize("column", ["boxes", "scores", "labels"])
def test_a_detectors_columns_are_lists(tmp_path: Path, column: str) -> None:
    good = {"boxes": [[5, 5, 20, 20]], "scores": [0.5], "labels": [1]}
    rows = {"one.jpg": good, "two.jpg": {**good, column: {"0": good[column]}}}
    file = load_regions(write(tmp_path / "a.json", rows))
    assert [len(entry.regions) for entry in file.images.values()] == [1]
    assert "have to be lists" in str(file.set_aside)


def test_files_of_other_images_say_which(tmp_path: Path) -> None:
    images = {"a.jpg": photo(tmp_path / "photos" / "a.jpg")}
    coco = load_regions(write(tmp_path / "coco.json", content()))
    (reason,) = file_samples(coco, images, tmp_path).values()
    assert reason == "no regions for this image; the region file lists one.jpg, two.jpg"
    rows = [{"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 5, "score": 0.5}]
    results = load_regions(write(tmp_path / "results.json", rows))
    (reason,) = file_samples(results, images, tmp_path).values()
    assert "the region file lists 7 by their ids: --annotations names them" in str(reason)


def test_a_backslash_may_be_a_files_own(tmp_path: Path) -> None:
    if os.sep != "/":
        pytest.skip("where a backslash parts folders")
    path = photo(tmp_path / "one\\two.jpg")
    assert find_image(tmp_path, "one\\two.jpg") == path
    images = [{"id": 7, "file_name": "one\\two.jpg", "height": 40, "width": 60}]
    file = load_regions(write(tmp_path / "a.json", content(images=images)))
    assert file.find(path) is file.images["7"]


def test_a_key_twice_in_one_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a.jpg": {"boxes": [[1, 2, 9, 9]]}, "a.jpg": {"boxes": [[5, 6, 9, 9]]}}')
    with pytest.raises(InputError, match=r"a\.json: 'a\.jpg' stands twice"):
        load_regions(path)


def test_a_detectors_boxes_that_are_places_and_sizes_are_said(tmp_path: Path) -> None:
    boxes = [[30, 20, 10, 8], [25, 10, 9, 9], [5, 5, 20, 20]]
    file = load_regions(write(tmp_path / "a.json", {"one.jpg": {"boxes": boxes}}))
    assert "2 of 3 are inverted" in str(file.set_aside)
    assert "x, y, width, height?" in str(file.set_aside)


def test_boxes_far_outside_are_set_aside(tmp_path: Path) -> None:
    rows = [region(1, 7, 5, [10, 10, 4000, 3000]), region(2, 7, 5, [10, 10, 60, 40])]
    path = write(tmp_path / "a.json", content(annotations=rows))
    fitting, far = load_regions(path).images["7"].regions.fit(40, 60)
    assert fitting.ids == (2,)
    assert "than twice its size" in far[0].reason
    annotations = read_annotations(path)
    assert annotations.region_ids.tolist() == [2]
    assert "than twice the image" in str(annotations.set_aside[0])


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), float("inf")])
def test_scores_of_python_are_checked_as_a_files_are(score: float) -> None:
    with pytest.raises(InputError, match="region 1: score"):
        Regions.from_boxes([[1, 1, 5, 5]] * 2, scores=[0.5, score])


LAYOUTS: dict[str, tuple[Any, str]] = {
    "Label Studio, old": ([{"id": 1, "data": {}, "completions": []}], "Label Studio's JSON of"),
    "Label Studio, small": (
        [{"image": "a.jpg", "annotation_id": 1, "annotator": 1}],
        "Label Studio's JSON-MIN",
    ),
    "CVAT": ([{"version": 0, "shapes": [], "tracks": []}], "CVAT"),
    "Datumaro": ({"info": {}, "categories": {}, "items": []}, "CVAT"),
    "VIA": ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
    "VIA project": ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
    "CreateML": ([{"image": "a.jpg", "annotations": []}], "CreateML"),
    "annotations": ({"images": [], "annotations": {"1": {}}, "categories": []}, "'annotations' is"),
    "categories": ({"images": [], "annotations": [], "categories": {"1": "cat"}}, "'categories'"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_other_layouts_are_named(tmp_path: Path, case: str) -> None:
    value, words = LAYOUTS[case]
    path = write(tmp_path / "a.json", value)
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match=r"a\.json") as caught:
            read(path)
        assert words in str(caught.value)
        assert "COCO" in str(caught.value)


FILES = {
    "YOLO's labels": "0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.1 0.1\n",
    "a web page": "<!DOCTYPE html><html></html>",
    "Git LFS": "version https://git-lfs.github.com/spec/v1\n",
    "VGG Image Annotator's CSV": "filename,file_size,file_attributes,region_count\n",
    "object a line": '{"a": 1}\n{"a": 2}\n',
}


@pytest.mark.parametrize("words", FILES)
def test_other_files_are_named(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.json").write_text(FILES[words])
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.json", "a.zip"])
def test_an_archive_is_named(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("a.json", "{}")
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match="ZIP archive"):
            read(tmp_path / name)


def test_folders_without_annotations_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match="a folder without annotations: of no layout"):
            read(tmp_path / "labels")
    write(tmp_path / "coco" / "val.json", content())
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match=r"val\.json looks like COCO: give that file"):
            read(tmp_path / "coco")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    for read in (load_regions, read_annotations):
        with pytest.raises(InputError, match="YOLO"):
            read(tmp_path / "labels" / "a.txt")


def test_every_layout_of_annotations_has_regions(tmp_path: Path) -> None:
    """LVIS v1, Pascal VOC and OpenImages, as `data check` reads them."""
    file = photo(tmp_path / "photos" / "000000000139.jpg")
    url = "http://images.cocodataset.org/val2017/000000000139.jpg"
    images = [{"id": 7, "coco_url": url, "height": 40, "width": 60}]
    rows = [region(1, 7, 5, [2, 2, 9, 9])]
    lvis = load_regions(write(tmp_path / "lvis.json", content(images=images, annotations=rows)))
    assert lvis.find(file, root=file.parent) is lvis.images["7"]
    voc = tmp_path / "voc" / "Annotations" / "000000000139.xml"
    voc.parent.mkdir(parents=True)
    box = "<xmin>3</xmin><ymin>3</ymin><xmax>11</xmax><ymax>11</ymax>"
    voc.write_text(
        f"<annotation><filename>{file.name}</filename><object><name>cat</name>"
        f"<bndbox>{box}</bndbox></object></annotation>"
    )
    csv = tmp_path / "boxes.csv"
    csv.write_text(
        "ImageID,LabelName,XMin,YMin,XMax,YMax\n"
        f"{file.stem},/m/1,{2 / 60},0.05,{11 / 60},0.275\nelsewhere,/m/1,0.1,0.1,0.2,0.2\n"
    )
    (tmp_path / "class-descriptions.csv").write_text("/m/1,cat\n")
    for path in (tmp_path / "voc", csv):
        regions = load_regions(path, images=file.parent)
        entry = regions.find(file)
        assert entry is not None
        assert entry.regions.boxes.tolist() == [pytest.approx([2, 2, 11, 11])]
        assert "cat" in regions.categories.values()
        assert regions.set_aside == (), "an image that is not there is no fault of the file"


def test_regionspot_by_name_asks_no_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    photo(tmp_path / "a.jpg")
    words = ["--box", "1,1,9,9", "--vocabulary", "cat", "--out", str(tmp_path / "out")]
    assert main(["recognize", str(tmp_path / "a.jpg"), "--model", "regionspot", *words]) == 1
    printed = capsys.readouterr().err
    assert "anyregion convert" in printed
    assert "CC BY-NC" in printed


@needs_shared
@pytest.mark.parametrize(
    "name",
    ["coco/annotations/instances_val_masks.json", "coco/annotations/lvis_v0.5_val_sample.json"],
)
def test_the_same_regions_from_real_files(name: str) -> None:
    path = SHARED / "data" / name
    regions, annotations = load_regions(path), read_annotations(path, clip=False)
    for i, key in enumerate(annotations.image_ids):
        rows = annotations.rows(i)
        entry = regions.images[key]
        assert entry.regions.boxes.tolist() == annotations.boxes[rows].tolist()
        assert list(entry.regions.ids) == annotations.region_ids[rows].tolist()


CASES = ["iscrowd_mixed", "names_backslash"]


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_cases_count_the_same(case: str) -> None:
    path = SHARED / "cases" / f"{case}.json"
    assert counts(path) == (6, 6)
