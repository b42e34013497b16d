"""The results folder: everything is written, and broken items are told."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from anyregion.errors import InputError
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import COLOURS
from tests.helpers.halves import picture
from tests.helpers.runs import labels, lines, run


def test_everything_is_written(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(photos, out, csv=True, top_k=3)
    assert (report.images, report.earlier, report.regions, report.set_aside) == (5, 0, 10, ())
    named = labels(out)
    assert named == {
        "a/x.jpg": ["red", "blue"],
        "b/x.jpg": ["lime", "white"],
        "y.png": ["yellow", "black"],
        "z.webp": ["blue", "red"],
        "z.webp.jpg": ["white", "white"],
    }
    files = [p for p in (out / "pictures").rglob("*") if p.is_file()]
    pictures = sorted(p.relative_to(out / "pictures").as_posix() for p in files)
    assert pictures == ["a/x.jpg", "b/x.jpg", "y.png", "z.webp-2.jpg", "z.webp.jpg"]
    rows = (out / "predictions.csv").read_text().splitlines()
    assert rows[0] == (
        "image,id,x0,y0,x1,y1,label,score,margin,none,label_2,score_2,label_3,score_3"
    )
    assert rows[1].startswith("a/x.jpg,0,0.0,0.0,20.0,30.0,red,0.9")
    assert len(rows) == 11
    assert (out / "skipped.jsonl").read_text() == ""


def test_predictions_are_coco_with_masks(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, masks=True, pictures=False)
    coco = COCO(str(out / "predictions.json"))
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == [
        "a/x.jpg",
        "b/x.jpg",
        "y.png",
        "z.webp",
        "z.webp.jpg",
    ]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == COLOURS
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert mask.shape == (30, 40)
        assert mask.sum() == annotation["area"] == 600
        assert 0 < annotation["score"] <= 1
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [coco.cats[a["category_id"]]["name"] for a in first] == ["red", "blue"]
    assert not (out / "pictures").exists()


def test_broken_items_do_not_stop_the_rest(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.full((30, 40, 3), (1, 2, 3), np.uint8)).save(photos / "refused.png")
    picture(photos / "tiny.png", "red", "red", size=(16, 16))
    report = run([photos, tmp_path / "nowhere"], tmp_path / "out", batch_size=8)
    assert report.images == 6
    reasons = {a.item: a.reason for a in report.set_aside}
    assert set(reasons) == {
        str(tmp_path / "nowhere"),
        "photos/empty.jpg",
        "photos/refused.png",
        "photos/tiny.png, region 1",
    }
    assert "empty.jpg" in reasons["photos/empty.jpg"]
    assert reasons["photos/refused.png"] == "this image is refused"
    assert "outside the 16 x 16 image" in reasons["photos/tiny.png, region 1"]
    noted = lines(tmp_path / "out" / "skipped.jsonl")
    assert {(n["image"], n["item"]) for n in noted} == {
        (None, str(tmp_path / "nowhere")),
        ("photos/empty.jpg", "image"),
        ("photos/refused.png", "image"),
        ("photos/tiny.png", "region 1"),
    }
    # a second run tries what failed again, and still reports the region
    picture(photos / "empty.jpg", "red", "blue")
    again = run([photos, tmp_path / "nowhere"], tmp_path / "out", batch_size=8)
    assert (again.images, again.earlier) == (1, 6)
    assert {a.item for a in again.set_aside} == set(reasons) - {"photos/empty.jpg"}
    assert len(lines(tmp_path / "out" / "skipped.jsonl")) == 3


def test_low_scores_and_candidates(photos: Path, tmp_path: Path) -> None:
    words = Vocabulary.from_names(["red", "blue"])
    # left red and right blue are sure; the rest of the colours are not among the names
    report = run(photos, tmp_path / "out", words=words, min_score=0.999, multimask=True, masks=True)
    assert report.images == 5
    named = labels(tmp_path / "out")
    assert named["a/x.jpg"] == ["red"] * 3 + ["blue"] * 3
    assert named["z.webp.jpg"] == ["red"] * 6, "refused, and still there"
    assert (report.regions, report.refused) == (15, 15)
    assert {r["refused"] for r in records(tmp_path / "out", "z.webp.jpg")} == {True}
    assert not any("refused" in r for r in records(tmp_path / "out", "a/x.jpg"))


@pytest.mark.parametrize("keep", [False, True])
def test_refused_regions_are_marked(photos: Path, tmp_path: Path, keep: bool) -> None:
    """In the journal and the CSV always, in COCO's file where they are kept; never drawn."""
    out = tmp_path / "out"
    words = Vocabulary.from_names(["red", "blue"])
    report = run(photos, out, words=words, min_score=0.999, csv=True, keep_refused=keep)
    assert (report.regions, report.refused) == (5, 5)
    coco = json.loads((out / "predictions.json").read_text())["annotations"]
    marks = [annotation.get("refused") for annotation in coco]
    assert (marks.count(None), marks.count(True)) == (5, 5 if keep else 0)
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["refused"] for row in rows].count("true") == 5
    # a later run counts those of the earlier one
    again = run(photos, out, words=words, min_score=0.999, csv=True, keep_refused=not keep)
    assert (again.images, again.regions, again.refused) == (0, 5, 5)


def test_without_a_least_score_nothing_is_refused(photos: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", csv=True).refused == 0
    header = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0]
    assert header.startswith("image,id,x0,y0,x1,y1,label,score,margin,none,label_2,score_2,")
    assert header.endswith("label_5,score_5")


def records(out: Path, image: str) -> list[dict[str, Any]]:
    (line,) = [line for line in lines(out / "predictions.jsonl") if line["image"] == image]
    regions: list[dict[str, Any]] = line["regions"]
    return regions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"top_k": 0}, "at least 1"),
        ({"min_score": 1.5}, "between 0 and 1"),
        ({"min_score": float("nan")}, "between 0 and 1"),
    ],
)
def test_wrong_arguments(
    photos: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        picture(tmp_path / "photos" / name, "red", "blue")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    run(tmp_path / "photos", tmp_path / "out", csv=True)
    assert run(tmp_path / "photos", tmp_path / "out").earlier == 1
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["images"][0]["file_name"] == name
    # a table that is not UTF-8 throughout is one that no reader takes
    assert "caf\\udce9.png,0," in (tmp_path / "out" / "predictions.csv").read_text("utf-8")
    assert (tmp_path / "out" / "pictures" / name).is_file()
