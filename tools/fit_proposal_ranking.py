"""Fit how proposals are ranked, and put it among the assets of the built-in model.

    D=$ANYREGION_SHARED/data/coco
    python tools/fit_proposal_ranking.py --annotations $D/annotations/instances_train.json \\
        --images $D/images

For each photograph the proposal head's candidates and the nodes of a merge tree are described
(`compact/ranking.py`), and two logistic regressions fitted to the share of the IoU thresholds 0.5
to 0.95 at which each meets an annotated thing: of the head's boxes alone, and of both together. The
decay of soft suppression is the one with the highest average recall of 10 and of 100 on the same
photographs; then the scores are calibrated, and a table says what each lowest score would keep.

The proposal head has seen these photographs: what is fitted here trusts it more than it deserves on
others. Judge on others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import RANKINGS
from anyregion.compact.model import CompactModel
from anyregion.compact.proposers import NODES, joined_regions, joint_features
from anyregion.compact.ranking import Logistic, Ranking, logits
from anyregion.data.annotations.reading import read_annotations
from anyregion.evaluation.metrics.overlap import boxes_per_thing
from anyregion.images import read_image
from anyregion.proposals import box_iou
from anyregion.region_trees.proposer import TreeOptions
from ship_trained import DATA, write_asset

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
DECAYS = (0.3, 0.5, 0.8, 1.2)
LOWEST = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
# of a head's features without a tree beside it
ALONE = 4
# squared weights of standardised features
_DECAY = 1e-4

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Photograph:
    """The boxes of one photograph, and what is known of them.

    Attributes:
        things: `(T, 4)`.
        boxes: `(K, 4)` of the head and `(N, 4)` of the tree.
        features: `(K, 6)` and `(N, 8)`.
    """

    things: Doubles
    boxes: tuple[Doubles, Doubles]
    features: tuple[Doubles, Doubles]

    def targets(self, kind: int) -> Doubles:
        """The share of the thresholds at which each box meets a thing."""
        if not len(self.things):
            return np.zeros(len(self.boxes[kind]))
        best = box_iou(self.boxes[kind], self.things).max(axis=1)
        share: Doubles = (best[:, None] >= THRESHOLDS).mean(axis=1)
        return share


def fit_logistic(features: Doubles, targets: Doubles) -> Logistic:
    """By Newton's method, on standardised features; `targets` are shares from 0 to 1."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-9
    rows = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
    penalty = _DECAY * np.eye(rows.shape[1])
    penalty[-1, -1] = 0
    weights = np.zeros(rows.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(rows @ weights, -50, 50)))
        gradient = rows.T @ (p - targets) / len(rows) + penalty @ weights
        curvature = (rows * (p * (1 - p))[:, None]).T @ rows / len(rows) + penalty
        weights -= np.linalg.solve(curvature, gradient)
    plain = weights[:-1] / deviation
    return Logistic(tuple(plain.tolist()), float(weights[-1] - plain @ mean))


def ranked(photograph: Photograph, ranking: Ranking, limit: int = 100) -> tuple[Doubles, Doubles]:
    """The best boxes of a photograph and what soft suppression left of their probabilities."""
    boxes, features = photograph.boxes[0], photograph.features[0]
    if ranking.tree is None:
        p = ranking.head.probabilities(features[:, :ALONE])
    else:
        boxes = np.concatenate(photograph.boxes)
        of_tree = ranking.tree.probabilities(photograph.features[1])
        p = np.concatenate([ranking.head.probabilities(features), of_tree])
    rows, scores = ranking.rank(boxes, p, limit=limit)
    return boxes[rows], scores


def recall(photographs: list[Photograph], ranking: Ranking) -> list[float]:
    """Average recall of the best 10 and 100; two things may share a box, unlike by COCO's rule."""
    parts: list[list[Doubles]] = []
    for photograph in photographs:
        boxes, _ = ranked(photograph, ranking)
        if len(photograph.things):
            overlaps = box_iou(photograph.things, boxes)  # (T, n)
            best = [overlaps[:, :n].max(axis=1, initial=0) for n in (10, 100)]
            parts.append([(b[:, None] >= THRESHOLDS).mean(axis=1) for b in best])
    return [float(np.concatenate(figures).mean()) for figures in zip(*parts, strict=True)]


