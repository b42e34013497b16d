"""Runs whose regions a proposer finds in each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anyregion import factory
from anyregion.errors import InputError
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import ProposedRegions
from tests.helpers.halves import MaskedHalves
from tests.helpers.runs import labels, lines, run


def source(fingerprint: str = "halves-1", **options: Any) -> ProposedRegions:
    return ProposedRegions(MaskedHalves(fingerprint), **options)


def test_regions_are_proposed_in_each_image(photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path / "out", source=source())
    assert labels(tmp_path / "out") == {
        "a/x.jpg": ["red", "blue"],
        "b/x.jpg": ["lime", "white"],
        "y.png": [],
        "z.webp": ["blue", "red"],
    }
    (skipped,) = report.set_aside
    assert (skipped.item, skipped.reason) == ("z.webp.jpg", "white is refused")
    models = json.loads((tmp_path / "out" / "run.json").read_text())["models"]
    assert models["proposer"] == "halves-1"
    (first,) = [r for r in lines(tmp_path / "out" / "predictions.jsonl") if r["image"] == "a/x.jpg"]
    assert first["regions"][1]["score"] <= 0.5 < first["regions"][0]["score"]


def test_scores_and_masks_are_used_as_chosen(photos: Path, tmp_path: Path) -> None:
    run(photos / "a", tmp_path / "out", source=source(scores=False, masks=True))
    (line,) = lines(tmp_path / "out" / "predictions.jsonl")
    assert [r["label"] for r in line["regions"]] == ["red", "red"], "the second by its mask"
    assert line["regions"][1]["score"] > 0.9


def test_a_run_never_mixes_proposers(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([photos / "a"], out, source=source())
    again = run([photos / "a"], out, source=source("halves-2"))
    assert again.earlier == 1, "nothing to do: no proposer is asked"
    (photos / "a" / "new.png").write_bytes((photos / "y.png").read_bytes())
    with pytest.raises(InputError, match="proposer was halves-1, now halves-2"):
        run([photos / "a"], out, source=source("halves-2"))
    with pytest.raises(InputError, match="regions was found by halves"):
        run([photos / "a"], out, source=source(masks=True))
    with pytest.raises(InputError, match="regions was found by halves"):
        run([photos / "a"], out)
    assert run([photos / "a"], out, source=source()).images == 1


def test_the_proposer_is_loaded_once_with_the_recogniser(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizers: list[Recognizer] = []

    def load(name: str, *, recognizer: Recognizer, **_: Any) -> MaskedHalves:
        assert name == "own"
        recognizers.append(recognizer)
        return MaskedHalves()

    monkeypatch.setattr(factory, "load_proposer", load)
    run(photos, tmp_path / "out", source="auto")
    assert [r.encoder.name for r in recognizers] == ["colours"]
