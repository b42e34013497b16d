"""Damaged inputs for `fuzz.py`: valid small files, and ways to spoil them.

Every generator writes files into a folder and returns the words of one command line, or a call of
the Python API. Valid files are built once (`Originals`) and spoiled in one to four places: so most
of them pass a reader's first check, and the code behind it is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz_inputs.annotation_files import annotations, bombs, exemplars, regions, results
from fuzz_inputs.folders import encoded, index, models, resume, store
from fuzz_inputs.image_files import images
from fuzz_inputs.label_files import labels
from fuzz_inputs.label_maps import label_maps
from fuzz_inputs.originals import Originals, Rng, Words
from fuzz_inputs.python_api import python_api
from fuzz_inputs.trainings import backbones, checkpoints, settings, trained
from fuzz_inputs.vocabulary_files import vocabulary

__all__ = ["TARGETS", "Originals"]

Generator = Callable[[Rng, Path, Originals], Words | Callable[[], None]]

# with how often each is drawn: those whose call takes milliseconds more often
TARGETS: dict[str, tuple[Generator, int]] = {
    "images": (images, 6), "regions": (regions, 6), "bombs": (bombs, 1),
    "annotations": (annotations, 6), "results": (results, 4), "vocabulary": (vocabulary, 5),
    "encoded": (encoded, 2), "exemplars": (exemplars, 2), "resume": (resume, 5),
    "store": (store, 4), "settings": (settings, 3), "checkpoints": (checkpoints, 3),
    "trained": (trained, 1), "backbones": (backbones, 2), "models": (models, 4),
    "label_maps": (label_maps, 3), "labels": (labels, 6), "python": (python_api, 6),
    "index": (index, 3),
}  # fmt: skip
