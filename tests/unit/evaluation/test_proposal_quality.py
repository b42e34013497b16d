"""`evaluate proposals`: recall of things of any class, and how many regions each has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.cli.main import main
from anyregion.errors import InputError
from anyregion.evaluation.metrics.overlap import boxes_per_thing
from anyregion.evaluation.regions.proposal_quality import GridProposer, evaluate_proposals
from anyregion.images import Pixels
from anyregion.masks import encode_mask
from anyregion.regions import Regions
from tests.helpers.halves import Halves, annotate, edit


class Listed:
    """Finds the same boxes in every image, worst first."""

    name = fingerprint = "listed"

    def __init__(self, *boxes: list[float]) -> None:
        self.boxes = boxes

    def propose(self, image: Pixels) -> Regions:
        scores = np.linspace(0.1, 0.9, len(self.boxes))
        return Regions.from_boxes(self.boxes, scores=scores)


def test_every_half_is_met_once(annotated: tuple[Path, Path]) -> None:
    report = evaluate_proposals(Halves(), *annotated, min_score=0.5)
    assert report.ar == {"10": 1, "100": 1, "300": 1, "1000": 1}
    assert report.recall50 == report.ar
    assert report.mask_ar is None
    assert report.ar_by_size["small"] == 1
    assert np.isnan(report.ar_by_size["large"]), "there is none"
    # the whole is found last: it is behind all that is right
    assert report.ap50 == pytest.approx(1)
    assert (report.things, report.images, report.proposer) == (8, 4, "halves")
    kept = report.kept
    assert (kept.regions, kept.found, kept.at_most_one, kept.once, kept.most) == (2, 1, 1, 1, 1)


def test_figures_of_a_poor_proposer(annotated: tuple[Path, Path]) -> None:
    # a fifth of the left half, its upper four fifths, the right half's upper 60 %
    boxes = [0.0, 0, 20, 6], [20.0, 0, 40, 18], [0.0, 0, 20, 24]
    report = evaluate_proposals(Listed(*boxes), *annotated)
    # left at 0.5 to 0.8, right at 0.5 to 0.6
    assert report.ar["100"] == pytest.approx((7 + 3) / 20)
    assert report.recall50["10"] == 1
    assert report.kept.at_most_one == report.kept.once == 0.5
    assert report.kept.most == 2
    fewer = evaluate_proposals(Listed(*boxes), *annotated, kept=1)
    assert fewer.ar == report.ar, "recall is of all that is proposed"
    assert (fewer.kept.found, fewer.kept.at_most_one, fewer.kept.once) == (0.5, 1, 1)


def test_masks_are_judged_beside_boxes(annotated: tuple[Path, Path]) -> None:
    class Masked:
        name = fingerprint = "masked"

        def propose(self, image: Pixels) -> Regions:
            upper = np.zeros(image.shape[:2], dtype=bool)
            upper[:18, :20] = True  # 60 % of the left half; the right one has its box alone
            boxes = [[0, 0, 20, 30], [20, 0, 40, 30]]
            return Regions.from_prompts(
                boxes=boxes, masks=[encode_mask(upper), None], scores=[0.9, 0.1]
            )

    report = evaluate_proposals(Masked(), *annotated, masks=True)
    assert report.ar["10"] == 1
    assert report.mask_ar is not None
    assert report.mask_ar["10"] == pytest.approx((3 + 10) / 20)

    def without(content: dict[str, Any]) -> None:
        del content["annotations"][0]["segmentation"]

    with pytest.raises(InputError, match="needs the mask of every region"):
        evaluate_proposals(Masked(), edit(annotated[0], without), annotated[1], masks=True)


def test_boxes_per_thing() -> None:
    things = np.array([[0.0, 0, 100, 100], [10, 10, 30, 30], [200, 0, 260, 60]])
    boxes = np.array(
        [
            [0.0, 0, 100, 90],  # the first
            [11, 11, 30, 30],  # the second, though it lies in the first
            [50, 50, 70, 70],  # a part of the first
            [12, 12, 16, 16],  # a part of both: of the smaller
            [150, 0, 300, 100],  # overlaps the third by 3600 / 15000
            [400, 0, 410, 10],
        ]
    )
    assert boxes_per_thing(boxes, things).tolist() == [2, 2, 0]
    assert boxes_per_thing(boxes[:0], things).tolist() == [0, 0, 0]
    assert boxes_per_thing(boxes, things[:0]).tolist() == []


def test_crowds_are_neither_missed_nor_wrong(annotated: tuple[Path, Path]) -> None:
    coco, images = annotated

    def crowd(content: Any) -> None:
        for row in content["annotations"][1::2]:
            row["iscrowd"] = 1

    report = evaluate_proposals(Halves(), edit(coco, crowd), images)
    assert report.things == 4
    assert report.ar["10"] == 1
    assert report.ap50 == pytest.approx(1)


def test_a_grid_covers_the_image() -> None:
    regions = GridProposer().propose(np.zeros((60, 80, 3), np.uint8))
    assert len(regions) > 100
    assert (regions.boxes[:, :2] >= 0).all()
    assert (regions.boxes[:, 2:] <= [80 + 1e-9, 60 + 1e-9]).all()
    assert regions.boxes[0].tolist() == [0, 0, 60, 60]
    assert (np.diff(regions.scores) < 0).all()


def test_faults(annotated: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="at least one region"):
        evaluate_proposals(Halves(), *annotated, kept=0)

    def empty(content: Any) -> None:
        content["annotations"] = []

    with pytest.raises(InputError, match="no thing in any image"):
        evaluate_proposals(Halves(), edit(annotated[0], empty), annotated[1])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = annotate(tmp_path)
    words = ["evaluate", "proposals", "--annotations", str(coco), "--images"]
    words += [str(tmp_path / "photos"), "--proposer", "grid"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # the half is one of the grid's boxes: 21 x 30 pixels for 20 x 30
    assert report["ar"]["300"] > 0.5
    assert report["grid"]["ar"] == report["ar"]
    # NaN would be no JSON
    assert report["ar_by_size"]["large"] is report["grid"]["ar_by_size"]["large"] is None
    assert main(words) == 0
    assert "things with at most one" in capsys.readouterr().out
    assert main([*words, "--localizer", "sam"]) == 1
    assert "uses no localizer" in capsys.readouterr().err
