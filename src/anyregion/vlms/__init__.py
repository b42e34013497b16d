"""Frozen vision-language models: an image to a feature map, names to embeddings."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.vlms.loading import load_vlm as load_vlm

__getattr__, __dir__ = attach(__name__, {"loading": "load_vlm"})
