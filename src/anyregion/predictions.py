"""The names and scores of one image's regions, and their forms: records, COCO, CSV, supervision."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from anyregion.files import to_line
from anyregion.masks import RLE, decode_mask, mask_area
from anyregion.regions import Boxes, Regions, select_rows, selected_rows
from anyregion.vocabulary import Vocabulary

if TYPE_CHECKING:
    import supervision

CSV_COLUMNS = ("image", "id", "x0", "y0", "x1", "y1", "label", "score", "margin", "none")
"""The first columns of a CSV file; those of the second best name follow (`label_2`, `score_2`), and
so on. `none` is empty where the vocabulary was not taught."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one region was named: one row of `Predictions`.

    Attributes:
        id: the region's id.
        box: `(4,)` float64, xyxy in pixels.
        label, score: the best name and its score.
        labels, scores: the best `K` names and their scores, best first.
        mask: COCO RLE (`masks.decode_mask` makes an array of it), or None.
        mask_score: the localizer's own estimate of the mask's IoU, or None.
    """

    id: int | str
    box: NDArray[np.float64]
    label: str
    score: float
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    mask: RLE | None = None
    mask_score: float | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """The names of one image's regions: `M` rows, in the order of the regions.

    There is one row a region, or three of its candidate masks (`multimask`): then the rows of a
    region follow each other, the one whose mask the localizer ranks highest first.

    A sequence: `len(predictions)`, `predictions[0]` and iteration give each `Prediction`; a slice,
    positions or a boolean array give the `Predictions` of those rows.

    Attributes:
        vocabulary: the names that the regions were compared with.
        regions: the regions that were named (`N`).
        size: the image's `(height, width)`.
        rows: `(M,)` int64, the region that each row answers.
        indices: `(M, K)` int64, the best names as positions in the vocabulary, best first.
        scores: `(M, K)` float32, their scores.
        boxes: `(M, 4)` float64, xyxy in pixels; of a region without a box, its mask's or points'.
        embeddings: `(M, E)` float32, the regions in the space of the words, not normalised.
        masks: per row the mask as COCO RLE, or None where none were decoded.
        mask_scores: `(M,)` float32, the localizer's own estimate of each mask's IoU, or None.
        mask_logits: `(M, h, w)` float32, low-resolution logits to refine from, or None.
        none: `(M,)` float32, the probability of "none of these", of a taught vocabulary; or None.
        refused: `(M,)`, whether the best name is not to be trusted, where that was taught; or None.
    """

    vocabulary: Vocabulary = field(repr=False)
    regions: Regions = field(repr=False)
    size: tuple[int, int]
    rows: NDArray[np.int64] = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    boxes: Boxes = field(repr=False)
    embeddings: NDArray[np.float32] = field(repr=False)
    masks: tuple[RLE, ...] | None = field(default=None, repr=False)
    mask_scores: NDArray[np.float32] | None = field(default=None, repr=False)
    mask_logits: NDArray[np.float32] | None = field(default=None, repr=False)
    none: NDArray[np.float32] | None = field(default=None, repr=False)
    refused: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Predictions: ...

    def __getitem__(self, index: Any) -> Prediction | Predictions:
        if isinstance(index, (int, np.integer)):
            labels = tuple(self.vocabulary.names[i] for i in self.indices[index])
            scores = tuple(self.scores[index].tolist())
            return Prediction(
                id=self.regions.ids[self.rows[index]],
                box=self.boxes[index],
                label=labels[0],
                score=scores[0],
                labels=labels,
                scores=scores,
                mask=None if self.masks is None else self.masks[index],
                mask_score=None if self.mask_scores is None else float(self.mask_scores[index]),
            )
        rows = selected_rows(index, len(self.rows))
        return replace(
            self,
            rows=self.rows[rows],
            indices=self.indices[rows],
            scores=self.scores[rows],
            boxes=self.boxes[rows],
            embeddings=self.embeddings[rows],
            masks=None if self.masks is None else tuple(self.masks[i] for i in rows),
            mask_scores=None if self.mask_scores is None else self.mask_scores[rows],
            mask_logits=None if self.mask_logits is None else self.mask_logits[rows],
            none=None if self.none is None else self.none[rows],
            refused=None if self.refused is None else self.refused[rows],
        )

    def __str__(self) -> str:
        best = zip(self.labels, self.scores[:, 0], strict=True)
        return "\n".join(f"{label} {score:.3f}" for label, score in best)

    @property
    def labels(self) -> list[str]:
        """The best name of each row."""
        return [self.vocabulary.names[i] for i in self.indices[:, 0]]

    def above(self, score: float) -> Predictions:
        """The rows whose best score is at least `score`."""
        return self[self.scores[:, 0] >= score]

    def best_candidates(self) -> Predictions:
        """One row a region: of several candidate masks, the one the localizer ranks highest."""
        # the first row of each region: its candidates come ranked
        return self[np.unique(self.rows, return_index=True)[1]]

    def top_pairs(self, limit: int) -> Iterator[tuple[int, int, float]]:
        """The `limit` best (row, name, score) of the image, best first, as LVIS is scored.

        Exact as long as `K` is at least `min(limit, C)`.
        """
        # of all M x K scores; of equal ones the earlier region first
        order = np.argsort(-self.scores, axis=None, kind="stable")[:limit]
        for row, column in zip(*np.unravel_index(order, self.scores.shape), strict=True):
            name = self.indices[row, column]
            yield int(row), int(name), float(self.scores[row, column])

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready record a row: id, box (xyxy), labels and scores best first, mask."""
        records: list[dict[str, Any]] = []
        for i, region in enumerate(self.rows):
            labels = [self.vocabulary.names[name] for name in self.indices[i]]
            # float32 holds some seven digits; the last differs from machine to machine
            scores = [float(f"{score:.6g}") for score in self.scores[i].tolist()]
            record: dict[str, Any] = {
                "id": self.regions.ids[region],
                "box": [round(v, 3) for v in self.boxes[i].tolist()],
                "label": labels[0],
                "score": scores[0],
                "labels": labels,
                "scores": scores,
            }
            # a box says itself where it was; of points the box is only the stand-in
            if len(self.regions.points[region]):
                record["points"] = self.regions.points[region].tolist()
                record["point_labels"] = self.regions.point_labels[region].tolist()
            if self.masks is not None:
                record["mask"] = self.masks[i]
            if self.mask_scores is not None:
                record["mask_score"] = float(f"{self.mask_scores[i]:.6g}")
            if self.none is not None:
                record["none"] = float(f"{self.none[i]:.6g}")
            records.append(record)
        return records

    def to_coco(self, image_id: int, first_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations: the best name of each row as `category_id`, and its `score`.

        Beside COCO's keys all names that were kept, `labels` and `scores`, best first, and of a
        taught vocabulary `none`.
        """
        return [
            record_to_coco(record, image_id, first_id + i, self.vocabulary.ids[self.indices[i, 0]])
            for i, record in enumerate(self.to_records())
        ]

    def to_jsonl(self) -> str:
        """The records of `to_records`, one line of JSON each."""
        return b"".join(map(to_line, self.to_records())).decode()

    def to_csv(self, image: str = "") -> str:
        """One line a row under a header (`csv_columns`); boxes are xyxy in pixels."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        count = self.indices.shape[1]
        writer.writerow(csv_columns(count))
        writer.writerows(record_to_csv(record, image, count) for record in self.to_records())
        # names of files and ids need not be Unicode, and a file of CSV has to be
        return text.getvalue().encode(errors="backslashreplace").decode()

    def to_fiftyone(self) -> dict[str, Any]:
        """FiftyOne's document of detections, for `fiftyone.Detections.from_dict`, without FiftyOne.

        Boxes are x, y, width and height as fractions of the image; a mask is what of it lies in
        the box, to whole pixels, as compressed bytes of an array. `region_id`, `labels` and
        `scores` come as fields of their own.
        """
        height, width = self.size
        detections: list[dict[str, Any]] = []
        for i, record in enumerate(self.to_records()):
            x0, y0, x1, y1 = self.boxes[i].tolist()
            detection: dict[str, Any] = {
                "_cls": "Detection",
                "attributes": {},
                "tags": [],
                "label": record["label"],
                "bounding_box": [
                    x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height,
                ],
                "confidence": record["score"],
                "region_id": record["id"],
                "labels": record["labels"],
                "scores": record["scores"],
            }  # fmt: skip
            if self.masks is not None:
                rows, columns = slice(round(y0), round(y1)), slice(round(x0), round(x1))
                array = io.BytesIO()
                np.save(array, decode_mask(self.masks[i])[rows, columns], allow_pickle=False)
                detection["mask"] = zlib.compress(array.getvalue())
            detections.append(detection)
        return {"_cls": "Detections", "detections": detections}

    def to_supervision(self) -> supervision.Detections:
        """`supervision.Detections`; the names are in its `data["class_name"]` (needs the extra).

        Of regions that came from supervision it has the tracker's ids and `data`, too; names of
        classes in that give way to the regions' new ones.
        """
        from anyregion.errors import require

        # an optional package that takes a second to import
        require("supervision", "supervision")
        import supervision

        trackers = self.regions.tracker_ids
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            # whole images of booleans, as supervision holds them: the one place where masks are big
            mask=(
                np.stack([decode_mask(m) for m in self.masks])
                if self.masks is not None and len(self)
                else None
            ),
            confidence=self.scores[:, 0],
            class_id=self.indices[:, 0],
            tracker_id=None if trackers is None else trackers[self.rows],
            data={
                **select_rows(self.regions.data, self.rows.tolist()),
                "class_name": np.array(self.labels, dtype=str),
            },
        )


