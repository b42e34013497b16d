"""Fitting which candidate at a point is taken."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from anyregion.compact.point_choice import NO_LEVEL, PointCandidates
from anyregion.compact.training.point_choice_fit import (
    PointChoiceOptions,
    PointPrompt,
    fit_point_choice,
    mean_iou_of_choice,
)
from anyregion.errors import InputError

OPTIONS = PointChoiceOptions(hidden=8, epochs=8, batch=16)


def prompt(random: np.random.Generator) -> PointPrompt:
    """Candidates of which the proposal is the object's box, whatever the scores say."""
    count = int(random.integers(1, 5))
    low = random.random((count + 1, 2)) * 20
    boxes = np.concatenate([low, 40 + random.random((count + 1, 2)) * 20], axis=1)
    levels = np.array([*range(count), NO_LEVEL])
    candidates = PointCandidates(
        boxes=boxes,
        scores=random.random(count + 1),
        levels=levels,
        middle=np.array([30.0, 30.0]),
        frame_area=64.0 * 64,
    )
    return PointPrompt(candidates, np.where(levels == NO_LEVEL, 0.9, 0.2))


def test_what_fits_best_is_taken_and_how_well_is_predicted() -> None:
    random = np.random.default_rng(0)
    fitted_on = [prompt(random) for _ in range(300)]
    others = [prompt(random) for _ in range(50)]
    choice = fit_point_choice(fitted_on, OPTIONS)
    assert mean_iou_of_choice(others, None) == pytest.approx(0.2)
    assert mean_iou_of_choice(others, choice) == pytest.approx(0.9)
    scores = np.concatenate([choice.scores(p.candidates) for p in others])
    ious = np.concatenate([p.ious for p in others])
    assert np.abs(scores - ious).mean() < 0.1


def test_the_same_seed_gives_the_same_bytes() -> None:
    random = np.random.default_rng(1)
    prompts = [prompt(random) for _ in range(20)]
    first, again = (fit_point_choice(prompts, OPTIONS).to_bytes() for _ in range(2))
    assert first == again


def test_nothing_to_fit_is_an_error() -> None:
    with pytest.raises(InputError, match="no mask has a candidate"):
        fit_point_choice([], OPTIONS)
