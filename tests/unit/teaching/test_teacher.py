"""Teaching a recogniser of colours names that its words do not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyregion import CheckpointError, InputError, Regions, Vocabulary, load_vocabulary
from anyregion.recognizer import Recognizer
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.tiles import TileOptions, tiled
from tests.helpers.colours import ColourEncoder, colour_recognizer

BOXES = Regions.from_boxes([[0, 0, 10, 10], [10, 0, 20, 10]], ids=["left", "right"])
# shades that the colour words do not tell apart
SHADES = {"moss": (70, 130, 40), "fern": (40, 150, 80), "brick": (170, 60, 50)}


def picture(left: str, right: str, seed: int) -> np.ndarray:
    """Two squares of a shade each, every time a little different."""
    random = np.random.default_rng(seed)
    image = np.zeros((10, 20, 3))
    for columns, name in ((slice(0, 10), left), (slice(10, 20), right)):
        image[:, columns] = np.array(SHADES[name]) + random.normal(0, 6, 3)
    return image.clip(0, 255).astype(np.uint8)


def taught_teacher(images: int = 8, names=("moss", "fern", "brick")) -> Teacher:
    teacher = Teacher(colour_recognizer(), list(names))
    pairs = [("moss", "fern"), ("fern", "brick"), ("brick", "moss")]
    for i in range(images):
        left, right = pairs[i % 3]
        teacher.add(picture(left, right, i), BOXES, [left, right], name=f"{i}.png")
    return teacher


def labels_of(recognizer: Recognizer, vocabulary, left: str, right: str, seed: int) -> list[str]:
    (predictions,) = recognizer.recognize([picture(left, right, seed)], [BOXES], vocabulary)
    return predictions.labels


def test_names_that_words_do_not_know_are_learnt() -> None:
    teacher = taught_teacher()
    names = ["moss", "fern", "brick"]
    pairs = [("moss", "fern"), ("brick", "moss"), ("fern", "brick")]
    before = [labels_of(teacher.recognizer, names, *p, 100 + i) for i, p in enumerate(pairs)]
    taught = teacher.vocabulary()
    after = [labels_of(teacher.recognizer, taught, *p, 100 + i) for i, p in enumerate(pairs)]
    assert after == [list(p) for p in pairs]
    assert before != after


def test_without_corrections_it_is_its_words() -> None:
    recognizer = colour_recognizer()
    taught = Teacher(recognizer, ["red", "lime"]).vocabulary()
    image = np.full((10, 20, 3), (250, 20, 20), dtype=np.uint8)
    (by_words,) = recognizer.recognize([image], [BOXES], ["red", "lime"])
    (by_taught,) = recognizer.recognize([image], [BOXES], taught)
    np.testing.assert_array_equal(by_words.scores, by_taught.scores)
    assert by_taught.none is None


def test_one_by_one_equals_all_at_once() -> None:
    teacher = Teacher(colour_recognizer(), ["moss", "fern", "brick"])
    for i in range(7):
        teacher.add(picture("moss", "brick", i), BOXES, ["moss", "brick"])
        teacher.vocabulary()  # learns after every correction
    again = Teacher(colour_recognizer(), ["moss", "fern", "brick"])
    for i in range(7):
        again.add(picture("moss", "brick", i), BOXES, ["moss", "brick"])
    one, all_ = teacher.vocabulary(), again.vocabulary()
    np.testing.assert_allclose(one.classifier.weights, all_.classifier.weights, atol=1e-4)
    np.testing.assert_allclose(one.left_out.probabilities, all_.left_out.probabilities, atol=1e-4)


def test_a_name_without_example_keeps_its_words() -> None:
    teacher = Teacher(colour_recognizer(), ["moss", "brick", "blue"])
    for i in range(6):
        teacher.add(picture("moss", "brick", i), BOXES, ["moss", "brick"])
    image = np.full((10, 20, 3), (10, 10, 250), dtype=np.uint8)
    (predictions,) = teacher.recognizer.recognize([image], [BOXES], teacher.vocabulary())
    assert predictions.labels == ["blue", "blue"]


def test_a_corrected_correction_counts_alone() -> None:
    teacher = taught_teacher()
    count = len(teacher)
    teacher.add(picture("moss", "fern", 0), BOXES, ["brick", "fern"])
    assert len(teacher) == count
    assert teacher.corrections.labels[0] == 2


def test_new_names_join_and_none_of_these_is_no_name() -> None:
    teacher = Teacher(colour_recognizer(), ["moss"])
    teacher.add(picture("moss", "fern", 0), BOXES, ["MOSS", "fern"])
    teacher.add(picture("moss", "brick", 1), BOXES, ["moss", "None of these"])
    teacher.add(picture("fern", "brick", 2), BOXES, ["fern", None])
    taught = teacher.vocabulary()
    assert taught.vocabulary.names == ("moss", "fern")
    assert taught.counts.tolist() == [2, 2]
    assert teacher.corrections.labels.tolist() == [0, 1, 0, -1, 1, -1]


def test_none_of_these_is_learnt() -> None:
    teacher = Teacher(colour_recognizer(), ["moss", "fern"])
    for i in range(9):
        teacher.add(picture("moss", "brick", i), BOXES, ["moss", None])
        teacher.add(picture("brick", "fern", 50 + i), BOXES, [None, "fern"])
    image = picture("brick", "moss", 99)
    (predictions,) = teacher.recognizer.recognize([image], [BOXES], teacher.vocabulary())
    assert predictions.none[0] > 0.5 > predictions.none[1]
    assert predictions.refused.tolist() == [True, False]


def test_forgetting() -> None:
    teacher = taught_teacher(6)
    assert teacher.forget("0.png") == 2
    assert teacher.forget("1.png", "left") == 1
    assert len(teacher) == 9
    again = Teacher(colour_recognizer(), ["moss", "fern", "brick"])
    pairs = [("moss", "fern"), ("fern", "brick"), ("brick", "moss")]
    for i in range(1, 6):
        left, right = pairs[i % 3]
        rows = [1] if i == 1 else [0, 1]
        again.add(picture(left, right, i), BOXES[rows], [[left, right][r] for r in rows])
    np.testing.assert_allclose(
        teacher.vocabulary().classifier.weights, again.vocabulary().classifier.weights, atol=1e-5
    )
    with pytest.raises(InputError, match=r"no correction .* of 1.png, 2.png, 3.png and 2 more"):
        teacher.forget("0.png")


def test_with_all_forgotten_it_is_its_words_in_tiles_too(tmp_path: Path) -> None:
    encoder = tiled(ColourEncoder(), TileOptions(limit=4, side=16, whole=16))
    teacher = Teacher(Recognizer(encoder, cache=None), ["red", "lime"])
    image = picture("moss", "brick", 0)
    teacher.add(image, BOXES, ["red", "red"], name="0.png")
    assert labels_of(teacher.recognizer, teacher.vocabulary(), "moss", "brick", 1) == ["red"] * 2
    teacher.forget("0.png")
    teacher.vocabulary().save(tmp_path / "my.vocab")
    loaded = load_vocabulary(tmp_path / "my.vocab")
    assert labels_of(teacher.recognizer, loaded, "moss", "brick", 1) == ["lime", "red"]


def test_a_file_says_the_same_and_can_be_gone_on_with(tmp_path: Path) -> None:
    teacher = taught_teacher()
    path = tmp_path / "my.vocab"
    taught = teacher.vocabulary()
    taught.save(path)
    loaded = load_vocabulary(path)
    assert isinstance(loaded, TaughtVocabulary)
    image = picture("moss", "brick", 77)
    (a,), (b,) = (colour_recognizer().recognize([image], [BOXES], v) for v in (taught, loaded))
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.none, b.none)
    again = Teacher(colour_recognizer(), loaded)
    again.vocabulary().save(tmp_path / "again.vocab")
    assert (tmp_path / "again.vocab").read_bytes() == path.read_bytes()
    # features are there: no image is needed to say something else of a region
    new = again.update(loaded.corrections.images[0], BOXES, ["brick", "brick"])
    assert new == []
    assert again.corrections.labels[:2].tolist() == [2, 2]


def test_another_model_is_refused(tmp_path: Path) -> None:
    taught_teacher().vocabulary().save(tmp_path / "my.vocab")
    loaded = load_vocabulary(tmp_path / "my.vocab")
    encoder = ColourEncoder()
    encoder.name = "other colours"
    with pytest.raises(CheckpointError, match=r"taught to colours .* is other colours"):
        Recognizer(encoder, cache=None).encode_vocabulary(loaded)
    with pytest.raises(CheckpointError, match="taught to"):
        Teacher(Recognizer(encoder, cache=None), loaded)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "my.vocab"
    taught_teacher().vocabulary().save(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[-5] ^= 0xFF
    elif damage == "foreign":
        content = bytearray(b"cat, dog")
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    with pytest.raises(InputError, match=r"my\.vocab"):
        TaughtVocabulary.load(path)


def test_scores_are_probabilities_and_nothing_else() -> None:
    teacher = taught_teacher()
    recognizer, taught = teacher.recognizer, teacher.vocabulary()
    (predictions,) = recognizer.recognize([picture("moss", "fern", 5)], [BOXES], taught)
    total = predictions.scores.sum(axis=1) + predictions.none
    assert total == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(InputError, match="by probability, not by softmax"):
        recognizer.recognize([picture("moss", "fern", 5)], [BOXES], taught, score="softmax")


def test_a_precision_refuses_what_is_less_sure() -> None:
    teacher = Teacher(colour_recognizer(), ["moss", "fern"])
    random = np.random.default_rng(0)
    for i in range(40):
        # every third label is wrong
        left, right = ("fern", "moss") if random.random() < 0.33 else ("moss", "fern")
        teacher.add(picture("moss", "fern", i), BOXES, [left, right])
    taught = teacher.vocabulary()
    images = [picture("moss", "fern", 500 + i) for i in range(10)]
    refused = []
    for precision in (0.3, 0.95):
        predictions = teacher.recognizer.recognize(
            images, [BOXES] * 10, taught.at_precision(precision)
        )
        refused.append(sum(int(p.refused.sum()) for p in predictions))
    assert refused[0] < 5
    assert refused[1] > 15
    with pytest.raises(InputError, match="between 0 and 1"):
        taught.at_precision(1.5)
    with pytest.raises(InputError, match="has none"):
        Teacher(colour_recognizer(), ["moss"]).vocabulary().at_precision(0.5)


def test_wrong_input_names_the_item() -> None:
    teacher = Teacher(colour_recognizer())
    with pytest.raises(InputError, match="nothing to learn"):
        teacher.vocabulary()
    with pytest.raises(InputError, match="2 regions but 1 labels"):
        teacher.add(picture("moss", "fern", 0), BOXES, ["moss"])
    with pytest.raises(InputError, match="is no name"):
        teacher.add(picture("moss", "fern", 0), BOXES, ["moss", " "])
    far = Regions.from_boxes([[100, 100, 120, 120]], ids=["far"])
    for labels in ("ab", [1, 2], [float("nan"), None]):
        with pytest.raises(InputError, match="a list of names or None"):
            teacher.add(picture("moss", "fern", 0), BOXES, labels)
    with pytest.raises(InputError, match="far"):
        teacher.add(picture("moss", "fern", 0), far, ["moss"])
    assert len(teacher) == 0


def test_the_words_may_have_synonyms_and_ids() -> None:
    names = Vocabulary.from_names(["moss"], synonyms=[["green"]], ids=[7])
    teacher = Teacher(colour_recognizer(), names)
    teacher.add(picture("moss", "brick", 0), BOXES, ["moss", "brick"])
    vocabulary = teacher.vocabulary().vocabulary
    assert vocabulary.synonyms == (("green",), ())
    assert vocabulary.ids == (7, 8)


def test_other_names_keep_the_corrections_that_they_name() -> None:
    teacher = taught_teacher()
    teacher.add(picture("moss", "moss", 50), BOXES, [None, "brick"], name="50.png")
    before = teacher.vocabulary()
    assert teacher.rename(before.vocabulary) == 0
    assert teacher.vocabulary() is before
    forgotten = int(before.counts[1])
    assert teacher.rename(Vocabulary.from_names(["Brick", "stone", "moss"])) == forgotten
    taught = teacher.vocabulary()
    assert taught.vocabulary.names == ("Brick", "stone", "moss")
    assert taught.counts.tolist() == [before.counts[2], 0, before.counts[0]]
    assert len(taught.labels) == len(before.labels) - forgotten
    assert (taught.labels == 3).sum() == 1, "none of these stays"
    # as if it had been taught so from the start
    other = Teacher(colour_recognizer(), ["Brick", "stone", "moss"])
    pairs = [("moss", "fern"), ("fern", "brick"), ("brick", "moss")]
    for i in range(8):
        named = [name for name in pairs[i % 3] if name != "fern"]
        rows = [j for j, name in enumerate(pairs[i % 3]) if name != "fern"]
        other.add(picture(*pairs[i % 3], i), BOXES[rows], named, name=f"{i}.png")
    other.add(picture("moss", "moss", 50), BOXES, [None, "brick"], name="50.png")
    images = [picture("brick", "moss", 200)]
    (one,) = teacher.recognizer.recognize(images, [BOXES], taught)
    (two,) = teacher.recognizer.recognize(images, [BOXES], other.vocabulary())
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)
    assert one.labels == two.labels == ["Brick", "moss"]


def test_names_before_any_correction_may_change() -> None:
    teacher = Teacher(colour_recognizer(), ["moss"])
    assert teacher.rename(Vocabulary.from_names(["fern"])) == 0
    assert teacher.vocabulary().vocabulary.names == ("fern",)
