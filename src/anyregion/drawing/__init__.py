"""A readable picture of what the regions of an image were named."""

from anyregion.drawing.picture import draw

__all__ = ["draw"]
