"""Name any region of any image in any words.

>>> import anyregion
>>> recognizer = anyregion.load_recognizer()  # the built-in model; no download
>>> recognizer.set_image("street.jpg")
>>> regions = anyregion.Regions.from_boxes([[10, 20, 200, 180]])
>>> recognizer.predict(regions, ["bicycle", "bus", "dog"]).labels
"""

from anyregion.drawing import draw
from anyregion.errors import (
    AnyRegionError,
    CheckpointError,
    InputError,
    MissingExtraError,
    SetAside,
)
from anyregion.factory import load_recognizer
from anyregion.images import read_image
from anyregion.io.regions import load_regions
from anyregion.io.vocabulary import load_vocabulary
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

__version__ = "0.1.0"

__all__ = [
    "AnyRegionError",
    "CheckpointError",
    "EncodedVocabulary",
    "InputError",
    "MissingExtraError",
    "Predictions",
    "Recognizer",
    "Regions",
    "SetAside",
    "Vocabulary",
    "draw",
    "load_recognizer",
    "load_regions",
    "load_vocabulary",
    "read_image",
]
