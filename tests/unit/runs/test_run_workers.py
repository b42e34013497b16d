"""Runs whose images are named by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion.errors import InputError, InputWarning
from anyregion.runs.recognize import OutputOptions, RunReport, recognize_images
from anyregion.runs.run_naming import RecognizerSource
from tests.helpers.colours import colour_recognizer
from tests.helpers.runs import LEFT_RIGHT, WORDS, run, stopping_after


def with_workers(photos: Path, out: Path, **options: Any) -> RunReport:
    recognizer: RecognizerSource = options.pop("recognizer", colour_recognizer)
    return recognize_images(
        photos,
        WORDS,
        LEFT_RIGHT,
        out=out,
        recognizer=recognizer,
        output=OutputOptions(csv=True),
        workers=2,
        **options,
    )


def test_workers_write_what_one_process_writes(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not much")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(photos / "turned.jpg", exif=exif)
    seen: list[tuple[int, int]] = []
    with pytest.warns(InputWarning, match="EXIF turns"):
        report = with_workers(
            photos,
            tmp_path / "two",
            track=lambda doing, unit: lambda done, total: seen.append((done, total)),
        )
    with pytest.warns(InputWarning, match="EXIF turns"):
        alone = run(photos, tmp_path / "one", csv=True)
    one, two = (
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.*")}
        for out in ("one", "two")
    )
    assert len([path for path in one if path.parts[0] == "pictures"]) >= 6
    assert one == two
    assert (report.images, report.regions) == (alone.images, alone.regions)
    assert sorted(map(str, report.set_aside)) == sorted(map(str, alone.set_aside))
    images = sum(path.is_file() for path in photos.rglob("*"))
    assert seen[-1] == (images, images)


def test_workers_continue_what_one_process_began(photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(photos, whole, batch_size=1, csv=True)
    with pytest.raises(KeyboardInterrupt):
        run(photos, parts, batch_size=1, csv=True, load=stopping_after(2))
    report = with_workers(photos, parts)
    assert (report.earlier, report.images) == (2, 3)
    for name in ("predictions.json", "predictions.csv", "predictions.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_workers_load_their_own_model(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several workers load a model each"):
        with_workers(photos, tmp_path / "out", recognizer=colour_recognizer())
