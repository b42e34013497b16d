"""The proposal head's grid of boxes: proposals, boxes of points, and the frame of a pyramid."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.compact.assets import POINT_CHOICE, PROPOSAL_HEAD, read_asset, read_manifest
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid, letterbox
from anyregion.compact.point_choice import (
    FEATURES,
    NO_LEVEL,
    PointChoice,
    candidate_features,
)
from anyregion.compact.proposal_head import (
    GridBoxes,
    ProposalHead,
    ProposalOptions,
    best_proposals,
    box_of_points,
    candidates_at,
    level_sizes,
)
from anyregion.proposals import box_iou

ROWS, COLUMNS = 2, 3
CELLS = sum(rows * columns for rows, columns, _ in level_sizes(ROWS, COLUMNS))


def cells(answers: dict[int, tuple[list[float], float]]) -> GridBoxes:
    """Cells that say nothing but for the given ones, of an image of 64 x 96 pixels."""
    boxes, scores = np.zeros((CELLS, 4)), np.zeros(CELLS)
    for cell, (box, score) in answers.items():
        boxes[cell], scores[cell] = box, score
    return GridBoxes(boxes, scores, boxes, scores, ROWS, COLUMNS, np.ones(4))


def at(level: int, row: int, column: int) -> int:
    sizes = level_sizes(ROWS, COLUMNS)
    return sum(r * c for r, c, _ in sizes[:level]) + row * sizes[level][1] + column


def ask(grid: GridBoxes, points: list[list[float]], labels: list[int]) -> tuple[list[float], float]:
    box, score = box_of_points(grid, np.array(points, dtype=np.float64), np.array(labels))
    return box.tolist(), score


def test_levels_cover_the_frame() -> None:
    assert level_sizes(3, 5) == [(12, 20, 8), (6, 10, 16), (3, 5, 32), (2, 3, 64)]


def test_proposals_come_best_first_without_doubles() -> None:
    grid = cells(
        {
            0: ([0, 0, 10, 10], 0.5),
            1: ([0, 0, 10, 11], 0.9),  # nearly the same
            2: ([20, 20, 40, 40], 0.7),
            3: ([50, 5, 50.5, 30], 0.8),  # too thin to be anything
        }
    )
    boxes, scores = best_proposals(grid, ProposalOptions(limit=10, min_score=0.1, nms_iou=0.6))
    assert boxes.tolist() == [[0, 0, 10, 11], [20, 20, 40, 40]]
    assert scores.tolist() == [0.9, 0.7]
    assert len(best_proposals(grid, ProposalOptions(limit=1, min_score=0))[0]) == 1
    none, _ = best_proposals(grid, ProposalOptions(limit=5, min_score=0.95))
    assert none.shape == (0, 4)
    # the first two overlap by 10 of 11
    every = ProposalOptions(limit=10, min_score=0.1, nms_iou=0.95)
    assert best_proposals(grid, every)[1].tolist() == [0.9, 0.7, 0.5]


def test_points_have_boxes_of_their_own() -> None:
    nothing, box = np.zeros((CELLS, 4)), np.tile([0.0, 0, 50, 60], (CELLS, 1))
    grid = GridBoxes(nothing, np.ones(CELLS), box, np.ones(CELLS), ROWS, COLUMNS, np.ones(4))
    assert ask(grid, [[35, 28]], [1]) == ([0, 0, 50, 60], 1.0)


def test_a_point_takes_the_surest_level() -> None:
    grid = cells(
        {
            at(0, 3, 4): ([30, 20, 44, 36], 0.4),
            at(1, 1, 2): ([20, 10, 60, 50], 0.8),
            at(3, 0, 0): ([0, 0, 96, 64], 0.6),
        }
    )
    assert ask(grid, [[35, 28]], [1]) == ([20, 10, 60, 50], 0.8)


def test_background_points_exclude_the_boxes_that_hold_them() -> None:
    grid = cells({at(0, 3, 4): ([30, 20, 44, 36], 0.4), at(1, 1, 2): ([20, 10, 60, 50], 0.8)})
    assert ask(grid, [[35, 28], [58, 48]], [1, 0]) == ([30, 20, 44, 36], 0.4)


def test_all_foreground_points_lie_in_the_box() -> None:
    grid = cells({at(0, 3, 4): ([30, 20, 44, 36], 0.9), at(1, 1, 2): ([20, 10, 60, 50], 0.3)})
    assert ask(grid, [[35, 28], [55, 40]], [1, 1]) == ([20, 10, 60, 50], 0.3)


def test_a_box_is_widened_where_no_answer_holds_the_points() -> None:
    grid = cells({at(0, 3, 4): ([30, 20, 44, 36], 0.9)})
    box, score = ask(grid, [[35, 28], [80, 50]], [1, 1])
    assert box == [30, 20, 81, 51]
    assert 0 < score < 0.2


def largest_first() -> PointChoice:
    """A choice whose score rises with the size of a candidate alone."""
    hidden = np.zeros((FEATURES, 1), np.float32)
    hidden[2] = 1.0
    ones = np.ones(FEATURES, np.float32)
    one = np.ones(1, np.float32)
    return PointChoice(0 * ones, ones, hidden, 10 * one, one, -10 * one)


TWO_LEVELS: dict[int, tuple[list[float], float]] = {
    at(0, 3, 4): ([30, 20, 44, 36], 0.9),
    at(1, 1, 2): ([20, 10, 60, 50], 0.3),
}
AROUND = (np.array([[10.0, 5, 70, 60], [50, 40, 60, 50]]), np.array([0.2, 0.1]))


@pytest.mark.parametrize(
    ("points", "labels", "expected"),
    [
        ([[35, 28]], [1], [10, 5, 70, 60]),  # a proposal; the other one does not hold the point
        ([[35, 28], [65, 55]], [1, 0], [20, 10, 60, 50]),
        ([[35, 28], [12, 8]], [1, 1], [10, 5, 70, 60]),
        ([[35, 28], [36, 28]], [1, 0], [10, 5, 70, 60]),  # none is free of the background
    ],
)
def test_a_choice_compares_cells_and_proposals(
    points: list[list[float]], labels: list[int], expected: list[float]
) -> None:
    grid = cells(TWO_LEVELS)
    box, score = box_of_points(
        grid, np.array(points, float), np.array(labels), proposals=AROUND, choice=largest_first()
    )
    assert box.tolist() == expected
    assert 0 < score < 1


def test_without_a_choice_there_are_no_proposals_among_the_candidates() -> None:
    box, score = box_of_points(
        cells(TWO_LEVELS), np.array([[35.0, 28]]), np.array([1]), proposals=AROUND
    )
    assert (box.tolist(), score) == ([30, 20, 44, 36], 0.9)


def test_what_is_known_of_candidates() -> None:
    candidates = candidates_at(cells(TWO_LEVELS), np.array([[35.0, 28]]), AROUND)
    assert candidates.levels.tolist() == [0, 1, NO_LEVEL]
    assert candidates.frame_area == 64 * 96
    features = candidate_features(candidates)
    assert features.shape == (3, FEATURES)
    np.testing.assert_allclose(features[:, 1], [1, 1 / 3, 2 / 9], rtol=1e-6)
    np.testing.assert_allclose(features[1, 2], np.log(40 * 40 / (64 * 96)) / 2, rtol=1e-6)
    assert features[:, 10:14].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(features[:, 14:], [[0.9, 0.3, 0, 0]] * 3, rtol=1e-6)


def test_a_choice_is_read_as_it_was_written() -> None:
    choice = largest_first()
    again = PointChoice.from_bytes(choice.to_bytes())
    candidates = candidates_at(cells(TWO_LEVELS), np.array([[35.0, 28]]), AROUND)
    np.testing.assert_array_equal(choice.scores(candidates), again.scores(candidates))


def test_the_shipped_choice_was_fitted_to_the_shipped_proposal_head() -> None:
    manifest = read_manifest()
    # another proposal head: run tools/fit_point_choice.py again
    assert manifest[POINT_CHOICE]["proposal_head"] == manifest[PROPOSAL_HEAD]["sha256"]
    assert PointChoice.from_bytes(read_asset(POINT_CHOICE)).mean.shape == (FEATURES,)


@pytest.mark.parametrize("point", [[0, 0], [95, 63]])
def test_points_at_the_corners_have_cells(point: list[float]) -> None:
    grid = cells({cell: ([0, 0, 96, 64], 0.5) for cell in range(CELLS)})
    assert ask(grid, [point], [1]) == ([0, 0, 96, 64], 0.5)


def test_overlaps_of_boxes() -> None:
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(box_iou(box[None], others)[0], [1, 1 / 3, 0])


class OneCell:
    """A session that answers with one box of the network's input for every cell."""

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        boxes = np.tile(np.array([[-8.0, 4, 400, 16]], dtype=np.float32), (22, 1))
        answers = {"boxes": boxes, "scores": np.ones(22, np.float32)}
        answers |= {"point_boxes": boxes, "point_scores": np.full(22, 0.5, np.float32)}
        return [answers[name] for name in outputs]


