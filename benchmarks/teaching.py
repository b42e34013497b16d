"""Names taught by corrections, on photographs never seen, beside exemplars and words alone.

Corrections are K regions of each class of the training photographs, drawn at random, or all regions
of some photographs; the validation photographs are named among all classes. A set of one file has
every third photograph, by the order of its ids, for validation. Prints for each the share that is
right and the same averaged over classes, in percent, means over the draws (and their deviation); of
taught names also the calibration error, beside the one that scores without any error would have on
so few regions.

    python benchmarks/teaching.py --data DIR [--sets ccp camvid facade] [--features FOLDER]
        [--model compact] [--method dense] [--draws 3] [--json FILE]

Features of regions are kept in FOLDER by the model's fingerprint: another run takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
from numpy.typing import NDArray

from anyregion import Recognizer, Vocabulary, load_recognizer, load_regions, read_image
from anyregion.evaluation.metrics.calibration import auroc, ece
from anyregion.images import size_of
from anyregion.region_encoder import RegionEmbeddings, name_embeddings
from anyregion.regions import Regions
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary

Labels = NDArray[np.int64]
SETS = {
    "ccp": ("ccp/annotations/instances_train.json", "ccp/annotations/instances_val.json"),
    "camvid": ("camvid/annotations/regions_train.json", "camvid/annotations/regions_val.json"),
    **{
        name: (f"odinw_style/{name}/annotations/instances_train.json", None)
        for name in ("facade", "bccd", "apples", "car_damage", "cars_trucks", "chess")
    },
}
PER_CLASS = (3, 5, 10, 30, None)
REGIONS = (30, 100, 300)


@dataclass(frozen=True, eq=False)
class RegionSet:
    """All regions of a data set.

    Attributes:
        names: the classes.
        embedded: one row a region, with features.
        boxes: `(N, 4)`, as `embedded`'s.
        sizes: `(N, 2)`, height and width of each region's image.
        labels, images: `(N,)`.
        held_out: `(N,)`, whether its photograph is for validation.
    """

    names: tuple[str, ...]
    embedded: RegionEmbeddings
    sizes: Labels
    labels: Labels
    images: Labels
    held_out: NDArray[np.bool_]


def read_set(name: str, data: Path, recognizer: Recognizer, cache: Path | None) -> RegionSet:
    """The regions of a set, embedded or from the cache."""
    train, val = SETS[name]
    path = None
    if cache is not None:
        content = f"{recognizer.encoder.fingerprint} {train} {val}"
        path = cache / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"
        if path.is_file():
            arrays = dict(np.load(path))
            return _from_arrays(arrays)
    files = [load_regions(data / f, scores=False) for f in (train, val) if f is not None]
    ids = list(files[0].categories)
    photographs = [(file, key, i) for i, file in enumerate(files) for key in file.images]
    if val is None:
        keys = sorted(files[0].images, key=int)
        photographs = [(files[0], key, int(i % 3 == 2)) for i, key in enumerate(keys)]
    columns: dict[str, list[NDArray[Any]]] = {}
    folder = (data / train).parent.parent / "images"
    for number, (file, key, held_out) in enumerate(photographs):
        entry = file.images[key]
        if entry.file_name is None or entry.regions.categories is None:
            continue
        pixels = read_image(folder / entry.file_name)
        regions, _ = entry.regions.fit(*size_of(pixels))
        if not len(regions) or regions.categories is None:
            continue
        encoder = recognizer.encoder
        (part,) = encoder.embed_regions(encoder.encode_images([pixels]), [regions], features=True)
        row = {
            "embeddings": part.embeddings,
            "boxes": part.boxes,
            "sizes": np.tile(size_of(pixels), (len(regions), 1)),
            "labels": np.array([ids.index(c) for c in regions.categories.tolist()]),
            "images": np.full(len(regions), number),
            "held_out": np.full(len(regions), bool(held_out)),
            **{f"feature {k}": v.astype(np.float16) for k, v in (part.features or {}).items()},
        }
        for column, values in row.items():
            columns.setdefault(column, []).append(values)
    arrays = {column: np.concatenate(parts) for column, parts in columns.items()}
    arrays["names"] = np.array([files[0].categories[i] for i in ids])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    return _from_arrays(arrays)


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> RegionSet:
    features = {
        key.removeprefix("feature "): values.astype(np.float32)
        for key, values in arrays.items()
        if key.startswith("feature ")
    }
    embedded = RegionEmbeddings(arrays["embeddings"], arrays["boxes"], features=features or None)
    columns = (arrays[key] for key in ("sizes", "labels", "images", "held_out"))
    return RegionSet(tuple(arrays["names"].tolist()), embedded, *columns)


def part_of(embedded: RegionEmbeddings, rows: Labels) -> RegionEmbeddings:
    """Some rows."""
    features = embedded.features
    return RegionEmbeddings(
        embedded.embeddings[rows],
        embedded.boxes[rows],
        features=None if features is None else {name: f[rows] for name, f in features.items()},
    )


def teach(
    recognizer: Recognizer, names: Vocabulary, regions: RegionSet, rows: Labels, labels: list[Any]
) -> Teacher:
    """A teacher that was given the regions of these rows, image by image."""
    teacher = Teacher(recognizer, names)
    for image in np.unique(regions.images[rows]):
        at = np.flatnonzero(regions.images[rows] == image)
        of_image = rows[at]
        size = tuple(regions.sizes[of_image[0]].tolist())
        record = CorrectedImage(str(image), str(image), size)
        prompts = Regions.from_boxes(regions.embedded.boxes[of_image], ids=of_image.tolist())
        embedded = part_of(regions.embedded, of_image)
        teacher.add_embedded(record, prompts, embedded, [labels[i] for i in at])
    return teacher


def answers(
    recognizer: Recognizer, taught: TaughtVocabulary, regions: RegionSet, rows: Labels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities `(n, C)` of held-out regions, and of none of these `(n,)`."""
    probabilities = np.zeros((len(rows), len(taught.vocabulary)))
    none = np.zeros(len(rows))
    assert taught.classifier is not None
    for size in np.unique(regions.sizes[rows], axis=0):
        at = np.flatnonzero((regions.sizes[rows] == size).all(axis=1))
        answer = taught.classifier.answer(
            recognizer.encoder,
            part_of(regions.embedded, rows[at]),
            taught.matrix,
            (int(size[0]), int(size[1])),
            None,
        )
        probabilities[at], none[at] = answer.probabilities, answer.none
    return probabilities, none


