"""Accuracy of names that are shown by K pictures, beside names that are words, and both together.

Regions of each class are drawn from the training annotations, three times, and those of the
validation annotations are named among all classes. Prints top-1, top-5 and class-averaged accuracy
in percent, mean and standard deviation over the seeds.

    python benchmarks/few_shot.py --train TRAIN.json --val VAL.json --images DIR
        [--model compact] [--method dense] [--shots 1 5 10] [--weight W] [--masks]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion import Recognizer, SetAside, Vocabulary, load_recognizer, load_regions, read_image
from anyregion.evaluation.metrics.accuracy import accuracies, ranks_of
from anyregion.exemplars import exemplar_share, mix_rows
from anyregion.vocabulary import Floats

Labels = NDArray[np.int64]


def embedded(
    recognizer: Recognizer, annotations: Path, images: Path, ids: list[int], *, masks: bool
) -> tuple[Floats, Labels]:
    """Embeddings of length 1 of every annotated region, and the position of its class."""
    file = load_regions(annotations, masks=masks, scores=False)
    place = {category: position for position, category in enumerate(ids)}
    rows: list[Floats] = []
    labels: list[int] = []
    skipped: list[SetAside] = list(file.set_aside)
    for entry in file.images.values():
        if not len(entry.regions) or entry.regions.categories is None or entry.file_name is None:
            continue
        pixels = read_image(images / entry.file_name)
        regions, outside = entry.regions.fit(*pixels.shape[:2])
        skipped += outside
        named = [i for i, c in enumerate(regions.categories.tolist()) if c in place]
        rows += recognizer.embed([pixels], [regions[named]])
        labels += [place[regions.categories[i]] for i in named]
    print(f"{annotations.name}: {len(labels)} regions, {len(skipped)} set aside")
    stacked = np.concatenate(rows)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True), np.array(labels)


def percentages(regions: Floats, labels: Labels, matrix: Floats) -> list[float]:
    """Top-1, top-5 and class-averaged accuracy, in percent."""
    best = np.argsort(-(regions @ matrix.T), axis=1, kind="stable")[:, :5]
    return [100 * value for value in accuracies(ranks_of(best, labels), labels).values()]


def exemplar_rows(
    regions: Floats, labels: Labels, classes: int, shots: int, seed: int
) -> dict[int, Floats]:
    """The row of each class: the mean of `shots` of its regions, of length 1."""
    rows = {}
    for position in range(classes):
        of_class = np.flatnonzero(labels == position)
        if len(of_class):
            drawn = np.random.default_rng([seed, position]).permutation(of_class)[:shots]
            mean = regions[drawn].mean(axis=0)
            rows[position] = mean / np.linalg.norm(mean)
    return rows


def report(what: str, results: list[list[float]]) -> None:
    values = np.array(results)
    cells = zip(values.mean(axis=0), values.std(axis=0), strict=True)
    print(f"{what:32}", "  ".join(f"{m:5.1f} +- {s:3.1f}" for m, s in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--method")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weight", type=float, help="share of the pictures (default: by K)")
    parser.add_argument(
        "--masks", action="store_true", help="masks as prompts, where there are any"
    )
    args = parser.parse_args()
    started = time.perf_counter()
    recognizer = load_recognizer(args.model, method=args.method, device=args.device)
    categories = load_regions(args.train).categories
    names = Vocabulary.from_names(list(categories.values()), ids=list(categories))
    words = recognizer.encode_vocabulary(names).matrix
    train, of_train = embedded(
        recognizer, args.train, args.images, list(names.ids), masks=args.masks
    )
    val, of_val = embedded(recognizer, args.val, args.images, list(names.ids), masks=args.masks)
    print(f"{recognizer.encoder.name}, {len(names)} names, {time.perf_counter() - started:.0f} s\n")
    print(f"{'':32} top-1        top-5        class-averaged")
    report("words", [percentages(val, of_val, words)])
    for shots in args.shots:
        alone, both = [], []
        for seed in range(args.seeds):
            rows = exemplar_rows(train, of_train, len(names), shots, seed)
            # a class that nothing shows can not be named by pictures: its row is zero
            alone.append(percentages(val, of_val, mix_rows(np.zeros_like(words), rows, 1.0)))
            share = exemplar_share(shots) if args.weight is None else args.weight
            both.append(percentages(val, of_val, mix_rows(words, rows, share)))
        report(f"{shots} pictures", alone)
        report(f"{shots} pictures and words", both)


if __name__ == "__main__":
    main()
