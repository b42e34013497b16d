"""The store of frozen features: opening a large index, bytes a region, reading an image.

    python benchmarks/token_store.py [--images 100000] [--regions 1000000]

Opening is measured in fresh processes (Linux), the index pushed out of the file cache before: the
seconds of `Store(folder)` alone, and what the process's peak memory grows by. Sizes are those of
SAM's tokens (256 numbers a region) and of CLIP ViT-B/16's feature maps (197 x 768), at COCO's 7
regions an image and at 50; the numbers are random, which changes no work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
from PIL import Image

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.features import Features
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import Store, create_store, hash_features
from anyregion.images import Pixels
from anyregion.regions import Regions

# the kernel's own high-water mark of this program; getrusage's would include the one that began it
OPEN = """
import sys, time
from pathlib import Path
from anyregion.data.store.store import Store

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before = peak()
start, cpu = time.perf_counter(), time.process_time()
store = Store(sys.argv[1])
print(time.perf_counter() - start, time.process_time() - cpu, before, peak())
"""
GOAL_SECONDS = 1.0
TOKEN_BYTES = 512


class RandomFeatures:
    """Stands for SAM and CLIP ViT-B/16: arrays of their sizes."""

    fingerprint = "random"

    def __init__(self, *, maps: bool) -> None:
        self.maps = maps
        self._random = np.random.default_rng(0)

    def describe(self) -> Mapping[str, str]:
        return {"models": "random"}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        return [self._one(len(r)) for r in regions]

    def _one(self, count: int) -> Features:
        tokens = {"tokens": self._random.standard_normal((count, 256)).astype(np.float16)}
        if not self.maps:
            return tokens
        return {**tokens, "features": self._random.standard_normal((197, 768)).astype(np.float16)}


def random_annotations(images: int, regions: int, *, classes: int = 1000) -> Annotations:
    """Regions spread unevenly over the images, in a picture of 640 x 480; one file for all."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(regions, np.full(images, 1 / images))
    low = rng.uniform(0, [500, 400], (regions, 2))
    names = tuple(f"class {i}" for i in range(classes))
    return Annotations(
        categories=Categories(np.arange(classes), names, ((),) * classes, ("",) * classes),
        image_ids=tuple(map(str, range(images))),
        file_names=("black.png",) * images,
        sizes=np.tile([480, 640], (images, 1)),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([low, low + rng.uniform(4, 80, (regions, 2))], axis=1),
        labels=rng.integers(0, classes, regions),
        crowd=np.zeros(regions, dtype=bool),
        areas=rng.uniform(16, 6400, regions),
        region_ids=np.arange(regions),
    )


def small_store(folder: Path, *, images: int, each: int, maps: bool, mirrored: bool) -> Store:
    """A filled store of so many images with `each` regions (on average)."""
    extractor = RandomFeatures(maps=maps)
    annotations = random_annotations(images, images * each)
    Image.new("RGB", (640, 480)).save(folder / "black.png")
    store = create_store(
        folder / "store", annotations, extractor, mirrored=mirrored, images_per_shard=32
    )
    fill_store(store, extractor, folder)
    return store


def measure_opening(folder: Path, images: int, regions: int) -> None:
    """Open the index of a large store in fresh processes."""
    create_store(folder, random_annotations(images, regions), RandomFeatures(maps=False))
    index = folder / "index.safetensors"
    runs = []
    for _ in range(3):
        with index.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        printed = subprocess.run(
            [sys.executable, "-c", OPEN, str(folder)], check=True, capture_output=True, text=True
        ).stdout
        runs.append([float(v) for v in printed.split()])
    seconds, cpu = [run[0] for run in runs], [run[1] for run in runs]
    *_, before, after = runs[-1]
    print(f"{images:,} images, {regions:,} regions, 1,000 classes; index {_mb(index):.0f} MB")
    print(
        f"  opened in {min(seconds):.2f} to {max(seconds):.2f} s (goal: {GOAL_SECONDS:g}), ", end=""
    )
    print(f"{max(cpu):.2f} CPU s at most")
    print(f"  peak memory {before:.0f} MB before, {after:.0f} MB after, mapped pages included")


def measure_size(each: int, *, maps: bool, mirrored: bool) -> None:
    """Bytes on disk, beside the arrays themselves; and the time to read an image."""
    with tempfile.TemporaryDirectory() as name:
        store = small_store(Path(name), images=128, each=each, maps=maps, mirrored=mirrored)
        regions = store.info.regions
        shards = [spec.path for spec in store.shards.specs]
        size = sum(path.stat().st_size for path in shards)
        sides = 1 + mirrored
        bare = sides * (regions * TOKEN_BYTES + maps * len(store) * 197 * 768 * 2)
        what = f"tokens{' and maps' if maps else ''}{', mirror images' if mirrored else ''}"
        print(f"{each:2} regions an image, {what}")
        if not maps:
            print(f"  {size / regions:.0f} bytes a region: {sides} x {TOKEN_BYTES}", end="")
        else:
            print(f"  {size / len(store) / 1e3:.0f} kB an image", end="")
        print(f" and {100 * (size / bare - 1):.1f} % for names and hashes")
        order = np.random.default_rng(1).permutation(np.arange(len(store)).repeat(4)).tolist()
        fresh = Store(store.folder)
        fresh.read(0)
        start = time.process_time()
        read = [fresh.read(image) for image in order]
        seconds = (time.process_time() - start) / len(order)
        start = time.process_time()
        for features in read:
            hash_features(features)
        hashing = (time.process_time() - start) / len(order)
        print(f"  {1e3 * seconds:.2f} ms an image read at random, {1e3 * hashing:.2f} for its hash")


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--regions", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure_opening(Path(name) / "store", args.images, args.regions)
    for each, maps, mirrored in ((7, False, False), (7, False, True), (50, False, True)):
        measure_size(each, maps=maps, mirrored=mirrored)
    measure_size(50, maps=True, mirrored=True)


if __name__ == "__main__":
    main()