def accuracies(best: Labels, labels: Labels) -> tuple[float, float]:
    """The share that is right, and the same averaged over classes, in percent."""
    right = best == labels
    by_class = [right[labels == c].mean() for c in np.unique(labels)]
    return 100 * float(right.mean()), 100 * float(np.mean(by_class))


def exemplar_answers(regions: RegionSet, rows: Labels, held_out: Labels) -> Labels:
    """The class with the nearest mean of embeddings, by cosine (`anyregion.exemplars`)."""
    embeddings = regions.embedded.embeddings
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = regions.labels[rows]
    shown = np.unique(labels)
    means = np.stack([unit[rows][labels == c].mean(axis=0) for c in shown])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    best: Labels = shown[(unit[held_out] @ means.T).argmax(axis=1)]
    return best


def draw_per_class(regions: RegionSet, count: int | None, seed: int) -> Labels:
    """So many training regions of each class, or all of them."""
    train = np.flatnonzero(~regions.held_out)
    if count is None:
        return train
    drawn: list[int] = []
    for c in np.unique(regions.labels[train]):
        of_class = train[regions.labels[train] == c]
        drawn += np.random.default_rng([seed, c]).permutation(of_class)[:count].tolist()
    return np.sort(np.array(drawn))


def draw_photographs(regions: RegionSet, count: int, seed: int) -> Labels:
    """All regions of training photographs, until there are so many."""
    train = np.flatnonzero(~regions.held_out)
    drawn: list[int] = []
    for image in np.random.default_rng([99, seed]).permutation(np.unique(regions.images[train])):
        if len(drawn) >= count:
            break
        drawn += np.flatnonzero(regions.images == image).tolist()
    return np.sort(np.array(drawn))


def draws(regions: RegionSet, seeds: int) -> Iterator[tuple[str, int, Labels]]:
    """What is called how, by which seed, of which rows."""
    for count in PER_CLASS:
        for seed in range(seeds if count else 1):
            name = f"{count} a class" if count else "all"
            yield name, seed, draw_per_class(regions, count, seed)
    for count in REGIONS:
        for seed in range(seeds):
            yield f"{count} regions", seed, draw_photographs(regions, count, seed)


def lowest_ece(scores: NDArray[np.float64]) -> float:
    """The mean calibration error of right scores: what is right is drawn by them."""
    random = np.random.default_rng(0)
    return float(np.mean([ece(scores, random.random(len(scores)) < scores) for _ in range(20)]))


