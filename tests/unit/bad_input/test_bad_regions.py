"""Regions and their files, case by case: a documented result, or an error that names the item."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion import InputError, Regions, load_regions
from anyregion.data.annotations.reading import read_annotations
from anyregion.masks import encode_mask, segmentation_to_rle

RNG = np.random.default_rng(7)


REFUSED_REGIONS: dict[str, tuple[dict[str, Any], str]] = {
    "partly NaN": ({"boxes": [[0, 0, np.nan, 5]]}, "region 0: box .* not finite"),
    "NaN row without points": ({"boxes": [[np.nan] * 4]}, "region 0: neither a box"),
    "infinite": ({"boxes": [[0, 0, 5, 5], [0, 0, np.inf, 5]]}, "region 1: box .* not finite"),
    "inverted": ({"boxes": [[5, 0, 1, 5]]}, "empty or inverted"),
    "no area": ({"boxes": [[5, 5, 5, 9]]}, "empty or inverted"),
    "wrong width": ({"boxes": [[1, 2, 3]]}, r"\(N, 4\)"),
    "id of no kind": ({"boxes": [[0, 0, 5, 5]], "ids": [1.5]}, "neither a whole number nor text"),
    "RLE without size": ({"masks": [{"counts": [4]}]}, "with its size"),
    "RLE that lies": ({"masks": [{"size": [5, 6], "counts": "zzzz"}]}, "character|do not add up"),
    "ragged": ({"boxes": [[1, 2, 3, 4], [1, 2]]}, "not an array of numbers"),
    "words": ({"boxes": [["a", "b", "c", "d"]]}, "not an array of numbers"),
    "nothing": ({}, "boxes, points or masks"),
    "id named": ({"boxes": [[5, 0, 1, 5]], "ids": ["cup-7"]}, "region cup-7"),
    "ids short": ({"boxes": [[0, 0, 5, 5]], "ids": []}, "1 regions but 0 ids"),
    "scores long": ({"boxes": [[0, 0, 5, 5]], "scores": [1, 2]}, "1 regions but 2 scores"),
    "score NaN": ({"boxes": [[0, 0, 5, 5]], "scores": [np.nan]}, "score nan is not finite"),
    "point NaN": ({"points": [[[1, np.nan]]]}, "a point is not finite"),
    "background only": (
        {"points": [[[1, 1]]], "point_labels": [[0]]},
        "neither a box, nor a mask, nor a foreground point",
    ),
    "label 2": ({"points": [[[1, 1]]], "point_labels": [[2]]}, "neither 1 .* nor 0"),
    "labels short": ({"points": [[[1, 1], [2, 2]]], "point_labels": [[1]]}, "2 points but 1"),
    "empty mask": ({"masks": [np.zeros((4, 4), bool)]}, "mask is empty"),
    "label beyond 64 bits": ({"points": [[[1, 1]]], "point_labels": [[10**30]]}, "array of num"),
    "masks no sequence": ({"boxes": [[0, 0, 5, 5]], "masks": 5e-324}, "masks must be a sequence"),
    "ids a text": ({"boxes": [[0, 0, 5, 5]], "ids": "x"}, "ids must be a sequence"),
    "one mask for many": ({"masks": {"size": [4, 4], "counts": [1, 15]}}, "must be a sequence"),
    "three-dimensional mask": ({"masks": [np.ones((1, 4, 4), bool)]}, r"\(height, width\)"),
}


@pytest.mark.parametrize("case", REFUSED_REGIONS)
def test_regions_refused(case: str) -> None:
    prompts, reason = REFUSED_REGIONS[case]
    with pytest.raises(InputError, match=reason):
        Regions.from_prompts(**prompts)


def test_integer_and_no_boxes() -> None:
    assert Regions.from_boxes(np.array([[1, 2, 3, 4]], np.int32)).boxes.dtype == np.float64
    assert len(Regions.from_boxes([])) == 0
    assert len(Regions.from_boxes(np.zeros((0, 4)))) == 0


def test_fit_clips_and_names_what_lies_outside() -> None:
    regions = Regions.from_prompts(
        boxes=[[-5, -5, 30, 8], [40, 2, 60, 9], [2, 2, 6, 6], [np.nan] * 4, [1, 1, 3, 3]],
        points=[None, None, None, [[30, 4]], None],
        masks=[None, None, np.ones((5, 5), bool), None, None],
        ids=["over", "outside", "mask", "point", "fine"],
        scores=[0.1, 0.2, 0.3, 0.4, 0.5],
    )
    fitted, faults = regions.fit(10, 20)
    assert fitted.ids == ("over", "fine")
    assert fitted.boxes.tolist() == [[0, 0, 20, 8], [1, 1, 3, 3]]
    assert fitted.scores is not None
    assert fitted.scores.tolist() == [0.1, 0.5]
    assert {a.item for a in faults} == {"region outside", "region mask", "region point"}
    assert "outside the 20 x 10 image" in faults[0].reason


GOOD = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4]}


def coco(*annotations: dict[str, Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8, **image}],
        "annotations": list(annotations),
        "categories": [{"id": 2, "name": "cup"}],
    }


REFUSED_FILES: dict[str, tuple[str, str]] = {
    "malformed": ('{"images": [', "malformed JSON at line 1"),
    "not JSON at all": ("hello", "malformed JSON"),
    "a number": ("3", "neither COCO annotations"),
    "empty object": ("{}", "neither COCO annotations"),
    "annotations without images": (json.dumps({"annotations": []}), "images"),
    "a number of 5,000 digits": ("[" + "9" * 5000 + "]", "cannot be read"),
    "too deep": ("[" * 100_000, "nested too deeply|malformed"),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_region_file_refused(case: str, tmp_path: Path) -> None:
    content, reason = REFUSED_FILES[case]
    path = tmp_path / "regions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_regions(path)
    assert "regions.json" in str(caught.value)


SET_ASIDE: dict[str, tuple[Any, str]] = {
    "unknown image": (coco(GOOD, {**GOOD, "id": 2, "image_id": 9}), "unknown image id 9"),
    "image twice": (
        {**coco(GOOD), "images": coco(GOOD)["images"] * 2},
        "listed twice",
    ),
    "inverted": (coco(GOOD, {**GOOD, "id": 2, "bbox": [5, 5, -2, 1]}), "region 2.*inverted"),
    "three numbers": (coco(GOOD, {**GOOD, "id": 2, "bbox": [5, 5, 2]}), "not four numbers"),
    "no box": (coco(GOOD, {"id": 2, "image_id": 1}), "region 2: no bbox"),
    "box of 400 digits": (
        coco(GOOD, {**GOOD, "id": 2, "bbox": [10**400, 1, 2, 2]}),
        "four numbers",
    ),
    "not an object": (coco(GOOD, 7), "not an object"),  # type: ignore[arg-type]
    "no image id": (coco(GOOD, {"id": 2, "bbox": [1, 1, 4, 4]}), "no image_id"),
    "image without name": (
        {**coco(GOOD), "images": [*coco()["images"], {"id": 2}]},
        "image 2: no file name",
    ),
    "category of no number": (
        {**coco(GOOD), "categories": [{"id": "x", "name": "cup"}]},
        "category #0: not an object with a whole number as id",
    ),
    "per cent": ([{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, 95)], "0 to 1"),
    "score that is a word": (
        [{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, "high")],
        "0 to 1",
    ),
    "a score missing": (
        {"1": {"boxes": [[1, 1, 5, 5], [1, 1, 5, 5]], "scores": [0.5, None]}},
        "None is not a number",
    ),
    "a polygon that leads far away": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": [[0, 0, 1e300, 0, 1e300, 1e300]]}),
        "farther outside",
    ),
    "RLE of a planet": (
        [
            {"image_id": 1, "bbox": [1, 1, 4, 4]},
            {
                "image_id": 1,
                "bbox": [1, 1, 4, 4],
                "segmentation": {"size": [10**9, 10**9], "counts": "0"},
            },
        ],
        "more than 178,956,970 pixels",
    ),
    "null box": (coco(GOOD, {**GOOD, "id": 2, "bbox": [None] * 4}), "not four numbers"),
    "RLE of another size": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [4, 4], "counts": [16]}}),
        "but the image is",
    ),
    "RLE too short": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [8, 8], "counts": [3, 3]}}),
        "do not add up",
    ),
    "hostile RLE": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": {"size": [8, 8], "counts": "zzzzzz~"}}),
        "character|do not add up",
    ),
    "polygon of two points": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": [[1, 1, 2, 2]]}),
        "polygon",
    ),
    "detector, no boxes": ({"1": {"boxes": [[1, 1, 5, 5]]}, "2": {}}, "image 2: malformed"),
    "detector, null boxes": (
        {"1": {"boxes": [[1, 1, 5, 5]]}, "2": {"boxes": None}},
        "image 2: malformed",
    ),
    "detector, a list": ({"1": {"boxes": [[1, 1, 5, 5]]}, "2": [[1, 1, 5, 5]]}, "image 2"),
    "detector, no scores for boxes": (
        {"1": {"boxes": [[1, 1, 5, 5]]}, "2": {"boxes": [[1, 1, 5, 5]], "scores": []}},
        "differ in number",
    ),
    "a polygon of 400 digits": (
        coco(GOOD, {**GOOD, "id": 2, "segmentation": [[10**400, 0, 10, 0, 10, 10]]}),
        "list of numbers",
    ),
    "detector, lengths differ": (
        {"1": {"boxes": [[1, 1, 5, 5]]}, "2": {"boxes": [[1, 1, 5, 5]], "scores": [0.1, 0.2]}},
        "differ in number",
    ),
    "result, NaN": (
        [{"image_id": 1, "bbox": [1, 1, 4, 4]}, {"image_id": 1, "bbox": [1, 1, float("nan"), 4]}],
        "not finite",
    ),
}


@pytest.mark.parametrize("case", SET_ASIDE)
def test_region_file_names_faulty_entries(case: str, tmp_path: Path) -> None:
    content, reason = SET_ASIDE[case]
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(content))
    file = load_regions(path, masks=True)
    assert len(file.set_aside) == 1
    assert pytest.importorskip("re").search(reason, str(file.set_aside[0]))
    assert sum(len(e.regions) for e in file.images.values()) == 1  # the good one stays


@pytest.mark.parametrize("counts", ["", "0", "P" * 5, "~~~", "oooo", "`" + "0" * 50, b"\xff", 3])
def test_hostile_codes_never_reach_regions(counts: Any) -> None:
    with pytest.raises(InputError):
        Regions.from_prompts(masks=[{"size": [8, 8], "counts": counts}])


def test_codes_of_endless_numbers_are_refused_at_once() -> None:
    started = time.process_time()
    with pytest.raises(InputError, match="do not add up"):
        segmentation_to_rle({"size": [240, 320], "counts": "o" * 1_000_000}, 240, 320)
    assert time.process_time() - started < 1, "16 s where the number was added up"


@pytest.mark.parametrize("counts", ["", "0", "P" * 5, "~~~", "oooo", b"\xff"])
def test_hostile_codes_never_reach_the_decoder(counts: str) -> None:
    with pytest.raises(InputError):
        segmentation_to_rle({"size": [8, 8], "counts": counts}, 8, 8)


def test_a_bad_category_costs_its_own_row_only(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": i, "category_id": c} for i, c in enumerate((2, None, "2", 2.0, "x"))]
    (tmp_path / "regions.json").write_text(json.dumps(coco(*rows)))
    regions = load_regions(tmp_path / "regions.json").images["1"].regions
    assert regions.categories is not None
    assert regions.categories.tolist() == [2, -1, 2, 2, -1]


def test_ids_left_out_or_written_as_decimals(tmp_path: Path) -> None:
    ids = [None, 1, 2.0, "3", float("nan"), [4], {"id": 5}]
    rows = [{**GOOD, "id": value, "image_id": 1.0} for value in ids]
    (tmp_path / "regions.json").write_text(json.dumps(coco(*rows)))
    file = load_regions(tmp_path / "regions.json")
    assert file.set_aside == ()
    # as `data check` counts them: a region without an id that can be one is numbered
    assert file.images["1"].regions.ids == ("#0", 1, 2, "3", "#4", "#5", "#6")
    assert len(read_annotations(tmp_path / "regions.json").boxes) == len(ids)


def test_ids_listed_twice_are_said(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(coco(GOOD, {**GOOD, "id": "1"}, {**GOOD, "id": 2})))
    file = load_regions(path)
    assert file.images["1"].regions.ids == (1, "#1", 2)
    (said,) = file.set_aside
    assert "its id is taken" in said.reason
    (said,) = read_annotations(path).set_aside
    assert "its id is taken" in said.reason


def test_scores_can_be_left_out(tmp_path: Path) -> None:
    results = [{"image_id": 1, "bbox": [1, 1, 4, 4], "score": s} for s in (0.5, 95)]
    (tmp_path / "regions.json").write_text(json.dumps(results))
    regions = load_regions(tmp_path / "regions.json", scores=False).images["1"].regions
    assert (len(regions), regions.scores) == (2, None)


def test_compressed_codes_pass() -> None:
    for _ in range(50):
        mask = RNG.random((9, 13)) < RNG.random()
        rle = encode_mask(mask)
        assert segmentation_to_rle(dict(rle), 9, 13) == rle
