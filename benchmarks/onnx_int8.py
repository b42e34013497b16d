"""How far 8-bit weights move an exported RegionSpot's answers, and what they save.

python benchmarks/onnx_int8.py FLOAT_FOLDER INT8_FOLDER PHOTO [PHOTO ...]

Both are of `anyregion export-onnx`. Random boxes on each photograph, named by both.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from anyregion import Recognizer, Regions, load_recognizer
from anyregion.images import read_image

NAMES = ["person", "car", "dog", "cup", "tree", "window", "chair", "bird", "sign", "boat"]


def main() -> None:
    """Print one JSON line: cosines, equal first names, CPU seconds an image, megabytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2, type=Path, metavar="FOLDER", help="float32, then int8")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--boxes", type=int, default=20, help="random boxes an image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recognizers = [load_recognizer(folder, cache=None) for folder in args.models]
    photos = [read_image(path) for path in args.photos]
    rng = np.random.default_rng(args.seed)
    boxes = [random_boxes(photo.shape[:2], args.boxes, rng) for photo in photos]
    rows, names, seconds = zip(*(answers(r, photos, boxes) for r in recognizers), strict=True)
    lengths = [np.linalg.norm(part, axis=1) for part in rows]
    cosines = (rows[0] * rows[1]).sum(1) / (lengths[0] * lengths[1])
    sizes = [sum(f.stat().st_size for f in folder.glob("*.onnx")) for folder in args.models]
    report = {
        "regions": len(cosines),
        "cosine_mean": round(float(cosines.mean()), 5),
        "cosine_least": round(float(cosines.min()), 5),
        "same_first_name": round(float((names[0] == names[1]).mean()), 4),
        "cpu_seconds_an_image": [round(s / len(photos), 4) for s in seconds],
        "megabytes": [round(size / 1e6, 2) for size in sizes],
    }
    print(json.dumps(report))


def random_boxes(size: tuple[int, ...], count: int, rng: np.random.Generator) -> Regions:
    """Boxes of 5 to 60 % of each side."""
    whole = np.array(size[::-1], float)
    sides = rng.uniform(0.05, 0.6, (count, 2)) * whole
    corners = rng.uniform(0, 1, (count, 2)) * (whole - sides)
    return Regions.from_boxes(np.hstack([corners, corners + sides]))


def answers(
    recognizer: Recognizer, photos: list[np.ndarray], boxes: list[Regions]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Embeddings of all regions, their first names' positions, and CPU seconds."""
    matrix = recognizer.encode_vocabulary(NAMES).matrix
    recognizer.embed(photos[:1], boxes[:1])  # loads the graphs
    start = time.process_time()
    rows = np.concatenate(recognizer.embed(photos, boxes))
    seconds = time.process_time() - start
    return rows, (rows @ matrix.T).argmax(1), seconds


if __name__ == "__main__":
    main()
