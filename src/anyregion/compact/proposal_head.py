"""Things found by the built-in model: without a prompt, or at points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.framing import frame_factors
from anyregion.compact.grid_boxes import GridBoxes, as_grid_boxes, best_proposals, box_of_points
from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.onnx_session import load_graph
from anyregion.regions import Boxes

GRAPH = "finder.onnx"


class ProposalHead:
    """Boxes of things of any kind.

    Args:
        session: an `onnxruntime.InferenceSession` of the graph that `compact.training` exports. It
            takes the maps and gives `boxes` `(cells, 4)`, `scores` and `point_scores` `(cells,)`:
            see `GridBoxes`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def propose(
        self,
        maps: FeaturePyramid,
        size: tuple[int, int],
        *,
        limit: int = 100,
        min_score: float = 0.0,
    ) -> tuple[Boxes, NDArray[np.float64]]:
        """The most probable things of an image, best first.

        Args:
            maps: all four maps of the image.
            size: its height and width.
            limit: at most so many.
            min_score: none with a lower score.

        Returns:
            Boxes `(n, 4)`, xyxy in pixels of the image, and the intersection over union with a
            thing that is predicted for each, `(n,)`.
        """
        return best_proposals(self._look(maps, size), limit=limit, min_score=min_score)

    def boxes_from_points(
        self,
        maps: FeaturePyramid,
        size: tuple[int, int],
        points: Sequence[NDArray[np.float64]],
        labels: Sequence[NDArray[np.int64]],
    ) -> tuple[Boxes, NDArray[np.float64]]:
        """The box of the thing at each region's points; see `box_of_points`.

        Args:
            maps: all four maps of the image.
            size: its height and width.
            points: per region `(P, 2)` x and y in pixels, inside the image.
            labels: per region `(P,)` of 1 (foreground, at least one) and 0 (background).

        Returns:
            Boxes `(N, 4)`, and the intersection over union that is predicted for each, `(N,)`: a
            low one says that the point alone does not tell what is meant.
        """
        if not len(points):
            return np.zeros((0, 4)), np.zeros(0)
        cells = self._look(maps, size)
        found = [box_of_points(cells, *region) for region in zip(points, labels, strict=True)]
        return np.stack([box for box, _ in found]), np.array([score for _, score in found])

    def _look(self, maps: FeaturePyramid, size: tuple[int, int]) -> GridBoxes:
        feed = {str(name): maps.maps[name] for name in CHANNELS}
        answer = self._session.run(["boxes", "scores", "point_scores"], feed)
        grid = maps.maps["stride32"].shape[:2]
        return as_grid_boxes(*answer, grid=grid, factors=frame_factors(maps), size=size)


def load_proposal_head(*, threads: int | None = None, device: str = "cpu") -> ProposalHead:
    """The shipped head.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: the graph is missing or altered.
    """
    return ProposalHead(load_graph(GRAPH, threads=threads, device=device))
