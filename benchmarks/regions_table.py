"""The paper's baselines and ablations on the shared photographs, as one table.

    python benchmarks/regions_table.py --data ../shared/data/coco --work runs/table [--steps 1000]

All ways of naming the same given boxes, on photographs that nothing was trained on: crop, masked
crop and dense pooling of the same frozen image encoder; the trained region head; what it loses
without the image around a region, with another depth, without the finer maps, without the residual,
without distillation; and each of the trained ones with a quarter of the classes left out of
training (`every:4:1`), where seen and unseen names are to choose from together; and, below, names
that are shown by 1, 5 and 10 pictures a class (`few_shot.py`). Feature stores and runs are kept
under `--work`: the same command again goes on. Each training takes some minutes of a core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAINED: dict[str, list[str]] = {
    "trained": [],
    "without the image around": ["--compact.module.layers", "0"],
    "1 layer": ["--compact.module.layers", "1"],
    "3 layers": ["--compact.module.layers", "3"],
    "6 layers": ["--compact.module.layers", "6"],
    "last convolution alone": ["--compact.module.fine", "false"],
    "without residual": ["--compact.module.residual", "false"],
    "without distillation": ["--compact.objective.distillation", "0"],
}
UNSEEN = "every:4:1"


def anyregion(*words: str) -> str:
    """Run a command; its standard output."""
    command = [sys.executable, "-m", "anyregion", *words]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return process.stdout


def measure(data: Path, *words: str, part: str = "val") -> dict[str, Any]:
    """Accuracies on the photographs of `val`, or of `val_masks`."""
    where = ("--annotations", str(data / "annotations" / f"instances_{part}.json"))
    images = ("--images", str(data / "images"))
    out = anyregion("evaluate", "classification", *where, *images, "--json", *words)
    report: dict[str, Any] = json.loads(out)
    return report


def train(work: Path, name: str, steps: int, seed: int, words: list[str]) -> Path:
    """The model's folder of a run, trained unless it was before."""
    run = work / f"{name.replace(' ', '_')}-{steps}-{seed}"
    if not (run / "model" / "namer.onnx").is_file():
        data = ["--compact.data", json.dumps([str(work / "train")])]
        data += ["--compact.validation", str(work / "val")]
        number = ["--steps", str(steps), "--seed", str(seed)]
        anyregion("train", "compact", "--out", str(run), *number, *data, *words)
    return run / "model"


def row(name: str, report: dict[str, Any]) -> str:
    """One line of the table."""
    accuracies = [report["top1"], report["top5"], report["mean_class_accuracy"]]
    split = report.get("split")
    if split:
        accuracies += [split["seen"]["top1"], split["unseen"]["top1"], split["harmonic_mean"]]
    cells = [f"{value:.1%}" if value is not None else "-" for value in accuracies]
    speed = f"{1e3 * report['seconds'] / report['images']:.0f}"
    return "| " + " | ".join([name, *cells, *([""] * (6 - len(cells))), speed]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data/coco")
    parser.add_argument("--work", type=Path, required=True, help="stores and runs")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*TRAINED], help="some of the trainings")
    args = parser.parse_args()
    for part in ("train", "val"):
        annotations = args.data / "annotations" / f"instances_{part}.json"
        where = ("--annotations", str(annotations), "--images", str(args.data / "images"))
        anyregion("cache", *where, "--masks", "--out", str(args.work / part))
    print("| | top-1 | top-5 | class-averaged | seen | unseen | harmonic | ms an image |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    words: Sequence[str]
    for method in ("crop", "dense"):
        words = ("--method", method, "--unseen", UNSEEN)
        print(row(method, measure(args.data, *words)), flush=True)
    # two thirds of `val` have no mask, and a masked crop without one is a crop
    for method in ("crop", "masked-crop"):
        words = ("--method", method, "--use-masks", "--unseen", UNSEEN)
        report = measure(args.data, *words, part="val_masks")
        print(row(f"{method}, regions with masks", report), flush=True)
    for name, words in TRAINED.items():
        if args.only is not None and name not in args.only:
            continue
        model = train(args.work, name, args.steps, args.seed, words)
        print(row(name, measure(args.data, "--model", str(model))), flush=True)
        part = [*words, "--compact.unseen", UNSEEN]
        model = train(args.work, f"{name} seen", args.steps, args.seed, part)
        report = measure(args.data, "--model", str(model), "--unseen", UNSEEN)
        print(row(f"{name}, trained on the seen classes", report), flush=True)
    print(flush=True)
    few_shot(args.data)


def few_shot(data: Path, *words: str) -> None:
    """Print the accuracies of names that are pictures."""
    script = [sys.executable, str(Path(__file__).with_name("few_shot.py"))]
    parts = [data / "annotations" / f"instances_{part}.json" for part in ("train", "val")]
    where = ["--train", str(parts[0]), "--val", str(parts[1]), "--images", str(data / "images")]
    if code := subprocess.run([*script, *where, *words], check=False).returncode:
        sys.exit(f"few_shot.py: exit code {code}")


if __name__ == "__main__":
    main()