def record_to_coco(
    record: dict[str, Any], image_id: int, annotation_id: int, category_id: int
) -> dict[str, Any]:
    """One COCO annotation from one record of `Predictions.to_records`."""
    x0, y0, x1, y1 = record["box"]
    mask: RLE | None = record.get("mask")
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
        # COCO's evaluation sorts by area: that of the mask where there is one
        "area": round((x1 - x0) * (y1 - y0), 3) if mask is None else mask_area(mask),
        "iscrowd": 0,
        "segmentation": [] if mask is None else mask,
        "score": record["score"],
        "region_id": record["id"],
        "labels": record["labels"],
        "scores": record["scores"],
        **({"none": record["none"]} if "none" in record else {}),
    }


def csv_columns(names: int) -> tuple[str, ...]:
    """The header of a CSV file that has so many names of each region."""
    others = (f"{what}_{i}" for i in range(2, names + 1) for what in ("label", "score"))
    return (*CSV_COLUMNS, *others)


def record_to_csv(record: dict[str, Any], image: str, names: int) -> list[Any]:
    """The values of `csv_columns(names)` from one record of `Predictions.to_records`."""
    labels, scores = record["labels"][:names], record["scores"][:names]
    # one name alone is ahead of nothing
    margin = float(f"{scores[0] - scores[1]:.6g}") if len(scores) > 1 else scores[0]
    others = [v for pair in zip(labels[1:], scores[1:], strict=True) for v in pair]
    missing = [""] * (2 * (names - len(labels)))
    head = [image, record["id"], *record["box"], record["label"], record["score"]]
    return [*head, margin, record.get("none", ""), *others, *missing]
