"""Accuracies from ranks, against scikit-learn's and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.evaluation.metrics.accuracy import (
    UNLISTED,
    accuracies,
    ranks_in_scores,
    ranks_of,
    standard_error,
    top_k,
)


def test_accuracies_equal_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 9, 200)
    scores = rng.random((200, 9)) + 0.4 * np.eye(9)[labels]
    ranked = np.argsort(-scores, axis=1, kind="stable")
    ranks = ranks_in_scores(scores, labels)
    assert (ranks == ranks_of(ranked, labels)).all()
    assert accuracies(ranks, labels) == pytest.approx(
        {
            "top1": metrics.accuracy_score(labels, ranked[:, 0]),
            "top5": metrics.top_k_accuracy_score(labels, scores, k=5),
            "mean_class_accuracy": metrics.balanced_accuracy_score(labels, ranked[:, 0]),
        }
    )
    assert top_k(ranks_of(ranked[:, :5], labels), 5) == top_k(ranks, 5)


def test_equal_scores_say_nothing() -> None:
    ranks = ranks_in_scores(np.zeros((3, 7)), np.array([0, 3, 6]))
    assert ranks.tolist() == [6, 6, 6]
    assert accuracies(ranks, np.array([0, 3, 6])) == {
        "top1": 0,
        "top5": 0,
        "mean_class_accuracy": 0,
    }


def test_a_name_that_is_not_listed() -> None:
    ranks = ranks_of(np.array([[2, 0], [1, 2]]), np.array([0, 3]))
    assert ranks.tolist() == [1, UNLISTED]
    assert top_k(ranks, 5) == 0.5, "however few names are listed"
    assert np.isnan(top_k(ranks[:0], 1))


def test_the_standard_error_of_an_accuracy() -> None:
    """It is the spread of accuracies drawn anew, and never none."""
    drawn = np.random.default_rng(0).binomial(400, 0.25, 20_000) / 400
    assert standard_error(0.25, 400) == pytest.approx(drawn.std(), rel=0.03)
    assert standard_error(1, 4) == standard_error(0, 4) > 0.1
