"""Folders of data sets: each alone, then the average."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from anyregion.errors import InputError
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.evaluation.regions.odinw import SetsReport, evaluate_sets
from tests.helpers.colours import colour_recognizer
from tests.helpers.halves import edit, make_set


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    top = tmp_path / "sets"
    make_set(top / "one", "train", "valid", "test")
    make_set(top / "two", "train", "valid")

    def swap(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["category_id"] = {1: 2, 2: 1}.get(row["category_id"], row["category_id"])

    edit(top / "two" / "valid" / "_annotations.coco.json", swap)
    return top


def evaluate(folder: Path, **options: Any) -> SetsReport:
    names = ("regions", "masks", "split", "pairs")
    arguments = {name: options.pop(name) for name in names if name in options}
    return evaluate_sets(colour_recognizer, folder, EvaluationOptions(**options), **arguments)


def test_each_set_counts_once(sets: Path) -> None:
    report = evaluate(sets, masks=True)
    assert report.splits == {"one": "test", "two": "valid"}
    one, two = report.sets["one"], report.sets["two"]
    assert (one.boxes["AP"], one.top1) == (pytest.approx(1), 1)
    assert two.boxes["AP"] is not None
    assert two.boxes["AP"] < 0.9
    assert report.ap == pytest.approx((1 + two.boxes["AP"]) / 2)
    assert two.top1 == pytest.approx(5 / 8)
    assert report.top1 == pytest.approx((1 + 5 / 8) / 2)
    assert report.mask_ap is not None
    assert report.harmonic_mean is None
    assert report.set_aside == ()
    assert set(json.loads(json.dumps(report.to_dict()))["sets"]) == {"one", "two"}


def test_a_chosen_split(sets: Path) -> None:
    assert evaluate(sets, split="train").ap == pytest.approx(1)
    assert list(evaluate(sets, split="test").sets) == ["one"]
    with pytest.raises(InputError, match="no set has a split 'minival'"):
        evaluate(sets, split="minival")


def test_a_set_that_fails_does_not_stop_the_others(sets: Path) -> None:
    shutil.copytree(sets / "one" / "test", sets / "broken" / "test")
    (sets / "broken" / "test" / "_annotations.coco.json").write_text("[")
    report = evaluate(sets)
    assert list(report.sets) == ["one", "two"]
    assert [a.item for a in report.set_aside] == ["broken"]


def test_unseen_classes_where_a_set_has_them(sets: Path) -> None:
    edit(
        sets / "one" / "test" / "_annotations.coco.json",
        lambda c: c["categories"][0].update(name="crimson"),
    )
    report = evaluate(sets, unseen="red")
    assert report.sets["one"].split is None
    split = report.sets["two"].split
    assert split is not None
    assert split.unseen_classes == ("red",)
    assert report.harmonic_mean == split.harmonic_mean


def test_detections_of_each_set(sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    for name in ("one", "two"):
        boxes = {"boxes": [[0, 0, 20, 30]], "scores": [0.5]}
        (folder / f"{name}.json").write_text(json.dumps({f"{i}": boxes for i in (1, 2, 3, 10)}))
    report = evaluate(sets, regions=folder)
    assert report.sets["one"].regions == 4
    assert report.top1 is None
    (folder / "two.json").unlink()
    assert [a.item for a in evaluate(sets, regions=folder).set_aside] == ["two"]


def test_one_file_for_several_sets_is_refused(sets: Path, tmp_path: Path) -> None:
    """Image 1 of one set is another photograph than image 1 of the next."""
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"1": {"boxes": [[0, 0, 20, 30]], "scores": [0.5]}}))
    with pytest.raises(InputError, match="one file for 2 sets"):
        evaluate(sets, regions=file)
    assert evaluate(sets, regions=file, split="test").sets["one"].regions == 1


def test_unseen_classes_that_no_set_has_are_reported(sets: Path) -> None:
    report = evaluate(sets, unseen="crimsn")
    assert report.harmonic_mean is None
    assert [str(a) for a in report.set_aside] == [
        "unseen classes 'crimsn': they split the classes of no set"
    ]
