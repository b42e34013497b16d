"""Fit what the shipped region head gives new names and its confidence, and judge the fit.

    python tools/fit_confidence.py --validation stores/coco_val --splits runs/split0 runs/split1 \\
        runs/split2 runs/split3 --sets stores/ccp_train stores/camvid_train ... [--ship]

The head's weights stay; its calibration is fitted to the validation store, and the confidence to
three kinds of answers together: of the validation regions in vocabularies of many sizes, and in the
built-in lists with every right name of `evaluate classification --fair`; of heads
that were trained without a quarter of the classes (`anyregion train compact --compact.unseen
every:4:K`), where new names are right; and of other data sets. Each data set is also left out in
turn, and each half of the validation photographs, and what is printed is measured there:
the share of right answers, the mean score, the calibration error, and how well scores tell right
from wrong answers (AUROC). Names that exemplars show have a confidence of their own, fitted to the
validation store and the data sets: regions of the first half show each class, those of the second
are asked. `--ship` writes the calibration beside the built-in model's graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import CALIBRATION, read_manifest
from anyregion.compact.calibration import REGION_LENGTH, STACKED_LENGTH, Calibration
from anyregion.compact.confidence import NONE, SHARPNESS, answer_features
from anyregion.compact.conse import load_conse
from anyregion.compact.model import CompactModel
from anyregion.compact.region_head import extract_region_features
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.compact.training.confidence_fit import (
    ABSENT_WEIGHT,
    NOT_FITTED,
    Answers,
    answer,
    fit_confidence,
    halves,
    known_of_other,
    subset_answers,
    with_known_regions,
)
from anyregion.compact.training.dataset import open_named_dataset, read_pyramid
from anyregion.compact.training.metrics import fit_scores
from anyregion.compact.training.region_config import RegionTaskConfig
from anyregion.data.store.store import Store
from anyregion.evaluation.metrics.calibration import auroc, ece
from anyregion.evaluation.regions.right_names import load_right_names
from anyregion.evaluation.regions.vocabulary_subsets import unrelated_names
from anyregion.exemplars import exemplar_share, mix_rows
from anyregion.io.vocabulary import load_vocabulary
from anyregion.vocabulary import Vocabulary, encode_vocabulary, name_key
from ship_trained import write_asset

Floats = NDArray[np.float32]
# of all answers of the validation data, of each split, and of each data set, in the fit
SPLIT_WEIGHT, NEW_ONLY_WEIGHT, SET_WEIGHT = 0.5, 0.5, 0.5
VALIDATION_WEIGHT, LIST_WEIGHT = 6.0, 2.0
# how many regions show each name, and what is not fitted for such names: features of words
SHOTS = (1, 3, 5, 10, 30)
OF_SHOWN = {"new_names": 0.0, "new": 0.0, "doubt": 0.0, "outside": 0.0}
_OF_CONTENT = ("sha256", "bytes")


class Regions:
    """The regions of a store, as a head sees them.

    Attributes:
        embeddings, conse: `(N, 384)`.
        labels: `(N,)` rows of `vocabulary`.
        names, matrix: the store's class names, `(C, 384)`.
    """

    def __init__(self, store: Path, model: CompactModel, text: CompactTextEncoder) -> None:
        dataset = open_named_dataset(Store(store), text)
        assert dataset.vocabulary is not None
        self.names = dataset.vocabulary.vocabulary.names
        self.matrix = dataset.vocabulary.matrix
        conse = load_conse()
        parts = []
        for image in dataset.images.tolist():
            boxes, labels = dataset.labelled(image)
            if len(boxes):
                features = extract_region_features(read_pyramid(dataset, image), boxes, conse)
                parts.append((model.region_head.embed(features), features.conse, labels))
        self.embeddings, self.conse, self.labels = (
            np.concatenate([part[i] for part in parts]) for i in range(3)
        )


def base(calibration: Calibration) -> Calibration:
    """A head's trained names with the settings of today, not calibrated yet."""
    settings = RegionTaskConfig.__dataclass_fields__
    return replace(
        calibration,
        gamma=settings["novelty"].default,
        cost=settings["new_name_cost"].default,
        known=calibration.known[:0],
        confidence=None,
    )


def positions(names: tuple[str, ...], trained: tuple[str, ...]) -> NDArray[np.int64]:
    """`(C,)`, which of the trained names each name is; -1: none."""
    at = {name_key(name): i for i, name in enumerate(trained)}
    return np.array([at.get(name_key(name), -1) for name in names])


