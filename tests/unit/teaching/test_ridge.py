"""The closed forms, against what they stand for: fits without an image, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.teaching.familiarity import fit_likeness, fit_line
from anyregion.teaching.kernel import KernelColumns
from anyregion.teaching.mixing import PRECISION, PRIOR, Mixing, fit_logits, fit_mixing
from anyregion.teaching.ridge import (
    by_image,
    choose_landmarks,
    class_weights,
    fit_ridge,
    penalty_regions,
)


def regions(count: int = 40, width: int = 60, classes: int = 4, images: int = 9):
    """Rows, labels and images of a small problem."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    rows = random.normal(size=(count, width)) / np.sqrt(width) + 0.1 * labels[:, None]
    return rows, labels, random.integers(0, images, count)


def direct(rows, labels, weights, classes: int, penalty: float):
    """Weighted ridge regression in its other form: by features in place of regions."""
    targets = np.eye(classes)[labels]
    normal = (rows * weights[:, None]).T @ rows + penalty * np.eye(rows.shape[1])
    return np.linalg.solve(normal, (rows * weights[:, None]).T @ targets)


def test_the_kernel_form_equals_ridge_regression_on_the_features() -> None:
    rows, labels, images = regions()
    landmarks = np.arange(len(rows))
    fit = fit_ridge(rows @ rows.T, landmarks, labels, by_image(images), 4, 0.1)
    expected = direct(rows, labels, class_weights(labels, 4), 4, 0.1)
    np.testing.assert_allclose(rows.T @ fit.coefficients, expected, atol=1e-3)


@pytest.mark.parametrize("limit", [40, 12])
def test_left_out_answers_equal_fits_without_the_image(limit: int) -> None:
    rows, labels, images = regions()
    landmarks = choose_landmarks(labels, limit)
    kernel = rows @ rows[landmarks].T
    fit = fit_ridge(kernel, landmarks, labels, by_image(images), 4, 0.1)
    # the landmarks span what a fit may be, and the weights are those of all regions
    basis = np.linalg.qr(rows[landmarks].T)[0]
    weights = class_weights(labels, 4)
    for image in np.unique(images):
        away = images != image
        coefficients = direct(rows[away] @ basis, labels[away], weights[away], 4, 0.1)
        np.testing.assert_allclose(
            fit.left_out[~away], rows[~away] @ basis @ coefficients, atol=1e-3
        )


def test_equal_regions_and_a_single_image_break_nothing() -> None:
    rows = np.tile(np.ones((1, 5)), (6, 1))
    labels, images = np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=np.int64)
    fit = fit_ridge(rows @ rows.T, np.arange(6), labels, by_image(images), 2, 0.1)
    assert np.isfinite(fit.coefficients).all()
    # without its only image nothing is known
    np.testing.assert_allclose(fit.left_out, 0, atol=0.02)


def test_landmarks_are_the_first_of_every_class() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    assert choose_landmarks(labels, 5).tolist() == [0, 1, 10, 11, 12]
    assert choose_landmarks(labels, 20).tolist() == list(range(13))


def test_rarer_classes_weigh_more_a_region() -> None:
    weights = class_weights(np.array([0, 0, 0, 0, 1]), 2)
    assert weights.mean() == pytest.approx(1)
    assert weights[4] / weights[0] == pytest.approx(2)


def test_the_penalty_is_chosen_by_regions_that_stay_the_same() -> None:
    assert [penalty_regions(n) for n in (1, 2, 3, 4, 1000, 1500, 5000)] == [
        1, 2, 2, 4, 512, 1024, 1024,
    ]  # fmt: skip


def test_products_grow_as_rows_and_landmarks_do() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 7)).astype(np.float32)
    kernel = KernelColumns(rows[:10])
    kernel.columns(np.arange(10))
    for end in range(11, 31):
        kernel.append(rows[end - 1 : end])
        landmarks = np.arange(0, end, 2)
        expected = rows[:end] @ rows[landmarks].T
        np.testing.assert_allclose(kernel.columns(landmarks), expected, atol=1e-3)


