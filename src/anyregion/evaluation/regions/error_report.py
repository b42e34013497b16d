"""What an evaluation got wrong: the confusion matrix, and the surest wrong answers as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.data.annotations.annotations import Annotations
from anyregion.drawing.matrix import draw_matrix
from anyregion.drawing.options import PictureOptions
from anyregion.drawing.palette import Colours
from anyregion.errors import SetAside
from anyregion.files import atomic_path, write_csv, writing
from anyregion.images import read_image
from anyregion.predictions import Predictions
from anyregion.proposals import box_iou
from anyregion.regions import Boxes
from anyregion.runs.crop_sheets import Crop, write_sheets
from anyregion.runs.pipeline import Track, silent
from anyregion.vocabulary import name_key

CONFUSION_PNG, CONFUSION_CSV = "confusion.png", "confusion.csv"
CONFUSIONS_CSV, ERRORS_CSV, ERRORS = "confusions.csv", "errors.csv", "errors"
NOTHING, MISSED = "(nothing annotated)", "(not found)"
SHOWN_ERRORS = 20
# of found regions those with a lower score are no answers: a detector's list has hundreds
FOUND_FROM = 0.25
_SAME_THING = 0.5
# names in the picture: the rest of a large vocabulary is one row and one column
_IN_PICTURE = 30
_LISTED = 20


@dataclass(frozen=True)
class Confusion:
    """How many regions of a class were called by another name, and their share of the class."""

    true: str
    named: str
    regions: int
    share: float


@dataclass(frozen=True)
class ErrorReport:
    """What was written, and the largest confusions.

    Attributes:
        folder: with `confusion.png`, `confusion.csv`, `confusions.csv`, `errors.csv`, `errors/`.
        regions, wrong: how many answers there were, and how many wrong ones.
        confusions: the largest ones, the largest first.
    """

    folder: str
    regions: int
    wrong: int
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True, eq=False)
class _Answers:
    """Of one image `(N,)`: names that are right, names that were given, scores; boxes `(N, 4)`."""

    image: str
    true: list[str]
    named: list[str]
    scores: NDArray[np.float32]
    boxes: Boxes
    ids: list[int | str]


@dataclass
class AnswerLog:
    """The answers about annotated regions, as an evaluation goes through the images."""

    parts: list[_Answers] = field(default_factory=list)

    def add(
        self,
        image: str,
        predictions: Predictions,
        true: Sequence[str],
        correct: NDArray[np.bool_] | None = None,
    ) -> None:
        """Note the best names of an image's regions.

        Args:
            image: its file.
            predictions: `M` rows.
            true: `M` names of classes.
            correct: `(M,)`, where several names may be right; else the true one alone is.
        """
        labels = predictions.labels
        if correct is not None:
            labels = [t if c else n for t, n, c in zip(true, labels, correct.tolist(), strict=True)]
        ids = [predictions.regions.ids[row] for row in predictions.rows.tolist()]
        scores = predictions.scores[:, 0]
        boxes = predictions.boxes
        self.parts.append(_Answers(image, list(true), labels, scores, boxes, ids))

    def add_annotated(
        self,
        image: str,
        predictions: Predictions,
        truth: Annotations,
        rows: NDArray[np.int64],
        *,
        own_regions: bool,
    ) -> None:
        """Note the best names of the regions of an annotated image, its own or found ones.

        Args:
            image: its file.
            predictions: `M` rows.
            truth, rows: annotations, and which of them are the image's.
            own_regions: the predictions are about these, and not about regions that were found.
        """
        categories = predictions.regions.categories
        if not own_regions or categories is None:
            names = [truth.categories.names[label] for label in truth.labels[rows].tolist()]
            self.add_found(image, predictions, truth.boxes[rows], names, truth.crowd[rows])
            return
        ids = truth.categories.ids.tolist()
        at = [ids.index(int(c)) for c in categories[predictions.rows]]
        true = [truth.categories.names[label] for label in at]
        # a vocabulary may write a category's name otherwise
        pairs = zip(true, predictions.labels, strict=True)
        correct = [name_key(t) == name_key(named) for t, named in pairs]
        self.add(image, predictions, true, np.array(correct, dtype=bool))

    def add_found(
        self,
        image: str,
        predictions: Predictions,
        things: Boxes,
        names: Sequence[str],
        crowd: NDArray[np.bool_],
    ) -> None:
        """Note the best names of found regions, each compared with the thing that it is of.

        Regions of at least `FOUND_FROM`, the surest first, are of the free thing that they overlap
        most, by an IoU of one half or more: first of things of their own name. Others are of
        nothing that is annotated, unless they lie in a crowd.

        Args:
            image: its file.
            predictions: `M` rows.
            things, names, crowd: `(T, 4)` annotated boxes, their classes, and which are crowds.
        """
        sure = np.flatnonzero(predictions.scores[:, 0] >= FOUND_FROM)
        found = predictions[sure[np.argsort(-predictions.scores[sure, 0], kind="stable")]]
        ious = box_iou(found.boxes, things) if len(things) else np.zeros((len(found), 0))
        labels = found.labels
        same = np.array([[n == label for n in names] for label in labels], dtype=bool)
        same = same.reshape(ious.shape)
        owner = np.full(len(found), -1)
        free = ~np.asarray(crowd, dtype=bool)
        for candidates in (same, ~same):
            for row in np.flatnonzero(owner < 0):
                overlaps = np.where(candidates[row] & free, ious[row], 0.0)
                if len(overlaps) and overlaps.max() >= _SAME_THING:
                    owner[row] = int(overlaps.argmax())
                    free[owner[row]] = False
        # whatever is named in a crowd is neither right nor wrong
        in_crowd = (ious[:, np.asarray(crowd, dtype=bool)] > 0).any(axis=1)
        rows = np.flatnonzero((owner >= 0) | ~in_crowd)
        true = [names[i] if i >= 0 else NOTHING for i in owner[rows].tolist()]
        self.add(image, found[rows], true)
        missed = np.flatnonzero(free).tolist()
        self.parts.append(
            _Answers(
                image,
                [names[i] for i in missed],
                [MISSED] * len(missed),
                np.zeros(len(missed), dtype=np.float32),
                things[missed],
                [""] * len(missed),
            )
        )

    def write(
        self,
        folder: Path,
        order: Sequence[str],
        options: PictureOptions | None = None,
        track: Track = silent,
    ) -> tuple[ErrorReport, list[SetAside]]:
        """Write the matrix and the worst errors; give images that could not be shown, too.

        Args:
            folder: made if it is missing; what an earlier evaluation wrote there is replaced.
            order: all names, in the vocabulary's order.
            options: of pictures, as far as they are about crops.
            track: shows how far the work is.

        Raises:
            AnyRegionError: it cannot be written.
        """
        options = options or PictureOptions()
        counts: Counter[tuple[str, str]] = Counter()
        for part in self.parts:
            counts.update(zip(part.true, part.named, strict=True))
        rows, columns, matrix = _matrix(counts, order)
        confusions = _confusions(counts)
        regions = int(matrix.sum())
        wrong = sum(c.regions for c in confusions)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / CONFUSION_CSV):
            cells = ([name, *row] for name, row in zip(rows, matrix.tolist(), strict=True))
            write_csv(folder / CONFUSION_CSV, ("true \\ named", *columns), cells)
        with writing(folder / CONFUSIONS_CSV):
            listed = ((c.true, c.named, c.regions, f"{c.share:.4f}") for c in confusions)
            write_csv(folder / CONFUSIONS_CSV, ("true", "named", "regions", "share"), listed)
        title = f"{wrong:,} of {regions:,} answers are wrong"
        picture = _picture(rows, columns, matrix, title, options)
        target = folder / CONFUSION_PNG
        with writing(target), atomic_path(target) as temporary:
            picture.save(temporary, "PNG", optimize=True)
        set_aside = self._write_errors(folder, order, options, track)
        return ErrorReport(str(folder), regions, wrong, tuple(confusions[:_LISTED])), set_aside

    def _write_errors(
        self, folder: Path, order: Sequence[str], options: PictureOptions, track: Track
    ) -> list[SetAside]:
        """The table of all wrong answers, the surest first, and crops of the first twenty."""
        wrong = [
            (part, i)
            for part in self.parts
            for i, (true, named) in enumerate(zip(part.true, part.named, strict=True))
            if true != named
        ]
        # stable: of equal scores in the order of the images
        wrong.sort(key=lambda error: -float(error[0].scores[error[1]]))
        columns = ("image", "region", "x0", "y0", "x1", "y1", "true", "named", "score")
        with writing(folder / ERRORS_CSV):
            table = (
                (
                    *(part.image, part.ids[i], *(round(v, 2) for v in part.boxes[i].tolist())),
                    *(part.true[i], part.named[i], f"{float(part.scores[i]):.4f}"),
                )
                for part, i in wrong
            )
            write_csv(folder / ERRORS_CSV, columns, table)
        crops = [
            Crop(
                part.image,
                part.boxes[i],
                part.named[i],
                (
                    (part.named[i], f" {float(part.scores[i]):.2f}"),
                    ("", f"is {part.true[i]}"),
                    ("", Path(part.image).name),
                ),
                score=float(part.scores[i]),
            )
            for part, i in wrong[:SHOWN_ERRORS]
        ]
        return write_sheets(
            folder / ERRORS, crops, read_image, track, colours=Colours(order), options=options
        )


def _matrix(
    counts: Counter[tuple[str, str]], order: Sequence[str]
) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Classes that occur, names that were given to any, and how often, `(R, C)`."""
    places = {name: i for i, name in enumerate(order)}
    # what is no name of the vocabulary comes last
    rows, columns = (
        sorted({pair[k] for pair in counts}, key=lambda n: (places.get(n, len(places)), n))
        for k in (0, 1)
    )
    matrix = np.zeros((len(rows), len(columns)), dtype=np.int64)
    row_of, column_of = ({n: i for i, n in enumerate(names)} for names in (rows, columns))
    for (true, named), count in counts.items():
        matrix[row_of[true], column_of[named]] = count
    return rows, columns, matrix


