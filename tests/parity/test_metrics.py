"""Our metrics against torchmetrics', scikit-image's and faster-coco-eval's on random inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.data.annotations.reading import read_annotations
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_in_scores
from anyregion.evaluation.metrics.average_precision import average_precision
from anyregion.evaluation.metrics.calibration import auroc, ece
from anyregion.evaluation.metrics.coco_eval import Kind
from anyregion.evaluation.metrics.overlap import mask_ious
from anyregion.evaluation.regions.coco_results import read_results
from anyregion.masks import encode_mask

EXACT = {"abs": 1e-6}
SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracies(seed: int) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(seed)
    classes, count = 12, 300
    # every class occurs: torchmetrics would count one that is only predicted
    labels = draw.permutation(np.arange(count) % classes)
    scores = draw.random((count, classes))
    scores[np.arange(count), labels] += 0.3
    own = accuracies(ranks_in_scores(scores, labels), labels)
    inputs = torch.from_numpy(scores), torch.from_numpy(labels)
    options = {"num_classes": classes}
    expected = {
        "top1": metrics.multiclass_accuracy(*inputs, **options, average="micro"),
        "top5": metrics.multiclass_accuracy(*inputs, **options, average="micro", top_k=5),
        "mean_class_accuracy": metrics.multiclass_accuracy(*inputs, **options, average="macro"),
    }
    assert own == pytest.approx({name: float(value) for name, value in expected.items()}, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_and_auroc(seed: int) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.full(7, 0.4), 400).astype(np.float32)
    labels = draw.integers(0, 7, 400)
    expected = metrics.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=7, n_bins=15
    )
    best = probabilities.argmax(axis=1)
    assert ece(probabilities.max(axis=1), best == labels) == pytest.approx(float(expected), **EXACT)
    # few digits, so that there are ties
    scores, positive = draw.random(500).round(2), draw.random(500) < 0.3
    area = metrics.binary_auroc(torch.from_numpy(scores), torch.from_numpy(positive).long())
    assert auroc(scores[positive], scores[~positive]) == pytest.approx(float(area), **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_overlaps_of_segments_and_masks(seed: int) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    skimage = pytest.importorskip("skimage.metrics")
    pytest.importorskip("scipy")
    from anyregion.evaluation.backbones.segmentation_overlap import (
        foreground_ious,
        pixel_accuracy,
        segment_ious,
    )

    draw = np.random.default_rng(seed)
    truth = draw.integers(-1, 5, (31, 47)).astype(np.int32)
    parts = draw.integers(0, 6, (31, 47))
    judged = truth >= 0
    # scikit-image counts the pixels that each pair of segment and part shares
    shared = skimage.contingency_table(truth[judged], parts[judged]).toarray()
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    own = segment_ious(truth, parts, background=True)
    np.testing.assert_allclose(own, shared / union, atol=1e-6)
    front = draw.random((31, 47)) < 0.4
    expected = metrics.multiclass_jaccard_index(
        torch.from_numpy(front[judged].astype(np.int64)),
        torch.from_numpy((truth[judged] > 0).astype(np.int64)),
        num_classes=2,
        average="none",
    )
    assert foreground_ious(truth, front)[::-1] == pytest.approx(expected.tolist(), **EXACT)
    right = metrics.binary_accuracy(
        torch.from_numpy(front[judged].astype(np.int64)),
        torch.from_numpy((truth[judged] > 0).astype(np.int64)),
    )
    assert pixel_accuracy(truth, front) == pytest.approx(float(right), **EXACT)
    pairs = draw.random((2, 4, 20, 30)) < 0.5
    ious = mask_ious(*([encode_mask(mask) for mask in masks] for masks in pairs))
    for iou, first, other in zip(ious, *pairs, strict=True):
        jaccard = metrics.binary_jaccard_index(
            torch.from_numpy(first).long(), torch.from_numpy(other).long()
        )
        assert iou == pytest.approx(float(jaccard), **EXACT)


def random_detection_task(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations of five images and results: rectangles, some of them near a true one."""
    draw = np.random.default_rng(seed)
    images = [{"id": i + 1, "file_name": f"{i}.jpg", "width": 90, "height": 70} for i in range(5)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def fields(image: int, category: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
        mask = np.zeros((70, 90), bool)
        mask[y : y + h, x : x + w] = True
        place = {"bbox": [x, y, w, h], "segmentation": encode_mask(mask)}
        return {"image_id": image, "category_id": category, **place}

    for image in range(1, 6):
        for _ in range(8):
            x, y = int(draw.integers(0, 50)), int(draw.integers(0, 40))
            w, h = int(draw.integers(3, 40)), int(draw.integers(3, 30))
            category = int(draw.integers(1, 4))
            row = fields(image, category, x, y, w, h)
            more = {"id": len(annotations) + 1, "area": w * h, "iscrowd": int(draw.random() < 0.1)}
            annotations.append(row | more)
            for _ in range(3):
                dx, dy = draw.integers(0, 4, 2).tolist()
                near = fields(image, int(draw.integers(1, 4)), x + dx, y + dy, w, h)
                results.append(near | {"score": round(float(draw.random()), 2)})
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, 4)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, results


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_faster_coco_evals(kind: Kind, seed: int, tmp_path: Path) -> None:
    faster = pytest.importorskip("faster_coco_eval")
    content, results = random_detection_task(seed)
    # areas of masks are the masks' own: they come without boxes
    drop = "bbox" if kind == "mask" else "segmentation"
    results = [{k: v for k, v in row.items() if k != drop} for row in results]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "r.json").write_text(json.dumps(results))
    truth = faster.COCO(str(tmp_path / "a.json"))
    evaluator = faster.COCOeval_faster(
        truth, truth.loadRes(str(tmp_path / "r.json")), "bbox" if kind == "box" else "segm"
    )
    evaluator.run()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm")
    expected = dict(zip(names, evaluator.stats[: len(names)].tolist(), strict=True))
    annotations = read_annotations(tmp_path / "a.json", masks=kind == "mask", clip=False)
    detections = read_results(tmp_path / "r.json", annotations, masks=kind == "mask", set_aside=[])
    own = average_precision(annotations, detections, style="coco", kind=kind).metrics()
    assert 0.02 < expected["AP"] < 0.9
    for name, value in expected.items():
        assert own[name] == (pytest.approx(value, **EXACT) if value >= 0 else None), name
