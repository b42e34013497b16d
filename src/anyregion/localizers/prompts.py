"""Regions as a localizer's prompts, in groups that can share one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.errors import InputError
from anyregion.localizers.frame import Frame, boxes_to_frame, mask_to_logits, points_to_frame
from anyregion.masks import mask_box
from anyregion.regions import Regions


@dataclass(frozen=True, eq=False)
class PromptChunk:
    """Some regions of one image that have equally many points, and all or none a box and a mask.

    Attributes:
        rows: their positions among the regions.
        points: `(1, P, n, 2)` x and y in the square, or None.
        labels: `(1, P, n)` int64, or None.
        boxes: `(1, P, 4)` xyxy in the square, or None.
        masks: `(P, 1, h, w)` low-resolution logits, or None.
    """

    rows: list[int]
    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    masks: Tensor | None


def prompt_chunks(
    regions: Regions, frame: Frame, *, chunk: int, low_side: int, device: torch.device
) -> Iterator[PromptChunk]:
    """Group the regions by the shape of their prompt and yield them, `chunk` at most at a time.

    Prompts of unequal length cannot share a batch: a padding token is attended to, and moves the
    tokens of the others. A region whose only prompt is a mask gets the mask's tight box too: SAM
    was trained with masks beside other prompts, never alone. `mask_logits` go before `masks`.

    Raises:
        InputError: `mask_logits` that are not `(low_side, low_side)`, naming the region.
    """
    boxes = regions.boxes.copy()
    groups: dict[tuple[int, bool, bool], list[int]] = {}
    for row in range(len(regions)):
        rle = regions.masks[row]
        count = len(regions.points[row])
        if rle is not None and count == 0 and np.isnan(boxes[row]).any():
            boxes[row] = mask_box(rle)
        dense = rle is not None or regions.mask_logits[row] is not None
        groups.setdefault((count, bool(np.isfinite(boxes[row]).all()), dense), []).append(row)
    for (count, has_box, dense), members in groups.items():
        for start in range(0, len(members), chunk):
            rows = members[start : start + chunk]
            points = np.stack([regions.points[row] for row in rows])
            labels = np.stack([regions.point_labels[row] for row in rows])
            masks = [_dense(regions, row, frame, low_side) for row in rows] if dense else None
            yield PromptChunk(
                rows,
                points=_tensor(points_to_frame(points, frame), device) if count else None,
                labels=_tensor(labels, device) if count else None,
                boxes=_tensor(boxes_to_frame(boxes[rows], frame), device) if has_box else None,
                masks=None if masks is None else torch.stack(masks)[:, None].to(device),
            )


def _dense(regions: Regions, row: int, frame: Frame, low_side: int) -> Tensor:
    given = regions.mask_logits[row]
    if given is None:
        mask = regions.mask(row)
        if mask is None or mask.shape != frame.size:
            shape = None if mask is None else mask.shape
            raise InputError(
                f"region {regions.ids[row]}: mask of size {shape}, but the image is {frame.size}"
            )
        return mask_to_logits(mask, frame, low_side)
    if given.shape != (low_side, low_side):
        raise InputError(
            f"region {regions.ids[row]}: mask_logits are {given.shape}, but this localizer takes "
            f"{(low_side, low_side)}"
        )
    return torch.from_numpy(np.array(given, dtype=np.float32))


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(values)[None].to(device)
