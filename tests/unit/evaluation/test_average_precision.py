"""AP of a few boxes, counted by hand: COCO's crowds and limits, LVIS's federated rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.errors import InputError
from anyregion.evaluation.metrics.average_precision import average_precision, style_of
from anyregion.evaluation.metrics.coco_eval import Detections

BOX = [10.0, 10.0, 60.0, 60.0]
FAR = [70.0, 70.0, 90.0, 90.0]


def truth(
    regions: list[tuple[int, int, list[float]]],
    *,
    images: int = 2,
    classes: str = "rcf",
    crowd: tuple[int, ...] = (),
    negatives: dict[int, list[int]] | None = None,
    partly: dict[int, list[int]] | None = None,
    segmentations: Any = None,
) -> Annotations:
    regions = sorted(regions, key=lambda r: r[0])
    boxes = np.array([r[2] for r in regions], dtype=float).reshape(-1, 4)
    counts = np.bincount([r[0] for r in regions], minlength=images)

    def listed(by_image: dict[int, list[int]] | None) -> tuple[Any, ...]:
        return tuple(np.array((by_image or {}).get(i, []), dtype=np.int64) for i in range(images))

    count = len(classes)
    return Annotations(
        categories=Categories(
            np.arange(count) * 10 + 1, tuple("abcdefgh"[:count]), ((),) * count, tuple(classes)
        ),
        image_ids=tuple(str(i + 1) for i in range(images)),
        file_names=tuple(f"{i}.jpg" for i in range(images)),
        sizes=np.full((images, 2), 100),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=np.array([r[1] for r in regions], dtype=np.int64),
        crowd=np.isin(np.arange(len(regions)), crowd),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        region_ids=np.arange(len(regions)) + 1,
        segmentations=segmentations,
        negatives=listed(negatives),
        not_exhaustive=listed(partly),
    )


def detections(*rows: tuple[int, int, list[float], float]) -> Detections:
    boxes = np.array([r[2] for r in rows], dtype=float).reshape(-1, 4)
    return Detections(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.int64),
        np.array([r[3] for r in rows], dtype=float),
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
    )


def ap(annotations: Annotations, predicted: Detections, **options: Any) -> Any:
    return average_precision(annotations, predicted, **options).metrics()


def test_right_and_wrong() -> None:
    annotations = truth([(0, 0, BOX), (1, 0, BOX), (1, 1, FAR)])
    # a false positive above the second true one: precision 1 to recall .5, then 2/3
    predicted = detections((0, 0, BOX, 0.9), (1, 0, FAR, 0.8), (1, 0, BOX, 0.7), (1, 1, FAR, 0.1))
    table = average_precision(annotations, predicted)
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert table.by_class()[:2] == pytest.approx([expected, 1])
    assert np.isnan(table.by_class()[2]), "a class without regions counts for nothing"
    metrics = table.metrics()
    assert metrics["AP"] == pytest.approx((expected + 1) / 2)
    assert metrics["APs"] == pytest.approx(1), "only FAR is below 32 x 32"
    assert metrics["APl"] is None
    assert table.mean_over([1]) == pytest.approx(1)
    assert table.mean_over([2]) is None


def test_no_detection_is_zero_not_nothing() -> None:
    metrics = ap(truth([(0, 0, BOX)]), Detections.empty())
    assert (metrics["AP"], metrics["AR@100"], metrics["APs"]) == (0, 0, None)


def test_crowd_is_neither_missed_nor_wrong() -> None:
    annotations = truth([(0, 0, BOX), (0, 0, FAR)], crowd=(1,))
    inside = [71.0, 71.0, 75.0, 75.0]
    predicted = detections((0, 0, inside, 0.9), (0, 0, inside, 0.8), (0, 0, BOX, 0.7))
    assert ap(annotations, predicted)["AP"] == pytest.approx(1)
    assert ap(annotations, predicted, style="lvis")["AP"] is not None
    assert ap(truth([(0, 0, BOX), (0, 0, FAR)]), predicted)["AP"] < 0.5


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({}, 1.0),  # nobody looked for class 0 in image 1: what is found there counts for nothing
        ({"negatives": {1: [0]}}, 0.5),  # looked for and absent: a false positive
        ({"negatives": {1: [0]}, "partly": {1: [0]}}, 1.0),
        ({"partly": {0: [0]}, "negatives": {1: [0]}}, 0.5),  # of another image
    ],
)
def test_federated(listed: dict[str, Any], expected: float) -> None:
    annotations = truth([(0, 0, BOX)], **listed)
    predicted = detections((1, 0, BOX, 0.9), (0, 0, BOX, 0.5))
    assert ap(annotations, predicted, style="lvis")["AP"] == pytest.approx(expected)
    assert ap(annotations, predicted)["AP"] == pytest.approx(0.5), "COCO knows no such lists"


def test_partly_annotated_matches_still_count() -> None:
    annotations = truth([(0, 0, BOX)], partly={0: [0]})
    predicted = detections((0, 0, FAR, 0.9), (0, 0, BOX, 0.5))
    metrics = ap(annotations, predicted, style="lvis")
    assert metrics["AP"] == pytest.approx(1)
    assert ap(truth([(0, 0, BOX)]), predicted, style="lvis")["AP"] == pytest.approx(0.5)


def test_frequencies() -> None:
    annotations = truth([(0, 0, BOX), (0, 1, BOX), (0, 2, BOX)])
    predicted = detections((0, 0, BOX, 0.9), (0, 1, FAR, 0.9))
    metrics = ap(annotations, predicted, style="lvis")
    assert [metrics[f"AP{f}"] for f in "rcf"] == pytest.approx([1, 0, 0])
    assert "APr" not in ap(annotations, predicted)


def test_limit_is_an_images_over_all_classes() -> None:
    annotations = truth([(0, 0, BOX), (0, 1, BOX)])
    predicted = detections((0, 0, BOX, 0.9), (0, 1, BOX, 0.8), (1, 0, FAR, 0.1))
    assert ap(annotations, predicted, limit=1)["AP"] == pytest.approx(0.5)
    assert ap(annotations, predicted, limit=2)["AP"] == pytest.approx(1)


def test_best_keeps_the_earlier_of_equals() -> None:
    predicted = detections((0, 0, BOX, 0.5), (1, 1, BOX, 0.5), (0, 2, BOX, 0.9), (0, 1, BOX, 0.5))
    best = predicted.best(2)
    assert best.labels.tolist() == [0, 1, 2]
    assert best.images.tolist() == [0, 1, 0]


def test_only_images_that_were_looked_at() -> None:
    annotations = truth([(0, 0, BOX), (1, 0, BOX)])
    predicted = detections((0, 0, BOX, 0.9))
    assert ap(annotations, predicted)["AP"] == pytest.approx(51 / 101)
    assert ap(annotations, predicted, images=np.array([0]))["AP"] == pytest.approx(1)


def test_masks_are_needed_for_mask_ap() -> None:
    with pytest.raises(InputError, match="1 of 1 in the annotations have none"):
        ap(truth([(0, 0, BOX)]), Detections.empty(), kind="mask")
    square = [[10, 10, 60, 10, 60, 60, 10, 60]]
    annotations = truth([(0, 0, BOX)], segmentations=(square,))
    assert ap(annotations, Detections.empty(), kind="mask")["AP"] == 0
    with pytest.raises(InputError, match="detections with masks"):
        ap(annotations, detections((0, 0, BOX, 1.0)), kind="mask")
    broken = truth([(0, 0, BOX)], segmentations=({"size": [9, 9], "counts": [81]},))
    with pytest.raises(InputError, match="the image is"):
        ap(broken, Detections.empty(), kind="mask")


def test_style() -> None:
    assert style_of(truth([(0, 0, BOX)])) == "coco"
    assert style_of(truth([(0, 0, BOX)], negatives={1: [0]})) == "lvis"
