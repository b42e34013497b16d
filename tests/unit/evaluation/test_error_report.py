"""The confusion matrix and the worst errors of an evaluation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.evaluation.regions import error_report
from anyregion.evaluation.regions.error_report import MISSED, NOTHING, AnswerLog
from anyregion.predictions import Predictions
from anyregion.regions import Regions
from anyregion.vocabulary import Vocabulary

NAMES = ["cat", "dog", "cup"]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (200, 100), (60, 90, 60)).save(path)
    return str(path)


def answers(boxes: list[list[float]], names: list[str], scores: list[float]) -> Predictions:
    regions = Regions.from_boxes(boxes)
    return Predictions(
        vocabulary=Vocabulary(tuple(NAMES)),
        regions=regions,
        size=(100, 200),
        rows=np.arange(len(boxes)),
        indices=np.array([[NAMES.index(name)] for name in names], dtype=np.int64).reshape(-1, 1),
        scores=np.array(scores, dtype=np.float32).reshape(-1, 1),
        boxes=regions.boxes,
        embeddings=np.zeros((len(boxes), 2), np.float32),
    )


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def boxes(count: int) -> list[list[float]]:
    return [[10.0 * i, 10, 10.0 * i + 9, 40] for i in range(count)]


def test_confusions_are_counted_and_the_surest_errors_come_first(
    photo: str, tmp_path: Path
) -> None:
    log = AnswerLog()
    named = ["cat", "cat", "dog", "dog", "cup"]
    true = ["cat", "dog", "dog", "cup", "dog"]
    log.add(photo, answers(boxes(5), named, [0.9, 0.4, 0.8, 0.95, 0.7]), true)
    log.add(photo, answers(boxes(1), ["cat"], [0.6]), ["dog"])
    out = tmp_path / "report"
    report, set_aside = log.write(out, NAMES)
    assert not set_aside
    assert (report.regions, report.wrong) == (6, 4)
    assert [(c.true, c.named, c.regions) for c in report.confusions] == [
        ("dog", "cat", 2),
        ("cup", "dog", 1),
        ("dog", "cup", 1),
    ]
    assert report.confusions[0].share == 0.5
    assert table(out / "confusion.csv") == [
        ["true \\ named", "cat", "dog", "cup"],
        ["cat", "1", "0", "0"],
        ["dog", "2", "1", "1"],
        ["cup", "0", "1", "0"],
    ]
    errors = table(out / "errors.csv")[1:]
    assert [row[-1] for row in errors] == ["0.9500", "0.7000", "0.6000", "0.4000"]
    assert errors[0][6:8] == ["cup", "dog"]
    assert (out / "confusion.png").is_file()
    assert [p.name for p in (out / "errors").iterdir()] == ["001.jpg"]


def test_a_second_right_name_is_no_error(photo: str, tmp_path: Path) -> None:
    log = AnswerLog()
    correct = np.array([True, False])
    log.add(photo, answers(boxes(2), ["cup", "cup"], [0.9, 0.8]), ["cat", "cat"], correct)
    report, _ = log.write(tmp_path / "report", NAMES)
    assert (report.regions, report.wrong) == (2, 1)


def test_found_regions_are_of_the_thing_that_they_overlap(photo: str, tmp_path: Path) -> None:
    things = np.array(
        [[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20], [120, 0, 200, 100]], float
    )
    names = ["cat", "dog", "cup", "cup"]
    crowd = np.array([False, False, False, True])
    found = answers(
        [
            [0, 0, 20, 20],  # the cat, rightly, although the surer one below is there
            [0, 0, 20, 19],  # the same place again, as a dog: nothing is left there
            [40, 0, 60, 20],  # the dog, called a cup
            [150, 20, 170, 40],  # in a crowd: neither right nor wrong
            [80, 0, 100, 20],  # the cup, but too unsure to be an answer
            [0, 60, 20, 80],  # nothing is there
        ],
        ["cat", "dog", "cup", "cat", "cup", "cat"],
        [0.6, 0.9, 0.7, 0.9, 0.1, 0.5],
    )
    log = AnswerLog()
    log.add_found(photo, found, things, names, crowd)
    pairs = {
        pair for part in log.parts for pair in zip(part.true, part.named, strict=True)
    }  # fmt: skip
    assert pairs == {
        ("cat", "cat"),
        (NOTHING, "dog"),
        ("dog", "cup"),
        (NOTHING, "cat"),
        ("cup", MISSED),
    }
    report, _ = log.write(tmp_path / "report", NAMES)
    assert (report.regions, report.wrong) == (5, 4)


def test_nothing_found_and_nothing_there(photo: str, tmp_path: Path) -> None:
    log = AnswerLog()
    none = np.zeros((0, 4))
    log.add_found(photo, answers([], [], []), none, [], np.zeros(0, dtype=bool))
    report, _ = log.write(tmp_path / "report", NAMES)
    assert (report.regions, report.wrong, report.confusions) == (0, 0, ())


def test_large_vocabularies_are_cut_to_the_most_confused(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def noted(rows: Any, columns: Any, counts: Any, **options: Any) -> Image.Image:
        drawn.append((rows, columns, counts, options))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(error_report, "draw_matrix", noted)
    names = [f"name {i}" for i in range(100)]
    log = AnswerLog()
    predictions = answers(boxes(1), ["cat"], [0.5])
    for i in range(100):
        # the higher the number, the more often it is wrong; and each is right once
        for _ in range(i // 10):
            log.parts.append(
                error_report._Answers(
                    photo, [names[i]], [names[(i + 1) % 100]], predictions.scores[:, 0],
                    predictions.boxes, [0],
                )
            )  # fmt: skip
        log.parts.append(
            error_report._Answers(
                photo, [names[i]], [names[i]], predictions.scores[:, 0], predictions.boxes, [0]
            )
        )
    report, _ = log.write(tmp_path / "report", names)
    ((rows, columns, counts, options),) = drawn
    assert rows == columns
    assert rows[-1] == "(70 others)"
    assert min(int(name.split()[1]) for name in rows[:-1]) >= 69
    # everything wrong is in the picture, and of the right ones those that have a row
    off = ~options["right"]
    assert counts[off].sum() == report.wrong
    assert counts.sum() == report.wrong + 30
    assert len(table(tmp_path / "report" / "confusion.csv")) == 101


def test_the_matrix_is_blue_where_answers_are_right_and_orange_elsewhere(
    photo: str, tmp_path: Path
) -> None:
    log = AnswerLog()
    log.add(photo, answers(boxes(2), ["cat", "cat"], [0.9, 0.8]), ["cat", "dog"])
    log.write(tmp_path / "report", NAMES)
    pixels = np.asarray(Image.open(tmp_path / "report" / "confusion.png").convert("RGB"))
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (pixels == colour).all(axis=2).sum() > 500


def test_what_was_missed_is_a_column_and_what_is_not_annotated_a_row(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def noted(rows: Any, columns: Any, counts: Any, **options: Any) -> Image.Image:
        drawn.append((rows, columns, counts.tolist()))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(error_report, "draw_matrix", noted)
    log = AnswerLog()
    things = np.array([[0.0, 0, 20, 20], [40, 0, 60, 20]])
    found = answers([[0, 0, 20, 20], [80, 0, 100, 20]], ["cat", "cat"], [0.9, 0.8])
    log.add_found(photo, found, things, ["cat", "dog"], np.zeros(2, dtype=bool))
    log.write(tmp_path / "report", NAMES)
    ((rows, columns, counts),) = drawn
    assert (rows[-1], columns[-1]) == (NOTHING, MISSED)
    table = {(r, c): counts[i][j] for i, r in enumerate(rows) for j, c in enumerate(columns)}
    assert {pair for pair, count in table.items() if count} == {
        ("cat", "cat"),
        (NOTHING, "cat"),
        ("dog", MISSED),
    }
