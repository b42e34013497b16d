"""The results folder: complete, continued, never torn."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from anyregion.errors import AnyRegionError, InputError
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.batch import BatchReport, recognize_images
from anyregion.runs.journal import Journal
from anyregion.runs.named_images import name_images
from anyregion.runs.region_sources import regions_from_file, same_regions
from anyregion.vocabulary import Vocabulary
from tests.colours import COLOURS, ColourEncoder, colour_recognizer

WORDS = Vocabulary.from_names(COLOURS)
LEFT_RIGHT = same_regions(Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]]))
FILES = ["run.json", "predictions.json", "predictions.jsonl", "skipped.jsonl", "pictures"]


def picture(path: Path, left: str, right: str, *, size: tuple[int, int] = (40, 30)) -> Path:
    image = Image.new("RGB", size, left)
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), right), (size[0] // 2, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({} if path.suffix == ".png" else {"quality": 95}))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a" / "x.jpg", "red", "blue")
    picture(folder / "b" / "x.jpg", "lime", "white")
    picture(folder / "y.png", "yellow", "black")
    picture(folder / "z.webp", "blue", "red")
    picture(folder / "z.webp.jpg", "white", "white")
    return folder


def run(paths: Path | list[Path], out: Path, **options: Any) -> BatchReport:
    given = paths if isinstance(paths, list) else [paths]
    options = {"batch_size": 2, **options}
    words, source = options.pop("words", WORDS), options.pop("source", LEFT_RIGHT)
    load = options.pop("load", colour_recognizer)
    return recognize_images(given, words, source, load, out=out, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def labels(out: Path) -> dict[str, list[str]]:
    found = lines(out / "predictions.jsonl")
    return {line["image"]: [r["label"] for r in line["regions"]] for line in found}


def test_everything_is_written(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(photos, out, csv=True, top_k=3)
    assert (report.images, report.kept, report.regions, report.set_aside) == (5, 0, 10, ())
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
    assert rows[0] == "image,id,x0,y0,x1,y1,label,score"
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


def stopping_after(images: int) -> Callable[[], Recognizer]:
    """A recogniser that is interrupted once it has encoded so many images."""

    class Stops(ColourEncoder):
        def encode_images(self, given: Any) -> Any:
            if self.images_encoded >= images:
                raise KeyboardInterrupt
            return super().encode_images(given)

    return lambda: Recognizer(Stops(), cache=None)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_continues_to_the_same_bytes(
    photos: Path, tmp_path: Path, after: int
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not much")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(photos, whole, batch_size=1, csv=True)
    with pytest.raises(KeyboardInterrupt):
        run(photos, parts, batch_size=1, csv=True, load=stopping_after(after))
    assert not (parts / "predictions.json").exists()
    done = lines(parts / "predictions.jsonl")
    assert len(done) == after
    assert all((parts / line["picture"]).is_file() for line in done)
    report = run(photos, parts, batch_size=1, csv=True)
    assert (report.kept, report.images) == (after, 5 - after)
    for name in ("predictions.json", "predictions.csv", "predictions.jsonl", "skipped.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_dropped_and_made_again(photos: Path, tmp_path: Path, cut: int) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    whole, assembled = journal.read_bytes(), (out / "predictions.json").read_bytes()
    journal.write_bytes(whole[:-cut])
    report = run(photos, out)
    assert (report.kept, report.images) == (4, 1)
    assert journal.read_bytes() == whole
    assert (out / "predictions.json").read_bytes() == assembled


def test_a_malformed_line_before_the_last_is_an_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"regions"', b'"regio', 1))
    with pytest.raises(InputError, match="line 1 is malformed"):
        run(photos, out)
    assert run(photos, out, overwrite=True).images == 5


def test_a_finished_run_loads_no_model(photos: Path, tmp_path: Path) -> None:
    def load() -> Recognizer:
        raise AssertionError("there is nothing to do")

    run(photos, tmp_path / "out")
    report = run(photos, tmp_path / "out", load=load)
    assert (report.images, report.kept, report.regions) == (0, 5, 10)


def test_more_images_may_be_added(photos: Path, tmp_path: Path) -> None:
    run([photos / "y.png", photos / "z.webp"], tmp_path / "out")
    report = run(photos, tmp_path / "out")
    assert (report.kept, report.images) == (2, 3)
    coco = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == sorted(
        ["a/x.jpg", "b/x.jpg", "y.png", "z.webp", "z.webp.jpg"]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"top_k": 2}, "top_k was 5, now 2"),
        ({"score": "sigmoid"}, "score was softmax, now sigmoid"),
        ({"words": Vocabulary.from_names(["red", "blue"])}, "vocabulary was sha256"),
        ({"source": same_regions(Regions.from_boxes([[0, 0, 9, 9]]))}, "regions was sha256"),
        ({"settings": {"model": "other"}}, "model was \\(not set\\), now other"),
    ],
)
def test_other_settings_may_not_continue(
    photos: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    run(photos, out)
    before = (out / "predictions.json").read_bytes()
    with pytest.raises(InputError, match=message):
        run(photos, out, **changed)
    assert (out / "predictions.json").read_bytes() == before
    assert run(photos, out, overwrite=True, **changed).kept == 0


def test_a_run_that_finished_nothing_binds_nobody(photos: Path, tmp_path: Path) -> None:
    def absent() -> Recognizer:
        raise AnyRegionError("no such model")

    with pytest.raises(AnyRegionError, match="no such model"):
        run(photos / "a", tmp_path / "out", load=absent, settings={"model": "absent"})
    assert run(photos, tmp_path / "out").images == 5
    assert "a/x.jpg" in labels(tmp_path / "out")


def test_other_weights_may_not_continue(photos: Path, tmp_path: Path) -> None:
    def newer() -> Recognizer:
        recognizer = colour_recognizer()
        recognizer.encoder.text.fingerprint = "colours-2"
        return recognizer

    run(photos / "y.png", tmp_path / "out")
    with pytest.raises(InputError, match="words was colours-1, now colours-2"):
        run([photos / "y.png", photos / "z.webp"], tmp_path / "out", load=newer)


def test_another_encoder_may_not_continue(photos: Path, tmp_path: Path) -> None:
    """Words are the same; what sees the regions is not."""

    def newer() -> Recognizer:
        recognizer = colour_recognizer()
        recognizer.encoder.logit_scale = 20.0
        return recognizer

    run(photos / "y.png", tmp_path / "out")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"other weights \(encoder was colours 10\.0"):
        run([photos / "y.png", photos / "z.webp"], tmp_path / "out", load=newer)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def overwrite(path: Path, left: str, right: str) -> None:
    """Another picture at the same place, and a later time."""
    before = path.stat().st_mtime_ns
    picture(path, left, right)
    os.utime(path, ns=(before, before + 1_000_000))


def test_an_overwritten_image_is_named_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, csv=True)
    overwrite(photos / "b" / "x.jpg", "black", "yellow")
    report = run(photos, out, csv=True)
    assert (report.kept, report.images) == (4, 1)
    assert labels(out)["b/x.jpg"] == ["black", "yellow"]
    assert len(lines(out / "predictions.jsonl")) == 5, "one line an image"
    drawn = [p for p in (out / "pictures").rglob("*") if p.is_file()]
    assert len(drawn) == 5
    run(photos, tmp_path / "anew", csv=True)
    for name in ("predictions.json", "predictions.csv", "skipped.jsonl", "pictures/b/x.jpg"):
        assert (out / name).read_bytes() == (tmp_path / "anew" / name).read_bytes(), name
    assert run(photos, out).images == 0


def test_an_image_that_broke_keeps_no_answer(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (photos / "y.png").write_bytes(b"broken")
    report = run(photos, out)
    assert (report.kept, report.images, len(report.set_aside)) == (4, 0, 1)
    assert "y.png" not in labels(out)
    assert "y.png" not in (out / "predictions.json").read_text()
    assert not (out / "pictures" / "y.png").exists()


def test_a_changed_image_after_an_interrupt(photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        run(photos, parts, batch_size=1, load=stopping_after(3))
    overwrite(photos / "a" / "x.jpg", "white", "white")
    report = run(photos, parts, batch_size=1)
    assert (report.kept, report.images) == (2, 3)
    run(photos, whole)
    assert (parts / "predictions.json").read_bytes() == (whole / "predictions.json").read_bytes()


def test_overwrite_removes_only_what_a_run_wrote(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (out / "notes.txt").write_text("mine")
    (out / "pictures" / "mine.jpg").write_text("mine")
    run(photos / "y.png", out, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "notes.txt"])
    left = [p for p in (out / "pictures").rglob("*") if p.is_file()]
    assert sorted(p.name for p in left) == ["mine.jpg", "y.png"]


def test_a_strange_folder_is_not_touched(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("precious")
    with pytest.raises(InputError, match=r"predictions\.json without run\.json"):
        run(photos, tmp_path)
    assert (tmp_path / "predictions.json").read_text() == "precious"


def test_two_runs_may_not_write_one_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    held = Journal(out / "predictions.jsonl")
    with pytest.raises(AnyRegionError, match="another run is writing there"):
        run(photos, out)
    held.close()
    assert run(photos, out).kept == 5


def test_results_inside_the_photos_are_no_input(photos: Path) -> None:
    run(photos, photos / "results")
    assert run(photos, photos / "results").kept == 5


def test_pictures_of_other_runs_are_no_input(photos: Path) -> None:
    run(photos, photos / "o1")
    picture(photos / "pictures" / "mine.png", "red", "blue")
    assert run(photos, photos / "o2").images == 6, "five, and the user's own `pictures`"
    assert run([photos / "**" / "*.png"], photos / "o3").images == 2
    drawn = photos / "o1" / "pictures"
    with pytest.raises(InputError, match="pictures that a run of anyregion drew"):
        run(drawn, photos / "o4")
    assert run(drawn / "y.png", photos / "o4").images == 1, "named outright"
    (photos / "o1" / "run.json").write_text("{")
    assert run(drawn, photos / "o5").images == 5, "not a results folder"


def test_broken_items_do_not_stop_the_rest(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.full((30, 40, 3), (1, 2, 3), np.uint8)).save(photos / "refused.png")
    picture(photos / "tiny.png", "red", "red", size=(16, 16))
    report = run([photos, tmp_path / "nowhere"], tmp_path / "out", batch_size=8)
    assert report.images == 6
    found = {a.item: a.reason for a in report.set_aside}
    assert set(found) == {
        str(tmp_path / "nowhere"),
        "photos/empty.jpg",
        "photos/refused.png",
        "photos/tiny.png, region 1",
    }
    assert "empty.jpg" in found["photos/empty.jpg"]
    assert found["photos/refused.png"] == "this image is refused"
    assert "outside the 16 x 16 image" in found["photos/tiny.png, region 1"]
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
    assert (again.images, again.kept) == (1, 6)
    assert {a.item for a in again.set_aside} == set(found) - {"photos/empty.jpg"}
    assert len(lines(tmp_path / "out" / "skipped.jsonl")) == 3


def test_a_full_disk_tears_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, tmp_path / "whole", batch_size=1)
    real = Journal.append
    written: list[str] = []

    def full(journal: Journal, line: dict[str, Any]) -> None:
        if len(written) == 2:
            file = journal._file

            class Full:
                def seek(self, *where: int) -> int:
                    return file.seek(*where)

                def write(self, data: memoryview) -> int:
                    if len(data) < 40:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return file.write(data[:20])

                def truncate(self, size: int) -> int:
                    return file.truncate(size)

            monkeypatch.setattr(journal, "_file", Full(), raising=True)
            try:
                real(journal, line)
            finally:
                monkeypatch.setattr(journal, "_file", file)
        written.append(line["image"])
        real(journal, line)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(AnyRegionError, match="the disk is full"):
        run(photos, out, batch_size=1)
    assert len(lines(out / "predictions.jsonl")) == 2
    assert not list(out.rglob(".*"))
    monkeypatch.undo()
    run(photos, out, batch_size=1)
    whole = tmp_path / "whole"
    assert (out / "predictions.json").read_bytes() == (whole / "predictions.json").read_bytes()


def test_regions_of_a_file_keep_their_ids(photos: Path, tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 70, "file_name": "b/x.jpg", "height": 30, "width": 40},
            {"id": 50, "file_name": "y.png", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 901, "image_id": 70, "bbox": [20, 0, 20, 30], "category_id": 1},
            {"id": 902, "image_id": 50, "bbox": [0, 0, 20, 30], "category_id": 1},
            {"id": 903, "image_id": 50, "bbox": [5, 5, -2, 4], "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = tmp_path / "regions.json"
    file.write_text(json.dumps(content))
    report = run(photos, tmp_path / "out", source=regions_from_file(file))
    assert report.images == 2
    reasons = {a.item: a.reason for a in report.set_aside}
    assert reasons.pop("y.png, region 903").startswith("region 903: box [5.0, 5.0, 3.0, 9.0]")
    assert "lists b/x.jpg: another folder's image" in reasons.pop("a/x.jpg")
    assert reasons == dict.fromkeys(["z.webp", "z.webp.jpg"], "no regions for this image")
    coco = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(i["id"], i["file_name"]) for i in coco["images"]] == [(70, "b/x.jpg"), (50, "y.png")]
    assert [(a["image_id"], a["region_id"]) for a in coco["annotations"]] == [(70, 901), (50, 902)]


def test_low_scores_and_candidates(photos: Path, tmp_path: Path) -> None:
    words = Vocabulary.from_names(["red", "blue"])
    # left red and right blue are sure; the rest of the colours are not among the names
    report = run(photos, tmp_path / "out", words=words, min_score=0.999, multimask=True, masks=True)
    assert report.images == 5
    named = labels(tmp_path / "out")
    assert named["a/x.jpg"] == ["red"] * 3 + ["blue"] * 3
    assert named["z.webp.jpg"] == []


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


def test_overwrite_heals_any_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (out / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: malformed JSON"):
        run(photos, out)
    (out / "predictions.jsonl").write_text("[]\n[]\n")
    assert run(photos, out, overwrite=True).images == 5


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        picture(tmp_path / "photos" / name, "red", "blue")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    run(tmp_path / "photos", tmp_path / "out", csv=True)
    assert run(tmp_path / "photos", tmp_path / "out").kept == 1
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["images"][0]["file_name"] == name
    assert b"caf\xe9.png,0," in (tmp_path / "out" / "predictions.csv").read_bytes()
    assert (tmp_path / "out" / "pictures" / name).is_file()


@pytest.mark.parametrize(
    ("given", "root", "names"),
    [
        (["."], ".", ["a/x.jpg", "b/x.jpg", "y.png", "z.webp", "z.webp.jpg"]),
        (["a"], "a", ["x.jpg"]),
        (["a", "b"], ".", ["a/x.jpg", "b/x.jpg"]),
        (["a/x.jpg", "./a/x.jpg", "a/../a/x.jpg"], "a", ["x.jpg"]),
        (["*/x.jpg"], ".", ["a/x.jpg", "b/x.jpg"]),
        (["a/*.jpg", "y.png"], ".", ["a/x.jpg", "y.png"]),
        (["**/*.png"], ".", ["y.png"]),
    ],
)
def test_names_of_images(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    root: str,
    names: list[str],
) -> None:
    monkeypatch.chdir(photos)
    start, found, aside = name_images(given, drawn=Path("results"))
    assert start == (photos / root)
    assert list(found) == names
    assert all(path == start / name for name, path in found.items())
    assert aside == []


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image there"):
        run(tmp_path / "nothing", tmp_path / "out")


def test_regions_of_another_size_are_not_asked(photos: Path, tmp_path: Path) -> None:
    """Boxes drawn on a 20 x 15 copy would name other places of the 40 x 30 image."""
    boxes = {
        "images": [
            {"id": 1, "file_name": "y.png", "height": 15, "width": 20},
            {"id": 2, "file_name": "z.webp", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]},
            {"id": 2, "image_id": 2, "bbox": [0, 0, 9, 9]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    source = regions_from_file(tmp_path / "boxes.json")
    report = run([photos / "y.png", photos / "z.webp"], tmp_path / "out", source=source)
    assert labels(tmp_path / "out") == {"z.webp": ["blue"]}
    (aside,) = report.set_aside
    assert (aside.item, "40 x 30 upright" in aside.reason) == ("y.png", True)


@pytest.fixture
def scored(photos: Path, tmp_path: Path) -> Path:
    boxes = {"y.png": {"boxes": [[0, 0, 20, 30]], "scores": [0.5], "labels": [1]}}
    (tmp_path / "scored.json").write_text(json.dumps(boxes))
    return tmp_path / "scored.json"


@pytest.mark.parametrize(("scores", "at_most"), [(True, 0.5), (False, 1.0)])
def test_scores_of_a_file(
    photos: Path, tmp_path: Path, scored: Path, scores: bool, at_most: float
) -> None:
    run(photos / "y.png", tmp_path / "out", source=regions_from_file(scored, scores=scores))
    (line,) = lines(tmp_path / "out" / "predictions.jsonl")
    assert at_most * 0.9 < line["regions"][0]["score"] <= at_most


def test_regions_of_another_camera_are_not_taken(tmp_path: Path) -> None:
    """`cam1.json` lists `cam1/0001.jpg`; the image of that name is another camera's."""
    picture(tmp_path / "cam2" / "0001.jpg", "red", "blue")
    picture(tmp_path / "cam1" / "0001.jpg", "red", "blue")
    content = {
        "images": [{"id": 1, "file_name": "cam1/0001.jpg", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "cam1.json").write_text(json.dumps(content))
    source = regions_from_file(tmp_path / "cam1.json")
    report = run([tmp_path / "cam1", tmp_path / "cam2"], tmp_path / "out", source=source)
    assert list(labels(tmp_path / "out")) == ["cam1/0001.jpg"]
    (aside,) = report.set_aside
    assert aside.item == "cam2/0001.jpg"
    assert "cam1/0001.jpg" in aside.reason