def split_answers(
    regions: Regions, calibration: Calibration, half: int, distractors: Floats, label: str
) -> list[Answers]:
    """Answers of one half of the regions by a head that has not seen all of their classes."""
    trained = positions(regions.names, calibration.names)
    rows = trained[regions.labels]
    known = known_of_other(base(calibration), regions.embeddings, regions.conse, rows, half)
    own = halves(len(rows)) == half
    embeddings, labels = regions.embeddings[own], regions.labels[own]
    new = np.flatnonzero(trained < 0)
    inside = np.full(len(trained), -1)
    inside[new] = np.arange(len(new))
    random = np.random.default_rng(half)
    drawn = distractors[random.choice(len(distractors), 100, replace=False)]
    padded = np.concatenate([regions.matrix, drawn])
    weight = SPLIT_WEIGHT / 2
    return [
        answer(f"{label}", known, embeddings, regions.matrix, labels, weight=weight),
        answer(f"{label}+100", known, embeddings, padded, labels, weight=weight),
        answer(
            f"{label}, new names alone", known, embeddings, regions.matrix[new], inside[labels],
            weight=NEW_ONLY_WEIGHT,
        ),
    ]  # fmt: skip


def shown_answers(
    label: str, regions: Regions, calibration: Calibration, seed: int
) -> list[Answers]:
    """Answers by names that 1 to 30 regions of the first half show, with and without words."""
    first = halves(len(regions.labels)) == 0
    classes = np.intersect1d(regions.labels[first], regions.labels[~first])
    position = np.full(len(regions.names), -1)
    position[classes] = np.arange(len(classes))
    asked = ~first & (position[regions.labels] >= 0)
    stacked = calibration.stack_regions(regions.embeddings) / np.float32(REGION_LENGTH)
    words = calibration.stack_names(regions.matrix)[classes]
    right = position[regions.labels[asked]]
    made = []
    for shots in SHOTS:
        random = np.random.default_rng([seed, shots])
        rows = {}
        for i, label_of in enumerate(classes):
            pool = np.flatnonzero(first & (regions.labels == label_of))
            drawn = random.choice(pool, min(shots, len(pool)), replace=False)
            mean = stacked[drawn].mean(axis=0)
            rows[i] = (mean / np.linalg.norm(mean)).astype(np.float32)
        for share in (1.0, exemplar_share(shots)):
            names = mix_rows(words, rows, share)
            cosines = np.float32(STACKED_LENGTH) * (stacked[asked] @ names.T)  # (N, C)
            nothing = np.zeros(len(cosines))
            features = answer_features(
                cosines.max(axis=1)[:, None],
                np.exp(SHARPNESS * cosines.astype(np.float64)).sum(axis=1),
                sharpness=SHARPNESS, none=NONE, names=len(names),
                new_names=0.0, new=nothing, doubt=nothing, outside=nothing,
            )  # fmt: skip
            correct = cosines.argmax(axis=1) == right
            made.append(Answers(label, features[:, 0], correct, np.ones_like(correct)))
    return made


