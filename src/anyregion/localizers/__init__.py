"""Localizers, frozen promptable segmenters: an image once, then prompts to tokens and masks."""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.localizers.automatic import AutomaticMasks as AutomaticMasks
    from anyregion.localizers.loading import load_localizer as load_localizer

__getattr__, __dir__ = attach(
    __name__, {"automatic": "AutomaticMasks", "loading": "load_localizer"}
)
