"""Localizers, frozen promptable segmenters: an image once, then prompts to tokens and masks.

To add a segmenter:

- With SAM's mask decoder, in `transformers`: a `Backend` (`segmenter.py`; `sam.py` and `sam2.py`
  have examples) and a line in the table `BACKENDS` (`loading.py`); then `load_localizer` and every
  `--localizer` take its models.
- Of any other kind: an object with the methods of `protocol.Localizer`. Hand it over in place of a
  name: `load_recognizer(FOLDER, localizer=mine)`, `load_extractor(localizer=mine)`.
"""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.localizers.automatic import AutomaticMasks as AutomaticMasks
    from anyregion.localizers.loading import load_localizer as load_localizer

__getattr__, __dir__ = attach(
    __name__, {"automatic": "AutomaticMasks", "loading": "load_localizer"}
)
