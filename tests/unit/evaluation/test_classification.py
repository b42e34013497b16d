"""Accuracies of given regions, against scikit-learn's and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from anyregion.errors import InputError
from anyregion.evaluation.regions.classification import (
    ClassificationReport,
    evaluate_classification,
)
from anyregion.evaluation.regions.inputs import EvaluationOptions
from anyregion.evaluation.regions.right_names import RightNames
from anyregion.images import read_image
from anyregion.regions import Regions
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import ColourWords, colour_recognizer

NAMES = ["red", "lime", "blue", "yellow", "white", "black", "cyan", "magenta"]
SIDES = (8, 20, 31, 32, 33, 60, 95, 96, 97, 150)


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Path, Path]:
    """Nine images of ten coloured boxes; each third box has a noisy colour of its own."""
    rng = np.random.default_rng(3)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for image_id in range(1, 10):
        pixels = np.full((160, 700, 3), 128, np.uint8)
        x = 0
        for side in SIDES:
            category = int(rng.integers(0, 7))
            colour = np.array(ImageColor.getrgb(NAMES[category]))
            mix = rng.uniform(0.1, 1.0) if rng.random() < 0.6 else 0.0
            colour = colour * (1 - mix) + mix * rng.integers(0, 256, 3)
            pixels[:side, x : x + side] = colour.round().astype(np.uint8)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "bbox": [x, 0, side, side],
                    "category_id": category * 10,
                    "iscrowd": 0,
                }
            )
            x += side
        name = f"{image_id:03d}.png"
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        images.append({"id": image_id, "file_name": name, "height": 160, "width": 700})
    categories = [{"id": i * 10, "name": n} for i, n in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path / "coco.json", tmp_path / "images"


def edit(file: Path, change: Any) -> Path:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def evaluate(dataset: tuple[Path, Path], **options: Any) -> ClassificationReport:
    return evaluate_classification(colour_recognizer, *dataset, EvaluationOptions(**options))


def test_equals_scikit_learn(dataset: tuple[Path, Path]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    content = json.loads(dataset[0].read_text())
    recognizer = colour_recognizer()
    truth, scores, areas = [], [], []
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        recognizer.set_image(read_image(dataset[1] / image["file_name"]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        answer = recognizer.predict(Regions.from_boxes(boxes), NAMES, top_k=len(NAMES))
        dense = np.zeros((len(rows), len(NAMES)))
        np.put_along_axis(dense, answer.indices, answer.scores.astype(float), axis=1)
        scores.append(dense)
        truth += [a["category_id"] // 10 for a in rows]
        areas += [a["bbox"][2] * a["bbox"][3] for a in rows]
    right, table, area = np.array(truth), np.concatenate(scores), np.array(areas)
    best = table.argmax(axis=1)

    report = evaluate(dataset)
    assert (report.regions, report.images, report.names) == (90, 9, 8)
    assert report.set_aside == ()
    assert 0.5 < report.top1 < report.top5 < 1, "the data is to tell them apart"
    assert report.top1 == pytest.approx(metrics.accuracy_score(right, best))
    assert report.mean_class_accuracy == pytest.approx(metrics.balanced_accuracy_score(right, best))
    labels = np.arange(len(NAMES))
    assert report.top5 == pytest.approx(
        metrics.top_k_accuracy_score(right, table, k=5, labels=labels)
    )
    assert report.mean_score == pytest.approx(table.max(axis=1).mean(), rel=1e-5)
    sizes = {"small": area < 1024, "medium": (area >= 1024) & (area < 9216), "large": area >= 9216}
    assert {k: v.regions for k, v in report.by_size.items()} == {
        "small": 27,
        "medium": 36,
        "large": 27,
    }
    for name, which in sizes.items():
        assert report.by_size[name].top1 == pytest.approx((best == right)[which].mean())
    matrix = metrics.confusion_matrix(right, best)
    assert {n: a.regions for n, a in report.by_class.items()} == {
        NAMES[i]: int(matrix[i].sum()) for i in np.unique(right)
    }
    for i in np.unique(right):
        recall = matrix[i, i] / matrix[i].sum()
        assert report.by_class[NAMES[i]].top1 == pytest.approx(recall)


def test_report_is_json(dataset: tuple[Path, Path]) -> None:
    report = json.loads(json.dumps(evaluate(dataset, limit=1).to_dict()))
    assert report["images"] == 1
    assert report["regions"] == 10
    assert set(report) >= {"top1", "top5", "mean_class_accuracy", "by_size", "seconds"}


def test_batch_size_does_not_matter(dataset: tuple[Path, Path]) -> None:
    one, many = evaluate(dataset, batch_size=1), evaluate(dataset, batch_size=50)
    assert {**one.to_dict(), "seconds": 0} == {**many.to_dict(), "seconds": 0}


def test_another_vocabulary(dataset: tuple[Path, Path]) -> None:
    """Names are matched whatever their case; classes that it does not hold are left out."""
    words = Vocabulary.from_names(["BLUE", "Red", "lime"])
    content = json.loads(dataset[0].read_text())
    held = sum(a["category_id"] in (0, 10, 20) for a in content["annotations"])
    report = evaluate(dataset, vocabulary=words)
    assert (report.regions, report.outside_vocabulary) == (held, 90 - held)
    assert list(report.by_class) == ["BLUE", "Red", "lime"]
    assert report.top5 == 1, "three names are all among the first five"
    with pytest.raises(InputError, match="none of its categories is in the vocabulary"):
        evaluate(dataset, vocabulary=Vocabulary.from_names(["dog"]))


@pytest.mark.parametrize("spelling", ["Red", "red-stuff", " red"])
def test_categories_of_the_same_name_are_one_class(
    dataset: tuple[Path, Path], spelling: str
) -> None:
    before = evaluate(dataset)

    def twice(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 999, "name": spelling})
        red = next(a for a in content["annotations"] if a["category_id"] == 0)
        red["category_id"] = 999

    edit(dataset[0], twice)
    after = evaluate(dataset)
    (merged,) = after.set_aside  # said, since it changes what the class average is over
    assert "repeats 'red'" in merged.reason
    same = {"seconds": 0, "set_aside": ()}
    assert {**after.to_dict(), **same} == {**before.to_dict(), **same}


def test_what_cannot_be_used_is_set_aside(dataset: tuple[Path, Path]) -> None:
    annotations, images = dataset
    (images / "001.png").unlink()
    (images / "002.png").write_bytes(b"nothing")
    Image.new("RGB", (350, 80)).save(images / "003.png")

    def break_some(content: dict[str, Any]) -> None:
        content["annotations"][30]["bbox"] = [0, 0, 10, -5]
        content["annotations"][31]["bbox"] = [900, 10, 10, 5]
        content["annotations"][32]["iscrowd"] = 1

    edit(annotations, break_some)
    report = evaluate(dataset)
    assert report.images == 6
    assert report.regions == 60 - 3
    reasons = " | ".join(map(str, report.set_aside))
    assert len(report.set_aside) == 5
    for part in (
        "001.png: not in",
        "002.png: not an image",
        "350 x 80, but the annotations say 700 x 160",
        "region 31",
        "outside the 700 x 160 image",
    ):
        assert part in reasons


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(categories=[]), "no categories"),
        (lambda c: c.update(annotations=[]), "no image has regions"),
        (lambda c: [i.update(file_name="x.png") for i in c["images"]], "not in"),
        (lambda c: [a.update(category_id=7) for a in c["annotations"]], "no region has a class"),
        (lambda c: [i.update(height=10) for i in c["images"]], "the annotations say"),
    ],
)
def test_nothing_to_evaluate(dataset: tuple[Path, Path], change: Any, message: str) -> None:
    edit(dataset[0], change)
    with pytest.raises(InputError, match=message):
        evaluate(dataset)


def test_a_file_that_several_entries_lead_to_is_nobodys(dataset: tuple[Path, Path]) -> None:
    """In a flat folder `a/001.png` and `b/001.png` are one file; the boxes are of two images."""

    def nest(content: dict[str, Any]) -> None:
        first, second, third = content["images"][:3]
        first["file_name"], second["file_name"] = "a/001.png", "b/001.png"
        third["file_name"] = "c/003.png"

    edit(dataset[0], nest)
    report = evaluate(dataset)
    assert report.images == 7, "c/003.png has 003.png to itself"
    assert [a.item for a in report.set_aside] == ["a/001.png", "b/001.png"]
    assert "001.png could be the file of 2 entries" in report.set_aside[0].reason
    for folder in ("a", "b"):
        (dataset[1] / folder).mkdir()
        (dataset[1] / folder / "001.png").write_bytes((dataset[1] / "001.png").read_bytes())
    assert evaluate(dataset).images == 9


@pytest.mark.parametrize("category", [None, -1, "cat", 999])
def test_a_region_without_a_known_category_is_outside(
    dataset: tuple[Path, Path], category: Any
) -> None:
    """The rest of its image is used; and so it is where no region of an image has a category."""

    def forget(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = category
        for annotation in content["annotations"][10:20]:
            annotation["category_id"] = category

    edit(dataset[0], forget)
    report = evaluate(dataset)
    assert (report.regions, report.outside_vocabulary, report.images) == (79, 11, 8)
    assert report.set_aside == ()


def test_scores_in_the_annotations_do_not_count(dataset: tuple[Path, Path]) -> None:
    before = evaluate(dataset)
    edit(dataset[0], lambda c: [a.update(score=0.1) for a in c["annotations"]])
    assert evaluate(dataset).mean_score == before.mean_score


def test_templates_and_cleaning_of_the_categories(
    dataset: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode = ColourWords.encode_text
    monkeypatch.setattr(
        ColourWords, "encode_text", lambda self, texts: read.extend(texts) or encode(self, texts)
    )
    edit(dataset[0], lambda c: c["categories"].append({"id": 7, "name": "dark_red"}))
    evaluate(dataset, templates=["so {}"], cleaning="published")
    assert {"so red", "so dark_red"} <= set(read)
    with pytest.raises(InputError, match="belong to the vocabulary"):
        evaluate(dataset, vocabulary=Vocabulary.from_names(["red"]), templates=["{}"])


def test_masks_as_prompts(dataset: tuple[Path, Path]) -> None:
    """Boxes that are too wide name the neighbour's colour too; their masks do not."""

    def widen(content: dict[str, Any]) -> None:
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            a["bbox"] = [0, 0, 700, 160]

    exact = evaluate(dataset)
    edit(dataset[0], widen)
    assert evaluate(dataset, use_masks=True).top1 == exact.top1
    assert evaluate(dataset).top1 < exact.top1 / 2


