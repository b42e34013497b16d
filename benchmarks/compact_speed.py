"""How long the built-in model takes to name 10 boxes of a 640 x 480 photo, on one core.

Beside it, in turns: the same image encoder without the trained head (dense), the same boxes each
cut out (crop), and the encoder's network in eager torch. Needs the extra `[dev]`. The process keeps
to one core; times are CPU time, so that other work on the machine does not count.

    python benchmarks/compact_speed.py [--rounds 15]
    python benchmarks/compact_speed.py --pooling

With `--pooling`: means over 10 to 4,000 boxes along one axis after the other, and by a summed-area
table, on grids of `compact` (strides 8, 16, 32 of this photo) and of CLIP (24 x 24).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

# before numpy comes: its BLAS would start a thread a core, which then wait in busy loops
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
import timm
import torch
from skimage import data, transform

from anyregion import Recognizer, Regions
from anyregion.baselines import pooling
from anyregion.baselines.crop import CropEncoder
from anyregion.baselines.dense import DenseEncoder
from anyregion.baselines.embedder import DenseMap
from anyregion.compact.model import CompactEmbedder, CompactEncoder, CompactModel

BOXES = 10
GRIDS = ((60, 80, 40), (30, 40, 112), (15, 20, 320), (24, 24, 1024))
COUNTS = (10, 50, 100, 256, 1000, 4000)
NAMES = ["cup", "spoon", "saucer", "table", "dog", "car", "person", "book", "plate", "flower"]
START = (
    "import time; t = time.perf_counter(); import anyregion; "
    "from anyregion.compact.model import CompactEncoder, CompactModel; "
    "e = CompactEncoder(CompactModel(threads=1)); e.text.encode_text(['a cup']); "
    "print(time.perf_counter() - t)"
)


def photo() -> np.ndarray:
    """A real photo (scikit-image's coffee cup) at 640 x 480."""
    return (transform.resize(data.coffee(), (480, 640), anti_aliasing=True) * 255).astype(np.uint8)


def boxes(count: int = BOXES) -> np.ndarray:
    """Boxes of many sizes inside 640 x 480, always the same."""
    random = np.random.default_rng(0)
    corner = random.uniform([0, 0], [400, 300], (count, 2))
    return np.concatenate([corner, corner + random.uniform(20, 180, (count, 2))], axis=1)


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def pool_plainly(dense: DenseMap, many: np.ndarray) -> np.ndarray:
    """Pool along one axis after the other, whatever the number of boxes."""
    threshold, pooling.SUMMED_BOXES = pooling.SUMMED_BOXES, len(many) + 1
    try:
        return pooling.pool(dense, many)
    finally:
        pooling.SUMMED_BOXES = threshold


def compare_pooling(rounds: int) -> None:
    """Print the milliseconds of both ways (the best of some rounds) and their difference."""
    print("grid            boxes     plain     table   ratio   largest difference")
    for height, width, channels in GRIDS:
        features = np.random.default_rng(0).normal(size=(height, width, channels))
        dense = DenseMap(features.astype(np.float32), (480.0, 640.0))
        for count in COUNTS:
            many = boxes(count)
            plain = functools.partial(pool_plainly, dense, many)
            summed = functools.partial(pooling._pool_summed, dense, many)
            product, table = (min(timed(way) for _ in range(rounds)) for way in (plain, summed))
            grid = f"{height} x {width} x {channels}"
            print(
                f"{grid:15} {count:5}  {product:8.2f}  {table:8.2f}  {product / table:6.2f}"
                f"   {np.abs(summed() - plain()).max():.0e}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pooling", action="store_true", help="compare two ways of pooling")
    args = parser.parse_args()
    rounds: int = args.rounds
    if args.pooling:
        compare_pooling(rounds)
        return

    torch.set_num_threads(1)
    loading = subprocess.run([sys.executable, "-c", START], capture_output=True, check=True)
    model = CompactModel(threads=1)
    embedder = CompactEmbedder(model)
    recognizer = Recognizer(CompactEncoder(model), cache=None)
    others = [Recognizer(e, cache=None) for e in (DenseEncoder(embedder), CropEncoder(embedder))]
    ways = [(r, r.encode_vocabulary(NAMES)) for r in (recognizer, *others)]
    image, regions = photo(), Regions.from_boxes(boxes())
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.reset_classifier(0, "")
    pixels = torch.zeros(1, 3, 480, 640)

    def name(way: int, **options: bool) -> None:
        method, vocabulary = ways[way]
        method.set_image(image)
        method.predict(regions, vocabulary, **options)

    def encode() -> None:
        recognizer.encoder.encode_images([image])

    pyramid = model.image_encoder.encode(image)

    def propose() -> None:
        model.proposal_head.propose(pyramid)

    def eager() -> None:
        with torch.inference_mode():
            network(pixels)

    works: dict[str, Callable[[], object]] = {
        "naming": lambda: name(0),
        "dense": lambda: name(1),
        "crop": lambda: name(2),
        "masks": lambda: name(0, masks=True),
        "encoder": encode,
        "proposals": propose,
        "eager": eager,
    }
    for work in works.values():
        work()
    # in turns, so that a busy machine slows all of them alike
    times = [{key: timed(work) for key, work in works.items()} for _ in range(rounds)]

    def middle(key: str) -> float:
        return statistics.median(row[key] for row in times)

    ratio = statistics.median(row["eager"] / row["encoder"] for row in times)
    crops = statistics.median(row["crop"] / row["naming"] for row in times)
    result = {
        "photo_with_10_boxes_ms": round(middle("naming"), 1),
        "without_the_head_ms": round(middle("dense"), 1),
        "as_crops_ms": round(middle("crop"), 1),
        "crops_over_naming": round(crops, 2),
        "with_masks_ms": round(middle("masks"), 1),
        "image_encoder_ms": round(middle("encoder"), 1),
        "proposals_ms": round(middle("proposals"), 1),
        "image_encoder_in_eager_torch_ms": round(middle("eager"), 1),
        "torch_over_encoder": round(ratio, 2),
        "import_and_load_s": round(float(loading.stdout), 2),
        "goals": {
            "photo_with_10_boxes_ms": "< 120",
            "crops_over_naming": "> 1",
            "torch_over_encoder": ">= 2.5",
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
