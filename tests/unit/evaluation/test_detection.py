"""Naming regions and judging them: whose regions, which names, what is written and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.evaluation.regions.detection import (
    DetectionReport,
    evaluate_detection,
    evaluate_results,
)
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.masks import encode_mask
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import CLASSES, HALVES, LEFT, RECTANGLES, RIGHT, Halves, edit


def evaluate(annotated: tuple[Path, Path], **options: Any) -> DetectionReport:
    names = ("regions", "masks", "style", "pairs", "save")
    arguments = {name: options.pop(name) for name in names if name in options}
    return evaluate_detection(
        colour_recognizer, *annotated, EvaluationOptions(**options), **arguments
    )


def test_annotated_regions(annotated: tuple[Path, Path]) -> None:
    report = evaluate(annotated, masks=True)
    assert (report.boxes["AP"], report.top1, report.style) == (pytest.approx(1), 1, "coco")
    assert report.masks is not None
    assert report.masks["AP"] == pytest.approx(1)
    assert (report.images, report.regions, report.names) == (4, 8, 6)
    assert report.detections == 8 * 6, "every name of every region, below the limit"
    assert report.by_class["red"].regions == 2
    assert report.set_aside == ()
    assert json.loads(json.dumps(report.to_dict()))["boxes"]["AP75"] == pytest.approx(1)


def test_pairs_an_image(annotated: tuple[Path, Path]) -> None:
    report = evaluate(annotated, pairs=2)
    assert report.detections == 8
    assert report.boxes["AP"] == pytest.approx(1)
    with pytest.raises(InputError, match="at least one"):
        evaluate(annotated, pairs=0)


def test_a_detectors_regions(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    """Images by id or by name; boxes of score 0.1 rank below; an image it lacks finds nothing."""
    predictions = {
        "1": {"boxes": [[0, 0, 20, 30], [20, 0, 40, 30]], "scores": [0.9, 0.8], "labels": [5, 5]},
        "2.png": {"boxes": [[0, 0, 20, 30], [20, 0, 40, 30]], "scores": [0.9, 0.8]},
        "10": {"boxes": [[0, 0, 20, 30]], "scores": [0.7]},
    }
    (tmp_path / "glip.json").write_text(json.dumps(predictions))
    report = evaluate(annotated, regions=tmp_path / "glip.json", save=tmp_path / "out.json")
    assert (report.images, report.regions, report.top1) == (4, 5, None)
    per_class = {name: c.box_ap for name, c in report.by_class.items()}
    assert per_class == pytest.approx(
        {"red": 1, "lime": 1, "blue": 1, "yellow": 0, "white": 0, "black": 0}
    )
    rows = json.loads((tmp_path / "out.json").read_text())
    best = max((r for r in rows if r["image_id"] == 1), key=lambda r: r["score"])
    assert best["category_id"] == 1
    assert best["score"] < 0.9, "the name's score times the detector's"


def test_proposed_regions(annotated: tuple[Path, Path]) -> None:
    """Images without regions are looked at too: what is found there is wrong."""
    proposer = Halves()
    assert evaluate(annotated, regions=proposer).boxes["AP"] == pytest.approx(1)
    assert len(proposer.seen) == 4
    edit(annotated[0], lambda c: c["annotations"].__delitem__(slice(0, 2)))
    report = evaluate(annotated, regions=Halves())
    assert report.images == 4
    assert report.boxes["AP"] is not None
    assert report.boxes["AP"] < 1
    assert evaluate(annotated).images == 3, "with given regions there is nothing to ask about"


def test_another_vocabulary(annotated: tuple[Path, Path]) -> None:
    """Names that are no category take their place among the pairs, and count for nothing."""
    words = Vocabulary.from_names(["RED", "cyan", "Blue", "magenta"])
    report = evaluate(annotated, vocabulary=words, pairs=1)
    assert report.names == 4
    assert report.detections < 4
    assert report.by_class["red"].box_ap == pytest.approx(1)
    assert report.by_class["white"].box_ap == 0
    with pytest.raises(InputError, match="none of its categories"):
        evaluate(annotated, vocabulary=Vocabulary.from_names(["dog"]))


def test_seen_and_unseen(annotated: tuple[Path, Path]) -> None:
    words = Vocabulary.from_names([n for n in CLASSES.values() if n != "white"])
    report = evaluate(annotated, vocabulary=words, unseen="white, black", pairs=2)
    assert report.split is not None
    assert report.split.unseen_classes == ("white", "black")
    assert report.split.seen == pytest.approx(1)
    assert report.split.unseen == pytest.approx(
        np.mean([report.by_class[n].box_ap for n in ("white", "black")])
    )
    half = report.split.unseen
    assert half is not None
    assert report.split.harmonic_mean == pytest.approx(2 * half / (1 + half))


def test_saved_predictions_are_judged_alike(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    words = Vocabulary.from_names(["white", "red", "blue", "orange"])
    named = evaluate(annotated, vocabulary=words, masks=True, save=tmp_path / "results.json")
    again = evaluate_results(annotated[0], tmp_path / "results.json", masks=True)
    assert again.boxes == pytest.approx(named.boxes)
    assert again.masks == pytest.approx(named.masks)
    assert (again.detections, again.regions) == (named.detections, None)


def test_predictions_that_cannot_be_used(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    good = {"image_id": 1.0, "category_id": 1, "bbox": [0, 0, 20, 30], "score": 1}
    rows = [
        good,
        {**good, "image_id": 99},
        {**good, "image_id": 99},
        {**good, "category_id": 4},
        {**good, "bbox": [0, 0, 1]},
        {**good, "score": "high"},
        "nothing",
        {**good, "bbox": [0, 0, float("inf"), 1]},
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    report = evaluate_results(annotated[0], tmp_path / "results.json")
    assert report.detections == 1
    reasons = [str(a) for a in report.set_aside]
    assert len(reasons) == 6
    assert "image 99: 2 predictions, but the annotations do not list it" in reasons
    assert "category 4: 1 predictions, but the annotations do not list it" in reasons
    with pytest.raises(InputError, match="mask of every prediction"):
        evaluate_results(annotated[0], tmp_path / "results.json", masks=True)
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="nor COCO results"):
        evaluate_results(annotated[0], tmp_path / "results.json")


def test_many_malformed_predictions_are_counted(
    annotated: tuple[Path, Path], tmp_path: Path
) -> None:
    wrong = {"image_id": 1, "category_id": 1, "bbox": [30, 20, 3, 3], "score": 1}
    (tmp_path / "results.json").write_text(json.dumps([1] * 130 + [wrong]))
    report = evaluate_results(annotated[0], tmp_path / "results.json")
    assert str(report.set_aside[-1]) == "30 more: malformed entries"
    assert report.boxes["AP"] == 0


def test_masks_are_missed_before_work_begins(annotated: tuple[Path, Path]) -> None:
    edit(annotated[0], lambda c: c["annotations"][0].update(segmentation=[]))

    def load() -> Any:
        raise RuntimeError("the model must not be loaded")

    with pytest.raises(InputError, match="1 of 8 in the annotations have none"):
        evaluate_detection(load, *annotated, masks=True)


def test_images_that_cannot_be_used_are_not_judged(annotated: tuple[Path, Path]) -> None:
    (annotated[1] / "1.png").unlink()
    (annotated[1] / "2.png").write_bytes(b"nothing")
    report = evaluate(annotated)
    assert (report.images, report.boxes["AP"]) == (2, pytest.approx(1))
    assert len(report.set_aside) == 2
    for name in HALVES:
        (annotated[1] / f"{name}.png").unlink(missing_ok=True)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(annotated)


def test_batches_and_limit_do_not_change_answers(annotated: tuple[Path, Path]) -> None:
    one, many = evaluate(annotated, batch_size=1), evaluate(annotated, batch_size=9)
    assert one.boxes == many.boxes
    assert evaluate(annotated, limit=2).images == 2


BLUE_HALF = np.zeros((30, 40), dtype=bool)
BLUE_HALF[:, 20:] = True
MASK = encode_mask(BLUE_HALF)
RED = {"image_id": 1, "category_id": 1, "bbox": LEFT, "score": 0.9}


def judged(annotated: tuple[Path, Path], content: Any, **options: Any) -> DetectionReport:
    file = annotated[0].with_name("results.json")
    file.write_text(json.dumps(content))
    return evaluate_results(annotated[0], file, **options)


@pytest.mark.parametrize(
    "change",
    [
        {"score": float("nan")},
        {"bbox": [20, 30, -20, -30]},
        {"category_id": 1.7},
        {"segmentation": {"size": [15, 20], "counts": [0, 150, 150]}},
        {"segmentation": [[1, 2]]},
    ],
)
def test_a_wrong_prediction_costs_only_itself(
    annotated: tuple[Path, Path], change: dict[str, Any]
) -> None:
    good = {**RED, "segmentation": RECTANGLES["left"]}
    alone = judged(annotated, [good], masks=True)
    both = judged(annotated, [{**good, **change}, good], masks=True)
    assert (both.boxes, both.masks, both.detections) == (alone.boxes, alone.masks, 1)
    assert len(both.set_aside) == 1


@pytest.mark.parametrize("mask", [RECTANGLES["left"], {"size": [30, 40], "counts": [0, 600, 600]}])
def test_masks_without_boxes(annotated: tuple[Path, Path], mask: Any) -> None:
    row = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": mask}
    assert judged(annotated, [row]).boxes == judged(annotated, [RED]).boxes


@pytest.mark.parametrize(
    "change",
    [
        {"score": True},
        {"score": "0.9"},
        {"score": None},
        {"score": float("nan")},
        {"bbox": "1234"},
        {"bbox": [5, 5, -3, 3]},
        {"bbox": None, "segmentation": {"size": [60, 80], "counts": [0, 600, 4200]}},
    ],
)
def test_malformed_predictions_are_set_aside(
    annotated: tuple[Path, Path], change: dict[str, Any]
) -> None:
    report = judged(annotated, [RED, RED | change])
    assert report.detections == 1
    assert len(report.set_aside) == 1
    assert report.boxes == judged(annotated, [RED]).boxes


def test_predictions_are_read_as_regions_are(annotated: tuple[Path, Path]) -> None:
    """A detector's boxes, file names of another system, results that name their own images."""
    x, y, width, height = LEFT
    boxes = {
        "boxes": [[x, y, x + width, y + height]],
        "scores": [0.9],
        "labels": [RED["category_id"]],
    }
    expected = judged(annotated, [RED]).boxes
    (key,) = {str(RED["image_id"])}
    assert judged(annotated, {key: boxes}).boxes == expected
    for name in ("1.png", "C:\\photos\\1.PNG", "./1%2Epng", "http://h.example/a/1.png"):
        images = [{"id": 77, "file_name": name}]
        content = {"images": images, "annotations": [RED | {"image_id": 77}]}
        assert judged(annotated, content).boxes == expected, name


