"""What the views of an image cost: decoding, two views and the whole, against torchvision's.

    python benchmarks/views.py --shared ../shared [--images 200]

CPU milliseconds an image in one thread, each image done by every way in turn: a busy machine then
slows all alike. The other ways are torchvision's transforms on Pillow images with the same
settings: with its own blur and, where OpenCV is installed, with OpenCV's, which is the published
code's. Photographs: COCO's at 224 pixels, the small unlabelled ones at 96.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from anyregion.images import Pixels, find_images, read_image
from anyregion.r2o.augmentations import ViewConfig, make_views, spanning_view

BICUBIC = transforms.InterpolationMode.BICUBIC
Stages = dict[str, list[float]]


class OpenCVBlur:
    """OpenCV's 8-bit blur with a random sigma."""

    def __init__(self, kernel: int, sigma: tuple[float, float]) -> None:
        self.kernel, self.sigma = kernel, sigma
        self._random = np.random.default_rng(0)

    def __call__(self, image: Image.Image) -> Image.Image:
        import cv2

        sigma = self._random.uniform(*self.sigma)
        return Image.fromarray(cv2.GaussianBlur(np.array(image), (self.kernel, self.kernel), sigma))


def torchvision_view(
    config: ViewConfig, index: int, *, opencv: bool
) -> Callable[[Image.Image], Image.Image]:
    """torchvision's transforms for view 0 or 1."""
    brightness, contrast, saturation, hue = config.jitter
    blur = (
        OpenCVBlur(config.kernel, config.blur_sigma)
        if opencv
        else transforms.GaussianBlur(config.kernel, config.blur_sigma)
    )
    return transforms.Compose([
        transforms.RandomResizedCrop(config.size, config.scale, config.ratio, BICUBIC),
        transforms.RandomHorizontalFlip(config.flip),
        transforms.RandomApply(
            [transforms.ColorJitter(brightness, contrast, saturation, hue)], config.jitter_p
        ),
        transforms.RandomGrayscale(config.grey),
        transforms.RandomApply([blur], config.blur[index]),
        transforms.RandomSolarize(config.solarise_at, config.solarise[index]),
    ])  # fmt: skip


class Torchvision:
    """Bytes of a file to two views and the whole, by torchvision."""

    def __init__(self, config: ViewConfig, *, opencv: bool) -> None:
        self.views = [torchvision_view(config, index, opencv=opencv) for index in range(2)]
        self.whole = transforms.Resize((config.size, config.size), BICUBIC)

    def __call__(self, data: Path, stages: Stages) -> list[Pixels]:
        start = time.thread_time()
        with Image.open(data) as opened:
            image = opened.convert("RGB")
        start = _note(stages, "decode", start)
        views = [np.array(view(image)) for view in self.views]
        start = _note(stages, "two views", start)
        whole = np.array(self.whole(image))
        _note(stages, "whole", start)
        return [*views, whole]


class Own:
    """The same by this package."""

    def __init__(self, config: ViewConfig) -> None:
        self.config = config
        self._random = np.random.default_rng(0)

    def __call__(self, data: Path, stages: Stages) -> list[Pixels]:
        start = time.thread_time()
        image = read_image(data)
        start = _note(stages, "decode", start)
        views = make_views(image, self.config, self._random)
        start = _note(stages, "two views", start)
        whole = spanning_view(image, self.config.size)
        _note(stages, "whole", start)
        return [*(view.pixels for view in views), whole]


def _note(stages: Stages, name: str, start: float) -> float:
    now = time.thread_time()
    stages.setdefault(name, []).append(now - start)
    return now


def measure(folder: Path, size: int, images: int) -> None:
    """Print the table for the first images of a folder, spread over it."""
    paths, _ = find_images([folder])
    chosen = paths[:: max(1, len(paths) // images)][:images]
    config = ViewConfig(size=size)
    ways: dict[str, Callable[[Path, Stages], list[Pixels]]] = {
        "ours": Own(config),
        "torchvision": Torchvision(config, opencv=False),
    }
    if find_spec("cv2"):
        ways["torchvision, OpenCV's blur"] = Torchvision(config, opencv=True)
    taken: dict[str, Stages] = {name: {} for name in ways}
    for run in range(2):
        for path in chosen:
            for name, way in ways.items():
                way(path, taken[name] if run else {})
    print(f"{len(chosen)} photographs of {folder.name} at {size} pixels, CPU ms an image")
    own = _means(taken["ours"])
    for name, stages in taken.items():
        means = _means(stages)
        cells = ", ".join(f"{stage} {ms:.2f}" for stage, ms in means.items())
        whole, views = sum(means.values()), means["two views"] / own["two views"]
        ratio = f"{whole / sum(own.values()):.2f} times ours, views {views:.2f} times"
        print(f"  {name:27} {whole:6.2f}: {cells}; {ratio}")


def _means(stages: Stages) -> dict[str, float]:
    return {stage: 1e3 * float(np.mean(seconds)) for stage, seconds in stages.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measure(args.shared / "data" / "coco", 224, args.images)
    measure(args.shared / "data" / "unlabelled", 96, args.images)


if __name__ == "__main__":
    main()
