"""One region from what a person has clicked: points of both kinds, and a box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyregion.errors import InputError
from anyregion.regions import Regions


def clicked_region(
    size: tuple[int, int],
    *,
    box: Sequence[float] | None,
    inside: Sequence[Sequence[float]],
    outside: Sequence[Sequence[float]],
) -> Regions | None:
    """The one thing that clicks show, within its image; None where they show nothing.

    Nothing is shown by points outside the thing alone, by a box without an area (a drag that was a
    click), and by what lies outside the image.

    Args:
        size: `(height, width)` of the image.
        box: xyxy in pixels, or None.
        inside, outside: points `(x, y)` of the thing, and of what is not of it.
    """
    if box is None and not inside:
        return None
    height, width = size
    points = np.array([*inside, *outside], dtype=np.float64).reshape(-1, 2)
    # a click on the border lies a hair outside
    points = np.clip(points, 0, np.nextafter([width, height], 0))
    labels = [1] * len(inside) + [0] * len(outside)
    try:
        regions = Regions.from_prompts(
            boxes=[[np.nan] * 4 if box is None else box],
            points=[points if labels else None],
            point_labels=[labels if labels else None],
        )
    except InputError:
        return None
    fitted, set_aside = regions.fit(height, width)
    return None if set_aside else fitted
