"""Name any region of any image in any words.

>>> import anyregion
>>> recognizer = anyregion.load_recognizer()  # the built-in model; no download
>>> recognizer.set_image("street.jpg")
>>> regions = anyregion.Regions.from_boxes([[10, 20, 200, 180]])
>>> recognizer.predict(regions, ["bicycle", "bus", "dog"]).labels
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyregion.drawing import draw
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
    from anyregion.vocabulary import EncodedVocabulary, Vocabulary

__version__ = "0.1.0"

# where each name is defined; it is imported when it is first used, so that importing the package
# loads neither torch nor ONNX Runtime, nor even numpy, and takes milliseconds (PEP 562)
_MODULES = {
    "AnyRegionError": "errors",
    "CheckpointError": "errors",
    "EncodedVocabulary": "vocabulary",
    "Exemplar": "exemplars",
    "InputError": "errors",
    "MissingExtraError": "errors",
    "Predictions": "predictions",
    "Recognizer": "recognizer",
    "Regions": "regions",
    "SetAside": "errors",
    "Vocabulary": "vocabulary",
    "draw": "drawing",
    "list_models": "factory",
    "load_proposer": "factory",
    "load_recognizer": "factory",
    "load_regions": "io.regions",
    "load_vocabulary": "io.vocabulary",
    "pretrain": "recipes.run",
    "read_image": "images",
    "recognize_images": "runs.recognize",
    "train": "recipes.run",
}

__all__ = [
    "AnyRegionError",
    "CheckpointError",
    "EncodedVocabulary",
    "Exemplar",
    "InputError",
    "MissingExtraError",
    "Predictions",
    "Recognizer",
    "Regions",
    "SetAside",
    "Vocabulary",
    "draw",
    "list_models",
    "load_proposer",
    "load_recognizer",
    "load_regions",
    "load_vocabulary",
    "pretrain",
    "read_image",
    "recognize_images",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