def test_coefficients_follow_the_data_and_without_any_the_prior() -> None:
    random = np.random.default_rng(0)
    learnt = np.zeros((300, 4))
    labels = random.integers(0, 3, 300)
    learnt[np.arange(300), labels] = 1
    # a tenth of the answers is wrong
    wrong = random.permutation(300)[:30]
    learnt[wrong] = np.roll(learnt[wrong][:, :3], 1, axis=1)[:, [0, 1, 2, 2]] * [1, 1, 1, 0]
    counts, words = np.full((300, 3), 50.0), np.full((300, 3), 1 / 3)
    mixing = fit_mixing(learnt, words, counts, labels)
    probabilities = mixing.probabilities(learnt, words, counts)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    # as sure as it is right
    assert probabilities[:, :3].max(axis=1).mean() == pytest.approx(0.9, abs=0.02)
    empty = np.zeros((0, 4, 5))
    prior = np.array(PRIOR)
    unmoved = fit_logits(empty, np.zeros(0, dtype=np.int64), prior, np.array(PRECISION))
    np.testing.assert_allclose(unmoved, prior)


def test_the_steps_end_where_the_gradient_is_zero() -> None:
    random = np.random.default_rng(3)
    design, labels = random.normal(size=(200, 5, 3)), random.integers(0, 5, 200)
    prior, precision = np.array([1.0, -2.0, 0.5]), np.array([2.0, 1.0, 0.1])
    found = fit_logits(design, labels, prior, precision)

    def loss(c):
        logits = design @ c
        sums = np.log(np.exp(logits).sum(axis=1))
        right = logits[np.arange(200), labels]
        return (sums - right).sum() + 0.5 * (precision * (c - prior) ** 2).sum()

    for step in np.eye(3) * 1e-4:
        assert loss(found) < min(loss(found + step), loss(found - step))


def test_words_lose_weight_with_examples() -> None:
    mixing = Mixing(learnt=0, fading=1, words=0, unshown=0, none=-20)
    words = np.array([[0.8, 0.2]])
    few, many = (
        mixing.probabilities(np.zeros((1, 3)), words, np.full((1, 2), c)) for c in (0.0, 100.0)
    )
    assert few[0, 0] == pytest.approx(0.8, abs=0.01)
    assert many[0, 0] == pytest.approx(0.5, abs=0.02)


def test_familiar_is_what_looks_like_corrections() -> None:
    fitted = fit_likeness(np.random.default_rng(0).normal(0.7, 0.05, 500))
    familiar = fitted.of(np.array([0.75, 0.6, 0.3, -np.inf]))
    assert (np.diff(familiar) <= 0).all()
    assert familiar[0] > 0.99
    assert familiar[2] < 0.01
    # a single image says nothing of others: what is known before any correction
    alone = fit_likeness(np.array([-np.inf]))
    assert alone.of(np.array([0.65]))[0] > 0.99 > 0.5 > alone.of(np.array([0.2]))[0]


def row_set(centre: int, count: int, seed: int) -> np.ndarray:
    """Rows around one of the axes: 20 numbers of looks, two of place, the intercept."""
    random = np.random.default_rng(seed)
    rows = 0.1 * random.normal(size=(count, 23))
    rows[:, centre] += 1
    rows[:, -1] = 1
    return rows.astype(np.float32)


LAYOUT = (("looks", 20), ("place", 2), ("intercept", 1))


def test_a_line_tells_corrections_from_everyday_regions() -> None:
    rows, everyday = row_set(0, 60, 0), row_set(1, 200, 1)
    familiarity, scores = fit_line(rows, np.arange(60) // 3, LAYOUT, everyday)
    assert familiarity.direction is not None
    assert familiarity.of(row_set(0, 50, 2) @ familiarity.direction).min() > 0.95
    assert familiarity.of(row_set(1, 50, 3) @ familiarity.direction).max() < 0.05
    assert familiarity.of(scores).min() > 0.9
    # the place makes no difference
    moved = row_set(0, 50, 2)
    moved[:, 20:22] += 100
    assert familiarity.of(moved @ familiarity.direction).min() > 0.95


def test_corrections_of_everyday_photographs_are_familiar() -> None:
    rows, everyday = row_set(0, 60, 0), row_set(0, 200, 1)
    familiarity, scores = fit_line(rows, np.arange(60) // 3, LAYOUT, everyday)
    assert (familiarity.of(scores) > 0.5).mean() > 0.9
