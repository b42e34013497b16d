"""How long the built-in model takes to name 10 boxes of a 640 x 480 photo, on one core.

Beside it, in turns, the same network in eager torch. Needs the extra `[dev]`. The process keeps
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
from anyregion.compact.embedder import CompactEmbedder
from anyregion.training_free.dense import DenseEncoder

BOXES = 10
NAMES = ["cup", "spoon", "saucer", "table", "dog", "car", "person", "book", "plate", "flower"]
START = (
    "import time; t = time.perf_counter(); import anyregion; "
    "from anyregion.compact.embedder import CompactEmbedder; "
    "e = CompactEmbedder(threads=1); e.text.encode_text(['a cup']); "
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
    recognizer = Recognizer(DenseEncoder(CompactEmbedder(threads=1)), cache=None)
    words = recognizer.encode_vocabulary(NAMES)
    image, regions = photo(), Regions.from_boxes(boxes())
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.reset_classifier(0, "")
    pixels = torch.zeros(1, 3, 480, 640)

    def name() -> None:
        recognizer.set_image(image)
        recognizer.ask(regions, words)

    def see() -> None:
        recognizer.encoder.encode_images([image])

    def eager() -> None:
        with torch.inference_mode():
            network(pixels)

    for work in (name, see, eager):
        work()
    # in turns, so that a busy machine slows all of them alike
    times = [(timed(name), timed(see), timed(eager)) for _ in range(rounds)]
    naming, eyes, torch_eyes = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(row[2] / row[1] for row in times)
    result = {
        "photo_with_10_boxes_ms": round(naming, 1),
        "eyes_ms": round(eyes, 1),
        "eyes_in_eager_torch_ms": round(torch_eyes, 1),
        "torch_over_eyes": round(ratio, 2),
        "import_and_load_s": round(float(loading.stdout), 2),
        "goals": {"photo_with_10_boxes_ms": "< 120", "torch_over_eyes": ">= 2.5"},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