def test_names_that_fit_several_images_are_set_aside(annotated: tuple[Path, Path]) -> None:
    edit(annotated[0], lambda c: c["images"][0].update(file_name="a/1.png"))
    edit(annotated[0], lambda c: c["images"][1].update(file_name="b/1.png"))
    row = RED | {"image_id": 77}

    def detections(name: str) -> Any:
        images = [{"id": 77, "file_name": name}, {"id": 3, "file_name": "a/1.png"}]
        return judged(annotated, {"images": images, "annotations": [row, RED | {"image_id": 3}]})

    assert detections("b/1.png").detections == 2
    assert "image 77: 1 predictions" in str(detections("1.png").set_aside[-1])


def test_scores_only_rank(annotated: tuple[Path, Path]) -> None:
    assert judged(annotated, [RED | {"score": 12.5}]).boxes == judged(annotated, [RED]).boxes


def test_predictions_of_other_images_are_an_error(annotated: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"no prediction can be judged.*image 00001"):
        judged(annotated, [{**RED, "image_id": "00001"}])
    assert judged(annotated, []).boxes["AP"] == 0, "nothing found is an answer"


def test_ids_of_a_file_with_its_own_images_and_categories(annotated: tuple[Path, Path]) -> None:
    """As `anyregion recognize` writes: its ids 1, 2, ... are not those of the annotations."""
    content = {
        "images": [{"id": 3, "file_name": "1.png"}, {"id": 1, "file_name": "elsewhere/10.png"}],
        "categories": [{"id": 1, "name": "Yellow"}, {"id": 2, "name": "red"}],
        "annotations": [
            {"image_id": 3, "category_id": 2, "bbox": LEFT, "score": 0.9},
            {"image_id": 1, "category_id": 1, "bbox": RIGHT, "score": 0.8},
        ],
    }
    report = judged(annotated, content)
    assert (report.detections, report.set_aside) == (2, ())
    assert report.by_class["yellow"].box_ap == pytest.approx(1)
    assert report.by_class["red"].box_ap == pytest.approx(51 / 101)


