"""Masks of boxes by the built-in model: a small trained decoder on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.framing import frame_factors, frame_of
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.onnx_session import load_graph
from anyregion.compact.paste_masks import paste
from anyregion.images import Pixels
from anyregion.masks import RLE
from anyregion.regions import Boxes

GRAPH = "mask_head.onnx"
AT_ONCE = 64
"""Boxes decoded together: more take more memory, and no less time."""

# from where on a pixel is inside, by the highest mean intersection over union on COCO's
# held-out photographs
THRESHOLD = 0.45


class MaskHead:
    """From boxes to masks.

    Args:
        session: an `onnxruntime.InferenceSession` of the graph that `compact.training` exports. It
            takes the maps, `frame` and `boxes` (pixels of the network's input) and gives `inside`
            `(N, side, side)`, `scores` `(N,)` and `margin` `()`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def masks_from_boxes(
        self, maps: FeaturePyramid, pixels: Pixels, boxes: Boxes
    ) -> tuple[tuple[RLE, ...], NDArray[np.float64]]:
        """Masks of boxes, and how good each probably is.

        Args:
            maps: all four maps of the image.
            pixels: the image itself.
            boxes: `(N, 4)` xyxy in pixels of the image, inside it, each with an area; `N` may be 0.

        Returns:
            A mask of the image for each box, and the intersection over union with the region that
            was meant which the head predicts for it, `(N,)`.
        """
        if not len(boxes):
            return (), np.zeros(0)
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        feed = {str(name): maps.maps[name] for name in CHANNELS}
        feed["frame"] = frame_of(maps, pixels)
        framed = (boxes * frame_factors(maps)).astype(np.float32)
        masks: list[RLE] = []
        scores: list[NDArray[np.float64]] = []
        for start in range(0, len(boxes), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            inside, quality, margin = self._session.run(
                ["inside", "scores", "margin"], {**feed, "boxes": framed[part]}
            )
            scores.append(quality.astype(np.float64))
            masks += [
                paste(cells, box, margin=float(margin), size=size, threshold=THRESHOLD)
                for cells, box in zip(inside, boxes[part], strict=True)
            ]
        return tuple(masks), np.concatenate(scores)


def load_mask_head(*, threads: int | None = None, device: str = "cpu") -> MaskHead:
    """The shipped head.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: the graph is missing or altered.
    """
    return MaskHead(load_graph(GRAPH, threads=threads, device=device))
