"""Damaged files of annotation tools, read, checked, written again and put back into."""

from __future__ import annotations

import shutil
from pathlib import Path

from fuzz_inputs.folders import spoil_folder
from fuzz_inputs.originals import Originals, Rng, Words, recognize_words, run
from fuzz_inputs.spoiling import spoil_text

# of each format what is handed to a command
PLACES = {
    "yolo": "data.yaml", "yolo-segment": "", "voc": "", "labelme": "", "cvat": "annotations.xml",
    "label-studio": "tasks.json", "csv": "labels.csv", "crops": "", "coco": "annotations.json",
}  # fmt: skip
_TEXTS = (".xml", ".txt", ".csv", ".yaml")


def labels(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A tool's files, one or two of them spoiled, in one of the commands that take them."""
    to = rng.choice(list(PLACES))
    shapes = rng.choice(["auto", "polygons"])

    def make(path: Path) -> None:
        source, photos = str(originals.root / "coco.json"), str(originals.photos)
        words = ["export-labels", source, "--to", to, "--shapes", shapes, "--images", photos]
        run([*words, "--out", str(path / "labels")])

    source = originals.made(f"{to}-{shapes}", make) / "labels"
    texts = sorted(p for p in source.rglob("*") if p.suffix in _TEXTS)
    if texts and rng.random() < 0.6:
        shutil.copytree(source, folder / "labels")
        for path in rng.sample(texts, min(rng.randint(1, 2), len(texts))):
            content = spoil_text(rng, path.read_text())
            (folder / "labels" / path.relative_to(source)).write_bytes(content)
    else:
        spoil_folder(rng, source, folder / "labels")
    path, photos = str(folder / "labels" / PLACES[to]), str(originals.photos)
    match rng.randrange(4):
        case 0:
            options = rng.choice([[], ["--masks"]])
            return ["data", "check", path, photos, *options]
        case 1:
            words = ["--regions", path, "--vocabulary", "cat,dog", "--no-pictures"]
            return recognize_words(folder, photos, *words, *rng.choice([[], ["--use-masks"]]))
        case 2:
            words = ["--to", rng.choice([*PLACES, "coco-results"]), "--images", photos]
            return ["export-labels", path, *words, "--out", str(folder / "out")]
        case _:
            run_folder = originals.made("recognized labels", lambda at: _recognize(at, originals))
            words = ["--into", path, "--out", str(folder / "out")]
            return ["export-labels", str(run_folder / "out"), *words]


def _recognize(folder: Path, originals: Originals) -> None:
    words = ["--regions", str(originals.root / "coco.json"), "--vocabulary", "cat,dog"]
    run(recognize_words(folder, originals.photos, *words, "--no-pictures"))
