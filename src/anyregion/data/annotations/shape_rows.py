"""Shapes as annotation tools list them, image by image, put into columns of regions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.data.annotations.builder import (
    MALFORMED_ROWS,
    NO_LABEL,
    AnnotationRecords,
    CategoryRecord,
    ImageRecord,
    RegionColumns,
)
from anyregion.data.annotations.conventions import check_boxes
from anyregion.data.annotations.report import Findings, Kind
from anyregion.errors import InputError
from anyregion.masks import RLE, mask_area, mask_box

NO_REGION = Kind(
    "shapes that are no regions (points, lines, cuboids, tags, ...)",
    True,
    "nothing, where only boxes and outlines are wanted; they are left out",
)
ROTATED = Kind(
    "rotated rectangles and ellipses",
    False,
    "nothing: they are outlines, whose box is the upright one around them",
)

# a circle of a thousand pixels is off by less than one
_CORNERS_OF_ELLIPSE = 72


@dataclass(eq=False)
class ShapeRows:
    """Columns of regions, filled shape by shape.

    A shape that is malformed is reported, and the rest goes on: `with rows.reporting(item): ...`.
    """

    findings: Findings = field(default_factory=Findings)
    images: list[ImageRecord] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    _owners: list[int] = field(default_factory=list)
    _codes: list[int] = field(default_factory=list)
    _boxes: list[tuple[float, ...]] = field(default_factory=list)
    _ids: list[int | str] = field(default_factory=list)
    _scores: list[Any] = field(default_factory=list)
    _crowd: list[bool] = field(default_factory=list)
    _segmentations: list[Any] = field(default_factory=list)

    @contextmanager
    def reporting(self, item: str) -> Iterator[None]:
        """Report what is wrong with one shape in place of raising it."""
        try:
            yield
        except InputError as error:
            self.findings.add(MALFORMED_ROWS, item, str(error))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"malformed ({type(error).__name__}: {error})"
            self.findings.add(MALFORMED_ROWS, item, reason)

    def add(
        self,
        label: str,
        box: Sequence[float] | None = None,
        *,
        id: int | str,
        polygons: Sequence[Sequence[float]] | None = None,
        mask: RLE | None = None,
        score: Any = None,
        crowd: bool = False,
    ) -> None:
        """One region of the image that was listed last.

        Args:
            label: the name that it has; blank for none.
            box: xyxy in pixels; None for that of its polygons or mask.
            id: the tool's, or the place in its image.
            polygons: each x, y, x, y, ... in pixels.
            mask: of the whole image.
            score: as the file states it.
            crowd: it marks many things.
        """
        if box is None:
            box = mask_extent(mask) if mask is not None else polygon_box(polygons or ())
        name = label if label.strip() else NO_LABEL
        self._owners.append(len(self.images) - 1)
        self._codes.append(self.labels.setdefault(name, len(self.labels)))
        self._boxes.append(tuple(map(float, box)))
        self._ids.append(id)
        self._scores.append(score)
        self._crowd.append(crowd)
        segmentation = mask if mask is not None else polygons
        self._segmentations.append(None if segmentation is None else segmentation)

    def records(
        self,
        path: Path,
        names: Sequence[str] | None = None,
        *,
        ids: Mapping[str, int] | None = None,
        masks: bool = False,
    ) -> AnnotationRecords:
        """All that was added, its boxes checked.

        Args:
            path: what messages call the file.
            names: the classes in their order, ids from 1; those that occur beside them follow, by
                alphabet.
            ids: in place of `names`, ids by what `add` was told as label (numbers, say), each the
                class's name too unless it is renamed afterwards.
            masks: keep polygons and masks.
        """
        count = len(self._owners)
        regions = RegionColumns(
            image_keys=[image.key for image in self.images],
            category_keys=list(self.labels),
            images=np.array(self._owners, dtype=np.int64),
            categories=np.array(self._codes, dtype=np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            crowd=np.array(self._crowd, dtype=bool),
            areas=np.full(count, np.nan),
            ids=np.arange(1, count + 1),
            has_id=np.ones(count, dtype=bool),
            segmentations=self._segmentations if masks else None,
            stated_ids=self._ids,
            scores=self._scores,
            corners=True,
            ids_by_image=True,
        )
        check_boxes(path, regions, self.images, findings=self.findings)
        if ids is not None:
            categories = [CategoryRecord(key, number, key) for key, number in ids.items()]
        else:
            listed = dict.fromkeys(name for name in names or () if name.strip())
            others = sorted(self.labels.keys() - listed.keys() - {NO_LABEL})
            categories = [
                CategoryRecord(name, number, name)
                for number, name in enumerate([*listed, *others], start=1)
            ]
        return AnnotationRecords(self.images, categories, regions, self.findings)


def number(value: Any, what: str) -> float:
    """A finite number that JSON states; `InputError` for a text, a boolean or anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise InputError(f"{what} {value!r:.40} is not a finite number")
    return float(value)


def polygon_box(polygons: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The box around polygons, xyxy; `InputError` where they have less than three points each."""
    if not polygons or any(len(points) < 6 or len(points) % 2 for points in polygons):
        raise InputError("an outline needs three points or more")
    points = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons])
    if not np.isfinite(points).all():
        raise InputError("a point of the outline is not finite")
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def mask_extent(mask: RLE) -> tuple[float, ...]:
    """The box of a mask, xyxy; `InputError` where it is empty."""
    if not mask_area(mask):
        raise InputError("the mask is empty")
    return tuple(mask_box(mask).tolist())


def turned(points: NDArray[np.float64], degrees: float, centre: Sequence[float]) -> list[float]:
    """Points `(P, 2)` turned clockwise, as images are seen, around a centre; flat: x, y, x, ..."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    offset = points - np.asarray(centre)
    # y points down, so this turns clockwise
    rotated = offset @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(centre)
    return [round(v, 4) for v in rotated.reshape(-1).tolist()]


def rectangle(box: Sequence[float]) -> NDArray[np.float64]:
    """The corners `(4, 2)` of a box xyxy."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """The outline of an ellipse, flat: x, y, x, ...; turned clockwise around its centre."""
    if not (rx > 0 and ry > 0):
        raise InputError(f"an ellipse with radii {rx:g} and {ry:g}")
    angles = np.linspace(0, 2 * np.pi, _CORNERS_OF_ELLIPSE, endpoint=False)
    points = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)
    return turned(points, degrees, (cx, cy))