def refusal(
    recognizer: Recognizer, regions: RegionSet, seeds: int, *, taught: bool
) -> list[tuple[float, float]]:
    """Half of the classes are no names: AUROC of telling their held-out regions, by the best score.

    Args:
        taught: their training regions are corrected to "none of these", or not shown.
    """
    values = []
    train, held_out = np.flatnonzero(~regions.held_out), np.flatnonzero(regions.held_out)
    present = np.unique(regions.labels[train])
    for seed in range(seeds):
        absent = np.random.default_rng([3, seed]).permutation(present)[: len(present) // 2]
        names = Vocabulary.from_names([n for i, n in enumerate(regions.names) if i not in absent])
        gone = np.isin(regions.labels, absent)
        rows = train if taught else train[~gone[train]]
        labels = [None if gone[i] else regions.names[regions.labels[i]] for i in rows]
        vocabulary = teach(recognizer, names, regions, rows, labels).vocabulary()
        probabilities, none = answers(recognizer, vocabulary, regions, held_out)
        away = gone[held_out]
        doubt = 1 - probabilities.max(axis=1)
        values.append(
            (auroc(doubt[away], doubt[~away]) or np.nan, auroc(none[away], none[~away]) or np.nan)
        )
    return values


def measure(recognizer: Recognizer, name: str, regions: RegionSet, seeds: int) -> dict[str, Any]:
    """All figures of a set."""
    held_out = np.flatnonzero(regions.held_out)
    labels = regions.labels[held_out]
    names = Vocabulary.from_names(list(regions.names))
    words = recognizer.encode_vocabulary(names)
    best, scores = name_embeddings(
        recognizer.encoder, regions.embedded.embeddings[held_out], words.matrix, top_k=1, score=None
    )
    results: dict[str, Any] = {
        "regions": len(held_out),
        "classes": len(np.unique(regions.labels)),
        "commonest": 100 * float(np.bincount(labels).max() / len(labels)),
        "words": [*accuracies(best[:, 0], labels), 100 * ece(scores[:, 0], best[:, 0] == labels)],
    }
    rows_of: dict[str, list[Any]] = {}
    for what, _, rows in draws(regions, seeds):
        started = time.process_time()
        listed = [regions.names[c] for c in regions.labels[rows]]
        taught = teach(recognizer, names, regions, rows, listed).vocabulary()
        seconds = time.process_time() - started
        probabilities, _ = answers(recognizer, taught, regions, held_out)
        best_names = probabilities.argmax(axis=1)
        top = probabilities.max(axis=1)
        exemplars = exemplar_answers(regions, rows, held_out)
        rows_of.setdefault(what, []).append(
            [
                len(rows),
                *accuracies(exemplars, labels),
                *accuracies(best_names, labels),
                100 * ece(top, best_names == labels),
                100 * lowest_ece(top),
                100 * float(top.mean()),
                seconds,
            ]
        )
    for what, values in rows_of.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        results[what] = {
            "corrections": mean[0],
            "exemplars": mean[1:3].tolist(),
            "taught": mean[3:5].tolist(),
            "spread": spread[3:5].tolist(),
            "ece": mean[5],
            "lowest_ece": mean[6],
            "mean_score": mean[7],
            "seconds": mean[8],
        }
    for taught in (False, True):
        results[f"refusal {'taught' if taught else 'not taught'}"] = np.nanmean(
            refusal(recognizer, regions, seeds, taught=taught), axis=0
        ).tolist()
    return results


def report(name: str, results: dict[str, Any]) -> None:
    words = results["words"]
    print(
        f"\n{name}: {results['regions']} regions, {results['classes']} classes, the commonest "
        f"{results['commonest']:.0f} %; words {words[0]:.0f} / {words[1]:.0f}, ece {words[2]:.1f}"
    )
    print(f"{'':13}corrections  exemplars    taught       +-           ece (lowest)  score  s")
    for what, r in results.items():
        if not isinstance(r, dict):
            continue
        cells = (f"{a:5.1f} / {b:4.1f}" for a, b in (r["exemplars"], r["taught"], r["spread"]))
        print(
            f"{what:13}{r['corrections']:11.0f}  {'  '.join(cells)}  {r['ece']:4.1f} "
            f"({r['lowest_ece']:4.1f})  {r['mean_score']:5.1f}  {r['seconds']:.2f}",
            flush=True,
        )
    for taught in ("not taught", "taught"):
        score, none = results[f"refusal {taught}"]
        print(f"half the classes absent, {taught}: AUROC of the score {score:.2f}, none {none:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--features", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--method")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    recognizer = load_recognizer(args.model, method=args.method)
    results = {}
    for name in args.sets:
        regions = read_set(name, args.data, recognizer, args.features)
        results[name] = measure(recognizer, name, regions, args.draws)
        report(name, results[name])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
