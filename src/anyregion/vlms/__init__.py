"""Frozen vision-language models: an image to a feature map, names to embeddings.

To add one: a `VisionTower` (`model.py`; `clip.py` is the shortest example), and the function that
wraps such a model, with a line in the table `BUILDERS` (`loading.py`).
"""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.vlms.loading import load_vlm as load_vlm

__getattr__, __dir__ = attach(__name__, {"loading": "load_vlm"})
