"""An index of real photographs says what `recognize` says, by words and by a taught vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anyregion.cli.main import main
from tests.helpers.shared import SHARED, needs_shared

pytest.importorskip("pyarrow")
pytestmark = needs_shared
COCO = SHARED / "data" / "coco"


def regions(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return {
        (line["image"], region["id"]): region
        for line in map(json.loads, lines)
        for region in line["regions"]
    }


@pytest.mark.parametrize("source", ["auto", str(COCO / "annotations" / "instances_val.json")])
def test_names_are_those_of_recognize(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    stated = json.loads((COCO / "annotations" / "instances_val.json").read_text())
    photos = [str(COCO / "images" / image["file_name"]) for image in stated["images"][20:26]]
    common = ["--regions", source]
    assert main(["recognize", *photos, *common, "--vocabulary", "lvis", "--no-pictures",
                 "--out", "recognized"]) == 0  # fmt: skip
    assert main(["index", *photos, *common, "--features", "--out", "index"]) == 0
    assert main(["name", "index", "--vocabulary", "lvis", "--out", "out"]) == 0
    expected, answers = regions(Path("recognized")), regions(Path("out"))
    assert answers.keys() == expected.keys()
    assert len(answers) > 15
    worst = max(abs(answers[key]["score"] - expected[key]["score"]) for key in expected)
    assert worst < 0.001
    for key, region in expected.items():
        assert answers[key]["box"] == region["box"]
        # half precision may exchange names of nearly one score, and no others
        scores = dict(zip(region["labels"], region["scores"], strict=True))
        near = region["score"] - scores.get(answers[key]["label"], -1)
        assert near < 0.001, (key, region["labels"], answers[key]["labels"])


def test_a_taught_vocabulary_names_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    stated = json.loads((COCO / "annotations" / "instances_val.json").read_text())
    images = stated["images"][30:36]
    some = {image["id"] for image in images}
    content = {**stated, "images": images}
    content["annotations"] = [a for a in stated["annotations"] if a["image_id"] in some]
    Path("regions.json").write_text(json.dumps(content))
    photos = [str(COCO / "images" / image["file_name"]) for image in images]
    assert main(["teach", "regions.json", "--images", str(COCO / "images"), "--vocabulary", "coco",
                 "--out", "my.vocab"]) in (0, 3)  # fmt: skip
    common = ["--regions", "regions.json"]
    assert main(["recognize", *photos, *common, "--vocabulary", "my.vocab", "--no-pictures",
                 "--out", "recognized"]) == 0  # fmt: skip
    assert main(["index", *photos, *common, "--features", "--out", "index"]) == 0
    assert main(["name", "index", "--vocabulary", "my.vocab", "--out", "out"]) == 0
    expected, answers = regions(Path("recognized")), regions(Path("out"))
    assert answers.keys() == expected.keys()
    assert [answers[key]["label"] for key in expected] == [r["label"] for r in expected.values()]
    worst = max(abs(answers[key]["score"] - expected[key]["score"]) for key in expected)
    assert worst < 0.005
    assert all("none" in region for region in answers.values())


def test_bytes_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_limits

    monkeypatch.delenv("ANYREGION_THREADS", raising=False)
    photos = [str(path) for path in sorted((COCO / "images").glob("*.jpg"))[:3]]
    shards = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        with threadpool_limits(threads):
            assert main(["index", *photos, "--features", "--out", str(out)]) == 0
        shards.append((out / "shards" / "00000.regions.parquet").read_bytes())
    assert shards[0] == shards[1]