def report(title: str, answers: Answers, scores: NDArray[np.float64]) -> None:
    """One line: of the present regions, and how absent ones are told."""
    inside, outside = scores[answers.present], scores[~answers.present]
    correct = answers.correct[answers.present]
    told = auroc(inside[correct], inside[~correct])
    line = (
        f"{title:40s} right {correct.mean():.3f}  mean score {inside.mean():.3f}  "
        f"ece {ece(inside, correct):.3f}  auroc {float('nan') if told is None else told:.2f}"
    )
    if len(outside):
        refused = auroc(1 - outside, 1 - inside)
        line += (
            f"  present below 0.5: {(inside < 0.5).mean():.2f}  absent above: "
            f"{(outside >= 0.5).mean():.2f}  auroc of refusing {refused:.2f}"
        )
    print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--validation", type=Path, required=True, metavar="STORE")
    parser.add_argument("--splits", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--sets", type=Path, nargs="*", default=[], metavar="STORE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    text = CompactTextEncoder()
    model = CompactModel()
    shipped = base(model.region_head.calibration)
    validation = Regions(args.validation, model, text)
    rows = positions(validation.names, shipped.names)[validation.labels]
    unrelated = unrelated_names(Vocabulary.from_names(validation.names))
    distractors = encode_vocabulary(Vocabulary.from_names(unrelated), text, cache=None).matrix

    # each half of the validation data, and what belongs to it, is judged by a fit to the other
    own: list[list[Answers]] = []
    split: list[list[Answers]] = [[], []]
    half = halves(len(rows))
    known = [
        known_of_other(shipped, validation.embeddings, validation.conse, rows, side)
        for side in (0, 1)
    ]
    for side in (0, 1):
        random = np.random.default_rng([args.seed, side])
        of_half = subset_answers(
            known[side], validation.embeddings[half == side], shipped.trained, rows[half == side],
            distractors, random,
        )  # fmt: skip
        count = len({a.label for a in of_half})
        # the trained names alone are what people take first
        own.append(
            [
                replace(a, weight=VALIDATION_WEIGHT / count * (9.0 if a.label == "all" else 1.0))
                for a in of_half
            ]
        )
    for run in args.splits:
        folder = run / "model" if (run / "model").is_dir() else run
        head = CompactModel(folder)
        seen = Regions(args.validation, head, text)
        for side in (0, 1):
            split[side] += split_answers(
                seen, head.region_head.calibration, side, distractors, run.name
            )
    calibration = with_known_regions(shipped, validation.embeddings, validation.conse, rows)
    stores = [(store.name, Regions(store, model, text)) for store in args.sets]
    sets = [
        answer(
            label, calibration, regions.embeddings, regions.matrix, regions.labels,
            weight=SET_WEIGHT,
        )
        for label, regions in stores
    ]  # fmt: skip
    stores.append((args.validation.name, validation))

    # lists of hundreds of names, where synonyms and kinds of a class are right too
    categories = dict(enumerate(validation.names))
    for name in ("lvis", "objects365", "openimages", "imagenet"):
        listed = load_vocabulary(name)
        assert isinstance(listed, Vocabulary)
        matrix = encode_vocabulary(listed, text, cache=None).matrix
        right = load_right_names("coco").positions(categories, listed)
        for side in (0, 1):
            # classes without any right name are outside the vocabulary
            chosen = (half == side) & np.isin(validation.labels, list(right))
            correct_names = [right[label] for label in validation.labels[chosen].tolist()]
            embeddings = validation.embeddings[chosen]
            of_list = answer(
                name, known[side], embeddings, matrix, correct_names, weight=LIST_WEIGHT
            )
            own[side].append(of_list)

    fits = [fit_confidence([*own[s], *split[s], *sets], known=NOT_FITTED) for s in (0, 1)]
    for label in dict.fromkeys(a.label for a in own[0]):
        parts = [(a, fits[1 - side]) for side in (0, 1) for a in own[side] if a.label == label]
        scores = [fit.probabilities(a.features) for a, fit in parts]
        report(label, _joined([a for a, _ in parts]), np.concatenate(scores))
    for a, b in zip(*split, strict=True):
        scores = [fits[1].probabilities(a.features), fits[0].probabilities(b.features)]
        report(a.label, _joined([a, b]), np.concatenate(scores))
    everything = [*own[0], *own[1], *split[0], *split[1]]
    for left_out in sets:
        fit = fit_confidence(
            [*everything, *(s for s in sets if s is not left_out)], known=NOT_FITTED
        )
        report(f"{left_out.label} (left out)", left_out, fit.probabilities(left_out.features))
    inside = rows >= 0
    scale, bias = fit_scores(validation.embeddings[inside] @ shipped.trained.T, rows[inside])
    confidence = fit_confidence([*everything, *sets], known=NOT_FITTED)
    by_set = [shown_answers(f"{label}, shown", r, calibration, args.seed) for label, r in stores]
    for i, answers in enumerate(by_set):
        rest = [a for j, others in enumerate(by_set) if j != i for a in others]
        fit = fit_confidence(rest, known=OF_SHOWN)
        joined = _joined(answers)
        report(f"{joined.label} (left out)", joined, fit.probabilities(joined.features))
    shown = fit_confidence([a for answers in by_set for a in answers], known=OF_SHOWN)
    made = replace(calibration, scale=scale, bias=bias, confidence=confidence, shown=shown)
    print(made.shown)
    print(made.confidence, f"absent regions weigh {ABSENT_WEIGHT}; known: {len(made.known)}")
    if args.ship:
        # of the head that it belongs to, but for the file's own hash and size
        about = {k: v for k, v in read_manifest()[CALIBRATION].items() if k not in _OF_CONTENT}
        about["calibration"] = "tools/fit_confidence.py (see docs/results/compact.md)"
        write_asset(CALIBRATION, made.to_bytes(), **about)


def _joined(answers: Sequence[Answers]) -> Answers:
    features, correct, present = (
        np.concatenate([getattr(a, name) for a in answers])
        for name in ("features", "correct", "present")
    )
    return Answers(answers[0].label, features, correct, present)


if __name__ == "__main__":
    main()
