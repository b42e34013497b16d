"""Names taught, and regions asked about, by what an index holds: no image is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.index import (
    RegionIndex,
    name_index,
    table_of_doubtful,
    table_of_images,
    write_results,
)
from anyregion.io.regions import load_regions
from anyregion.runs.queue import queue_regions
from anyregion.runs.recognize import OutputOptions
from anyregion.runs.teach import TeachReport, teach_images
from tests.helpers.halves import picture
from tests.helpers.indexes import half_precision, make_index, pictures

NAMES = ["warm", "cold", "none of these"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures(tmp_path / "photos", 9)


def corrected(run: Path) -> Path:
    """A run's file of predictions, with other names."""
    content = json.loads((run / "predictions.json").read_text())
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    for i, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = i % 3
    path = run / "corrected.json"
    path.write_text(json.dumps(content))
    return path


def predicted(photos: Path, out: Path, words: Any = ("red", "lime"), **options: Any) -> Path:
    """An index with features, and the results folder of its names beside it."""
    make_index(photos, out, features=True, **options)
    named = name_index(out, words, recognizer=half_precision())
    run = out.parent / f"run of {out.name}"
    write_results(named.labeler, run, output=OutputOptions(pictures=False))
    return run


def from_index(file: Path, index: Path, **options: Any) -> TeachReport:
    entries = load_regions(file).images.values()
    table = table_of_images(RegionIndex.open(index), [str(e.file_name) for e in entries])
    return teach_images(file, recognizer=half_precision(), table=table, **options)


def test_taught_by_an_index_it_is_as_by_photographs(photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    file = corrected(predicted(photos, index, shard_images=4))
    by_photographs = teach_images(file, photos, recognizer=half_precision())
    moved = photos.rename(tmp_path / "elsewhere")
    report = from_index(file, index, images=None)
    assert (report.images, report.added, report.stored) == (0, 18, 18)
    assert not report.set_aside
    expected, taught = by_photographs.vocabulary, report.vocabulary
    assert taught.vocabulary.names == expected.vocabulary.names == ("warm", "cold")
    assert np.array_equal(taught.labels, expected.labels)
    assert taught.corrections is not None
    assert expected.corrections is not None
    assert np.allclose(taught.corrections.rows, expected.corrections.rows, atol=1e-3)
    # the same photographs by content, so that one can be told again with the other
    assert {i.digest for i in taught.corrections.images} == {
        i.digest for i in expected.corrections.images
    }
    again = teach_images(file, moved, taught, recognizer=half_precision())
    assert (again.added, again.known, again.images) == (0, 18, 0)
    # and the index is named by it
    first = name_index(index, taught, recognizer=half_precision()).labeler
    second = name_index(index, expected, recognizer=half_precision()).labeler
    for number in range(len(RegionIndex.open(index))):
        ours, others = first.read(number), second.read(number)
        assert np.array_equal(ours.indices, others.indices)
        assert np.allclose(ours.scores, others.scores, atol=2e-3)


def test_what_the_index_has_not_is_read(photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    file = corrected(predicted(photos, index))
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [2, 3, 10, 12]
    content["annotations"][5]["bbox"][2] += 3
    file.write_text(json.dumps(content))
    report = from_index(file, index, images=photos)
    assert (report.images, report.added, report.stored) == (2, 18, 16)
    without = from_index(file, index, images=None)
    assert (without.images, without.added) == (0, 16)
    assert len(without.set_aside) == 2
    assert "1 regions were not seen before" in without.set_aside[0].reason


def test_folders_tell_images_of_one_name_apart(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 4)
    picture(photos / "1" / "000.png", "white", "black", size=(40, 30))
    index = tmp_path / "index"
    file = corrected(predicted(photos, index))
    content = json.loads(file.read_text())
    both = [i for i in content["images"] if i["file_name"].endswith("000.png")]
    assert len(both) == 2
    report = from_index(file, index, images=None)
    assert report.stored == 10
    for image in content["images"]:
        image["file_name"] = image["file_name"].rpartition("/")[2]
    file.write_text(json.dumps(content))
    # whose regions they are nobody can tell
    report = from_index(file, index, images=None)
    assert report.stored == 6
    assert {a.item for a in report.set_aside} == {"000.png"}


def test_an_index_without_what_is_learnt_from_is_refused(photos: Path, tmp_path: Path) -> None:
    make_index(photos, tmp_path / "index")
    with pytest.raises(InputError, match="index with --features"):
        table_of_images(RegionIndex.open(tmp_path / "index"), ["000.png"])
    make_index(photos, tmp_path / "masks", features=True, use_masks=True)
    with pytest.raises(InputError, match="index without --use-masks"):
        table_of_images(RegionIndex.open(tmp_path / "masks"), ["000.png"])
    make_index(photos, tmp_path / "features", features=True)
    with pytest.raises(InputError, match="has no regions of these images"):
        table_of_images(RegionIndex.open(tmp_path / "features"), ["other.png"])


def test_doubtful_regions_are_asked_about(photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    make_index(photos, index, features=True, shard_images=2)
    recognizer = half_precision()
    labeler = name_index(index, ["red", "lime", "blue"], recognizer=recognizer).labeler
    table = table_of_doubtful(labeler, 5)
    assert len(table) == 5
    scores = np.concatenate([labeler.read(n).scores[:, 0] for n in range(5)])
    by_region = {
        (image.image.name, id): score
        for (image, id), score in zip(
            [
                (image, id)
                for n in range(5)
                for image in RegionIndex.open(index).images(n)
                for id in ("left", 7)
            ],
            scores.tolist(),
            strict=True,
        )
    }
    chosen = [
        by_region[table.images[i].name, id]
        for i, id in zip(table.image_of.tolist(), table.ids, strict=True)
    ]
    assert sorted(chosen) == pytest.approx(sorted(by_region.values())[:5])
    report = queue_regions(
        table, labeler.vocabulary, recognizer=recognizer, out=tmp_path / "queue", count=3
    )
    assert (len(report.items), report.regions) == (3, 5)
    content = json.loads((tmp_path / "queue" / "queue.json").read_text())
    assert len(content["annotations"]) == 3
    with pytest.raises(InputError, match="say where to write the queue"):
        queue_regions(table, labeler.vocabulary, recognizer=recognizer)
