"""R2O against its own special cases and random weights, at equal budget, on the shared photographs.

    python benchmarks/r2o_comparison.py --shared ../shared --work runs/r2o

Trains R2O, fixed superpixels (DetCon-like), one mask per image (BYOL) and the reversed curriculum
with the same recipe, images, epochs and seeds, on `shared/data`'s unlabelled photographs and COCO's
training part. Then every backbone, and random weights of the same seeds, are judged on photographs
that none has seen: k-NN and a linear probe on class folders, discovery on COCO's masks. Prints a
table; keeps everything below `--work`. The same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from anyregion.images import find_images
from anyregion.recipes.loading import read_training

NOWHERE = "[9999]"  # more clusters than there may be: the prior's segments are the regions
VARIANTS = {
    "R2O": (),
    "fixed superpixels": ("--r2o.curriculum.kind", "constant", "--r2o.curriculum.values", NOWHERE),
    "one mask per image": (
        "--r2o.prior.kind", "whole",
        "--r2o.curriculum.kind", "constant", "--r2o.curriculum.values", NOWHERE,
    ),
    "reversed curriculum": ("--r2o.curriculum.values", "reversed"),
}  # fmt: skip
RANDOM = "random weights"
DISCOVERY_SIZE = 224
UNLABELLED = (
    "imagenette/train",
    "caltech101/train",
    "imagenet-1-per-class",
    "cub200-2010-first10/train",
)
# of imagenette/val: the same photograph is imagenet-1-per-class's French horn, so it is not judged
TRAINED_ON = ("n03394916_36380.jpg",)


def anyregion(*words: str, threads: int, log: Path | None = None) -> str:
    """Run the command as a user would, with so many threads; its standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "anyregion", *words]
    with (log or Path(os.devnull)).open("a") as errors:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
    if done.returncode not in (0, 3):  # 3: an image was set aside
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}; see {log}")
    return done.stdout


def gather(shared: Path, folder: Path) -> Path:
    """Links to every photograph that is trained on; none of them is judged on."""
    data = shared / "data"
    images, _ = find_images(data / "unlabelled" / part for part in UNLABELLED)
    listed = json.loads((data / "coco/annotations/instances_train.json").read_text())["images"]
    images += [data / "coco/images" / image["file_name"] for image in listed]
    for path in sorted(images):
        link(path, folder / "-".join(path.relative_to(data).parts))
    return folder


def gather_unseen(classes: Path, folder: Path) -> None:
    """Links to the photographs of class folders that are not trained on."""
    for path in find_images([classes])[0]:
        if path.name not in TRAINED_ON:
            link(path, folder / path.relative_to(classes))


def link(path: Path, there: Path) -> None:
    """Unless it is there."""
    there.parent.mkdir(parents=True, exist_ok=True)
    if not there.exists():
        there.symlink_to(path.resolve())


def settings(variant: str, args: argparse.Namespace) -> list[str]:
    """What a variant's run is given beside the recipe."""
    words = list(VARIANTS[variant])
    if variant == "reversed curriculum":
        words[-1] = f"[{args.fewest}, {args.most}]"
    elif variant == "R2O":
        words = ["--r2o.curriculum.values", f"[{args.most}, {args.fewest}]"]
    return [*words, "--r2o.epochs", str(args.epochs), "--device", args.device, *args.setting]


def train(variant: str, seed: int, images: Path, args: argparse.Namespace) -> Path:
    """Pretrain, or go on; the folder of the backbone."""
    run = args.work / f"{variant.replace(' ', '-').lower()}-{seed}"
    if not (run / "model" / "backbone.json").is_file():
        anyregion(
            "pretrain", str(images), "--out", str(run), "--config", args.config,
            "--seed", str(seed), "--r2o.cache", str(args.work / "priors"),
            *settings(variant, args), threads=args.threads, log=args.work / f"{run.name}.log",
        )  # fmt: skip
    return run / "model"


def judgements(args: argparse.Namespace) -> dict[str, Sequence[str]]:
    """What every backbone is asked, by the name of its figures."""
    folders, coco = args.shared / "data" / "unlabelled", args.shared / "data" / "coco"
    size = str(args.size)

    def classes(name: str) -> list[str]:
        return [str(folders / name / "train"), str(args.work / "unseen" / name)]

    # larger than what is trained on: a ResNet's early map of 14 x 14 is fine enough for regions
    masks = [str(coco / "annotations/instances_val_masks.json"), str(coco / "images")]
    masks += ["--size", str(DISCOVERY_SIZE)]
    return {
        "knn imagenette": ("knn", *classes("imagenette"), "--size", size),
        "knn caltech101": ("knn", *classes("caltech101"), "--size", size),
        "linear imagenette": ("linear", *classes("imagenette"), "--size", size),
        "discovery": ("discovery", *masks),
        "discovery last": ("discovery", *masks, "--layer", "last"),
        "foreground": ("discovery", *masks, "--foreground"),
    }


def same_settings(args: argparse.Namespace) -> None:
    """What lies below `--work` is of these settings, or of none.

    Runs check their own; figures that were made with others would be taken for these.
    """
    names = ("config", "epochs", "most", "fewest", "size", "setting")
    now = {name: getattr(args, name) for name in names}
    path = args.work / "settings.json"
    if path.is_file() and (before := json.loads(path.read_text())) != now:
        sys.exit(f"{path}: other settings: {before}, not {now}; take another --work")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now))


