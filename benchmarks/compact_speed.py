"""How long the built-in model takes to name 10 boxes of a 640 x 480 photo, on one core.

Beside it, in turns: the same eyes without the trained module (dense), the same boxes each cut out
(crop), and the eyes' network in eager torch. Needs the extra `[dev]`. The process keeps
to one core; times are CPU time, so that other work on the machine does not count.

    python benchmarks/compact_speed.py [--rounds 15]
"""

from __future__ import annotations

import argparse
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
from anyregion.baselines.crop import CropEncoder
from anyregion.baselines.dense import DenseEncoder
from anyregion.compact.model import CompactEmbedder, CompactEncoder, CompactModel

BOXES = 10
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


def boxes() -> np.ndarray:
    """Ten boxes of many sizes inside 640 x 480, always the same."""
    random = np.random.default_rng(0)
    corner = random.uniform([0, 0], [400, 300], (BOXES, 2))
    return np.concatenate([corner, corner + random.uniform(20, 180, (BOXES, 2))], axis=1)


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds

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
        chosen, words = ways[way]
        chosen.set_image(image)
        chosen.predict(regions, words, **options)

    def see() -> None:
        recognizer.encoder.encode_images([image])

    def eager() -> None:
        with torch.inference_mode():
            network(pixels)

    works: dict[str, Callable[[], object]] = {
        "naming": lambda: name(0),
        "dense": lambda: name(1),
        "crop": lambda: name(2),
        "masks": lambda: name(0, masks=True),
        "eyes": see,
        "eager": eager,
    }
    for work in works.values():
        work()
    # in turns, so that a busy machine slows all of them alike
    times = [{key: timed(work) for key, work in works.items()} for _ in range(rounds)]

    def middle(key: str) -> float:
        return statistics.median(row[key] for row in times)

    ratio = statistics.median(row["eager"] / row["eyes"] for row in times)
    crops = statistics.median(row["crop"] / row["naming"] for row in times)
    result = {
        "photo_with_10_boxes_ms": round(middle("naming"), 1),
        "without_the_module_ms": round(middle("dense"), 1),
        "as_crops_ms": round(middle("crop"), 1),
        "crops_over_naming": round(crops, 2),
        "with_masks_ms": round(middle("masks"), 1),
        "eyes_ms": round(middle("eyes"), 1),
        "eyes_in_eager_torch_ms": round(middle("eager"), 1),
        "torch_over_eyes": round(ratio, 2),
        "import_and_load_s": round(float(loading.stdout), 2),
        "goals": {
            "photo_with_10_boxes_ms": "< 120",
            "crops_over_naming": "> 1",
            "torch_over_eyes": ">= 2.5",
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
