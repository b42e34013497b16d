"""Calibration error and AUROC against other implementations; refusing absent classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.errors import InputError, SetAside
from anyregion.evaluation.metrics.calibration import auroc, ece, score_bins
from anyregion.evaluation.regions.calibration import CalibrationReport, evaluate_calibration
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.evaluation.regions.vocabulary_subsets import vocabulary_subsets
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import annotate


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_auroc_equals_scikit_learn(decimals: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(decimals)
    positive = rng.normal(0.6, 0.2, 300).round(decimals)
    negative = rng.normal(0.4, 0.2, 500).round(decimals)
    expected = metrics.roc_auc_score([1] * 300 + [0] * 500, np.concatenate([positive, negative]))
    assert auroc(positive, negative) == pytest.approx(expected, abs=1e-12)


def test_auroc_at_its_ends() -> None:
    assert auroc(np.array([0.9]), np.array([0.1, 0.2])) == 1
    assert auroc(np.array([0.1]), np.array([0.9])) == 0
    assert auroc(np.array([0.5, 0.5]), np.array([0.5])) == 0.5
    assert auroc(np.array([]), np.array([0.5])) is None


def test_calibration_error_by_hand() -> None:
    scores = np.array([0.0, 0.05, 0.95, 0.96, 1.0])
    right = np.array([False, True, True, False, True])
    bins = score_bins(scores, right, bins=10)
    assert ece(scores, right, bins=10) == pytest.approx(
        (2 * abs(0.025 - 0.5) + 3 * abs(0.97 - 2 / 3)) / 5
    )
    assert [b.regions for b in bins] == [2, *[0] * 8, 3]
    assert (bins[3].mean_score, bins[3].accuracy) == (None, None)
    assert bins[9].accuracy == pytest.approx(2 / 3)


def test_calibrated_scores_have_little_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    right = rng.random(20_000) < scores
    assert ece(scores, right) < 0.02
    assert ece(scores**3, right) > 0.2
    edges = np.linspace(0, 1, 16)  # bins hold their upper ends
    assert [b.regions for b in score_bins(edges, edges > 0)] == [2, *[1] * 14]


WHOLE = Vocabulary.from_names(
    [f"{first}{second}" for first in "abcdefgh" for second in "klmno"], templates=["a {}"]
)


def test_vocabularies_of_several_sizes() -> None:
    set_aside: list[SetAside] = []
    left_out = set(range(1, 40, 2))
    extra = [f"thing{i}" for i in range(50)]
    others = Vocabulary.from_names([*extra[:25], "ak", "al tree", *extra[25:]])
    subsets = vocabulary_subsets(
        WHOLE, left_out, sizes=[3, 20, 60, 99], distractors=others, set_aside=set_aside
    )
    labels = [m.label for m in subsets]
    assert labels[:2] == ["all", "half"]
    assert labels.count("3") > 1
    assert set(labels) == {"all", "half", "3", "20", "60"}
    assert [(a.item, a.reason) for a in set_aside] == [
        ("size 99", "20 names and 50 distractors at most")
    ]
    for part in subsets:
        names = part.vocabulary.names
        assert len(names) == len(part.origin)
        assert part.vocabulary.templates == ("a {}",)
        own = [(n, WHOLE.names[i]) for n, i in zip(names, part.origin, strict=True) if i >= 0]
        assert all(mine == expected for mine, expected in own)
        if part.label != "all":
            assert not left_out & set(part.origin.tolist())
        if part.label.isdigit():
            assert len(names) == int(part.label)
    again = vocabulary_subsets(WHOLE, left_out, sizes=[3, 3], distractors=others, set_aside=[])
    assert [m.label for m in again].count("3") == labels.count("3"), "no answer counts twice"
    big = subsets[-1].vocabulary.names
    assert "al tree" not in big, "it shares a word with a class that was left out"
    origins = [tuple(m.origin) for m in subsets if m.label == "3"]
    assert len(set(origins)) == len(origins)


def test_built_in_distractors_share_no_word_with_the_classes() -> None:
    whole = Vocabulary.from_names(["dog", "wine glass", "traffic light", "bear"])
    set_aside: list[SetAside] = []
    subsets = vocabulary_subsets(whole, {0, 3}, sizes=[500], distractors=None, set_aside=set_aside)
    names = subsets[-1].vocabulary.names
    assert len(names) == 500
    words = {w for n in names[2:] for w in n.lower().replace("_", " ").split()}
    assert not words & {"dog", "dogs", "wine", "glass", "traffic", "light", "bear"}


@pytest.mark.parametrize(("left_out", "sizes"), [(set(range(40)), [3]), ({0}, [0])])
def test_impossible_vocabularies(left_out: set[int], sizes: list[int]) -> None:
    with pytest.raises(InputError):
        vocabulary_subsets(WHOLE, left_out, sizes=sizes, distractors=None, set_aside=[])


def evaluate(folder: Path, **options: Any) -> CalibrationReport:
    pairs = [("red", "lime"), ("blue", "yellow"), ("white", "black"), ("lime", "blue")]
    file = annotate(folder, dict(enumerate(pairs, 1)))
    others = Vocabulary.from_names(["orange", "purple", "brown"])
    naming = EvaluationOptions(unseen=options.pop("unseen", None))
    return evaluate_calibration(
        colour_recognizer, file, folder / "photos", naming, distractors=others, **options
    )


def test_report(tmp_path: Path) -> None:
    """Six colours; lime, yellow and black are left out, four of the eight regions."""
    report = evaluate(tmp_path, sizes=[2, 5], threshold=0.6)
    assert report.absent_classes == ("lime", "yellow", "black")
    assert (report.regions, report.images, report.names) == (8, 4, 6)
    assert report.top1 == 1
    by_name = {r.vocabulary: r for r in report.refusals}
    assert list(by_name) == ["all", "half", "2", "5"]
    whole, half = by_name["all"], by_name["half"]
    assert (whole.present, whole.absent, whole.auroc) == (8, 0, None)
    assert (half.names, half.present, half.absent, half.top1) == (3, 4, 4, 1)
    assert half.auroc == report.auroc == 1, "colours that are there score higher"
    assert half.refused_absent is not None
    assert half.refused_present == 0
    assert (by_name["5"].names, by_name["5"].present) == (5, 4)
    two = by_name["2"]
    assert two.present + two.absent == 8 * two.trials
    assert report.ece == pytest.approx(1 - report.mean_score, abs=1e-6), "all are right"
    assert sum(b.regions for b in report.bins) == 8
    assert json.loads(json.dumps(report.to_dict()))["refusals"][1]["vocabulary"] == "half"


def test_absent_classes_by_name_and_split(tmp_path: Path) -> None:
    report = evaluate(tmp_path, absent="red", sizes=[], unseen="blue, white")
    assert report.absent_classes == ("red",)
    assert (report.refusals[1].present, report.refusals[1].absent) == (7, 1)
    assert report.split is not None
    assert report.split.unseen_classes == ("blue", "white")
    assert (report.split.seen_top1, report.split.unseen_top1, report.split.harmonic_mean) == (
        1, 1, 1,
    )  # fmt: skip


def test_threshold_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threshold"):
        evaluate(tmp_path, threshold=2)