def first_hits(boxes: Doubles, things: Doubles) -> NDArray[np.bool_]:
    """Which boxes, best first, meet a thing by an IoU of 0.5 that none before has met."""
    overlaps = box_iou(boxes, things)
    hits = np.zeros(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if overlaps.shape[1] and overlaps[i].max() >= 0.5:
            hits[i] = True
            overlaps[:, overlaps[i].argmax()] = 0
    return hits


def fit(photographs: list[Photograph], *, tree: bool) -> Ranking:
    """A ranking, calibrated."""
    columns = slice(None) if tree else slice(ALONE)
    parts = [
        fit_logistic(
            np.concatenate([p.features[kind] for p in photographs])[:, columns],
            np.concatenate([p.targets(kind) for p in photographs]),
        )
        for kind in range(1 + tree)
    ]
    plain = Logistic((1.0,), 0.0)
    rankings = [Ranking(parts[0], parts[1] if tree else None, decay, plain) for decay in DECAYS]
    by_recall = []
    for ranking in rankings:
        figures = recall(photographs, ranking)
        print(f"  decay {ranking.decay}: average recall of 10 and 100 {figures}", flush=True)
        by_recall.append(sum(figures))
    best = rankings[int(np.argmax(by_recall))]
    kept = [(*ranked(p, best), p.things) for p in photographs]
    hits = np.concatenate([first_hits(boxes, things) for boxes, _, things in kept])
    left = np.concatenate([scores for _, scores, _ in kept])
    return replace(best, calibration=fit_logistic(logits(left)[:, None], hits.astype(float)))


def limits(photographs: list[Photograph], ranking: Ranking) -> None:
    """Print what each lowest score would keep, 50 of an image at most."""
    kept = [(*ranked(p, ranking, 50), p.things) for p in photographs]
    hits = [first_hits(boxes, things) for boxes, _, things in kept]
    print("  lowest score: regions an image, of these on a thing of their own, mean score, things")
    print("  met, things with at most one")
    for lowest in LOWEST:
        rows = [scores >= lowest for _, scores, _ in kept]
        right = sum(h[r].sum() for h, r in zip(hits, rows, strict=True))
        number = sum(r.sum() for r in rows)
        score = sum(scores[r].sum() for (_, scores, _), r in zip(kept, rows, strict=True))
        things = sum(len(p.things) for p in photographs)
        per_thing = np.concatenate(
            [boxes_per_thing(b[r], t) for (b, _, t), r in zip(kept, rows, strict=True)]
        )
        print(
            f"  {lowest:.2f}: {number / len(photographs):5.1f} {right / max(number, 1):6.1%} "
            f"{score / max(number, 1):.3f} {right / things:6.1%} {(per_thing <= 1).mean():6.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=160, help="drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth = read_annotations(args.annotations, images=args.images)
    drawn = np.random.default_rng(args.seed).permutation(len(truth))[: args.photographs]
    model = CompactModel(threads=1)
    photographs = []
    for image in drawn.tolist():
        encoded = model.image_encoder.encode(read_image(args.images / truth.file_names[image]))
        candidates = model.proposal_head.candidates(encoded)
        options = TreeOptions(limit=NODES)
        regions = joined_regions(encoded, options)
        nodes = regions.select(options)
        photographs.append(
            Photograph(
                truth.boxes[truth.rows(image)],
                (candidates.boxes, regions.boxes[nodes]),
                joint_features(candidates, regions, nodes),
            )
        )
    rankings = {}
    for name, tree in (("alone", False), ("joint", True)):
        print(name, flush=True)
        rankings[name] = fit(photographs, tree=tree)
        print(f"  {rankings[name]}")
        limits(photographs, rankings[name])
    content = json.dumps({name: r.to_dict() for name, r in rankings.items()}, indent=1) + "\n"
    flags = f"--photographs {args.photographs} --seed {args.seed}"
    command = f"python tools/fit_proposal_ranking.py {flags} (see docs/results/compact.md)"
    write_asset(RANKINGS, content.encode(), command=command, data=DATA, licence="Apache-2.0")


if __name__ == "__main__":
    main()
