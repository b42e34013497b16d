"""Names in annotations that are contradicted by what is learnt from the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from anyregion import CheckpointError, InputError
from anyregion.cli.main import main
from anyregion.recognizer import Recognizer
from anyregion.runs.suspects import check_labels
from anyregion.teaching.classifier import LeftOut
from anyregion.teaching.suspects import contradictions, least_contradiction
from tests.helpers.colours import ColourEncoder, colour_recognizer

PAIRS = [("tomato", "navy"), ("navy", "olive"), ("olive", "tomato")]
NAMES = {"tomato": 1, "navy": 2, "olive": 3}
CATEGORIES = [
    {"id": i, "name": n} for i, n in enumerate(["fruit", "sea", "leaf", "none of these"], 1)
]


def picture(number: int, left: str, right: str) -> None:
    """Two halves of a colour each, every time a little different."""
    random = np.random.default_rng(number)
    pixels = np.zeros((30, 40, 3))
    for columns, colour in ((slice(0, 20), left), (slice(20, 40), right)):
        pixels[:, columns] = np.array(ImageColor.getrgb(colour)) + random.normal(0, 8, 3)
    Path("photos").mkdir(exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"photos/{number}.png")


def write(wrong: dict[int, int], count: int = 12) -> dict[str, Any]:
    """Pictures of two halves; `wrong` regions, by id, have another category than they show."""
    images, annotations = [], []
    for i in range(1, count + 1):
        pair = PAIRS[i % 3]
        picture(i, *pair)
        images.append({"id": i, "file_name": f"{i}.png"})
        annotations += [
            {
                "id": 2 * i + half,
                "image_id": i,
                "bbox": [20 * half, 0, 20, 30],
                "category_id": wrong.get(2 * i + half, NAMES[colour]),
            }
            for half, colour in enumerate(pair)
        ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def save(content: dict[str, Any]) -> str:
    Path("photos.json").write_text(json.dumps(content))
    return "photos.json"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_wrong_names_are_the_suspects() -> None:
    # image 3 shows tomato and navy, image 8 olive and tomato
    annotations = save(write({7: 3, 16: 1}))
    report = check_labels(annotations, "photos", "out", recognizer=colour_recognizer(), least=0.6)
    assert {(s.image, s.region, s.given, s.suggested) for s in report.suspects} == {
        ("3.png", 7, "leaf", "sea"),
        ("8.png", 16, "fruit", "leaf"),
    }
    assert (report.regions, report.images, report.computed, report.total) == (24, 12, 12, 2)
    assert report.agreed == pytest.approx(22 / 24)
    content = json.loads(Path("out/suspects.json").read_text())
    with Path("out/suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["image"] for r in rows] == [s.image for s in report.suspects]
    assert content["suspects"][0]["region"] == int(rows[0]["region"])
    assert float(rows[0]["contradiction"]) >= float(rows[1]["contradiction"]) >= 0.6
    (first,) = (s for s in report.suspects if s.region == 7)
    assert first.box == (20, 0, 40, 30)
    # of olive there are seven rightly and one wrongly: none of them in image 3 but the wrong one
    assert first.examples == 7


def test_no_more_than_asked_for() -> None:
    annotations = save(write({7: 3, 16: 1}))
    report = check_labels(
        annotations, "photos", "out", recognizer=colour_recognizer(), least=0.6, limit=1
    )
    assert (len(report.suspects), report.total) == (1, 2)
    assert len(json.loads(Path("out/suspects.json").read_text())["suspects"]) == 1


def test_corrected_annotations_are_judged_without_their_images() -> None:
    annotations = save(write({7: 3, 16: 1}))
    check_labels(annotations, "photos", "out", recognizer=colour_recognizer(), least=0.6)
    # one is corrected, one region and one image are gone, and the file says so
    content = write({16: 1})
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1][:-1]
    save(content)
    recognizer = colour_recognizer()
    report = check_labels(annotations, "photos", "out", recognizer=recognizer, least=0.6)
    assert isinstance(recognizer.encoder, ColourEncoder)
    assert recognizer.encoder.images_encoded == 0
    assert report.computed == 0
    assert [s.region for s in report.suspects] == [16]
    assert (report.regions, report.images) == (21, 11)
    afresh = check_labels(annotations, "photos", "anew", recognizer=recognizer, least=0.6)
    assert [s.contradiction for s in afresh.suspects] == pytest.approx(
        [s.contradiction for s in report.suspects], abs=1e-3
    )


def test_features_of_another_model_are_refused() -> None:
    annotations = save(write({}))
    check_labels(annotations, "photos", "out", recognizer=colour_recognizer())
    other = ColourEncoder()
    other.logit_scale = 20.0
    with pytest.raises(CheckpointError, match=r"taught\.vocab.*remove the file"):
        check_labels(annotations, "photos", "out", recognizer=Recognizer(other, cache=None))


def test_a_taught_vocabulary_needs_neither_model_nor_images() -> None:
    annotations = save(write({7: 3}))
    by_file = check_labels(annotations, "photos", "out", recognizer=colour_recognizer(), least=0.6)

    def load() -> Recognizer:
        raise AssertionError("no model is needed")

    report = check_labels("out/taught.vocab", None, "again", recognizer=load, least=0.6)
    assert report.suspects == by_file.suspects
    assert not Path("again/sheets").exists()


def test_names_that_are_no_region_of_others_are_suspected_too() -> None:
    # three regions are none of these, and so is one that shows the sea
    content = write({7: 4})
    for i in (20, 21, 22):
        picture(i, "gray", "gray")
        content["images"].append({"id": i, "file_name": f"{i}.png"})
        box = {"id": 100 + i, "image_id": i, "bbox": [0, 0, 20, 30], "category_id": 4}
        content["annotations"].append(box)
    report = check_labels(save(content), "photos", "out", recognizer=colour_recognizer(), least=0.6)
    assert [(s.region, s.given, s.suggested) for s in report.suspects] == [
        (7, "none of these", "sea")
    ]


def test_one_image_alone_says_nothing() -> None:
    annotations = save(write({}, count=1))
    with pytest.raises(InputError, match="all regions are of one image"):
        check_labels(annotations, "photos", "out", recognizer=colour_recognizer())


def test_a_name_that_is_hard_to_tell_is_not_accused() -> None:
    # names 0 and 1 are confused, as they always are; name 2 is told surely
    probabilities = np.array(
        [[0.1, 0.9, 0, 0]] * 10 + [[0, 0, 1, 0]] * 10 + [[0.1, 0, 0.9, 0]], dtype=np.float32
    )
    labels = np.array([0] * 10 + [2] * 10 + [1])
    contradiction, others = contradictions(LeftOut(probabilities), labels)
    assert contradiction[:10].max() < 0.7  # a tenth, of a name that has no more than that
    assert contradiction[10:20].max() == 0
    assert contradiction[20] == pytest.approx(1)
    assert others[[0, 20]].tolist() == [1, 2]
    # nobody said "none of these", so it is nobody's other name
    assert others.max() < 3


def test_the_command_prints_and_draws(capsys: pytest.CaptureFixture[str]) -> None:
    annotations = save(write({7: 3, 16: 1}))
    command = ["data", "suspects", annotations, "photos", "--min-contradiction", "0.6"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {s["region"] for s in report["suspects"]} == {7, 16}
    assert main([*command, "--limit", "1", "--out", "anyregion-suspects"]) == 0
    printed = capsys.readouterr().out
    assert "suspects     2 of contradiction 0.600 or more, the worst 1 of them listed" in printed
    assert "12, 0 seen now" in printed
    (first,) = json.loads(Path("anyregion-suspects/suspects.json").read_text())["suspects"]
    photo = np.asarray(Image.open(f"photos/{first['image']}")).astype(float)
    x, sheet = int(first["box"][0]), Image.open("anyregion-suspects/sheets/001.jpg")
    # the crop shows the whole picture, 200 pixels wide and in the middle of its tile
    half = np.asarray(sheet.crop((8 + 5 * x + 40, 90, 8 + 5 * x + 60, 120))).astype(float)
    np.testing.assert_allclose(half.mean(axis=(0, 1)), photo[:, x : x + 20].mean((0, 1)), atol=6)


def test_an_image_that_is_gone_leaves_its_crop_out(capsys: pytest.CaptureFixture[str]) -> None:
    annotations = save(write({7: 3, 16: 1}))
    check_labels(annotations, "photos", "out", recognizer=colour_recognizer(), least=0.6)
    Path("photos/3.png").unlink()
    command = ["data", "suspects", "out/taught.vocab", "photos", "--min-contradiction", "0.6"]
    assert main([*command, "--out", "again"]) == 3
    assert "3.png: no crop" in capsys.readouterr().err
    assert Path("again/sheets/001.jpg").is_file()


def test_of_many_names_more_is_needed() -> None:
    assert least_contradiction(np.array([4, 7, 7])) == pytest.approx(0.9)
    assert least_contradiction(np.arange(101)) == pytest.approx(0.99)


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_no_contradiction_of_that_size(least: float) -> None:
    annotations = save(write({}))
    with pytest.raises(InputError, match="between 0 and 1"):
        check_labels(annotations, "photos", "out", recognizer=colour_recognizer(), least=least)


def test_copies_of_an_image_are_one_and_stay_one() -> None:
    content = write({})
    Path("photos/copy.png").write_bytes(Path("photos/1.png").read_bytes())
    content["images"].append({"id": 50, "file_name": "copy.png"})
    copied = [a for a in content["annotations"] if a["image_id"] == 1]
    content["annotations"] += [a | {"id": a["id"] + 100, "image_id": 50} for a in copied]
    annotations = save(content)
    first = check_labels(annotations, "photos", "out", recognizer=colour_recognizer())
    second = check_labels(annotations, "photos", "out", recognizer=colour_recognizer())
    assert (first.regions, second.regions, second.computed) == (24, 24, 0)
    assert (first.agreed, second.agreed) == (1, 1)


def test_a_damaged_taught_vocabulary_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.vocab").write_text("nothing")
    assert main(["data", "suspects", "my.vocab"]) == 1
    assert "my.vocab: not a taught vocabulary" in capsys.readouterr().err