def answer_path(name: str, seed: int, question: str, args: argparse.Namespace) -> Path:
    """Where an answer lies."""
    path: Path = args.work / "figures" / f"{name}-{seed}-{question}.json".replace(" ", "-")
    return path


def judge(name: str, seed: int, backbone: Sequence[str], args: argparse.Namespace) -> None:
    """Ask everything that was not asked yet; one JSON file an answer."""
    for question, words in judgements(args).items():
        path = answer_path(name, seed, question, args)
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = anyregion(
            "evaluate", *words, "--backbone", *backbone, "--seed", str(seed), "--json",
            threads=args.threads, log=args.work / "judging.log",
        )  # fmt: skip
        json.loads(answer)
        partial = path.with_suffix(".part")
        partial.write_text(answer)
        partial.replace(path)


FIGURES = {
    "knn imagenette": "top1",
    "knn caltech101": "top1",
    "linear imagenette": "top1",
    "discovery": "mean_iou",
    "discovery last": "mean_iou",
    "foreground": "mean_iou",
}
RULERS = {"discovery": "grid", "discovery last": "grid", "foreground": "box"}  # need no image


def figures(name: str, args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """By question and seed, what was answered so far."""
    values_of: dict[str, dict[int, float]] = {question: {} for question in FIGURES}
    for question, figure in FIGURES.items():
        for seed in range(max(args.seeds, args.other_seeds)):
            path = answer_path(name, seed, question, args)
            if path.is_file():
                answer = json.loads(path.read_text())
                values_of[question][seed] = 100 * float(answer.get("figures", answer)[figure])
    return values_of


def rows(args: argparse.Namespace) -> Iterator[str]:
    """Two tables in Markdown: the figures in percent, and how far they are from random weights."""
    head = "| | seeds | " + " | ".join(FIGURES) + " |\n| --- | --- |" + " --- |" * len(FIGURES)
    blank = figures(RANDOM, args)
    yield "Percent: the mean over the seeds (each of them)\n\n" + head
    rulers = " | ".join(_ruler(question, args) for question in FIGURES)
    yield f"| a grid, a centred box | | {rulers} |"
    for name in (RANDOM, *VARIANTS):
        values_of = figures(name, args)
        cells = [_cell(list(values.values()), "") for values in values_of.values()]
        yield f"| {name} | {max(map(len, values_of.values()))} | " + " | ".join(cells) + " |"
    yield "\nPoints above random weights of the same seed: the mean (each)\n\n" + head
    for name in VARIANTS:
        above = [
            [
                value - blank[question][seed]
                for seed, value in values.items()
                if seed in blank[question]
            ]
            for question, values in figures(name, args).items()
        ]
        cells = [_cell(values, "+") for values in above]
        yield f"| {name} | {max(map(len, above))} | " + " | ".join(cells) + " |"


def _ruler(question: str, args: argparse.Namespace) -> str:
    """What partitions that look at no image reach; every answer states it."""
    path = answer_path(RANDOM, 0, question, args)
    if question not in RULERS or not path.is_file():
        return "-"
    answer = json.loads(path.read_text())
    return f"{100 * answer['baselines'][RULERS[question]][FIGURES[question]]:.1f}"


def _cell(values: Sequence[float], sign: str) -> str:
    single = " ".join(f"{value:{sign}.1f}" for value in values)
    return f"**{mean(values):{sign}.1f}** ({single})" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="the folder of shared data")
    parser.add_argument("--work", type=Path, required=True, help="runs, caches, figures")
    parser.add_argument("--config", default="r2o-small", help="the recipe (default: r2o-small)")
    parser.add_argument("--epochs", type=float, default=10, help="of every run (default: 10)")
    parser.add_argument("--most", type=int, default=64, help="regions of the curriculum's start")
    parser.add_argument("--fewest", type=int, default=4, help="and of its end")
    parser.add_argument("--size", type=int, default=96, help="side of the images of k-NN, linear")
    parser.add_argument("--seeds", type=int, default=2, help="of R2O and of fixed superpixels")
    parser.add_argument("--other-seeds", type=int, default=1, help="of the others")
    parser.add_argument("--at-once", type=int, default=2, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--setting", nargs=argparse.REMAINDER, default=[], help="more, for all")
    args = parser.parse_args()
    same_settings(args)
    images = gather(args.shared, args.work / "images")
    for name in ("imagenette", "caltech101"):
        classes = args.shared / "data" / "unlabelled" / name / "val"
        gather_unseen(classes, args.work / "unseen" / name)
    backbone = read_training(args.config, args.setting).settings.backbone
    # the rivals' first seeds come first: what is interrupted is comparable
    runs = [(v, s) for s in range(args.seeds) for v in ("R2O", "fixed superpixels")]
    others = [v for v in VARIANTS if v not in ("R2O", "fixed superpixels")]
    runs[2:2] = [(v, s) for s in range(args.other_seeds) for v in others]

    def one(run: tuple[str, int]) -> None:
        judge(*run, [str(train(*run, images, args))], args)

    def blank(seed: int) -> None:
        judge(RANDOM, seed, [backbone, "--weights", "random"], args)

    with ThreadPoolExecutor(args.at_once) as pool:
        waiting = [pool.submit(one, run) for run in runs]
        waiting += [pool.submit(blank, seed) for seed in range(args.seeds)]
        for done in waiting:
            done.result()
    table = "\n".join(rows(args))
    (args.work / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
