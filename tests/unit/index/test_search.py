"""Search: the most alike by hand and by an index, all from a similarity on, by region and image."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.errors import InputError
from anyregion.index import Query, RegionIndex, search, search_index, write_matches
from anyregion.index.sources import list_images
from anyregion.proposals import DuplicateOptions
from anyregion.runs.recognize import name_images
from tests.helpers.halves import picture
from tests.helpers.indexes import LEFT_RIGHT, found, half_precision, make_index, pictures


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def opened(photos: Any, tmp_path: Path, text: str = "lime", **options: Any) -> tuple[Any, ...]:
    """An index of the photos, a query of words, and the model."""
    make_index(photos, tmp_path / "index", **options)
    recognizer = half_precision()
    return (
        RegionIndex.open(tmp_path / "index"),
        Query.from_text(recognizer, text),
        recognizer,
    )


def test_search_is_exact(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 30)
    make_index(photos, tmp_path / "index", regions=found(), shard_images=7)
    index, recognizer = RegionIndex.open(tmp_path / "index"), half_precision()
    query = Query.from_text(recognizer, "lime")
    matches = search_index(index, query, recognizer, top=8)
    # by hand: all halves, of each image's two left ones the better one
    best = {}
    for path in sorted(photos.rglob("*.png")):
        recognizer.set_image(path)
        regions = found().load(recognizer).propose(np.zeros((30, 40 + int(path.stem) % 5, 3)))
        predictions = recognizer.predict(regions, ["lime"])
        cosines = predictions.embeddings @ query.direction
        cosines /= np.linalg.norm(predictions.embeddings, axis=1)
        left = max(cosines[0], cosines[2])
        name = path.relative_to(photos).as_posix()
        best[name, "left"], best[name, "right"] = left, cosines[1]
    expected = sorted(best.values(), reverse=True)[:8]
    assert np.allclose([m.similarity for m in matches], expected, atol=1e-3)
    assert all(m.score is not None and m.objectness is not None for m in matches)
    written = write_matches(index, query, matches, tmp_path / "matches")
    assert not written
    records = lines(tmp_path / "matches" / "matches.jsonl")
    assert [r["rank"] for r in records] == list(range(1, 9))
    assert (tmp_path / "matches" / "sheets" / "001.jpg").is_file()
    # like a region: itself comes first, and no score of words is claimed
    (embedding,) = recognizer.embed([index.pixels(matches[0].image)], [LEFT_RIGHT])[0][:1]
    alike = search_index(index, Query.from_embedding("left", embedding), recognizer, top=1)
    assert alike[0].similarity == pytest.approx(1, abs=1e-3)
    assert alike[0].score is None
    # more than there are
    assert len(search_index(index, query, recognizer, top=500)) == 60


def test_a_sheet_says_which_image_is_gone(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 3)
    make_index(photos, tmp_path / "index")
    index, recognizer = RegionIndex.open(tmp_path / "index"), half_precision()
    query = Query.from_text(recognizer, "red")
    matches = search_index(index, query, recognizer, top=2)
    (photos / matches[0].image.image.name).unlink()
    (missing,) = write_matches(index, query, matches, tmp_path / "matches")
    assert missing.item == matches[0].image.image.name
    assert "not there any more" in missing.reason


def test_all_from_a_similarity_on(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 30)
    place = opened(photos, tmp_path, regions=found(), shard_images=7)
    everything = search_index(*place, top=500)
    lowest = (everything[19].similarity + everything[20].similarity) / 2
    if everything[19].similarity == everything[20].similarity:
        lowest = everything[19].similarity
    expected = [(m.image.image.name, m.id) for m in everything if m.similarity >= lowest]
    assert 20 <= len(expected) < 60
    matches = search_index(*place, min_similarity=lowest)
    assert [(m.image.image.name, m.id) for m in matches] == expected
    few = search_index(*place, min_similarity=lowest, top=3)
    assert [(m.image.image.name, m.id) for m in few] == expected[:3]
    # the threshold itself belongs to them, in the precision that is reported
    exact = search_index(*place, min_similarity=everything[0].similarity)
    assert exact
    assert {m.similarity for m in exact} == {everything[0].similarity}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_an_image(tmp_path: Path, threads: int) -> None:
    photos = pictures(tmp_path / "photos", 30)
    place = opened(photos, tmp_path, regions=found(), shard_images=7)
    lowest = 0.3
    by_region = search_index(*place, min_similarity=lowest)
    best: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for match in by_region:
        name = match.image.image.name
        best.setdefault(name, match)
        counts[name] = counts.get(name, 0) + 1
    assert max(counts.values()) == 2, "three regions, two of which are of one half"
    assert len(counts) < 30
    options: Any = {"by": "image", "threads": threads}
    matches = search_index(*place, min_similarity=lowest, **options)
    assert [(m.image.image.name, m.id, m.similarity) for m in matches] == [
        (name, m.id, m.similarity) for name, m in best.items()
    ]
    assert [m.regions for m in matches] == list(counts.values())
    # duplicates that are none
    apart = DuplicateOptions(iou=1.0, contained=2.0)
    every = search_index(*place, min_similarity=lowest, duplicates=apart, **options)
    assert max(m.regions or 0 for m in every) == 3
    # --top counts images; without a least similarity regions are not counted
    few = search_index(*place, top=4, **options)
    assert [m.image.image.name for m in few] == [m.image.image.name for m in matches[:4]]
    assert few[0].regions is None
    assert "regions" not in few[0].to_record()
    assert matches[0].to_record()["regions"] == matches[0].regions
    assert len(search_index(*place, top=500, **options)) == 30


def test_an_image_in_two_groups_of_rows_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyregion.index import shards

    for module in (shards, search):
        monkeypatch.setattr(module, "ROWS_OF_GROUP", 2)
    photos = pictures(tmp_path / "photos", 9)
    place = opened(photos, tmp_path, regions=found(), shard_images=4)
    matches = search_index(*place, min_similarity=-1, by="image")
    assert len(matches) == len({m.image.image.name for m in matches}) == 9
    assert {m.regions for m in matches} == {2}


def test_what_is_too_much_or_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = opened(pictures(tmp_path / "photos", 9), tmp_path)
    monkeypatch.setattr(search, "MOST_MATCHES", 8)
    for by in ("region", "image"):
        with pytest.raises(InputError, match="more than 8 matches"):
            search_index(*place, min_similarity=-1, by=by)
        # who says how many gets so many
        assert len(search_index(*place, min_similarity=-1, by=by, top=9)) == 9
    for options, reason in (
        ({"top": 0}, "at least one"),
        ({"min_similarity": 1.5}, "between -1 and 1"),
        ({"min_similarity": float("nan")}, "between -1 and 1"),
        ({"by": "shard"}, "by region or image"),
    ):
        with pytest.raises(InputError, match=reason):
            search_index(*place, **options)


def test_without_limits_there_are_fifty(tmp_path: Path) -> None:
    place = opened(pictures(tmp_path / "photos", 40), tmp_path, shard_images=20)
    assert len(search_index(*place)) == 50
    assert len(search_index(*place, by="image")) == 40
    assert len(search_index(*place, min_similarity=-1)) == 80


def test_the_list_is_read_by_other_commands(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a b/1.png", "[2].png", "3.png", "four.png"):
        picture(photos / name, "lime", "lime" if name == "3.png" else "red")
    picture(photos / " 5.png", "lime", "blue")
    picture(photos / "six\nseven.png", "lime", "blue")
    picture(photos / "none.png", "blue", "blue")
    index, query, recognizer = opened(photos, tmp_path)
    matches = search_index(index, query, recognizer, min_similarity=0.99)
    assert len(matches) == 7
    out = tmp_path / "out"
    (not_listed,) = write_matches(index, query, matches, out)
    assert not_listed.item == "six\nseven.png"
    assert "has a line break" in not_listed.reason
    assert len(lines(out / "matches.jsonl")) == 7
    expected = {str(photos / n) for n in ("a b/1.png", "[2].png", "3.png", "four.png", " 5.png")}
    listed = (out / "images.txt").read_text().splitlines()
    assert len(listed) == len(set(listed)) == 5
    assert set(listed) == expected
    for name in ("images.txt", "copy.TXT"):
        (out / name).write_bytes((out / "images.txt").read_bytes())
        _, again, missing = list_images([out / name])
        assert not missing
        assert {image.location for image in again} == expected
        _, named, missing = name_images([out / name], pictures=out / "pictures")
        assert not missing
        assert {str(path) for path in named.values()} == expected
    # what is found later replaces it, and nothing is no error
    assert not write_matches(index, query, [], out)
    assert (out / "images.txt").read_text() == ""


def test_images_in_containers_have_no_line(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 2)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos / "0/000.png", "000.png")
    index, query, recognizer = opened([photos / "1", tmp_path / "photos.tar"], tmp_path, "red")
    matches = search_index(index, query, recognizer, by="image")
    (not_listed,) = write_matches(index, query, matches, tmp_path / "out", pictures=False)
    assert not_listed.item == "photos.tar/000.png"
    assert "photos.tar" in not_listed.reason
    listed = (tmp_path / "out/images.txt").read_text().splitlines()
    assert listed == [str(photos / "1/001.png")]


def test_sheets_show_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = opened(pictures(tmp_path / "photos", 20), tmp_path)
    index, query, _ = place
    monkeypatch.setattr(search, "MOST_SHOWN", 30)
    matches = search_index(*place, min_similarity=-1)
    assert len(matches) == 40
    assert not write_matches(index, query, matches, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/sheets").iterdir()] == ["001.jpg"]
    assert len(lines(tmp_path / "out/matches.jsonl")) == 40
