"""What an index says of its regions is what `recognize` says of the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anyregion.errors import InputError
from anyregion.index import (
    LabelOptions,
    RegionIndex,
    index_stats,
    name_index,
    write_results,
    write_stats,
)
from anyregion.index.duplicates import MOST_BITS, image_hash, near_duplicates
from anyregion.io.regions import load_regions
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import SameRegions
from anyregion.runs.recognize import OutputOptions
from anyregion.teaching.teacher import Teacher
from anyregion.vocabulary import EncodedVocabulary
from tests.helpers.colours import COLOURS, ColourEncoder
from tests.helpers.halves import picture
from tests.helpers.indexes import LEFT_RIGHT, found, half_precision, make_index, pictures
from tests.helpers.runs import run

EXPORTS = ("predictions.json", "predictions.csv")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def annotations(photos: Path) -> Path:
    """Some pictures with regions, one of which lies outside its picture."""
    images, regions = [], []
    for i, path in enumerate(sorted(photos.glob("*/*.png"))[:-1]):
        images.append({"id": 10 + i, "file_name": path.name, "height": 30})
        images[-1]["width"] = 40 + int(path.stem) % 5
        for box in ([0, 0, 15, 30], [22, 4, 10, 10], *([[500, 500, 9, 9]] if i == 1 else [])):
            number = len(regions) + 1
            regions.append({"id": number, "image_id": 10 + i, "category_id": 1, "bbox": box})
            regions[-1]["score"] = 0.1 + number / 100
    content = {"images": images, "annotations": regions, "categories": [{"id": 1, "name": "it"}]}
    path = photos.parent / "regions.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("source", ["same", "file", "auto"])
@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_those_of_recognize(tmp_path: Path, source: str, workers: int) -> None:
    """To the byte, of a model that sees half precision all along."""
    if workers == 2 and source != "auto":
        pytest.skip("processes are started once")
    photos = pictures(tmp_path / "photos", 7)
    (photos / "broken.png").write_bytes(b"no")
    regions = {"same": LEFT_RIGHT, "auto": found()}.get(source) or load_regions(annotations(photos))
    sources = {"regions": regions}
    make_index(photos, tmp_path / "index", masks=True, shard_images=3, **sources)
    expected = tmp_path / "recognized"
    words = ["red", "lime", "blue"]
    if source == "same":
        regions = SameRegions(LEFT_RIGHT)
    run(
        photos, expected, source=regions, load=half_precision, words=words, csv=True, masks=True,
        pictures=False, min_score=0.5, top_k=2,
    )  # fmt: skip
    named = name_index(
        tmp_path / "index", words, recognizer=half_precision(), options=LabelOptions(top_k=2),
        workers=workers,
    )  # fmt: skip
    report = write_results(
        named.labeler, tmp_path / "out", min_score=0.5, masks=True,
        output=OutputOptions(pictures=False, csv=True),
    )  # fmt: skip
    assert report.images == (6 if source == "file" else 7)
    for name in EXPORTS:
        assert (tmp_path / "out" / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("predictions.jsonl", "skipped.jsonl"):
        assert sorted(map(str, lines(tmp_path / "out" / name))) == sorted(
            map(str, lines(expected / name))
        ), name
    # the labels are there: nothing is named again
    again = name_index(
        tmp_path / "index", words, recognizer=half_precision(), options=LabelOptions(top_k=2)
    )
    assert named.regions > 0
    assert again.regions == 0


def test_results_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = pictures(tmp_path / "photos", 5)
    make_index(photos, tmp_path / "index", shard_images=2)
    named = name_index(tmp_path / "index", COLOURS, recognizer=half_precision())
    write_results(named.labeler, tmp_path / "whole")
    journal = tmp_path / "whole" / "predictions.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: len(content) // 2])
    report = write_results(named.labeler, tmp_path / "whole")
    assert report.earlier + report.images == 5
    assert report.earlier in (1, 2)
    assert journal.read_bytes() == content
    other = name_index(tmp_path / "index", ["red", "blue"], recognizer=half_precision())
    with pytest.raises(InputError, match="holds a run with other settings"):
        write_results(other.labeler, tmp_path / "whole")


def test_taught_names_are_those_of_recognize(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 8)
    recognizer = half_precision()
    teacher = Teacher(recognizer, ["warm", "cold"])
    for path in sorted(photos.rglob("*.png"))[:5]:
        teacher.add(path, LEFT_RIGHT, ["warm", "cold"])
    taught = teacher.vocabulary()
    make_index(photos, tmp_path / "plain")
    with pytest.raises(InputError, match="index with --features"):
        name_index(tmp_path / "plain", taught, recognizer=recognizer)
    make_index(photos, tmp_path / "index", features=True)
    named = name_index(tmp_path / "index", taught, recognizer=recognizer)
    write_results(named.labeler, tmp_path / "out", output=OutputOptions(pictures=False, csv=True))
    run(
        photos, tmp_path / "recognized", source=SameRegions(LEFT_RIGHT), load=lambda: recognizer,
        words=taught, csv=True, pictures=False,
    )  # fmt: skip
    for name in EXPORTS:
        expected = (tmp_path / "recognized" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected, name


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def test_files_of_another_shard_are_not_believed(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 8)
    make_index(photos, tmp_path / "index", regions=LEFT_RIGHT)
    index = RegionIndex.open(tmp_path / "index")
    named = name_index(index, ["red", "lime"], recognizer=half_precision())
    labels = [named.labeler.path(n) for n in range(2)]
    whole = [path.read_bytes() for path in labels]
    swap(*labels)
    name_index(index, ["red", "lime"], recognizer=half_precision())
    assert [path.read_bytes() for path in labels] == whole
    for kind in ("regions", "images"):
        files = [getattr(index.paths(n), kind) for n in range(2)]
        swap(*files)
        with pytest.raises(InputError, match="2 of 2 shards are not there yet"):
            RegionIndex.open(tmp_path / "index")
        swap(*files)
    # an index of before shards said which they are is read as it was
    path = index.paths(0).images
    table = pq.read_table(path)
    fingerprint = json.dumps({"fingerprint": index.manifest.fingerprint})
    pq.write_table(table.replace_schema_metadata({"anyregion_index": fingerprint}), path)
    assert len(RegionIndex.open(tmp_path / "index")) == 2


def test_a_shard_whose_end_is_damaged_is_an_error(tmp_path: Path) -> None:
    """Names, types and counts stand at a Parquet file's end, which has no checksum."""
    make_index(pictures(tmp_path / "photos", 3), tmp_path / "index", regions=LEFT_RIGHT)
    index = RegionIndex.open(tmp_path / "index")
    images, regions = index.paths(0).images, index.paths(0).regions
    content = images.read_bytes()
    images.write_bytes(content.replace(b"\x04hash", b"\x04mash"))
    with pytest.raises(InputError, match=r"00000\.images\.parquet: missing or damaged"):
        index.images(0)
    images.write_bytes(content)
    table = pq.read_table(regions)
    at = table.schema.get_field_index("x0")
    pq.write_table(table.set_column(at, "x0", table.column("x0").cast("string")), regions)
    with pytest.raises(InputError, match="other types"):
        list(index.blocks(0, ["x0"]))


