"""COCO and LVIS AP against pycocotools and the `lvis` package, on the shared annotations.

Predictions are the ground truth, perturbed: boxes and masks moved and grown, some classes swapped,
some left out, some invented, with scores of few digits, so that there are ties.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anyregion.data.annotations.reading import read_annotations
from anyregion.evaluation.metrics.average_precision import (
    PrecisionTable,
    average_precision,
    style_of,
)
from anyregion.evaluation.metrics.coco_eval import Kind
from anyregion.evaluation.regions.coco_results import read_results
from anyregion.masks import decode_mask, encode_mask, segmentation_to_rle
from tests.helpers.shared import SHARED, needs_shared

ANNOTATIONS = SHARED / "data" / "coco" / "annotations"
COCO_FILE = ANNOTATIONS / "instances_val_masks.json"
LVIS_FILE = ANNOTATIONS / "lvis_v0.5_val_sample.json"
COCO_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl",
)  # fmt: skip

pytestmark = needs_shared


@cache
def perturbed(file: Path, *, copies: int, seed: int) -> list[dict[str, Any]]:
    """COCO results: `copies` of each region, each shaken by its own."""
    rng = np.random.default_rng(seed)
    content = json.loads(file.read_text())
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    ids = [c["id"] for c in content["categories"]]
    same: dict[int, list[int]] = {i: [] for i in sizes}
    for row in content["annotations"]:
        same[row["image_id"]].append(row["category_id"])
    predictions: list[dict[str, Any]] = []
    for row in content["annotations"]:
        if row["iscrowd"] and rng.random() < 0.5:
            continue
        height, width = sizes[row["image_id"]]
        mask = decode_mask(segmentation_to_rle(row["segmentation"], height, width))
        for _ in range(copies):
            if rng.random() < 0.15:
                continue
            x, y, w, h = row["bbox"]
            move = rng.normal(0, 0.08, 4) * [w, h, w, h]
            shift = rng.integers(-3, 4, 2)
            draw = rng.random()
            category = row["category_id"]
            if draw < 0.2:
                category = int(rng.choice(same[row["image_id"]]))  # a class that the image has
            elif draw < 0.3:
                category = int(rng.choice(ids))
            moved = encode_mask(np.roll(mask, tuple(shift), (0, 1)))
            predictions.append(
                {
                    "image_id": row["image_id"],
                    "category_id": category,
                    "bbox": [x + move[0], y + move[1], max(1, w + move[2]), max(1, h + move[3])],
                    "segmentation": moved,
                    "score": round(float(rng.random()), 2),
                }
            )
    rng.shuffle(predictions)  # type: ignore[arg-type]
    return predictions


def compute(
    file: Path, predictions: list[dict[str, Any]], kind: Kind, folder: Path
) -> PrecisionTable:
    annotations = read_annotations(file, masks=kind == "mask", clip=False)
    (folder / "results.json").write_text(json.dumps(predictions))
    set_aside: list[Any] = []
    detections = read_results(
        folder / "results.json", annotations, masks=kind == "mask", set_aside=set_aside
    )
    assert set_aside == []
    return average_precision(annotations, detections, style=style_of(annotations), kind=kind)


def for_reference(predictions: list[dict[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """The areas of masks are to be the masks' own, so they come without boxes."""
    drop = "bbox" if kind == "mask" else "segmentation"
    return [{k: v for k, v in copy.deepcopy(row).items() if k != drop} for row in predictions]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_coco_equals_pycocotools(kind: Kind, tmp_path: Path) -> None:
    predictions = perturbed(COCO_FILE, copies=2, seed=1)
    table = compute(COCO_FILE, predictions, kind, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(COCO_FILE))
        evaluator = COCOeval(
            truth,
            truth.loadRes(for_reference(predictions, kind)),
            "bbox" if kind == "box" else "segm",
        )
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    metrics = table.metrics()
    expected = dict(zip(COCO_NAMES, evaluator.stats, strict=True))
    assert 0.1 < expected["AP"] < 0.9
    assert metrics == pytest.approx(expected, abs=1e-6)
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    for label, ap in enumerate(table.by_class()):
        reference = precision[:, :, label]
        if (reference < 0).all():
            assert np.isnan(ap)
        else:
            assert ap == pytest.approx(reference.mean(), abs=1e-6)


@pytest.mark.parametrize(("kind", "copies"), [("box", 3), ("mask", 3), ("box", 20)])
def test_lvis_equals_the_lvis_package(
    kind: Kind, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvis = pytest.importorskip("lvis")
    # the package was last released before numpy took the alias away
    monkeypatch.setattr(np, "float", float, raising=False)
    predictions = perturbed(LVIS_FILE, copies=copies, seed=2)
    if copies > 3:
        assert max(np.unique([r["image_id"] for r in predictions], return_counts=True)[1]) > 300
    table = compute(LVIS_FILE, predictions, kind, tmp_path)
    truth = lvis.LVIS(str(LVIS_FILE))
    evaluator = lvis.LVISEval(
        truth,
        lvis.LVISResults(truth, for_reference(predictions, kind)),
        "bbox" if kind == "box" else "segm",
    )
    evaluator.run()
    expected = {
        name.replace("@300", "") if name[2:3] in tuple("sml") else name: value
        if value >= 0
        else None
        for name, value in evaluator.get_results().items()
    }
    assert table.style == "lvis"
    metrics = table.metrics()
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert {"APr", "APc", "APf", "AR@300"} <= set(metrics)
    assert 0.05 < expected["AP"] < 0.9
    precision = evaluator.eval["precision"][:, :, :, 0]
    for label, ap in enumerate(table.by_class()):
        reference = precision[:, :, label]
        if (reference < 0).all():
            assert np.isnan(ap)
        else:
            assert ap == pytest.approx(reference.mean(), abs=1e-6)


def test_lvis_rules_are_not_cocos(tmp_path: Path) -> None:
    """The equality above is of the federated rules: without them the figures differ."""
    predictions = perturbed(LVIS_FILE, copies=3, seed=2)
    (tmp_path / "results.json").write_text(json.dumps(predictions))
    annotations = read_annotations(LVIS_FILE, clip=False)
    detections = read_results(tmp_path / "results.json", annotations, masks=False, set_aside=[])
    ap = [
        average_precision(annotations, detections, style=style).metrics()["AP"]
        for style in ("coco", "lvis")
    ]
    assert None not in ap
    assert ap[1] > ap[0] + 0.005  # type: ignore[operator]
