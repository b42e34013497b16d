"""What the regions of one image were named, and the forms people use it in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyregion.masks import RLE, decode_mask, mask_area
from anyregion.regions import Boxes, Regions
from anyregion.vocabulary import Vocabulary

if TYPE_CHECKING:
    import supervision

CSV_COLUMNS = ("image", "id", "x0", "y0", "x1", "y1", "label", "score")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The names of one image's regions. `M` rows, in the order of the regions that were asked.

    There is one row a region, or three where three candidate masks were asked for: then the rows
    of a region follow each other, the one whose mask the localizer ranks highest first.

    Attributes:
        vocabulary: the names that were asked about.
        regions: the regions that were asked about (`N`).
        size: the image's `(height, width)`.
        rows: `(M,)` int64, the region that each row answers.
        indices: `(M, K)` int64, the best names as positions in the vocabulary, best first.
        scores: `(M, K)` float32, their scores.
        boxes: `(M, 4)` float64, xyxy in pixels; of a region without a box, its mask's or points'.
        embeddings: `(M, E)` float32, the regions in the space of the words, not normalised.
        masks: per row the mask as COCO RLE, or None where masks were not asked for.
        mask_scores: `(M,)` float32, the localizer's own estimate of each mask's IoU, or None.
        mask_logits: `(M, h, w)` float32, low-resolution logits to refine from, or None.
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

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        best = zip(self.labels, self.scores[:, 0], strict=True)
        return "\n".join(f"{label} {score:.3f}" for label, score in best)

    @property
    def labels(self) -> list[str]:
        """The best name of each row."""
        return [self.vocabulary.names[i] for i in self.indices[:, 0]]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        """The predictions at `rows` (positions or a boolean choice)."""
        at = np.arange(len(self))[rows]
        return Predictions(
            vocabulary=self.vocabulary,
            regions=self.regions,
            size=self.size,
            rows=self.rows[at],
            indices=self.indices[at],
            scores=self.scores[at],
            boxes=self.boxes[at],
            embeddings=self.embeddings[at],
            masks=None if self.masks is None else tuple(self.masks[i] for i in at),
            mask_scores=None if self.mask_scores is None else self.mask_scores[at],
            mask_logits=None if self.mask_logits is None else self.mask_logits[at],
        )

    def above(self, score: float) -> Predictions:
        """The rows whose best score is at least `score`."""
        return self.take(self.scores[:, 0] >= score)

    def best_candidates(self) -> Predictions:
        """One row a region: of several candidate masks, the one the localizer ranks highest."""
        return self.take(np.unique(self.rows, return_index=True)[1])

    def top_pairs(self, limit: int) -> Iterator[tuple[int, int, float]]:
        """The `limit` best (row, name, score) of the image, best first, as LVIS is scored.

        Exact as long as `K` is at least `min(limit, C)`.
        """
        order = np.argsort(-self.scores, axis=None, kind="stable")[:limit]
        for row, column in zip(*np.unravel_index(order, self.scores.shape), strict=True):
            name = self.indices[row, column]
            yield int(row), int(name), float(self.scores[row, column])

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready record a row: id, box (xyxy), labels and scores best first, mask."""
        names = self.vocabulary.names
        records: list[dict[str, Any]] = []
        for i, row in enumerate(self.rows):
            record: dict[str, Any] = {
                "id": self.regions.ids[row],
                "box": [round(float(v), 3) for v in self.boxes[i]],
                "label": names[self.indices[i, 0]],
                "score": _rounded(self.scores[i, 0]),
                "labels": [names[j] for j in self.indices[i]],
                "scores": [_rounded(s) for s in self.scores[i]],
            }
            if len(self.regions.points[row]):
                record["points"] = self.regions.points[row].tolist()
                record["point_labels"] = self.regions.point_labels[row].tolist()
            if self.masks is not None:
                record["mask"] = self.masks[i]
            if self.mask_scores is not None:
                record["mask_score"] = _rounded(self.mask_scores[i])
            records.append(record)
        return records

    def to_coco(self, image_id: int, first_id: int = 1) -> list[dict[str, Any]]:
        """COCO annotations with a `score`, the best name of each row as `category_id`."""
        return [
            record_to_coco(record, image_id, first_id + i, self.vocabulary.ids[self.indices[i, 0]])
            for i, record in enumerate(self.to_records())
        ]

    def to_jsonl(self) -> str:
        """The records of `to_records`, one line of JSON each."""
        lines = (json.dumps(r, ensure_ascii=False, allow_nan=False) for r in self.to_records())
        return "".join(f"{line}\n" for line in lines)

    def to_csv(self, image: str = "") -> str:
        """One line a row under a header (`CSV_COLUMNS`); boxes are xyxy in pixels."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(record_to_csv(record, image) for record in self.to_records())
        return text.getvalue()

    def to_supervision(self) -> supervision.Detections:
        """`supervision.Detections`; the names are in its `data["class_name"]` (needs the extra)."""
        from anyregion.errors import require

        require("supervision", "supervision")
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=(
                np.stack([decode_mask(m) for m in self.masks])
                if self.masks is not None and len(self)
                else None
            ),
            confidence=self.scores[:, 0],
            class_id=self.indices[:, 0],
            data={"class_name": np.array(self.labels, dtype=str)},
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
        "area": round((x1 - x0) * (y1 - y0), 3) if mask is None else mask_area(mask),
        "iscrowd": 0,
        "segmentation": [] if mask is None else mask,
        "score": record["score"],
        "region_id": record["id"],
    }


def record_to_csv(record: dict[str, Any], image: str) -> list[Any]:
    """The values of `CSV_COLUMNS` from one record of `Predictions.to_records`."""
    return [image, record["id"], *record["box"], record["label"], record["score"]]


def _rounded(value: np.float32) -> float:
    return float(f"{float(value):.6g}")
