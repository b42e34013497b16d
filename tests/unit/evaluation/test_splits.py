"""Seen and unseen classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyregion.errors import InputError
from anyregion.evaluation.regions.classification import evaluate_classification
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.evaluation.regions.seen_unseen import harmonic_mean, unseen_categories
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import colour_recognizer

CLASSES = {30: "dog", 2: "cat", 7: "traffic_light", 11: "bus", 1: "car", 5: "cup", 8: "bed"}


@pytest.mark.parametrize(
    ("spec", "ids"),
    [
        ("every:4:1", {2, 11}),  # in id order: 1, [2], 5, 7, 8, [11], 30
        ("every:3:0", {1, 7, 30}),
        ("every:99:6", {30}),
        ("Dog, traffic light", {30, 7}),
    ],
)
def test_classes(spec: str, ids: set[int]) -> None:
    assert unseen_categories(spec, CLASSES) == ids


def test_classes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "unseen.txt").write_text("# held out\nbus\nbed\n")
    assert unseen_categories(str(tmp_path / "unseen.txt"), CLASSES) == {11, 8}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("every:4", "not every:STEP:FIRST"),
        ("every:0:1", "not every:STEP:FIRST"),
        ("every:2:x", "not every:STEP:FIRST"),
        ("every:2:-1", "not every:STEP:FIRST"),
        ("every:2:9", "chooses 0 of 7 classes"),
        ("every:1:0", "chooses 7 of 7 classes"),
        ("dog, wolf", "wolf"),
    ],
)
def test_no_split(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unseen_categories(spec, CLASSES)


def test_names_that_one_set_lacks() -> None:
    assert unseen_categories("dog, wolf", CLASSES, all_known=False) == {30}
    with pytest.raises(InputError, match="0 of 7"):
        unseen_categories("wolf", CLASSES, all_known=False)


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean(0.0, 0.0) == 0
    assert harmonic_mean(None, 0.3) is None


def test_accuracy_of_seen_and_unseen(annotated: tuple[Path, Path]) -> None:
    """Among all names: lime is taken for red where the vocabulary spells it so."""
    words = Vocabulary.from_names(["lime", "red", "blue", "yellow", "black", "white"])
    report = evaluate_classification(
        colour_recognizer,
        *annotated,
        EvaluationOptions(vocabulary=words, unseen="lime, white, yellow"),
    )
    split = report.split
    assert split is not None
    assert split.unseen_classes == ("lime", "yellow", "white")
    assert split.seen is not None
    assert split.unseen is not None
    assert (split.seen.regions, split.unseen.regions) == (5, 3)
    assert report.names == 6
    total = split.seen.top1 * 5 + split.unseen.top1 * 3
    assert total / 8 == pytest.approx(report.top1)
    for mean, unseen in ((split.seen_mean_class, False), (split.unseen_mean_class, True)):
        tops = [a.top1 for n, a in report.by_class.items() if (n in split.unseen_classes) == unseen]
        assert mean == pytest.approx(sum(tops) / len(tops))
    assert split.harmonic_mean == harmonic_mean(split.seen.top1, split.unseen.top1)


def test_a_side_without_regions(annotated: tuple[Path, Path]) -> None:
    options = EvaluationOptions(unseen="lime", limit=1)
    report = evaluate_classification(colour_recognizer, *annotated, options)
    assert report.split is not None
    assert report.split.unseen is None
    assert report.split.harmonic_mean is None
    assert evaluate_classification(colour_recognizer, *annotated).to_dict()["split"] is None