def test_a_detectors_file_with_ids_of_its_own(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    """Its image 1 is our 2.png, whose left half alone it found."""
    file = tmp_path / "found.json"
    images = [{"id": 1, "file_name": "2.png"}, {"id": 2, "file_name": "1.png"}]
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": LEFT, "score": 0.9}
    file.write_text(json.dumps({"images": images, "annotations": [row]}))
    evaluate(annotated, regions=file, pairs=1, save=tmp_path / "out.json")
    (only,) = json.loads((tmp_path / "out.json").read_text())
    assert (only["image_id"], only["category_id"]) == (2, 2)


def test_a_file_name_is_no_id_of_another_image(annotated: tuple[Path, Path]) -> None:
    edit(annotated[0], lambda c: c["images"][0].update(file_name="2.png"))
    edit(annotated[0], lambda c: c["images"][1].update(file_name="1.png"))
    file = annotated[0].with_name("found.json")
    file.write_text(json.dumps({"2": {"boxes": [[0, 0, 20, 30]], "scores": [0.9]}}))
    assert evaluate(annotated, regions=file).regions == 1, "of the image 2, in 1.png"


def test_a_detectors_file_of_other_images(annotated: tuple[Path, Path]) -> None:
    file = annotated[0].with_name("found.json")
    file.write_text(json.dumps({"0001": {"boxes": [[0, 0, 20, 30]], "scores": [0.9]}}))

    def load() -> Any:
        raise RuntimeError("the model must not be loaded")

    with pytest.raises(InputError, match=r"none of the annotations' images.*it has 0001"):
        evaluate_detection(load, *annotated, regions=file)


def test_masks_are_prompts_only_with_use_masks(annotated: tuple[Path, Path]) -> None:
    """The whole image as box, its blue right half as mask."""
    file = annotated[0].with_name("found.json")
    row = {"image_id": 1, "bbox": [0, 0, 40, 30], "score": 0.9, "segmentation": MASK}
    file.write_text(json.dumps([row]))

    def top(**options: Any) -> Any:
        out = file.with_name("out.json")
        evaluate(annotated, regions=file, save=out, pairs=1, **options)
        return json.loads(out.read_text())[0]

    assert top()["score"] == top(masks=True)["score"], "to judge masks changes no name"
    used = top(use_masks=True)
    assert (used["category_id"], used["score"] > top()["score"]) == (3, True)
    annotated_report = evaluate(annotated, use_masks=True, masks=True)
    assert annotated_report.masks is not None
    assert annotated_report.masks["AP"] == pytest.approx(1)


def test_a_malformed_mask_is_reported_before_work_begins(annotated: tuple[Path, Path]) -> None:
    edit(annotated[0], lambda c: c["annotations"][2].update(segmentation=[[0, 0, 1]]))

    def load() -> Any:
        raise RuntimeError("the model must not be loaded")

    with pytest.raises(InputError, match=r"2\.png, region 3: a polygon must be"):
        evaluate_detection(load, *annotated, masks=True)


def test_what_is_missing_is_reported_beside_the_rest(
    annotated: tuple[Path, Path],
) -> None:
    """A class that was merged is not why there is nothing to do."""

    def bare(content: dict[str, Any]) -> None:
        content["annotations"] = []
        content["images"].append(content["images"][0])

    edit(annotated[0], bare)
    with pytest.raises(InputError, match="no image has regions that can be used; 1 set aside"):
        evaluate(annotated)