def test_several_names_are_right(dataset: tuple[Path, Path]) -> None:
    """The best placed of a class's right names counts, in top-1 and in top-5."""
    right = RightNames({"red": ("magenta", "blue"), "lime": ("lime",), "blue": ()}, "a list")
    words = Vocabulary.from_names(["white", "magenta", "BLUE", "lime", "red", "cyan"])
    options = EvaluationOptions(vocabulary=words)
    plain = evaluate_classification(colour_recognizer, *dataset, options)
    fair = evaluate_classification(colour_recognizer, *dataset, options, right_names=right)
    assert (plain.right_names, fair.right_names) == (None, "a list")
    # the other classes have their own names, in the categories' order and spelling
    assert list(fair.by_class) == [n for n in NAMES if n in {*fair.by_class}]
    assert fair.regions == plain.regions
    assert fair.by_class["blue"] == plain.by_class["BLUE"]
    assert fair.mean_score == plain.mean_score
    # by hand: the best name of each red region, one of three or one alone
    content = json.loads(dataset[0].read_text())
    recognizer = colour_recognizer()
    best, listed = [], []
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        recognizer.set_image(read_image(dataset[1] / image["file_name"]))
        answer = recognizer.predict(Regions.from_boxes(boxes), words, top_k=5)
        names = np.array(words.names)[answer.indices]
        red = [a["category_id"] == 0 for a in rows]
        best += names[red, 0].tolist()
        listed += [{"red", "magenta", "BLUE"} & {*row} for row in names[red].tolist()]
    assert fair.by_class["red"].top1 == pytest.approx(
        np.isin(best, ["red", "magenta", "BLUE"]).mean()
    )
    assert fair.by_class["red"].top5 == pytest.approx(np.mean([bool(row) for row in listed]))
    assert plain.by_class["red"].top1 == pytest.approx((np.array(best) == "red").mean())
    assert "BLUE" in best, "the data is to tell both apart"


