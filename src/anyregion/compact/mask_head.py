"""The mask head of the built-in model: masks of boxes, coded without ever filling the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid, network_input
from anyregion.images import Pixels
from anyregion.masks import RLE, encode_crop
from anyregion.regions import Boxes

# boxes decoded together, in some 25 ms: more take more memory, and no less time
AT_ONCE = 32

# from which probability on a pixel is inside, by the highest mean intersection over union on COCO's
# held-out photographs
THRESHOLD = 0.45


@dataclass(frozen=True, eq=False)
class MaskHead:
    """From boxes to masks.

    Attributes:
        session: an `onnxruntime.InferenceSession` of the graph that `compact.training` exports. It
            takes the maps, `frame` and `boxes` (pixels of the network's input) and gives `inside`
            `(N, side, side)`, `scores` `(N,)` and `margin` `()`.
    """

    session: Any

    def masks_from_boxes(
        self, pyramid: FeaturePyramid, frame: Pixels, boxes: Boxes
    ) -> tuple[tuple[RLE, ...], NDArray[np.float64]]:
        """Masks of boxes, and how good each probably is.

        Args:
            pyramid: all four maps of the image.
            frame: `(H, W, 3)`, what they were computed from.
            boxes: `(N, 4)` xyxy in pixels of the image, inside it, each with an area; `N` may be 0.

        Returns:
            A mask of the image for each box, and the intersection over union with the true region
            that the head predicts for it, `(N,)`.
        """
        cells, scores, margin = self.probabilities(pyramid, frame, boxes)
        masks = tuple(
            paste(inside, box, margin=margin, size=pyramid.size, threshold=THRESHOLD)
            for inside, box in zip(cells, boxes, strict=True)
        )
        return masks, scores

    def probabilities(
        self, pyramid: FeaturePyramid, frame: Pixels, boxes: Boxes
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
        """What `masks_from_boxes` pastes into the image.

        Args:
            pyramid, frame, boxes: as there.

        Returns:
            How probably each cell of the enlarged boxes is inside, `(N, side, side)`; the predicted
            intersection over union, `(N,)`; how much boxes are enlarged on each side, as a share of
            their width and height.
        """
        if not len(boxes):
            return np.zeros((0, 1, 1), np.float32), np.zeros(0), 0.0
        feed = {str(name): pyramid.maps[name] for name in CHANNELS} | {
            "frame": network_input(frame)
        }
        framed = (boxes * pyramid.frame_scale()).astype(np.float32)
        parts = [
            self.session.run(
                ["inside", "scores", "margin"], {**feed, "boxes": framed[start : start + AT_ONCE]}
            )  # (n, side, side), (n,), ()
            for start in range(0, len(boxes), AT_ONCE)
        ]
        cells, scores = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return cells, scores.astype(np.float64), float(parts[0][2])


def paste(
    inside: NDArray[np.float32],
    box: NDArray[np.float64],
    *,
    margin: float,
    size: tuple[int, int],
    threshold: float = 0.5,
) -> RLE:
    """The mask of one box at the image's resolution.

    Where pixels are larger than cells the mean of the cells decides, else they are interpolated.
    Nothing outside the box is inside. A mask without a pixel gets the one nearest to the middle of
    its box: a region is never empty.

    Args:
        inside: `(side, side)` probabilities over the enlarged box.
        box: xyxy in pixels of the image, inside it, with an area.
        margin: how much the box was enlarged on each side, of its width and height.
        size: height and width of the image.
        threshold: from which on a pixel is inside.
    """
    height, width = size
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    x1 = max(x0 + 1, min(width, math.ceil(box[2])))
    y1 = max(y0 + 1, min(height, math.ceil(box[3])))
    # where the crop's corners lie in the grid of cells, which covers the enlarged box
    side = len(inside)
    reach = (box[2:] - box[:2]) * (1 + 2 * margin)
    origin = box[:2] - (box[2:] - box[:2]) * margin
    cells = np.concatenate([([x0, y0] - origin) / reach, ([x1, y1] - origin) / reach]) * side
    # the pixels around a box of a few pixels may reach beyond the enlarged box
    left, top, right, bottom = np.clip(cells, 0, side)
    resized = Image.fromarray(np.ascontiguousarray(inside, dtype=np.float32)).resize(
        (x1 - x0, y1 - y0),
        Image.Resampling.BILINEAR,
        box=(float(left), float(top), float(right), float(bottom)),
    )
    crop = np.asarray(resized) >= threshold
    if not crop.any():
        crop = np.zeros_like(crop)
        crop[(y1 - y0 - 1) // 2, (x1 - x0 - 1) // 2] = True
    return encode_crop(crop, x0, y0, size=size)
