"""Regions of one image: one prompt each, of a box, points, a mask, or any mix of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anyregion.errors import InputError, SetAside
from anyregion.masks import RLE, decode_mask, encode_mask, mask_area, mask_box, segmentation_to_rle

if TYPE_CHECKING:
    import supervision

Boxes: TypeAlias = NDArray[np.float64]
"""Boxes `(N, 4)`: x0, y0, x1, y1 in absolute pixels of the upright image."""

# what of a box lies in the image has to be wider and higher than this, in pixels: less than any
# annotation means, more than rounding leaves of a box that only touches the border
MIN_SIDE = 1e-3


def are_fractions(values: NDArray[np.float64]) -> bool:
    """Whether coordinates all lie within 0 to 1, and are no pixels: some is no whole number."""
    within = bool(((values >= 0) & (values <= 1)).all())
    return within and bool((values % 1 > 0).any())


@dataclass(frozen=True, eq=False)
class Region:
    """One of `Regions`: the prompt of one region.

    Attributes:
        id: the caller's id, or the position.
        box: `(4,)` xyxy in pixels, or None.
        points, point_labels: `(P, 2)` x and y, and `(P,)` of 1 (foreground) and 0; `P` may be 0.
        mask, mask_logits: see `Regions`; None where the region has none.
        score, category: the detector's score and the source's category id, or None.
    """

    id: int | str
    box: NDArray[np.float64] | None
    points: NDArray[np.float64]
    point_labels: NDArray[np.int64]
    mask: RLE | None
    mask_logits: NDArray[np.float32] | None
    score: float | None
    category: int | None


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one image, in the caller's order. Build them with `from_prompts` or a friend.

    A sequence: `len(regions)`, `regions[0]` and iteration give each `Region`; a slice, positions or
    a boolean array give the `Regions` there, in that order.

    Attributes:
        boxes: `(N, 4)` float64, xyxy in absolute pixels; a row of NaN where a region has no box.
        points: per region `(P, 2)` float64, x and y in pixels; `P` may be 0.
        point_labels: per region `(P,)` int64; 1 is foreground, 0 is background.
        masks: per region a mask of the whole image as COCO RLE, or None.
        mask_logits: per region the low-resolution mask logits `(h, w)` float32 that a localizer
            gave before, to refine them, or None.
        ids: per region the caller's id; the position where none was given.
        scores: `(N,)` float64, how sure the detector was, from 0 to 1, or None.
        categories: `(N,)` int64, the category id that the source states, or None.
        tracker_ids: `(N,)` int64, supervision's number of each object in a video, or None.
        data: by name a column of `N` values that pass through to `Predictions.to_supervision`.
    """

    boxes: Boxes
    points: tuple[NDArray[np.float64], ...]
    point_labels: tuple[NDArray[np.int64], ...]
    masks: tuple[RLE | None, ...]
    mask_logits: tuple[NDArray[np.float32] | None, ...]
    ids: tuple[int | str, ...]
    scores: NDArray[np.float64] | None = None
    categories: NDArray[np.int64] | None = None
    tracker_ids: NDArray[np.int64] | None = None
    data: Mapping[str, NDArray[Any] | list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # whole columns at once: a detector's thousand boxes are checked several times on their way
        no_box = np.all(np.isnan(self.boxes), axis=1)  # (N,)
        finite = np.all(np.isfinite(self.boxes), axis=1)
        ordered = np.all(self.boxes[:, :2] < self.boxes[:, 2:], axis=1)
        problems: dict[int, str] = {}
        for i in self.ids:
            if not isinstance(i, (int, str)):
                raise InputError(f"region id {i!r} is neither a whole number nor text")
        for i, box in enumerate(self.boxes):
            points, labels, rle = self.points[i], self.point_labels[i], self.masks[i]
            if not (finite[i] or no_box[i]):
                problems[i] = f"box {box.tolist()} is not finite"
            elif not (no_box[i] or ordered[i]):
                problems[i] = (
                    f"box {box.tolist()} is empty or inverted: expected x0 < x1 and y0 < y1"
                )
            elif len(points) != len(labels):
                problems[i] = f"{len(points)} points but {len(labels)} point labels"
            elif len(points) and not np.isfinite(points).all():
                problems[i] = "a point is not finite"
            elif len(labels) and not np.isin(labels, (0, 1)).all():
                problems[i] = "a point label is neither 1 (foreground) nor 0 (background)"
            elif rle is not None and mask_area(rle) == 0:
                problems[i] = "the mask is empty"
            elif no_box[i] and rle is None and not (labels == 1).any():
                problems[i] = "neither a box, nor a mask, nor a foreground point"
        if self.scores is not None:
            # not a number is neither above 0 nor below
            for i in np.flatnonzero(~((self.scores >= 0) & (self.scores <= 1))).tolist():
                fault = "from 0 to 1" if np.isfinite(self.scores[i]) else "finite"
                problems.setdefault(i, f"score {self.scores[i]} is not {fault}")
        if problems:
            raise InputError("; ".join(f"region {self.ids[i]}: {p}" for i, p in problems.items()))

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Region]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Region: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Regions: ...

    def __getitem__(self, index: Any) -> Region | Regions:
        if isinstance(index, (int, np.integer)):
            box = self.boxes[index]
            return Region(
                id=self.ids[index],
                box=None if np.isnan(box).all() else box,
                points=self.points[index],
                point_labels=self.point_labels[index],
                mask=self.masks[index],
                mask_logits=self.mask_logits[index],
                score=None if self.scores is None else float(self.scores[index]),
                category=None if self.categories is None else int(self.categories[index]),
            )
        rows = selected_rows(index, len(self.boxes)).tolist()
        return Regions(
            # no rows of no regions would be (0,)
            boxes=self.boxes[rows].reshape(-1, 4),
            points=tuple(self.points[i] for i in rows),
            point_labels=tuple(self.point_labels[i] for i in rows),
            masks=tuple(self.masks[i] for i in rows),
            mask_logits=tuple(self.mask_logits[i] for i in rows),
            ids=tuple(self.ids[i] for i in rows),
            scores=None if self.scores is None else self.scores[rows],
            categories=None if self.categories is None else self.categories[rows],
            tracker_ids=None if self.tracker_ids is None else self.tracker_ids[rows],
            data=select_rows(self.data, rows),
        )

    @classmethod
    def from_boxes(
        cls,
        boxes: ArrayLike,
        *,
        ids: Sequence[int | str] | None = None,
        scores: ArrayLike | None = None,
        categories: ArrayLike | None = None,
    ) -> Regions:
        """Regions from boxes `(N, 4)`, xyxy in absolute pixels; `N` may be 0.

        Raises:
            InputError: a box that is not finite, is inverted or has no area, naming each.
        """
        if boxes is None:
            raise InputError("boxes must be an array (N, 4), not None")
        return cls.from_prompts(boxes=boxes, ids=ids, scores=scores, categories=categories)

    @classmethod
    def from_prompts(
        cls,
        *,
        boxes: ArrayLike | None = None,
        points: Sequence[ArrayLike | None] | None = None,
        point_labels: Sequence[ArrayLike | None] | None = None,
        masks: Sequence[NDArray[Any] | RLE | None] | None = None,
        mask_logits: Sequence[NDArray[np.float32] | None] | None = None,
        ids: Sequence[int | str] | None = None,
        scores: ArrayLike | None = None,
        categories: ArrayLike | None = None,
    ) -> Regions:
        """One region per entry; every sequence that is given has one entry a region.

        Args:
            boxes: `(N, 4)` xyxy in pixels; a row of NaN for a region without a box.
            points: per region `(P, 2)` x and y, or None.
            point_labels: per region `(P,)` of 1 (foreground) and 0 (background); all 1 if left out.
            masks: per region `(H, W)` at the image's size, or COCO RLE, or None.
            mask_logits: per region what `Predictions.mask_logits` gave for it, or None.
            ids, scores, categories: see the class.

        Raises:
            InputError: lengths that differ, or regions that are not usable, naming each.
        """
        sequences = {"points": points, "point_labels": point_labels, "masks": masks}
        sequences |= {"mask_logits": mask_logits, "ids": ids}
        for name, values in sequences.items():
            # a text, a mapping or one mask has a length, too
            entries = values is None or (hasattr(values, "__len__") and hasattr(values, "__iter__"))
            if not entries or isinstance(values, (str, bytes, Mapping)):
                raise InputError(f"{name} must be a sequence with an entry a region")
        # how many regions there are, the first of these that is there says
        prompts = next((v for v in (points, masks, mask_logits) if v is not None), None)
        if boxes is not None:
            corners = _as_array("boxes", boxes, width=4)
        elif prompts is not None:
            corners = np.full((len(prompts), 4), np.nan)
        else:
            raise InputError("regions need boxes, points or masks")
        count = len(corners)
        if scores is not None:
            scores = _as_array("scores", scores)
        if categories is not None:
            categories = _as_array("categories", categories, dtype=np.int64)
        columns: dict[str, Any] = {
            "points": points, "point_labels": point_labels, "masks": masks,
            "mask_logits": mask_logits, "ids": ids, "scores": scores, "categories": categories,
        }  # fmt: skip
        for name, values in columns.items():
            if values is None:
                columns[name] = [None] * count
            elif len(values) != count:
                raise InputError(f"{count} regions but {len(values)} {name}")
        xy = [
            np.zeros((0, 2)) if p is None else _as_array("the points of a region", p, width=2)
            for p in columns["points"]
        ]
        labels = [
            np.ones(len(p), np.int64)
            if label is None
            else _as_array("point labels", label, dtype=np.int64)
            for p, label in zip(xy, columns["point_labels"], strict=True)
        ]
        if ids is None:
            columns["ids"] = range(count)
        return cls(
            boxes=corners,
            points=tuple(xy),
            point_labels=tuple(labels),
            masks=tuple(None if m is None else _as_rle(m) for m in columns["masks"]),
            mask_logits=tuple(columns["mask_logits"]),
            # numpy's numbers are no JSON, where ids end
            ids=tuple(i.item() if isinstance(i, np.generic) else i for i in columns["ids"]),
            scores=scores,
            categories=categories,
        )

    @classmethod
    def from_supervision(cls, detections: supervision.Detections) -> Regions:
        """Regions from `supervision.Detections`: boxes, masks, confidences and class ids.

        A row with a box and an empty mask is its box: segmenters give one where they see no mask.
        The tracker's ids and `data` come back by `Predictions.to_supervision`.
        """
        masks = None if detections.mask is None else map(np.asarray, detections.mask)
        regions = cls.from_prompts(
            boxes=detections.xyxy,
            masks=None if masks is None else [mask if mask.any() else None for mask in masks],
            scores=detections.confidence,
            categories=detections.class_id,
        )
        tracker_ids = detections.tracker_id
        return replace(
            regions,
            tracker_ids=None
            if tracker_ids is None
            else _as_array("tracker ids", tracker_ids, dtype=np.int64),
            data=dict(detections.data),
        )

    def mask(self, row: int) -> NDArray[np.bool_] | None:
        """The mask of one region, `(H, W)` bool, or None where it has none."""
        rle = self.masks[row]
        return None if rle is None else decode_mask(rle)

    def extents(self, size: tuple[int, int] | None = None, *, point_side: float = 32.0) -> Boxes:
        """A box for every region, `(N, 4)`: its own; else its mask's; else around its points.

        The last is the tight box of the foreground points, widened to `point_side` pixels where it
        is smaller: a crude stand-in, for methods that have no localizer.

        Args:
            size: `(height, width)` of the image, to clip to it.
        """
        boxes = self.boxes.copy()  # (N, 4)
        for i in np.flatnonzero(np.isnan(boxes).any(axis=1)):
            rle = self.masks[i]
            # a mask says more of where a thing ends than points do
            if rle is not None:
                boxes[i] = mask_box(rle)
            elif len(self.points[i]):
                inside = self.points[i][self.point_labels[i] == 1]  # (P, 2)
                low, high = inside.min(axis=0), inside.max(axis=0)
                # added on both sides alike, so the points stay in the middle
                margin = np.maximum(0, (point_side - (high - low)) / 2)
                boxes[i] = np.concatenate([low - margin, high + margin])
        if size is None:
            return boxes
        clipped: Boxes = np.clip(boxes, 0, [size[1], size[0]] * 2)
        return clipped

    def refuse_fractions(self) -> None:
        """`InputError` where all boxes, or all points, look like fractions of the image."""
        boxes = self.boxes[~np.isnan(self.boxes).any(axis=1)]  # (B, 4)
        points = [values for values in self.points if len(values)]
        for name, values in (
            ("boxes", boxes),
            ("points", np.concatenate([*points, boxes[:0, :2]])),
        ):
            if are_fractions(values):
                raise InputError(
                    f"the {name} all lie within 0 to 1: these look like fractions of the image. "
                    "Coordinates are pixels: multiply them by the image's width and height"
                )

    def fit(self, height: int, width: int) -> tuple[Regions, list[SetAside]]:
        """Clip boxes to an image; set aside what cannot belong to it.

        A box that reaches over the border is clipped. Set aside are boxes of which no more than a
        sliver (`MIN_SIDE`) is left, or that reach farther outside than twice the image's size
        (they were drawn on another one), points outside the image, and masks of another size.
        """
        clipped: Boxes = np.clip(self.boxes, 0, [width, height, width, height])  # (N, 4)
        # (N,); False where there is no box: comparisons with NaN are
        outside = np.any(clipped[:, 2:] - clipped[:, :2] < MIN_SIDE, axis=1)
        far = np.any(np.abs(clipped - self.boxes) > 2 * np.tile([width, height], 2), axis=1)
        inside: list[int] = []
        set_aside: list[SetAside] = []
        for i, (points, rle) in enumerate(zip(self.points, self.masks, strict=True)):
            reason = None
            if outside[i]:
                reason = f"box {self.boxes[i].tolist()} lies outside the {width} x {height} image"
            elif far[i]:
                reason = (
                    f"box {self.boxes[i].tolist()} reaches farther outside the {width} x {height} "
                    "image than twice its size: was it drawn on another size of it?"
                )
            elif len(points) and ((points < 0).any() or (points >= [width, height]).any()):
                reason = f"a point lies outside the {width} x {height} image"
            elif rle is not None and rle["size"] != [height, width]:
                reason = f"mask of size {rle['size']}, but the image is {[height, width]}"
            if reason is None:
                inside.append(i)
            else:
                set_aside.append(SetAside(f"region {self.ids[i]}", reason))
        regions = self[inside] if set_aside else self
        if np.array_equal(clipped[inside], regions.boxes, equal_nan=True):
            return regions, set_aside  # as it mostly is: nothing to check a second time
        return replace(regions, boxes=clipped[inside]), set_aside


