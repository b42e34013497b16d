"""Image networks without their classifiers: built, read at two depths, loaded, saved, exported."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.backbones.checkpoint import save_encoder as save_encoder
    from anyregion.backbones.loading import build_encoder as build_encoder
    from anyregion.backbones.loading import load_encoder as load_encoder

__getattr__, __dir__ = attach(
    __name__, {"checkpoint": "save_encoder", "loading": "build_encoder load_encoder"}
)
