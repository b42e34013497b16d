"""The shipped model on photographs it was not trained on; floors lie below what was measured."""

from __future__ import annotations

import pytest

from anyregion import load_recognizer
from anyregion.evaluation.regions.calibration import evaluate_calibration
from anyregion.evaluation.regions.classification import evaluate_classification
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.evaluation.regions.mask_quality import evaluate_masks
from tests.helpers.shared import SHARED, needs_shared

COCO = SHARED / "data" / "coco"
VAL = COCO / "annotations" / "instances_val.json"


@needs_shared
def test_names() -> None:
    report = evaluate_classification(
        load_recognizer(), VAL, COCO / "images", EvaluationOptions(limit=60)
    )
    assert report.top1 > 0.60
    assert report.top5 > 0.85
    before = evaluate_classification(
        load_recognizer(method="dense"), VAL, COCO / "images", EvaluationOptions(limit=20)
    )
    assert report.top1 > before.top1 + 0.2


@needs_shared
def test_scores() -> None:
    report = evaluate_calibration(
        load_recognizer(), VAL, COCO / "images", EvaluationOptions(limit=60), sizes=(3, 1000)
    )
    for row in report.refusals:
        assert row.ece is not None
        # 0.1203 with 1,000 names, of so few photographs; all of `val`: 0.0845
        assert row.ece < 0.125, row.vocabulary
    few = report.refusals[2]
    assert few.auroc is not None
    assert few.auroc > 0.9
    # of what is in none of three names most is refused, of what is in them little
    assert few.refused_absent is not None
    assert few.refused_present is not None
    assert few.refused_absent > 0.6 > 0.1 > few.refused_present


@needs_shared
@pytest.mark.parametrize(("prompt", "floor"), [("box", 0.68), ("point", 0.30)])
def test_masks(prompt: str, floor: float) -> None:
    masks = COCO / "annotations" / "instances_val_masks.json"
    report = evaluate_masks(
        load_recognizer(),
        masks,
        COCO / "images",
        prompt=prompt,  # type: ignore[arg-type]
        limit=25,
    )
    assert report.mean_iou > floor
    if report.box_iou is not None:
        assert report.mean_iou > report.box_iou + 0.1