def test_classes_without_a_right_name(dataset: tuple[Path, Path]) -> None:
    """None of the categories' own names is in the vocabulary; one class has a kind there."""
    right = RightNames({"blue": ("navy",)}, "a list")
    words = Vocabulary.from_names(["crimson", "navy"])
    content = json.loads(dataset[0].read_text())
    held = sum(a["category_id"] == 20 for a in content["annotations"])
    options = EvaluationOptions(vocabulary=words, unseen=frozenset({0, 20}))
    report = evaluate_classification(colour_recognizer, *dataset, options, right_names=right)
    assert (report.regions, report.outside_vocabulary) == (held, 90 - held)
    assert list(report.by_class) == ["blue"]
    assert report.split is not None
    assert report.split.unseen_classes == ("blue",)
    assert report.split.unseen is not None
    assert report.split.unseen.top1 == report.top1
    with pytest.raises(InputError, match="a list: lists none of the categories"):
        evaluate_classification(
            colour_recognizer, *dataset, options, right_names=RightNames({"dog": ()}, "a list")
        )


def test_what_scores_are_worth(dataset: tuple[Path, Path]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    content = json.loads(dataset[0].read_text())
    recognizer = colour_recognizer()
    scores, correct = [], []
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        recognizer.set_image(read_image(dataset[1] / image["file_name"]))
        answer = recognizer.predict(Regions.from_boxes(boxes), NAMES, top_k=1)
        scores += answer.scores[:, 0].tolist()
        correct += [
            i == a["category_id"] // 10 for i, a in zip(answer.indices[:, 0], rows, strict=True)
        ]
    report = evaluate(dataset)
    assert report.auroc == pytest.approx(metrics.roc_auc_score(correct, scores))
    bins = np.ceil(np.array(scores) * 15)
    gaps = [
        abs(np.mean(np.array(correct)[bins == b]) - np.array(scores)[bins == b].mean())
        * (bins == b).mean()
        for b in np.unique(bins)
    ]
    assert report.ece == pytest.approx(sum(gaps), abs=1e-6)
