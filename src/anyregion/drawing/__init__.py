"""A readable picture of what the regions of an image were named."""

from anyregion.drawing.options import PictureOptions
from anyregion.drawing.picture import draw

__all__ = ["PictureOptions", "draw"]
