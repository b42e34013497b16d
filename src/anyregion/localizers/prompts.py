"""Regions as batches of prompts for a localizer's prompt encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anyregion.errors import InputError
from anyregion.localizers.frame import mask_to_logits
from anyregion.localizers.square import Frame, to_frame
from anyregion.masks import decode_mask, mask_box
from anyregion.regions import Regions


@dataclass(eq=False)
class PromptBatch:
    """Prompts of one image with equally many points, and all or none with a box and a mask.

    Attributes:
        rows: their positions among the regions.
        points: `(1, P, n, 2)` x and y in the square, or None.
        labels: `(1, P, n)` int64, or None.
        boxes: `(1, P, 4)` xyxy in the square, or None.
        masks: `(P, 1, h, w)` low-resolution logits, or None.
    """

    rows: list[int]
    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None


def prompt_batches(
    regions: Regions, frame: Frame, *, chunk: int, low_side: int, device: torch.device
) -> Iterator[PromptBatch]:
    """Group the regions by the shape of their prompt and yield them, `chunk` at most at a time.

    Prompts of unequal length cannot share a batch: a padding token is attended to, and moves the
    tokens of the others. A region whose only prompt is a mask gets the mask's tight box too: SAM
    was trained with masks beside other prompts, never alone. `mask_logits` go before `masks`.

    Raises:
        InputError: a mask that is not of the image's size, or `mask_logits` that are not
            `(low_side, low_side)`, the model's size, naming the region.
    """
    boxes = regions.boxes.copy()
    groups: dict[tuple[int, bool, bool], list[int]] = {}
    for row, (rle, logits) in enumerate(zip(regions.masks, regions.mask_logits, strict=True)):
        if logits is not None and logits.shape != (low_side, low_side):
            raise InputError(
                f"region {regions.ids[row]}: mask_logits are {logits.shape}, but this localizer "
                f"takes {(low_side, low_side)}"
            )
        if logits is None and rle is not None and tuple(rle["size"]) != frame.size:
            raise InputError(
                f"region {regions.ids[row]}: mask of size {tuple(rle['size'])}, but the image is "
                f"{frame.size}"
            )
        count = len(regions.points[row])
        # a mask alone: prompt it with its box too
        if rle is not None and count == 0 and np.isnan(boxes[row]).any():
            boxes[row] = mask_box(rle)
        has_box = bool(np.isfinite(boxes[row]).all())
        has_mask = rle is not None or logits is not None
        groups.setdefault((count, has_box, has_mask), []).append(row)
    for (count, has_box, has_mask), members in groups.items():
        for start in range(0, len(members), chunk):
            rows = members[start : start + chunk]
            # coordinates are scaled in float64, as published, and sent as float32
            batch = PromptBatch(rows)
            if count:
                points = to_frame(np.stack([regions.points[row] for row in rows]), frame)
                batch.points = torch.from_numpy(points)[None].to(device)
                labels = np.stack([regions.point_labels[row] for row in rows])
                batch.labels = torch.from_numpy(labels)[None].to(device)
            if has_box:
                batch.boxes = torch.from_numpy(to_frame(boxes[rows], frame))[None].to(device)
            if has_mask:
                masks = torch.empty((len(rows), 1, low_side, low_side))
                for mask, row in zip(masks, rows, strict=True):
                    rle, logits = regions.masks[row], regions.mask_logits[row]
                    if logits is not None:
                        mask[0] = torch.from_numpy(np.array(logits, dtype=np.float32))
                    elif rle is not None:
                        mask[0] = mask_to_logits(decode_mask(rle), frame, low_side)
                batch.masks = masks.to(device)
            yield batch
