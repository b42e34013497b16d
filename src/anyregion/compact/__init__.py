"""The built-in model: names, masks, points and proposals on ONNX Runtime, without torch."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.compact.model import CompactEmbedder as CompactEmbedder
    from anyregion.compact.model import CompactEncoder as CompactEncoder
    from anyregion.compact.model import CompactModel as CompactModel

__getattr__, __dir__ = attach(__name__, {"model": "CompactEmbedder CompactEncoder CompactModel"})
