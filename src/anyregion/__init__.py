"""Name any region of any image in any words.

>>> import anyregion
>>> recognizer = anyregion.load_recognizer()  # the built-in model; no download
>>> recognizer.set_image("street.jpg")
>>> regions = anyregion.Regions.from_boxes([[10, 20, 200, 180]])
>>> recognizer.predict(regions, ["bicycle", "bus", "dog"]).labels
"""

from typing import TYPE_CHECKING

from anyregion.lazy import attach

if TYPE_CHECKING:
    from anyregion.drawing import PictureOptions, draw
    from anyregion.errors import (
        AnyRegionError,
        CheckpointError,
        InputError,
        MissingExtraError,
        SetAside,
    )
    from anyregion.exemplars import Exemplar
    from anyregion.factory import list_models, load_proposer, load_recognizer
    from anyregion.images import read_image
    from anyregion.io.regions import load_regions
    from anyregion.io.vocabulary import load_vocabulary
    from anyregion.predictions import Predictions
    from anyregion.recipes.run import pretrain, train
    from anyregion.recognizer import Recognizer
    from anyregion.regions import Regions
    from anyregion.runs.recognize import recognize_images
    from anyregion.teaching.teacher import Teacher
    from anyregion.teaching.vocabulary import TaughtVocabulary
    from anyregion.vocabulary import EncodedVocabulary, Vocabulary

__version__ = "0.2.0"

# so that importing the package loads neither torch nor ONNX Runtime, nor even numpy
__getattr__, __dir__ = attach(
    __name__,
    {
        "drawing": "PictureOptions draw",
        "errors": "AnyRegionError CheckpointError InputError MissingExtraError SetAside",
        "exemplars": "Exemplar",
        "factory": "list_models load_proposer load_recognizer",
        "images": "read_image",
        "io.regions": "load_regions",
        "io.vocabulary": "load_vocabulary",
        "predictions": "Predictions",
        "recipes.run": "pretrain train",
        "recognizer": "Recognizer",
        "regions": "Regions",
        "runs.recognize": "recognize_images",
        "teaching.teacher": "Teacher",
        "teaching.vocabulary": "TaughtVocabulary",
        "vocabulary": "EncodedVocabulary Vocabulary",
    },
)

__all__ = [
    "AnyRegionError", "CheckpointError", "EncodedVocabulary", "Exemplar", "InputError",
    "MissingExtraError", "PictureOptions", "Predictions", "Recognizer", "Regions", "SetAside",
    "TaughtVocabulary", "Teacher", "Vocabulary", "draw", "list_models", "load_proposer",
    "load_recognizer", "load_regions", "load_vocabulary", "pretrain", "read_image",
    "recognize_images", "train",
]  # fmt: skip
