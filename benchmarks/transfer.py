"""Backbones carried over to segmentation and detection on the shared photographs: one table.

    python benchmarks/transfer.py --shared ../shared --work runs/transfer \\
      --weights lite0.pth --backbone "R2O=runs/r2o" --backbone "adapted=runs/adapted"

Every row is a backbone, every column a task: `CamVid` and `CCP` fine-tuned, `CamVid, probe` by one
linear layer on the frozen backbone (mean IoU, recipe `semseg-small`), `COCO boxes` and `COCO masks`
by Mask R-CNN (AP, recipe `detection-small`). All rows of a column have the same settings, images
and seeds. Rows are random weights (drawn anew for each seed), `--weights` (a file, for
`--network`), and each `--backbone NAME=WHERE`, a saved backbone's folder or a run of `anyregion
pretrain`. Runs lie below `--work`; the same command again goes on where it was ended, and `--print`
prints what is done.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from anyregion.training.logs import read_log

RANDOM, SUPERVISED = "random weights", "ImageNet-supervised"


def tasks(shared: Path) -> dict[str, tuple[str, Sequence[str]]]:
    """By the name of a column: the metric it shows, and the words of its command."""
    camvid, ccp, coco = (shared / "data" / name for name in ("camvid", "ccp", "coco"))
    streets = (
        "semseg", str(camvid / "annotations/regions_train.json"),
        "--validation", str(camvid / "annotations/regions_val.json"),
        "--images", str(camvid / "images"), "--background", "void",
    )  # fmt: skip
    clothes = (
        "semseg", str(ccp / "annotations/instances_train.json"),
        "--validation", str(ccp / "annotations/instances_val.json"),
        "--images", str(ccp / "images"),
    )  # fmt: skip
    things = (
        "detection", str(coco / "annotations/instances_train_masks.json"),
        "--validation", str(coco / "annotations/instances_val_masks.json"),
        "--images", str(coco / "images"),
    )  # fmt: skip
    return {
        "CamVid": ("mean_iou", streets),
        "CamVid, probe": ("mean_iou", (*streets, "--probe")),
        "CCP": ("mean_iou", clothes),
        "COCO boxes": ("box_ap", things),
        "COCO masks": ("mask_ap", things),
    }


def backbones(args: argparse.Namespace) -> dict[str, Sequence[str]]:
    """By the name of a row: the words that say which backbone."""
    rows: dict[str, Sequence[str]] = {RANDOM: ("--backbone", args.network, "--weights", "random")}
    if args.weights is not None:
        rows[SUPERVISED] = ("--backbone", args.network, "--weights", str(args.weights))
    for text in args.backbone:
        name, _, where = text.partition("=")
        rows[name] = ("--backbone", where)
    return rows


def run_folder(row: str, column: str, seed: int, args: argparse.Namespace) -> Path:
    """Where a run lies; boxes and masks are of one."""
    column = "COCO" if column.startswith("COCO") else column
    name = f"{row}-{column}-{seed}".lower().replace(",", "").replace(" ", "-")
    folder: Path = args.work / name
    return folder


def train(row: str, column: str, seed: int, args: argparse.Namespace) -> None:
    """Train, or go on, unless it is done; the command is that of a user."""
    out = run_folder(row, column, seed, args)
    if (out / "model").is_dir():
        return
    command = [
        sys.executable, "-m", "anyregion", "transfer", *tasks(args.shared)[column][1],
        *backbones(args)[row], "--out", str(out), "--seed", str(seed), *args.setting,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with (args.work / f"{out.name}.log").open("a") as log:
        code = subprocess.run(
            command, env=environment, stdout=log, stderr=log, check=False
        ).returncode
    if code not in (0, 3):  # 3: an image was set aside
        sys.exit(f"{' '.join(command)}: exit code {code}; see {log.name}")


def figure(row: str, column: str, seed: int, args: argparse.Namespace) -> float | None:
    """The metric of the last validation, in percent; None where the run is not done."""
    out = run_folder(row, column, seed, args)
    if not (out / "model").is_dir():
        return None
    validations = [line["validation"] for line in read_log(out) if "validation" in line]
    return 100 * float(validations[-1][tasks(args.shared)[column][0]])


def table(args: argparse.Namespace) -> Iterator[str]:
    """Markdown: the mean over the seeds, and each of them."""
    yield "| backbone | " + " | ".join(args.tasks) + " |"
    yield "| --- |" + " --- |" * len(args.tasks)
    for row in backbones(args):
        cells = []
        for column in args.tasks:
            figures = [figure(row, column, seed, args) for seed in range(args.seeds)]
            values = [value for value in figures if value is not None]
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"**{mean(values):.1f}** ({each})" if values else "-")
        yield f"| {row} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="the folder of shared data")
    parser.add_argument("--work", type=Path, required=True, help="runs and their logs")
    parser.add_argument("--network", default="timm/tf_efficientnet_lite0", help="of the first rows")
    parser.add_argument("--weights", type=Path, help="pretrained weights of the network: a row")
    parser.add_argument("--backbone", action="append", default=[], metavar="NAME=WHERE")
    parser.add_argument("--tasks", nargs="+", default=["CamVid"], help="columns")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--print", action="store_true", help="print the table of what is done")
    parser.add_argument("--setting", nargs=argparse.REMAINDER, default=[], help="more, for all")
    args = parser.parse_args()
    if unknown := [name for name in args.tasks if name not in tasks(args.shared)]:
        sys.exit(f"no task {unknown[0]}: there are {', '.join(tasks(args.shared))}")
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.print:
        # seed by seed, so that what is interrupted is comparable
        for seed in range(args.seeds):
            for column in args.tasks:
                for row in backbones(args):
                    train(row, column, seed, args)
    text = "\n".join(table(args))
    (args.work / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
