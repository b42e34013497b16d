"""A readable picture of what the regions of an image were named."""

from anyregion.drawing.picture import draw, draw_records

__all__ = ["draw", "draw_records"]
