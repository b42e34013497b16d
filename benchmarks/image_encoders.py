"""Region heads on several image encoders, trained alike: which backbone names regions best.

    python benchmarks/image_encoders.py --data ../shared/data/coco --work runs/encoders \\
        lite0=timm/tf_efficientnet_lite0@efficientnet-lite0.pth \\
        lite2=timm/tf_efficientnet_lite2@efficientnet-lite2.pth adapted=runs/r2o-adapted

Each NAME=WHERE is trained by `anyregion train compact --compact.image_encoder WHERE`, on the same
few photographs of COCO's `train` without mirror images, with the same seed and steps, and names the
boxes of photographs of `val`. The row `built-in` has the built-in encoder's training-free answer
too, which other encoders have not. What is there in `--work` is used: the same command again goes
on. These are small budgets: they compare encoders, and say little of what each can reach.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from anyregion.files import write_json

# the recipe's steps of warming up are most of so short a training
WARMUP = 20


def subset(source: Path, out: Path, photographs: int) -> Path:
    """A COCO file with some of another's photographs, drawn at random."""
    content = json.loads(source.read_text(encoding="utf-8"))
    order = np.random.default_rng(0).permutation(len(content["images"]))[:photographs]
    content["images"] = [content["images"][i] for i in sorted(order.tolist())]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    write_json(out, content)
    return out


def anyregion(*words: str) -> None:
    """Run a command."""
    command = [sys.executable, "-m", "anyregion", *words]
    if (code := subprocess.run(command, check=False).returncode) not in (0, 3):
        sys.exit(f"{' '.join(command)}: exit code {code}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="+", metavar="NAME=WHERE")
    parser.add_argument("--data", type=Path, required=True, help="the folder shared/data/coco")
    parser.add_argument("--work", type=Path, required=True, help="stores and runs")
    parser.add_argument("--photographs", type=int, nargs=2, default=(150, 100), metavar="N")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    stores = []
    for part, count in zip(("train", "val"), args.photographs, strict=True):
        source = args.data / "annotations" / f"instances_{part}.json"
        file = subset(source, args.work / f"{part}.json", count)
        stores.append(args.work / f"store_{part}")
        where = ("--annotations", str(file), "--images", str(args.data / "images"))
        anyregion("cache", *where, "--no-mirror", "--out", str(stores[-1]))
    print("| image encoder | top-1 | top-5 | class-averaged |")
    print("| --- | --- | --- | --- |")
    for encoder in args.encoders:
        name, _, where = encoder.partition("=")
        run = args.work / f"{name}-{args.steps}-{args.seed}"
        figures = run / "model" / "namer.json"
        if not figures.is_file():
            words = ["--compact.image_encoder", where] if where else []
            anyregion(
                "train", "compact", "--out", str(run), "--overwrite", *words,
                "--steps", str(args.steps), "--seed", str(args.seed),
                "--schedule.warmup_steps", str(WARMUP),
                "--compact.start", "none", "--compact.flip", "0",
                "--compact.data", json.dumps([str(stores[0])]),
                "--compact.validation", str(stores[1]),
            )  # fmt: skip
        reached = json.loads(figures.read_text(encoding="utf-8"))["figures"]
        cells = [f"{reached[m]:.1%}" for m in ("top1", "top5", "mean_class_accuracy")]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
