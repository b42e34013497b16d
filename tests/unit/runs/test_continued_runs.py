"""Runs that stop and go on: never torn, never of two minds."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyregion.errors import AnyRegionError, InputError
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import SameRegions
from anyregion.runs.results_folder import Journal
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import colour_recognizer
from tests.helpers.runs import FILES, labels, lines, overwrite, run, stopping_after


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
    assert (report.earlier, report.images) == (after, 5 - after)
    for name in ("predictions.json", "predictions.csv", "predictions.jsonl", "skipped.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_made_good(photos: Path, tmp_path: Path, cut: int) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    whole, assembled = journal.read_bytes(), (out / "predictions.json").read_bytes()
    journal.write_bytes(whole[:-cut])
    report = run(photos, out)
    assert (report.earlier, report.images) == (4, 1)
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


@pytest.mark.parametrize(
    "change",
    [
        {"box": [0, 0, "x", 5]},
        {"box": [0, 0, 5]},
        {"box": [0, 0, float("nan"), 5]},
        {"score": None},
        {"score": 10**400},
        {"label": ["cat"]},
        {"id": 0.5},
        {"refused": "no"},
        {"mask": {"size": [1, 1], "counts": [1]}},
    ],
)
def test_an_edited_row_is_an_error(photos: Path, tmp_path: Path, change: dict[str, object]) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    first, *others = journal.read_text().splitlines(keepends=True)
    line = json.loads(first)
    line["regions"][0] |= change
    journal.write_text("".join([json.dumps(line) + "\n", *others]))
    with pytest.raises(InputError, match="line 1 is malformed"):
        run(photos, out)


@pytest.mark.parametrize(
    "change", [{"height": float("inf")}, {"image": []}, {"regions": {}}, {"image_id": "x"},
               {"picture": 3}, {"set_aside": [{"item": 3, "reason": "x"}]}],
)  # fmt: skip
def test_an_edited_line_is_an_error(
    photos: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    first, *others = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([json.dumps(json.loads(first) | change) + "\n", *others]))
    with pytest.raises(InputError, match="line 1 is malformed"):
        run(photos, out)


def test_a_label_of_no_vocabulary_is_an_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    journal = out / "predictions.jsonl"
    first, *others = journal.read_text().splitlines(keepends=True)
    line = json.loads(first)
    line["regions"][0]["label"] = "unicorn"
    journal.write_text("".join([json.dumps(line) + "\n", *others]))
    with pytest.raises(InputError, match="'unicorn' is no name of this run's vocabulary"):
        run(photos, out)


@pytest.mark.parametrize("change", [{"models": 0.5}, {"settings": []}])
def test_an_edited_statement_is_an_error(
    photos: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    out = tmp_path / "out"
    run(photos, out)
    stated = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(stated | change))
    with pytest.raises(InputError, match=r"run\.json: not written by a run"):
        run(photos, out)


def test_a_finished_run_loads_no_model(photos: Path, tmp_path: Path) -> None:
    def load() -> Recognizer:
        raise AssertionError("there is nothing to do")

    run(photos, tmp_path / "out")
    report = run(photos, tmp_path / "out", load=load)
    assert (report.images, report.earlier, report.regions) == (0, 5, 10)


def test_more_images_may_be_added(photos: Path, tmp_path: Path) -> None:
    run([photos / "y.png", photos / "z.webp"], tmp_path / "out")
    report = run(photos, tmp_path / "out")
    assert (report.earlier, report.images) == (2, 3)
    coco = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == sorted(
        ["a/x.jpg", "b/x.jpg", "y.png", "z.webp", "z.webp.jpg"]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"top_k": 2}, "top_k was 5, now 2"),
        ({"score": "sigmoid"}, "score was the model's own, now sigmoid"),
        ({"words": Vocabulary.from_names(["red", "blue"])}, "vocabulary was sha256"),
        ({"source": SameRegions(Regions.from_boxes([[0, 0, 9, 9]]))}, "regions was sha256"),
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
    assert run(photos, out, overwrite=True, **changed).earlier == 0


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


def other_weights() -> Recognizer:
    recognizer = colour_recognizer()
    recognizer.encoder.logit_scale = 20.0
    return recognizer


def no_weights() -> Recognizer:
    raise AnyRegionError("no such model")


@pytest.mark.parametrize(
    ("load", "message"), [(other_weights, "other weights"), (no_weights, "no such model")]
)
def test_a_refused_run_loses_no_answer(
    photos: Path, tmp_path: Path, load: Callable[[], Recognizer], message: str
) -> None:
    out = tmp_path / "out"
    inputs = [photos / "y.png", photos / "z.webp"]
    run(inputs, out)
    survivors = ("predictions.jsonl", "predictions.json", "pictures/y.png")
    before = [(out / name).read_bytes() for name in survivors]
    overwrite(photos / "y.png", "black", "white")
    with pytest.raises(AnyRegionError, match=message):
        run(inputs, out, load=load)
    assert [(out / name).read_bytes() for name in survivors] == before
    assert run(inputs, out).earlier == 1
    assert labels(out)["y.png"] == ["black", "white"]


def test_images_to_be_named_again_do_not_bind_the_weights(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos / "y.png", out)
    overwrite(photos / "y.png", "black", "white")
    report = run(photos / "y.png", out, load=other_weights)
    assert (report.earlier, report.images) == (0, 1)
    assert labels(out) == {"y.png": ["black", "white"]}
    with pytest.raises(InputError, match="other weights"):
        run([photos / "y.png", photos / "z.webp"], out)


def test_a_changed_image_that_may_not_be_named_keeps_no_answer(
    photos: Path, tmp_path: Path
) -> None:
    """Nothing is left to name, so no model is loaded; the old answer is wrong all the same."""
    out = tmp_path / "out"
    regions = SameRegions(Regions.from_boxes([[0, 0, 20, 30]]))

    class Refusing:
        digest, set_aside = regions.digest, regions.set_aside

        def samples(self, images: dict[str, Path]) -> dict[str, str]:
            return dict.fromkeys(images, "no regions")

    run([photos / "y.png", photos / "z.webp"], out, source=regions)
    overwrite(photos / "y.png", "black", "white")
    report = run([photos / "y.png", photos / "z.webp"], out, source=Refusing(), load=no_weights)
    assert (report.earlier, report.images) == (1, 0)
    assert list(labels(out)) == ["z.webp"]
    assert "y.png" not in (out / "predictions.json").read_text()
    skipped = lines(out / "skipped.jsonl")
    assert skipped == [{"image": "y.png", "item": "image", "reason": "no regions"}]


def test_an_overwritten_image_is_named_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, csv=True)
    overwrite(photos / "b" / "x.jpg", "black", "yellow")
    report = run(photos, out, csv=True)
    assert (report.earlier, report.images) == (4, 1)
    assert labels(out)["b/x.jpg"] == ["black", "yellow"]
    assert len(lines(out / "predictions.jsonl")) == 5, "one line an image"
    pictures = [p for p in (out / "pictures").rglob("*") if p.is_file()]
    assert len(pictures) == 5
    run(photos, tmp_path / "anew", csv=True)
    for name in ("predictions.json", "predictions.csv", "skipped.jsonl", "pictures/b/x.jpg"):
        assert (out / name).read_bytes() == (tmp_path / "anew" / name).read_bytes(), name
    assert run(photos, out).images == 0


def test_an_image_that_broke_keeps_no_answer(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (photos / "y.png").write_bytes(b"broken")
    report = run(photos, out)
    assert (report.earlier, report.images, len(report.set_aside)) == (4, 0, 1)
    assert "y.png" not in labels(out)
    assert "y.png" not in (out / "predictions.json").read_text()
    assert not (out / "pictures" / "y.png").exists()


def test_a_changed_image_after_an_interrupt(photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        run(photos, parts, batch_size=1, load=stopping_after(3))
    overwrite(photos / "a" / "x.jpg", "white", "white")
    report = run(photos, parts, batch_size=1)
    assert (report.earlier, report.images) == (2, 3)
    run(photos, whole)
    assert (parts / "predictions.json").read_bytes() == (whole / "predictions.json").read_bytes()


def test_overwrite_removes_only_what_a_run_wrote(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (out / "notes.txt").write_text("mine")
    (out / "pictures" / "mine.jpg").write_text("mine")
    run(photos / "y.png", out, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "notes.txt"])
    remaining = [p for p in (out / "pictures").rglob("*") if p.is_file()]
    assert sorted(p.name for p in remaining) == ["mine.jpg", "y.png"]


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
    held.file.close()
    assert run(photos, out).earlier == 5


def test_a_full_disk_tears_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, tmp_path / "whole", batch_size=1)
    real = Journal.append
    written: list[str] = []

    def full(journal: Journal, line: dict[str, Any]) -> None:
        if len(written) == 2:
            file = journal.file

            class Full:
                def seek(self, *where: int) -> int:
                    return file.seek(*where)

                def write(self, data: memoryview) -> int:
                    if len(data) < 40:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return file.write(data[:20])

                def truncate(self, size: int) -> int:
                    return file.truncate(size)

            monkeypatch.setattr(journal, "file", Full(), raising=True)
            try:
                real(journal, line)
            finally:
                monkeypatch.setattr(journal, "file", file)
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


def test_overwrite_heals_any_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (out / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: malformed JSON"):
        run(photos, out)
    (out / "predictions.jsonl").write_text("[]\n[]\n")
    assert run(photos, out, overwrite=True).images == 5
