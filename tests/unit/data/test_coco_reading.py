"""COCO-format files: what is kept, mended, set aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError
from tests.helpers.coco_files import content, region, write
from tests.helpers.shared import SHARED, needs_shared


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(value: Any = None, **options: Any) -> Annotations:
        file_content = content() if value is None else value
        return read_annotations(write(tmp_path / "coco.json", file_content), **options)

    return read


def what(annotations: Annotations) -> dict[str, int]:
    return {finding.what: finding.count for finding in annotations.findings}


def test_columns(read: Any) -> None:
    annotations = read()
    assert annotations.image_ids == ("7", "3")
    assert annotations.file_names == ("one.jpg", "two.jpg")
    assert annotations.sizes.tolist() == [[40, 60], [40, 60]]
    assert annotations.starts.tolist() == [0, 1, 3]
    assert annotations.region_ids.tolist() == [2, 1, 3]
    assert annotations.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 10, 10], [5, 5, 35, 35]]
    # labels are positions, whatever hole is between the ids
    assert annotations.labels.tolist() == [0, 1, 0]
    assert annotations.categories.ids.tolist() == [5, 90]
    assert annotations.areas.tolist() == [400, 100, 900]
    assert annotations.segmentations is None
    assert (
        annotations.negatives
        == annotations.not_exhaustive
        == annotations.set_aside
        == annotations.findings
        == ()
    )
    assert annotations.boxes.dtype == np.float64
    assert (
        annotations.labels.dtype
        == annotations.starts.dtype
        == annotations.region_ids.dtype
        == np.int64
    )


def test_crowd_stays_and_is_left_out_of_rows(read: Any) -> None:
    rows = [
        region(1, 7, 5, [0, 0, 10, 10], iscrowd=1),
        region(2, 7, 5, [0, 0, 20, 20], iscrowd=0, area=12.5),
        region(3, 7, 5, [0, 0, 20, 20], IsGroupOf=True),
    ]
    annotations = read(content(annotations=rows))
    assert annotations.crowd.tolist() == [True, False, True]
    assert annotations.rows(0).tolist() == [1]
    assert annotations.rows(0, crowd=True).tolist() == [0, 1, 2]
    assert annotations.areas[1] == 12.5
    assert annotations.regions(0).categories.tolist() == [5]
    assert annotations.set_aside == ()


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        (region(9, 8, 5, [0, 0, 5, 5]), "regions of unknown images", "unknown image id 8"),
        (region(9, 7, 6, [0, 0, 5, 5]), "regions of unknown categories", "unknown category id 6"),
        (region(9, 7, 5, [0, 0, float("nan"), 5]), "boxes that are not finite", "nan"),
        (region(9, 7, 5, [float("inf"), 0, 5, 5]), "boxes that are not finite", "inf"),
        (region(9, 7, 5, [5, 5, 0, 5]), "boxes that are empty or inverted", "no area"),
        (region(9, 7, 5, [5, 5, -3, 5]), "boxes that are empty or inverted", "no area"),
        (region(9, 7, 5, [60, 0, 5, 5]), "boxes wholly outside the image", "wholly outside"),
        (region(9, 7, 5, [0, -9, 5, 9]), "boxes wholly outside the image", "wholly outside"),
        (region(9, 7, 5, [0, 0, 5]), "malformed entries", "bbox [0, 0, 5]"),
        (region(9, 7, 5, "1234"), "malformed entries", "bbox '1234'"),
        (region(9, 7, 5, None), "malformed entries", "bbox None"),
        (region(9, [7], 5, [0, 0, 5, 5]), "malformed entries", "image_id [7]"),
        ({"id": 9, "image_id": 7, "bbox": [0, 0, 5, 5]}, "malformed entries", "no category_id"),
        ({"id": 9, "category_id": 5}, "malformed entries", "no image_id, bbox"),
        (17, "malformed entries", "not an object"),
    ],
)
def test_a_faulty_region_is_set_aside_alone(read: Any, row: Any, kind: str, reason: str) -> None:
    value = content()
    value["annotations"].insert(1, row)
    annotations = read(value)
    assert annotations.region_ids.tolist() == [2, 1, 3]
    assert what(annotations) == {kind: 1}
    assert reason in str(annotations.set_aside[0])


def test_boxes_over_the_border_are_clipped(read: Any) -> None:
    rows = [region(1, 7, 5, [-5, -5, 15, 10]), region(2, 7, 5, [50, 30, 10.5, 10.5])]
    annotations = read(content(annotations=rows))
    assert annotations.boxes.tolist() == [[0, 0, 10, 5], [50, 30, 60, 40]]
    assert annotations.set_aside == ()
    # half a pixel is rounding
    assert what(annotations) == {"boxes that reach over the border by more than a pixel": 1}
    assert read(content(annotations=rows), clip=False).boxes[0].tolist() == [-5, -5, 10, 5]


def test_without_a_stated_size_nothing_is_outside(read: Any) -> None:
    images = [{"id": 7, "file_name": "one.jpg"}, {"id": 3, "file_name": "x.jpg", "width": "wide"}]
    rows = [region(1, 7, 5, [500, 500, 5, 5])]
    annotations = read(content(images=images, annotations=rows))
    assert annotations.sizes.tolist() == [[-1, -1], [-1, -1]]
    assert annotations.boxes.tolist() == [[500, 500, 505, 505]]


def test_ids_of_images(read: Any) -> None:
    images = [
        {"id": "a", "file_name": "one.jpg"},
        {"id": 2.0, "file_name": "two.jpg"},
        {"id": "a", "file_name": "three.jpg"},
        {"id": 4},
        {"file_name": "five.jpg"},
        "six.jpg",
    ]
    rows = [
        region(1, "a", 5, [0, 0, 5, 5]),
        region(2, 2, 5, [0, 0, 5, 5]),
        region(3, "2", 5, [0, 0, 6, 6]),
        region(4, 4, 5, [0, 0, 5, 5]),
    ]
    annotations = read(content(images=images, annotations=rows))
    assert annotations.file_names == ("one.jpg", "two.jpg")
    assert annotations.starts.tolist() == [0, 1, 3]
    assert what(annotations) == {
        "images whose id is listed twice": 1,
        "images without a file name": 1,
        "malformed entries": 2,
        "regions of images that were left out": 1,
    }


def test_region_ids_become_unique(read: Any) -> None:
    rows = [
        region(5, 7, 5, [0, 0, 5, 5]),
        region(5, 7, 5, [0, 0, 6, 6]),
        region("8", 7, 5, [0, 0, 7, 7]),
        region("a1", 7, 5, [0, 0, 8, 8]),
        region(None, 7, 5, [0, 0, 9, 9]),
    ]
    annotations = read(content(annotations=rows))
    assert annotations.region_ids.tolist() == [5, 9, 8, 10, 11]
    assert what(annotations) == {
        "regions whose id is listed twice": 1,
        "regions without a whole number as id": 2,
    }
    assert len(annotations.set_aside) == 1


def test_categories_come_together(read: Any) -> None:
    categories = [
        {"id": 1, "name": "cell phone"},
        {"id": 2, "name": "Cell_Phone"},
        {"id": 1, "name": "dog"},
        {"id": 4, "name": " "},
        {"id": "5", "name": "cat"},
        {"id": "x", "name": "cow"},
        {"id": 6},
    ]
    rows = [region(k, 7, k, [0, 0, 5, 5]) for k in (1, 2, 4, 5)]
    annotations = read(content(categories=categories, annotations=rows))
    assert annotations.categories.names == ("cell phone", "cat")
    assert annotations.categories.ids.tolist() == [1, 5]
    assert annotations.labels.tolist() == [0, 0, 1]
    assert what(annotations) == {
        "categories of the same name": 1,
        "categories whose id is listed twice": 1,
        "categories without a name": 1,
        "malformed entries": 2,
        "regions of unknown categories": 1,
    }
    assert "'Cell_Phone' repeats 'cell phone' of 1" in " ".join(map(str, annotations.set_aside))


def test_of_very_many_faults_a_hundred_are_spelled_out(read: Any) -> None:
    rows = [region(k, 99, 5, [0, 0, 5, 5]) for k in range(250)]
    annotations = read(content(annotations=rows))
    assert len(annotations.set_aside) == 101
    assert str(annotations.set_aside[-1]) == "150 more: regions of unknown images"
    assert annotations.findings[0].count == 250


def test_masks_are_read_on_request(read: Any) -> None:
    polygon = [[0, 0, 5, 0, 5, 5]]
    code = {"size": [40, 60], "counts": [0, 2400]}
    rows = [
        region(1, 3, 5, [0, 0, 5, 5], segmentation=code),
        region(2, 7, 5, [0, 0, 5, 5], segmentation=polygon),
        region(3, 7, 5, [0, 0, 5, 5], segmentation=[]),
        region(4, 7, 5, [0, 0, 5, 5]),
    ]
    annotations = read(content(annotations=rows), masks=True)
    assert annotations.segmentations == (polygon, None, None, code)
    assert annotations.select([1]).segmentations == (code,)


def test_regions_elsewhere_in_the_file_are_none(read: Any) -> None:
    extra = [region(50, 7, 5, [0, 0, 9, 9])]
    annotations = read({"proposals": extra, **content(), "more": {"deep": extra}})
    assert annotations.region_ids.tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": [}', "line 2"),
        ("[]", "COCO results"),
        ('"text"', "no COCO file"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ("", "line 1"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json") as raised:
        read_annotations(path)
    assert message in str(raised.value)


def test_paths_that_are_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(InputError, match="of no layout that is known"):
        read_annotations(tmp_path)
    with pytest.raises(InputError, match="layout must be one of"):
        read_annotations(tmp_path, layout="yollo")  # type: ignore[arg-type]


def test_an_empty_data_set_is_no_error(read: Any) -> None:
    annotations = read({"images": [], "annotations": [], "categories": []})
    assert len(annotations) == len(annotations.categories) == len(annotations.boxes) == 0
    assert annotations.starts.tolist() == [0]
    assert len(annotations.select([])) == 0


numbers = st.one_of(
    st.integers(-5, 80),
    st.floats(allow_nan=True, allow_infinity=True),
    st.none(),
    st.text(max_size=2),
)
ids = st.one_of(st.integers(-2, 9), st.integers(-(2**70), 2**70), st.none(), st.text(max_size=2))
anything = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers()))
rows = st.one_of(
    anything,
    st.fixed_dictionaries(
        {},
        optional={
            "id": ids,
            "image_id": st.one_of(st.sampled_from([7, 3, "7"]), ids),
            "category_id": st.one_of(st.sampled_from([5, 90]), ids),
            "bbox": st.one_of(st.lists(numbers, min_size=4, max_size=4), anything),
            "area": numbers,
            "iscrowd": numbers,
        },
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entries=st.lists(rows, max_size=12),
    boxes=st.lists(st.lists(st.integers(-20, 80), min_size=4, max_size=4)),
)
def test_whatever_the_rows_hold_the_columns_are_sound(
    tmp_path: Path, entries: list[Any], boxes: list[list[int]]
) -> None:
    every = entries + [region(k, 7, 5, box) for k, box in enumerate(boxes)]
    every.append(region(99, 7, 5, [5, 5, 20, 20]))  # boxes that are all fractions are refused
    path = tmp_path / "any.json"
    path.write_text(json.dumps(content(annotations=every)))
    read = read_annotations(path)
    assert len(read.starts) == 3
    assert read.starts[-1] == len(read.boxes) == len(read.labels) == len(read.region_ids)
    assert len(set(read.region_ids.tolist())) == len(read.region_ids)
    assert np.isfinite(read.boxes).all()
    assert np.isfinite(read.areas).all()
    assert (read.boxes[:, 2:] > read.boxes[:, :2]).all()
    assert (read.boxes >= 0).all()
    assert (read.boxes <= [60, 40, 60, 40]).all()
    assert set(read.labels.tolist()) <= {0, 1}
    mended = ("id is listed", "another convention")
    counts = [f.count for f in read.findings if f.wrong and not any(m in f.what for m in mended)]
    wrong = sum(counts)
    assert wrong + len(read.boxes) == len(every)


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "coco/annotations/instances_train.json",
        "coco/annotations/instances_val_masks.json",
        "coco/annotations/lvis_v0.5_val_sample.json",
        "camvid/annotations/regions_val.json",
        "odinw_style/chess/annotations/instances_train.json",
    ],
)
def test_the_columns_equal_pycocotools(name: str) -> None:
    path = SHARED / "data" / name
    annotations = read_annotations(path, masks=True)
    coco = COCO(str(path))
    assert annotations.set_aside == ()
    assert len(annotations.boxes) == len(coco.anns)
    assert [int(i) for i in annotations.image_ids] == list(coco.imgs)
    for row, number in enumerate(annotations.region_ids.tolist()):
        coco_region = coco.anns[number]
        x, y, width, height = coco_region["bbox"]
        assert annotations.boxes[row] == pytest.approx([x, y, x + width, y + height], abs=0.02)
        assert annotations.categories.ids[annotations.labels[row]] == coco_region["category_id"]
        assert annotations.areas[row] == coco_region["area"]
        assert annotations.crowd[row] == bool(coco_region["iscrowd"])
        assert (annotations.segmentations or ())[row] == (coco_region["segmentation"] or None)
    owner = np.repeat([int(i) for i in annotations.image_ids], np.diff(annotations.starts))
    assert owner.tolist() == [coco.anns[i]["image_id"] for i in annotations.region_ids.tolist()]
