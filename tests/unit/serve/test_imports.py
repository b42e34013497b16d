"""Regions of files, and of indexes, in a project: each once, and as the person left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.cli.main import main
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.regions import load_regions
from anyregion.io.writers.formats import WRITERS
from anyregion.io.writers.writing import WriteOptions
from anyregion.masks import encode_mask
from anyregion.serve.options import ServeOptions
from anyregion.serve.project.imports import Import, import_regions
from anyregion.serve.project.store import ProjectStore
from anyregion.teaching.teacher import Teacher
from tests.helpers.halves import picture
from tests.unit.serve.conftest import serving
from tests.unit.serve.test_project import get, post, wait_for

SIZE = (30, 40)
LEFT, RIGHT = (0.0, 0.0, 20.0, 30.0), (20.0, 0.0, 40.0, 30.0)
LISTED = [
    LabelledImage(
        f"{folder}/{i}.png",
        SIZE,
        (LabelledRegion(2 * i, LEFT, "warm", 0.5), LabelledRegion(2 * i + 1, RIGHT, "cold", 0.5)),
        str(i),
    )
    for i, folder in enumerate(("a", "b", "b"), 1)
]
CLASSES = ClassNames.from_names(["warm", "cold", "none of these"])
# what `load_regions` is given of each format
FILES = {
    "coco": "annotations.json", "csv": "labels.csv", "cvat": ".", "label-studio": "tasks.json",
    "labelme": ".", "voc": ".", "yolo": ".",
}  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for image, colours in zip(LISTED, ("red blue", "yellow navy", "orange teal"), strict=True):
        picture(tmp_path / "photos" / image.name, *colours.split(), size=(40, 30))
    return tmp_path / "photos"


def written(
    photos: Path, to: str = "coco", listed: list[LabelledImage] = LISTED, folder: str = "labels"
) -> Path:
    out = photos.parent / folder
    WRITERS[to](listed, CLASSES, out, WriteOptions(images=photos))
    return out / FILES[to]


def store_of(photos: Path) -> ProjectStore:
    store = ProjectStore(photos.parent / "project", ServeOptions())
    assert None not in list(store.add_folder(photos))
    return store


def by_name(store: ProjectStore) -> dict[str, list[Any]]:
    regions = store.state.regions
    return {
        image.name: [(r.prompt["box"], r.label) for r in regions.get(image.id, {}).values()]
        for image in store.images.values()
    }


@pytest.mark.parametrize("to", sorted(FILES))
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_file_of_each_format_is_added_once(photos: Path, to: str, named: bool) -> None:
    file = load_regions(written(photos, to), images=photos)
    store = store_of(photos)
    report = import_regions(store, Import(file, named, photos))
    assert (report.images, report.regions, report.earlier) == (3, 6, 0)
    labels = ("warm", "cold") if named else (None, None)
    for regions in by_name(store).values():
        assert np.allclose([box for box, _ in regions], [LEFT, RIGHT], atol=0.01)
        assert [label for _, label in regions] == list(labels)
    assert sorted(store.state.words) == ["cold", "warm"]
    # as a person left it: one region removed, one moved, a word gone
    (first, second), image = store.state.regions[next(iter(store.images))], next(iter(store.images))
    about = {"image": image}
    store.append(
        [
            {"kind": "remove", **about, "region": first},
            {"kind": "move", **about, "region": second, "prompt": {"box": [1, 1, 9, 9]}},
            {"kind": "words", "added": [], "removed": ["cold"]},
        ],
        "t",
    )
    left, words = by_name(store), list(store.state.words)
    store.close()
    store = store_of(photos)
    report = import_regions(store, Import(file, named, photos))
    assert (report.regions, report.earlier) == (0, 6)
    assert (by_name(store), store.state.words) == (left, words)
    store.close()


def test_what_cannot_be_used_is_set_aside(photos: Path) -> None:
    (photos / "b" / "2.png").unlink()
    content = json.loads(written(photos).read_text())
    by_file = {image["file_name"]: image for image in content["images"]}
    by_file["b/3.png"]["width"] = 41
    outside = {**content["annotations"][0], "id": 99, "bbox": [500, 500, 9, 9]}
    twice = {**content["annotations"][0], "id": 98}
    content["annotations"] += [outside, twice]
    path = photos.parent / "spoiled.json"
    path.write_text(json.dumps(content))
    store = store_of(photos)
    report = import_regions(store, Import(load_regions(path), False, photos))
    assert (report.images, report.regions, report.earlier) == (1, 2, 1)
    reasons = {a.item.split(",")[0]: a.reason for a in report.set_aside}
    assert reasons["b/2.png"] == "no such photograph in the project"
    assert reasons["b/3.png"] == "is 40 x 30, not 41 x 30"
    assert "lies outside" in reasons["a/1.png"] or "outside" in reasons["a/1.png"]
    store.close()


def test_masks_are_prompts_and_dropped_photographs_go_by_their_name(photos: Path) -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:20, 4:15] = True
    box = (4.0, 3.0, 15.0, 20.0)
    region = LabelledRegion(1, box, "warm", mask=encode_mask(mask))
    file = load_regions(
        written(photos, listed=[LabelledImage("1.png", SIZE, (region,), "1")]), masks=True
    )
    store = ProjectStore(photos.parent / "project", ServeOptions())
    image = store.add_file("1.png", (photos / "a" / "1.png").read_bytes())
    report = import_regions(store, Import(file))
    assert (report.regions, report.set_aside) == (1, ())
    (kept,) = store.state.regions[image.id].values()
    assert kept.prompt["mask"] == encode_mask(mask)
    assert kept.source == "imported"
    store.close()


def test_a_project_on_an_index_reads_no_photograph(photos: Path) -> None:
    pytest.importorskip("pyarrow")
    from anyregion.index import RegionIndex, table_of_images
    from anyregion.runs.teach import teach_images
    from tests.helpers.indexes import half_precision, make_index

    index = photos.parent / "index"
    file = load_regions(written(photos))
    make_index(photos, index, regions=file, features=True)
    opened = RegionIndex.open(index)
    table = table_of_images(opened, [image.name for image in LISTED])
    digests = [image.digest for image in table.images]
    by_photographs = teach_images(written(photos), photos, recognizer=half_precision()).vocabulary
    photos.rename(photos.parent / "elsewhere")
    encoder = half_precision()
    project = photos.parent / "project"
    content = Import(file, True, Path(opened.manifest.root), table)
    with serving(encoder, content, project=project) as url:
        status = wait_for(url, 6)
        assert status["imported"] == {"images": 3, "regions": 6, "earlier": 0, "set_aside": 0}
        assert [image["id"] for image in status["images"]] == digests
        assert status["lesson"]["corrections"] == 6
        (first, second) = get(url, "/v1/project/events?since=0")["events"][1:4:2]
        about = {"kind": "unname", "image": first["image"], "region": first["region"]}
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": [about]})
        wait_for(url, 5)
        (asked,) = get(url, "/v1/project/queue")["regions"]
        assert (asked["image"], asked["region"]) == (first["image"], first["region"])
        names = post(url, f"/v1/project/images/{first['image']}/names", {})["regions"]
        assert set(names) == {first["region"], second["region"]}
        post(url, "/v1/project/events", {"since": 0, "tab": "t", "events": [
            {"kind": "name", "image": first["image"], "region": first["region"], "label": "warm"}
        ]})  # fmt: skip
        wait_for(url, 6)
    assert encoder.encoder.images_encoded == 0  # type: ignore[attr-defined]
    from anyregion.io.vocabulary import load_vocabulary

    taught = load_vocabulary(project / "vocabulary.vocab")
    teacher = Teacher(half_precision(), taught)  # type: ignore[arg-type]
    assert teacher.corrections is not None
    assert by_photographs.corrections is not None
    assert {i.digest for i in teacher.corrections.images} == set(digests)
    by_row = sorted(teacher.corrections.rows.tolist())
    assert np.allclose(by_row, sorted(by_photographs.corrections.rows.tolist()), atol=2e-3)


def test_options_that_make_no_sense_are_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(photos))
    for options, reason in (
        (["--regions", file], "--regions needs a project"),
        (["--project", "p", "--named"], "--named needs --regions"),
        (["--project", "p", "--index", "x"], "--index needs --regions"),
        (["--project", "p", "--regions", file, "--index", "x"], "not an index"),
        (
            ["--project", "p", "--regions", file, "--index", "x", "--photographs", str(photos)],
            "--index brings its photographs",
        ),
    ):
        assert main(["serve", *options]) == 1
        assert reason in capsys.readouterr().err
