"""Wrong labels planted in annotated photographs, and how well `data suspects` finds them.

Of a set's regions five in a hundred, drawn at random, get the name of another class of the set:
`uniform` any other class alike, `alike` a class that the model takes them for (drawn by the
probabilities, averaged over the class, of a fit without the region's image to the labels as they
were). The regions are then ranked as `anyregion data suspects` ranks them. Prints means over the
seeds: average precision and AUROC of telling the planted ones; precision, which is recall too,
among the first five in a hundred; and at the default contradiction the share of regions that are
suspects, their precision and recall. What was wrong before counts as a false alarm.

    python benchmarks/suspects.py --data DIR [--sets ccp facade coco_val] [--features FOLDER]
        [--model compact] [--method dense] [--seeds 5] [--json FILE]

Features are kept in FOLDER as `benchmarks/teaching.py` keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
from numpy.typing import NDArray

import teaching
from anyregion import Recognizer, Vocabulary, load_recognizer
from anyregion.evaluation.metrics.calibration import auroc
from anyregion.teaching.suspects import contradictions, least_contradiction
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary

Labels = NDArray[np.int64]
SETS = ("ccp", "camvid", "facade", "bccd", "chess", "coco_val")
teaching.SETS["coco_val"] = ("coco/annotations/instances_val.json", None)
SHARE = 0.05
FIGURES = ("ap", "auroc", "top_precision", "suspects", "precision", "recall")


def relabelled(teacher: Teacher, labels: Labels) -> TaughtVocabulary:
    """What is taught by other labels `(n,)` of the same regions, in the order of corrections."""
    again = Teacher(teacher.recognizer, teacher.names)
    assert teacher.corrections is not None
    again.corrections = teacher.corrections.relabel(list(range(len(labels))), labels)
    return again.vocabulary()


def confusion(taught: TaughtVocabulary) -> NDArray[np.float64]:
    """`(C, C)`, how probable other classes are of regions of a class; 0 of classes without any."""
    assert taught.left_out is not None
    labels, names = taught.labels, len(taught.vocabulary)
    probabilities = taught.left_out.probabilities[:, :names].astype(np.float64)
    mean = np.zeros((names, names))
    np.add.at(mean, labels, probabilities)
    mean[:, taught.counts == 0] = 0
    np.fill_diagonal(mean, 0)
    return mean


def plant(labels: Labels, kind: str, confused: NDArray[np.float64], seed: int) -> Labels:
    """The labels with some wrong ones."""
    random = np.random.default_rng([5, seed])
    present = np.unique(labels)
    planted = labels.copy()
    for i in random.permutation(len(labels))[: max(1, round(SHARE * len(labels)))].tolist():
        if kind == "uniform":
            planted[i] = random.choice(present[present != labels[i]])
        else:
            weights = confused[labels[i]]
            planted[i] = random.choice(len(weights), p=weights / weights.sum())
    return planted


def judge(taught: TaughtVocabulary, wrong: NDArray[np.bool_]) -> dict[str, float]:
    """`FIGURES` of telling the regions with a wrong label."""
    assert taught.left_out is not None
    rows, labels = np.arange(len(wrong)), taught.labels
    contradiction, others = contradictions(taught.left_out, labels)
    order = np.argsort(-contradiction, kind="stable")
    right_so_far = np.cumsum(wrong[order])
    precisions = right_so_far / (rows + 1)
    top = int(wrong.sum())
    probabilities = taught.left_out.probabilities
    doubted = contradiction >= least_contradiction(labels)
    doubted &= probabilities[rows, others] > probabilities[rows, labels]
    return {
        "ap": float(precisions[wrong[order]].mean()),
        "auroc": auroc(contradiction[wrong], contradiction[~wrong]) or np.nan,
        "top_precision": float(precisions[top - 1]),
        "suspects": float(doubted.mean()),
        "precision": float(wrong[doubted].mean()) if doubted.any() else np.nan,
        "recall": float(doubted[wrong].mean()),
    }


def measure(recognizer: Recognizer, regions: teaching.RegionSet, seeds: int) -> dict[str, Any]:
    """All figures of a set."""
    names = Vocabulary.from_names(list(regions.names))
    rows = np.arange(len(regions.labels))
    listed = [regions.names[c] for c in regions.labels]
    teacher = teaching.teach(recognizer, names, regions, rows, listed)
    clean = teacher.vocabulary()
    assert clean.left_out is not None
    labels, confused = clean.labels, confusion(clean)
    results: dict[str, Any] = {
        "regions": len(labels),
        "classes": len(np.unique(labels)),
        "agreed": float((clean.left_out.best == labels).mean()),
        "suspects_as_it_is": judge(clean, np.arange(len(labels)) == 0)["suspects"],
    }
    for kind in ("uniform", "alike"):
        of_seeds = []
        for seed in range(seeds):
            planted = plant(labels, kind, confused, seed)
            of_seeds.append(judge(relabelled(teacher, planted), planted != labels))
        results[kind] = {
            figure: [float(f([s[figure] for s in of_seeds])) for f in (np.nanmean, np.nanstd)]
            for figure in FIGURES
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(teaching.SETS))
    parser.add_argument("--features", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--method")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    recognizer = load_recognizer(args.model, method=args.method)
    results = {}
    print(f"{'':18}{''.join(f'{figure:>16}' for figure in FIGURES)}")
    for name in args.sets:
        regions = teaching.read_set(name, args.data, recognizer, args.features)
        results[name] = r = measure(recognizer, regions, args.seeds)
        print(
            f"{name}: {r['regions']} regions, {r['classes']} classes, {r['agreed']:.1%} agree, "
            f"{r['suspects_as_it_is']:.1%} are suspects as it is"
        )
        for kind in ("uniform", "alike"):
            cells = (f"{100 * m:9.1f} +- {100 * s:3.1f}" for m, s in r[kind].values())
            print(f"  {kind:16}{''.join(cells)}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