def selected_rows(index: Any, count: int) -> NDArray[np.int64]:
    """The positions among `count` that a slice, positions or a boolean array select."""
    if not isinstance(index, slice):
        index = np.asarray(index)
        # numpy reads an empty list as floats, which are no positions
        if not index.size:
            index = index.astype(np.int64)
    rows: NDArray[np.int64] = np.arange(count)[index]
    return rows


def select_rows(
    data: Mapping[str, NDArray[Any] | list[Any]], rows: Sequence[int]
) -> dict[str, NDArray[Any] | list[Any]]:
    """The rows of each column, which stays an array or a list as it is."""
    return {
        name: column[rows] if isinstance(column, np.ndarray) else [column[i] for i in rows]
        for name, column in data.items()
    }


def _as_array(
    name: str, values: ArrayLike, *, width: int | None = None, dtype: Any = np.float64
) -> NDArray[Any]:
    """An array `(N,)` of numbers, or with `width` `(N, width)`; errors begin with `name`."""
    try:
        array = np.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} are not an array of numbers: {error}") from None
    if width is None:
        return array.reshape(-1)
    # `[]` and `[[]]` are no rows; one point need not be in a list of its own
    if array.size == 0 or (width == 2 and array.shape == (2,)):
        return array.reshape(-1, width)
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"{name} must be (N, {width}) in pixels; these are {array.shape}")
    return array


def _as_rle(mask: Any) -> RLE:
    if isinstance(mask, np.ndarray):
        return encode_mask(mask)
    size = mask.get("size") if isinstance(mask, dict) else None
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise InputError("a mask must be an array (height, width), or COCO RLE with its size")
    return segmentation_to_rle(mask, *size)
