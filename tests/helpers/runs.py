"""Pictures in two colours, a run over them, and what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import RecognizeOptions, SameRegions
from anyregion.runs.recognize import OutputOptions, RunReport, recognize_images
from anyregion.vocabulary import Vocabulary
from tests.helpers.colours import COLOURS, ColourEncoder, colour_recognizer
from tests.helpers.halves import picture

WORDS = Vocabulary.from_names(COLOURS)
LEFT_RIGHT = SameRegions(Regions.from_boxes([[0, 0, 20, 30], [20, 0, 40, 30]]))
FILES = ["run.json", "predictions.json", "predictions.jsonl", "skipped.jsonl", "pictures"]


def run(paths: Path | list[Path], out: Path, **options: Any) -> RunReport:
    words, source = options.pop("words", WORDS), options.pop("source", LEFT_RIGHT)
    output = {
        k: options.pop(k) for k in ("pictures", "csv", "overwrite", "keep_refused") if k in options
    }
    return recognize_images(
        paths,
        words,
        source,
        out=out,
        recognizer=options.pop("load", colour_recognizer),
        settings=options.pop("settings", None),
        options=RecognizeOptions(**{"batch_size": 2, **options}),
        output=OutputOptions(**output),
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def labels(out: Path) -> dict[str, list[str]]:
    entries = lines(out / "predictions.jsonl")
    return {line["image"]: [r["label"] for r in line["regions"]] for line in entries}


def stopping_after(images: int) -> Callable[[], Recognizer]:
    """A recogniser that is interrupted once it has encoded so many images."""

    class Stops(ColourEncoder):
        def encode_images(self, batch: Any) -> Any:
            if self.images_encoded >= images:
                raise KeyboardInterrupt
            return super().encode_images(batch)

    return lambda: Recognizer(Stops(), cache=None)


def overwrite(path: Path, left: str, right: str) -> None:
    """Another picture at the same place, and a later time."""
    before = path.stat().st_mtime_ns
    picture(path, left, right)
    os.utime(path, ns=(before, before + 1_000_000))
