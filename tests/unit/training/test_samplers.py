"""What is drawn how often, and that it can be known without drawing what came before."""

from __future__ import annotations

import numpy as np
import pytest

from anyregion.data.samplers import EpochSampler, Mixture, repeat_factors
from anyregion.errors import InputError
from tests.helpers.small_sets import annotated


def test_repeat_factors_by_hand() -> None:
    # class 0 in all of 100 images, class 1 in two of them, class 2 only as a crowd
    labels = [[0] for _ in range(100)]
    labels[3] += [1, 1]
    labels[7] += [1]
    annotations = annotated(labels, classes=3)
    factors = repeat_factors(annotations, 0.5)
    expected = np.ones(100)
    expected[[3, 7]] = np.sqrt(0.5 / 0.02)
    np.testing.assert_allclose(factors, expected)
    crowd = annotated([*labels[:99], [0, 2]], classes=3, crowd={(99, 1)})
    np.testing.assert_allclose(repeat_factors(crowd, 0.5), expected)
    np.testing.assert_array_equal(repeat_factors(annotations, 0.0), np.ones(100))


def test_every_image_once_an_epoch_and_in_another_order() -> None:
    sampler = EpochSampler(np.ones(30), 4, 0)
    epochs = [sampler.draw(30 * e, 30) for e in range(3)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert sampler.draw(25, 10) == epochs[0][25:] + epochs[1][:5]
    # a new process at a later step draws the same
    assert EpochSampler(np.ones(30), 4, 0).draw(65, 9) == epochs[2][5:14]
    assert EpochSampler(np.ones(30), 5, 0).draw(0, 30) != epochs[0]


def test_repeated_images_come_as_often_as_their_factor_says() -> None:
    factors = np.array([1.0, 1.0, 2.5, 1.3, 4.0, 1.0])
    sampler = EpochSampler(factors, 1)
    assert sampler.length == 11
    counts = np.zeros((400, 6))
    for epoch in range(400):
        np.add.at(counts[epoch], sampler.draw(epoch * 11, 11), 1)
    share = factors * 11 / factors.sum()
    assert (counts >= np.floor(share)).all()
    assert (counts <= np.ceil(share)).all()
    np.testing.assert_allclose(counts.mean(axis=0), share, atol=0.1)


def test_mixture_is_exact_in_every_round_and_knows_its_place() -> None:
    mixture = Mixture([1, 2, 1], 9)
    drawn = [mixture.at(step) for step in range(400)]
    for start in range(0, 400, 4):
        assert sorted(which for which, _ in drawn[start : start + 4]) == [0, 1, 1, 2]
    counts = [0, 0, 0]
    for which, before in drawn:
        assert before == counts[which]
        counts[which] += 1
    assert len({tuple(w for w, _ in drawn[s : s + 4]) for s in range(0, 400, 4)}) > 3


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        EpochSampler(np.ones(0), 1)
    with pytest.raises(InputError, match="ratios"):
        Mixture([1, 0], 1)
