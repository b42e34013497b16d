"""What names gain that were never trained, and how often answers are said to be right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from anyregion import load_recognizer
from anyregion.compact.calibration import (
    HIGHEST_GAIN,
    REGION_LENGTH,
    STACKED_LENGTH,
    Calibration,
    CompactAnswers,
)
from anyregion.compact.confidence import NONE, SHARPNESS, Confidence, answer_features
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.errors import CheckpointError, InputError
from anyregion.exemplars import mix_rows
from anyregion.scoring import top_names
from anyregion.vocabulary import Vocabulary, encode_vocabulary

Floats = NDArray[np.float32]
CONFIDENCE = Confidence(
    bias=-2.0, margin=15.0, names=0.9, new=-0.5, doubt=0.8, new_names=0.6, outside=-12.0,
    sharpness=SHARPNESS, none=NONE,
)  # fmt: skip


def unit(rows: NDArray[np.floating]) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / lengths).astype(np.float32)


@pytest.fixture(scope="module")
def text() -> CompactTextEncoder:
    return CompactTextEncoder(threads=1)


@pytest.fixture(scope="module")
def numbers(text: CompactTextEncoder) -> Calibration:
    """Three trained names, and 200 known regions of them, more or less surely so."""
    trained = text.encode_text(["a couch", "a dog", "a bicycle"])
    random = np.random.default_rng(0)
    away = unit(random.normal(size=(200, trained.shape[1])))
    sure = random.uniform(0.3, 0.9, (200, 1)).astype(np.float32)
    known = unit(trained[np.arange(200) % 3] * sure + away * np.sqrt(1 - sure**2))
    right = (known @ trained.T).argmax(axis=1) == np.arange(200) % 3
    return Calibration(
        trained, ("couch", "dog", "bicycle"), HIGHEST_GAIN, 14.0, -6.0,
        known=known[right], typical=trained.mean(axis=0) * np.float32(0.2), cost=0.05,
        confidence=CONFIDENCE,
    )  # fmt: skip


def others(text: CompactTextEncoder, count: int) -> Floats:
    """Names that are like none of the trained ones."""
    words = ["volcano", "trombone", "asparagus", "galaxy", "cathedral", "crayon", "anvil", "tulip"]
    kinds = ["old", "red", "paper", "wooden", "small", "glass", "broken", "painted", "golden"]
    names = [*words, *(f"{kind} {word}" for kind in kinds for word in words)]
    return text.encode_text([f"a {name}" for name in names[:count]])


def test_a_new_name_gains_where_a_region_is_doubtful(
    text: CompactTextEncoder, numbers: Calibration
) -> None:
    names = text.encode_text(["a couch", "a sofa", "a wine glass"])
    fixed = replace(numbers, known=numbers.known[:0], gamma=0.2)
    stacked = fixed.stack_names(names)
    assert np.allclose(np.linalg.norm(stacked, axis=1), 1, atol=1e-5)
    doubtful, sure = fixed.stack_regions(names[2:3]), fixed.stack_regions(names[0:1])
    assert np.allclose(np.linalg.norm([doubtful, sure], axis=2), REGION_LENGTH, atol=1e-5)
    scale = STACKED_LENGTH / REGION_LENGTH
    gain = (doubtful @ stacked.T)[0] * scale - (names[2:3] @ names.T)[0]
    assert gain[0] == pytest.approx(0, abs=1e-5)
    assert 0 <= gain[1] < 0.1
    assert gain[2] == pytest.approx(0.2, abs=1e-5)
    # a region that is surely of a trained class lifts no new name, and changes no cosine
    np.testing.assert_allclose((sure @ stacked.T)[0] * scale, (names[:1] @ names.T)[0], atol=1e-5)


def test_the_more_new_names_the_less_each_gains(
    text: CompactTextEncoder, numbers: Calibration
) -> None:
    gains = [
        float(numbers.gains(np.concatenate([numbers.trained, others(text, count)])).max())
        for count in (1, 8, 80)
    ]
    assert HIGHEST_GAIN + 1e-6 >= gains[0] > gains[1] > gains[2] >= 0
    assert (numbers.gains(numbers.trained) < 1e-6).all()
    # and never so much that more than the stated share of the known regions changes its name
    for count in (1, 8, 80):
        names = np.concatenate([numbers.trained, others(text, count)])
        gain = numbers.gains(names)
        answers = (numbers.known @ names.T + numbers.doubt(numbers.known)[:, None] * gain).argmax(1)
        lost = answers >= 3
        assert lost.mean() <= numbers.cost + 1e-6 or not gain.any()


def test_what_names_gain_does_not_depend_on_their_order_or_number_at_once(
    text: CompactTextEncoder, numbers: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = np.concatenate([others(text, 30), numbers.trained])
    gains = numbers.gains(names)
    np.testing.assert_allclose(numbers.gains(names[::-1])[::-1], gains, atol=1e-6)
    monkeypatch.setattr("anyregion.compact.calibration._NAMES_AT_ONCE", 7)
    np.testing.assert_allclose(numbers.gains(names), gains, atol=1e-6)


def test_a_vocabulary_is_adapted_as_a_whole(numbers: Calibration) -> None:
    text = CompactTextEncoder(numbers, threads=1)
    assert text.fingerprint != CompactTextEncoder(threads=1).fingerprint
    vocabulary = Vocabulary.from_names(["couch", "trombone"])
    encoded = encode_vocabulary(vocabulary, text, cache=None)
    plain = encode_vocabulary(vocabulary, CompactTextEncoder(threads=1), cache=None)
    np.testing.assert_array_equal(encoded.matrix, numbers.stack_names(plain.matrix))


def test_files_of_before_keep_their_one_gain(numbers: Calibration) -> None:
    metadata = {"names": numbers.names, "novelty": 0.24, "scale": 14.0, "bias": -6.0}
    trained = numbers.trained.astype(np.float16)
    old = Calibration.from_bytes(save({"trained": trained}, {"about": json.dumps(metadata)}))
    assert old.confidence is None
    new_name = unit(np.eye(1, numbers.trained.shape[1]) - old.trained.mean(axis=0))
    assert old.gains(new_name) == pytest.approx(0.24, abs=1e-6)
    # a confidence of before there were features of what was not asked for
    about = {"bias": -2.0, "margin": 15.0, "names": 0.9, "new": -0.5, "doubt": 0.8}
    content = json.dumps(metadata | {"confidence": about})
    older = Calibration.from_bytes(save({"trained": trained}, {"about": content})).confidence
    assert older == Confidence(**about, new_names=0.0, outside=0.0, sharpness=10.0, none=0.1)
    again = Calibration.from_bytes(numbers.to_bytes())
    assert again.confidence == numbers.confidence
    assert again.to_bytes() == numbers.to_bytes()
    np.testing.assert_allclose(again.known, numbers.known, atol=1e-3)


# how often answers are right


def test_features_of_answers() -> None:
    cosines = np.array([[0.5, 0.3, -0.1]])
    about = {
        "sharpness": 10.0, "none": 0.1, "names": 3, "new_names": 0.75, "new": np.array([0.5]),
        "doubt": np.array([0.25]), "outside": np.array([0.05]),
    }  # fmt: skip
    features = answer_features(cosines, np.exp(10 * cosines).sum(axis=1), **about)
    ahead = 0.5 - np.log(np.exp(3) + np.exp(-1) + np.exp(1)) / 10
    behind = -0.1 - np.log(np.exp(5) + np.exp(3) + np.exp(1)) / 10
    others = [np.log(3), 0.75, 0.5, 0.25, 0.05]
    assert features[0, 0].tolist() == pytest.approx([ahead, *others])
    assert features[0, 2].tolist() == pytest.approx([behind, *others])
    # one name alone is compared with "none of these"
    alone = answer_features(np.array([[0.4]]), np.exp([4.0]), **(about | {"names": 1}))
    assert alone[0, 0, 0] == pytest.approx(0.4 - 0.1)


def test_a_trained_name_that_was_not_asked_for_is_noticed(
    text: CompactTextEncoder, numbers: Calibration
) -> None:
    names = text.encode_text(["a dog", "a sofa"])
    regions = numbers.trained[[0, 1]]  # a couch, a dog
    cosines = regions @ names.T
    with_dog = numbers.outside(regions, names[[0, 0]], cosines[:, 0])
    assert with_dog[0] == pytest.approx(1 - cosines[0, 0], abs=1e-5), "the couch is no dog"
    assert with_dog[1] == pytest.approx(0, abs=1e-6)
    # a couch may be called a sofa, whether or not the word was trained
    with_sofa = numbers.outside(regions[:1], names[1:], cosines[:1, 1])
    assert with_sofa[0] < 0.05
    untrained = replace(numbers, trained=numbers.trained[:0], names=())
    assert untrained.outside(regions, names, np.zeros(2, np.float32)).tolist() == [0, 0]


def test_a_region_of_a_trained_class_that_is_absent_is_refused(
    text: CompactTextEncoder, numbers: Calibration
) -> None:
    answers = CompactAnswers(numbers, CONFIDENCE)
    couches = numbers.known[(numbers.known @ numbers.trained.T).argmax(axis=1) == 0]
    blind = CompactAnswers(numbers, replace(CONFIDENCE, outside=0.0))
    scores = [
        top_names(
            numbers.stack_regions(couches), numbers.stack_names(numbers.trained[1:]),
            top_k=1, score="probability", scale=1.0, answers=model,
        )[1]
        for model in (answers, blind)
    ]  # fmt: skip
    assert (scores[0] < scores[1]).all()


def test_probabilities_from_embeddings(numbers: Calibration, text: CompactTextEncoder) -> None:
    names = np.concatenate([numbers.trained[1:], others(text, 12)])
    regions = numbers.known[:20]
    indices, scores = top_names(
        numbers.stack_regions(regions), numbers.stack_names(names), top_k=4, score="probability",
        scale=1.0, answers=CompactAnswers(numbers, CONFIDENCE), chunk=5,
    )  # fmt: skip
    doubt, newness = numbers.doubt(regions), numbers.newness(names)
    cosines = regions @ names.T + doubt[:, None] * numbers.gains(names)
    best = cosines.argmax(axis=1)
    outside = numbers.outside(regions, names[best], cosines.max(axis=1))
    assert (outside > 0).any()
    assert (outside == 0).any()
    expected = CONFIDENCE.probabilities(
        answer_features(
            cosines, np.exp(SHARPNESS * cosines.astype(np.float64)).sum(axis=1),
            sharpness=SHARPNESS, none=NONE, names=len(names), new_names=float(newness.mean()),
            new=newness[best], doubt=doubt, outside=outside,
        )
    )  # fmt: skip
    np.testing.assert_array_equal(indices[:, 0], best)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, indices, 1), atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_names_that_exemplars_show_have_a_confidence_of_their_own(
    text: CompactTextEncoder, numbers: Calibration
) -> None:
    names = numbers.stack_names(np.concatenate([numbers.trained, others(text, 2)]))
    regions = numbers.stack_regions(np.concatenate([numbers.known[:9], others(text, 3)[2:]]))
    doubtful = regions[-1:] / np.float32(REGION_LENGTH)
    pictures = {0: regions[:6].mean(axis=0) / np.linalg.norm(regions[:6].mean(axis=0))}
    mixed = mix_rows(names, pictures | {4: doubtful[0]}, 0.5)
    assert not numbers.is_shown(names).any()
    assert numbers.is_shown(mixed).tolist() == [True, False, False, False, True]
    assert numbers.is_shown(mix_rows(None, {0: doubtful[0]}, 1.0)).all()
    sure = replace(CONFIDENCE, bias=9.0)
    model = CompactAnswers(replace(numbers, shown=sure), CONFIDENCE)
    indices, scores = top_names(
        regions, mixed, top_k=5, score="probability", scale=1.0, answers=model
    )
    by_words = top_names(
        regions, mixed, top_k=5, score="probability", scale=1.0,
        answers=CompactAnswers(numbers, CONFIDENCE),
    )[1]  # fmt: skip
    shown = np.isin(indices[:, 0], [0, 4])
    assert 0 < shown.sum() < len(shown)
    assert (scores[shown] > by_words[shown]).all()
    np.testing.assert_array_equal(scores[~shown], by_words[~shown])
    both = replace(numbers, shown=sure)
    assert Calibration.from_bytes(both.to_bytes()).shown == sure
    with pytest.raises(CheckpointError, match="two margins"):
        Calibration.from_bytes(replace(numbers, shown=replace(sure, none=0.3)).to_bytes())


def test_a_name_that_is_further_ahead_is_more_probable() -> None:
    with pytest.raises(ValueError, match="margin"):
        replace(CONFIDENCE, margin=-1.0)
    with pytest.raises(ValueError, match="finite"):
        replace(CONFIDENCE, bias=float("nan"))
    with pytest.raises(ValueError, match="sharpness"):
        replace(CONFIDENCE, sharpness=0.0)


def test_methods_that_were_not_calibrated_say_so() -> None:
    recognizer = load_recognizer("compact", method="dense")
    recognizer.set_image(np.zeros((64, 64, 3), np.uint8))
    from anyregion import Regions

    with pytest.raises(InputError, match="how often its answers are right"):
        recognizer.predict(Regions.from_boxes([[1, 1, 9, 9]]), ["cat"], score="probability")