def test_another_model_is_refused(tmp_path: Path) -> None:
    make_index(pictures(tmp_path / "photos", 2), tmp_path / "index")
    encoder = ColourEncoder()
    encoder.logit_scale = 3.0
    with pytest.raises(InputError, match="seen by other weights"):
        name_index(tmp_path / "index", COLOURS, recognizer=Recognizer(encoder, cache=None))
    # made by a program: there is no name to load the model by
    with pytest.raises(InputError, match="give that model"):
        RegionIndex.open(tmp_path / "index").load_recognizer()
    words = EncodedVocabulary(
        half_precision().encode_vocabulary(["red"]).vocabulary,
        np.ones((1, 4), dtype=np.float32) / 2,
        "other words",
    )
    with pytest.raises(InputError, match="encoded by other words"):
        name_index(tmp_path / "index", words, recognizer=half_precision())


def test_statistics(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    picture(photos / "1.png", "red", "blue")
    picture(photos / "2.png", "red", "blue")
    picture(photos / "3.png", "red", "red")
    picture(photos / "4.png", "#888000", "lime")
    make_index(photos, tmp_path / "index", regions=found(), shard_images=3)
    named = name_index(
        tmp_path / "index", ["red", "blue", "lime", "white"], recognizer=half_precision()
    )
    stats = index_stats(named.labeler, top=2)
    assert (stats.images, stats.regions, stats.duplicates, stats.below) == (4, 12, 4, 0)
    counts = {n.name: (n.regions, n.images) for n in stats.names}
    assert counts["red"] == (5, 4)
    assert counts["blue"] == (2, 2)
    assert "white" not in counts
    first = stats.pairs[0]
    assert (first.first, first.second, first.images) == ("red", "blue", 2)
    assert first.lift == pytest.approx(2 * 4 / (4 * 2))
    # olive is between red and lime
    assert stats.doubtful[0].image == "4.png"
    assert ("1.png", "2.png") in stats.near_duplicates
    few = index_stats(named.labeler, min_score=0.95)
    assert few.below == 8
    assert few.names == ()
    write_stats(stats, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["regions"] == 12
    assert len(lines(tmp_path / "out" / "doubtful.jsonl")) == 2
    assert (tmp_path / "out" / "names.csv").read_text().startswith("name,regions,images,mean_score")


def test_near_duplicates_are_all_pairs() -> None:
    chance = np.random.default_rng(3)
    hashes = chance.integers(1, 2**63, size=300, dtype=np.uint64)
    for i in range(1, 100):  # copies with some bits changed
        bits = chance.choice(64, size=i % 6, replace=False)
        changed = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
        hashes[200 + i] = changed if i % 6 else hashes[i]
    hashes[7] = hashes[8] = 0
    first = {value: i for i, value in reversed(list(enumerate(hashes.tolist())))}
    expected = [
        (i, j)
        for i in range(300)
        for j in range(i + 1, 300)
        if hashes[i]
        and hashes[j]
        and int(hashes[i] ^ hashes[j]).bit_count() <= MOST_BITS
        # of copies the first alone is compared with others
        and first[int(hashes[i])] == i
        and first[int(hashes[j])] in (i, j)
    ]
    assert len(expected) > 60
    assert near_duplicates(hashes).tolist() == [list(pair) for pair in expected]


def test_a_smaller_copy_has_nearly_the_same_hash() -> None:
    chance = np.random.default_rng(5)
    rough = chance.integers(0, 256, size=(12, 15, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((600, 480), Image.Resampling.BICUBIC)
    smaller = image.resize((300, 240), Image.Resampling.LANCZOS)
    other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, two, three = (image_hash(np.asarray(i)) for i in (image, smaller, other))
    assert (one ^ two).bit_count() <= MOST_BITS
    assert (one ^ three).bit_count() > 10
