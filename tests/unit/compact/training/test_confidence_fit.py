"""The fit of what scores mean, on made-up regions whose right names are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.compact.calibration import Calibration
from anyregion.compact.training.confidence_fit import (
    MOST_KNOWN,
    answer,
    fit_calibration,
    fit_confidence,
    subset_answers,
    with_known_regions,
)
from anyregion.errors import InputError
from anyregion.evaluation.metrics.calibration import ece

Floats = NDArray[np.float32]
WIDTH = 384


def unit(rows: NDArray[np.float64]) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Toy:
    """Thirty names and 1,500 regions, each near its own name and more or less near another one."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.names = unit(random.normal(size=(30, WIDTH)))
        self.distractors = unit(random.normal(size=(150, WIDTH)))
        self.rows = random.integers(0, 30, 1500)
        own, other = random.uniform(0, 0.5, (1500, 1)), random.uniform(0, 0.35, (1500, 1))
        mixed = own * self.names[self.rows] + other * self.names[random.integers(0, 30, 1500)]
        rest = np.sqrt(np.maximum(0, 1 - (mixed**2).sum(axis=1, keepdims=True)))
        self.embeddings = unit(mixed + rest * unit(random.normal(size=(1500, WIDTH))))
        self.conse = unit(random.normal(size=(1500, WIDTH)))
        names = tuple(f"name {i}" for i in range(30))
        self.calibration = Calibration(self.names, names, 0.2, 1.0, 0.0, cost=0.05)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def test_scores_are_the_share_that_is_right_whatever_the_vocabulary(toy: Toy) -> None:
    half = np.arange(1500) < 750
    fitted, error = fit_calibration(
        toy.calibration, toy.embeddings[half], toy.conse[half], toy.rows[half], toy.distractors,
        seed=0,
    )  # fmt: skip
    assert fitted.confidence is not None
    assert error < 0.15
    random = np.random.default_rng(1)
    judged = subset_answers(
        fitted, toy.embeddings[~half], toy.names, toy.rows[~half], toy.distractors, random
    )
    assert {a.label for a in judged} == {
        "all", "all+5", "all+20", "all+100", "3", "10", "15", "15+15",
    }  # fmt: skip
    shares = {}
    for label in {a.label for a in judged}:
        # trials of three names together: one of them alone is 150 regions
        own = [a for a in judged if a.label == label]
        present = np.concatenate([a.present for a in own])
        correct = np.concatenate([a.correct for a in own])[present]
        features = np.concatenate([a.features for a in own])[present]
        shares[label] = correct.mean()
        assert ece(fitted.confidence.probabilities(features), correct) < 0.2, label
    assert shares["3"] > shares["all"] + 0.1, "the vocabularies are no easier or harder: no test"


def test_regions_of_other_classes_are_not_looked_at(toy: Toy) -> None:
    rows = np.where(toy.rows < 20, toy.rows, -1)
    fitted = [
        fit_calibration(
            toy.calibration, embeddings, toy.conse, rows, toy.distractors, seed=0
        )[0].to_bytes()
        for embeddings in (
            toy.embeddings,
            np.where(rows[:, None] < 0, toy.embeddings[::-1], toy.embeddings),
        )
    ]  # fmt: skip
    assert fitted[0] == fitted[1]


def test_known_regions_are_those_that_are_named_rightly(toy: Toy) -> None:
    rows = toy.rows.copy()
    rows[::3] = -1
    known = with_known_regions(toy.calibration, toy.embeddings, toy.conse, rows)
    right = (rows >= 0) & ((toy.embeddings @ toy.names.T).argmax(axis=1) == rows)
    assert len(known.known) == min(right.sum(), MOST_KNOWN)
    kept = {row.tobytes() for row in known.known}
    assert kept <= {row.tobytes() for row in toy.embeddings[right]}
    np.testing.assert_allclose(known.typical, toy.conse[rows >= 0].mean(axis=0), atol=1e-6)
    nothing = with_known_regions(toy.calibration, toy.embeddings, toy.conse, np.full(1500, -1))
    assert nothing is toy.calibration


def test_what_cannot_be_fitted(toy: Toy) -> None:
    with pytest.raises(InputError, match="no region"):
        fit_confidence([])
    nothing = answer("all", toy.calibration, toy.embeddings[:0], toy.names, toy.rows[:0])
    with pytest.raises(InputError, match="no region"):
        fit_confidence([nothing])
    # where every answer is right there is a fit all the same
    sure = answer("all", toy.calibration, toy.names, toy.names, np.arange(30))
    assert fit_confidence([sure]).probabilities(sure.features).min() > 0.9


def test_weights_that_are_known_stay(toy: Toy) -> None:
    answers = [
        answer("all", toy.calibration, toy.embeddings, toy.names, toy.rows),
        answer(
            "half",
            toy.calibration,
            toy.embeddings,
            toy.names[:15],
            np.where(toy.rows < 15, toy.rows, -1),
        ),
    ]
    fitted = fit_confidence(answers, known={"new": -0.7, "new_names": 0.3})
    assert (fitted.new, fitted.new_names) == (-0.7, 0.3)
    assert fitted.margin > 0 > fitted.outside
    # none of these names is new, so that the other weights are the same whatever those two are
    free = fit_confidence(answers, known={})
    assert (free.new, free.new_names) == (0, 0)
    assert free.margin == pytest.approx(fitted.margin, rel=0.01)
