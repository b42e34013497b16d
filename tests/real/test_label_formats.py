"""Photographs annotated in tools: named as the same regions of a COCO file are, and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anyregion.cli.main import main
from anyregion.io.regions import load_regions
from tests.helpers.shared import SHARED, needs_shared

COCO = SHARED / "data" / "coco"
ANNOTATIONS = COCO / "annotations" / "instances_val_masks.json"
IMAGES = 3

pytestmark = needs_shared


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a COCO file of three photographs."""
    folder = tmp_path_factory.mktemp("formats")
    content = json.loads(ANNOTATIONS.read_text())
    content["images"] = content["images"][:IMAGES]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] in ids and not a["iscrowd"]
    ]
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def photographs(subset: Path) -> list[str]:
    names = [i["file_name"] for i in json.loads((subset / "coco.json").read_text())["images"]]
    files = [next(COCO.rglob(Path(name).name)) for name in names]
    return [str(file) for file in files]


def named(subset: Path, regions: Path, out: Path) -> dict[str, list[str]]:
    command = ["recognize", *photographs(subset), "--regions", str(regions), "--no-pictures"]
    assert main([*command, "--vocabulary", "coco", "--out", str(out)]) == 0
    lines = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
    return {Path(line["image"]).name: [r["label"] for r in line["regions"]] for line in lines}


@pytest.fixture(scope="module")
def expected(subset: Path) -> dict[str, list[str]]:
    return named(subset, subset / "coco.json", subset / "run")


@pytest.mark.parametrize(
    ("to", "file"), [("label-studio", "tasks.json"), ("cvat", "annotations.xml")]
)
def test_regions_of_a_tool_get_the_names_of_cocos(
    subset: Path, expected: dict[str, list[str]], tmp_path: Path, to: str, file: str
) -> None:
    command = ["export-labels", str(subset / "coco.json"), "--to", to, "--shapes", "boxes"]
    assert main([*command, "--out", str(tmp_path / "drawn")]) == 0
    drawn = tmp_path / "drawn" / file
    assert named(subset, drawn, tmp_path / "run") == expected
    assert main(["export-labels", str(tmp_path / "run"), "--into", str(drawn),
                 "--out", str(tmp_path / "named")]) == 0  # fmt: skip
    before, after = load_regions(drawn), load_regions(tmp_path / "named" / file)
    assert sum(len(names) for names in expected.values()) > 5
    for key, entry in after.images.items():
        assert entry.regions.ids == before.images[key].regions.ids
        assert entry.regions.categories is not None
        labels = [after.categories[c] for c in entry.regions.categories.tolist()]
        assert labels == expected[Path(str(entry.file_name)).name]
