"""Which regions are asked about next: spread, doubt, what they stand for, and the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.teaching.queue import NOISE, _name_weights, doubt, order_regions

RANDOM = np.random.default_rng(0)


def around(axis: int, count: int, spread: float = 0.05) -> np.ndarray:
    """Rows of length about 1 near an axis."""
    rows = spread * RANDOM.normal(size=(count, 16))
    rows[:, axis] += 1
    return rows.astype(np.float32)


def unsure(count: int) -> np.ndarray:
    """Probabilities of two names and of none, as undecided as can be."""
    return np.tile([0.45, 0.45, 0.1], (count, 1))


NOTHING = np.zeros((0, 16), dtype=np.float32)


def test_a_hundred_equal_bolts_are_asked_twice_at_most() -> None:
    rows = np.concatenate([around(0, 100), *(around(axis, 5) for axis in range(1, 5))])
    queue = order_regions(rows, unsure(120), NOTHING, 6)
    kinds = [0 if row < 100 else (int(row) - 100) // 5 + 1 for row in queue.rows]
    assert sorted(kinds) == [0, 0, 1, 2, 3, 4]
    assert kinds[0] == 0, "what stands for most comes first"
    assert queue.alike[np.array(kinds) == 0].sum() == 100
    assert queue.alike.sum() == 120
    assert (np.diff(queue.gains) <= 1e-9).all(), "every answer leaves less to tell"


def test_what_is_corrected_or_decided_is_not_asked() -> None:
    rows = np.concatenate([around(0, 50), around(1, 10)])
    corrected = around(0, 20)
    queue = order_regions(rows, unsure(60), corrected, 3)
    assert queue.rows.min() >= 50
    assert queue.novelty[0] > 0.7
    (asked,) = order_regions(rows[:50], unsure(50), corrected, 1).novelty
    assert asked < 0.4
    probabilities = unsure(60)
    probabilities[50:] = [0.999, 0.0005, 0.0005]
    (first,) = order_regions(rows, probabilities, NOTHING, 1).rows
    assert first < 50


def test_few_regions_of_a_name_count_as_much_as_many() -> None:
    probabilities = np.zeros((110, 3))
    probabilities[:100, 0] = 1
    probabilities[100:, 1] = 1
    weights = _name_weights(probabilities)
    assert weights.mean() == pytest.approx(1)
    assert weights[100:].sum() == pytest.approx(weights[:100].sum(), rel=0.1)


def test_gains_are_those_of_the_posterior() -> None:
    rows = RANDOM.normal(size=(30, 16)).astype(np.float32) / 4
    corrected = RANDOM.normal(size=(7, 16)).astype(np.float32) / 4
    probabilities = RANDOM.dirichlet(np.ones(4), size=30)
    queue = order_regions(rows, probabilities, corrected, 6)
    weights = _name_weights(probabilities).astype(np.float64)
    known = [*corrected.astype(np.float64)]

    def posterior(shown: list[np.ndarray]) -> np.ndarray:
        wide, basis = rows.astype(np.float64), np.stack(shown)
        inverse = np.linalg.inv(basis @ basis.T + NOISE * np.eye(len(basis)))
        return wide @ wide.T - wide @ basis.T @ inverse @ basis @ wide.T

    before = posterior(known)
    assert queue.novelty == pytest.approx(
        (before.diagonal() / (rows**2).sum(axis=1))[queue.rows], abs=1e-4
    )
    total = before.diagonal() @ weights
    asked: list[int] = []
    for row, gain in zip(queue.rows.tolist(), queue.gains.tolist(), strict=True):
        now = posterior(known).diagonal() @ weights
        gains = [
            doubt(probabilities)[i]
            * (now - posterior([*known, rows[i].astype(np.float64)]).diagonal() @ weights)
            / total
            if i not in asked
            else -1
            for i in range(30)
        ]
        assert int(np.argmax(gains)) == row
        assert gains[row] == pytest.approx(gain, rel=1e-3)
        asked.append(row)
        known.append(rows[row].astype(np.float64))


def test_more_than_there_are_and_none() -> None:
    rows = around(0, 3)
    assert sorted(order_regions(rows, unsure(3), NOTHING, 10).rows.tolist()) == [0, 1, 2]
    assert len(order_regions(rows[:0], unsure(0), NOTHING, 10).rows) == 0
    # a single name is undecided as far as it is improbable
    assert doubt(np.array([[0.9], [0.2]])).tolist() == pytest.approx([0.1, 0.8])