def test_boxes_are_clipped_to_the_image() -> None:
    maps = {name: np.zeros((1, 1, width), np.float32) for name, width in CHANNELS.items()}
    head = ProposalHead(OneCell())
    pyramid = FeaturePyramid(maps, (16.0, 16.0), (50, 60))  # 2 pixels of the frame for one
    boxes, scores = head.propose(pyramid)
    assert boxes.tolist() == [[0, 2, 60, 8]]
    assert scores.tolist() == [1.0]
    boxes, scores = head.boxes_from_points(pyramid, [np.array([[30.0, 4]])], [np.array([1])])
    assert (boxes.tolist(), scores.tolist()) == ([[0, 2, 60, 8]], [0.5])


@pytest.mark.parametrize("size", [(333, 500), (500, 333), (64, 64), (7, 500), (1000, 751)])
@pytest.mark.parametrize("long_side", [640, 224])
def test_the_frame_is_what_the_image_encoder_was_fed(size: tuple[int, int], long_side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    frame, span = letterbox(pixels, long_side=long_side)
    rows, columns = frame.shape[0] // 32, frame.shape[1] // 32
    maps = {
        name: np.zeros((rows * f, columns * f, width), np.float32)
        for (name, width), f in zip(CHANNELS.items(), (4, 2, 1, 1), strict=True)
    }
    pyramid = FeaturePyramid(maps, span, size)
    np.testing.assert_array_equal(pyramid.letterbox(pixels), frame)
    framed = np.array([0, 0, size[1], size[0]]) * pyramid.frame_scale()
    assert framed[2:].max() == pytest.approx(long_side)