def _confusions(counts: Counter[tuple[str, str]]) -> list[Confusion]:
    totals: Counter[str] = Counter()
    for (true, _), count in counts.items():
        totals[true] += count
    confusions = [
        Confusion(true, named, count, count / totals[true])
        for (true, named), count in counts.items()
        if true != named
    ]
    return sorted(confusions, key=lambda c: (-c.regions, -c.share, c.true, c.named))


def _picture(
    rows: list[str],
    columns: list[str],
    matrix: NDArray[np.int64],
    title: str,
    options: PictureOptions,
) -> Image.Image:
    """The names with the most errors; those alike stand together, and all others are one."""
    errors: Counter[str] = Counter()
    alike: Counter[tuple[str, str]] = Counter()
    for i, j in np.argwhere(matrix).tolist():
        true, named, count = rows[i], columns[j], int(matrix[i, j])
        errors.update({true: 0, named: 0})
        if true != named:
            errors.update({true: count, named: count})
            alike[true, named] += count
            alike[named, true] += count
    # what is no name stands at the end, beside nothing
    ends = [end for end in (NOTHING, MISSED) if end in errors]
    for end in ends:
        del errors[end]
    shown = [name for name, _ in errors.most_common(_IN_PICTURE)]
    chain = shown[:1]
    while rest := [name for name in shown if name not in chain]:
        # next to a name the one that it is confused with most
        chain.append(max(rest, key=lambda name: (alike[chain[-1], name], errors[name])))
    others = len(errors) - len(chain)
    names = [*chain, *ends, *([f"({others:,} others)"] if others else [])]
    place = {name: i for i, name in enumerate((*chain, *ends))}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    right = np.eye(len(names), dtype=bool)
    for i, j in np.argwhere(matrix).tolist():
        counts[place.get(rows[i], -1), place.get(columns[j], -1)] += matrix[i, j]
    # things that were missed are no class, and what is not annotated is no answer
    row_at = [i for i in range(len(names)) if counts[i].any() and names[i] != MISSED]
    column_at = [j for j in range(len(names)) if names[j] != NOTHING]
    if others:
        # the others among each other are right and wrong at once: their cell says only the wrong
        right[-1, -1] = False
        own = {name: i for i, name in enumerate(columns)}
        counts[-1, -1] -= sum(
            int(matrix[i, own[name]])
            for i, name in enumerate(rows)
            if name not in place and name in own
        )
        title += f"; right answers about the {others:,} others are left out"
    font = None if options.font is None else str(options.font)
    return draw_matrix(
        [names[i] for i in row_at],
        [names[j] for j in column_at],
        counts[np.ix_(row_at, column_at)],
        title=title,
        right=right[np.ix_(row_at, column_at)],
        font=font,
    )
