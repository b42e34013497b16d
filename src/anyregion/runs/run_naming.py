"""How the images of a run are named: in this process, or by several that have a model each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from anyregion import factory
from anyregion.drawing.options import PictureOptions
from anyregion.errors import InputWarning, SetAside
from anyregion.images import Pixels
from anyregion.predictions import Predictions
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.runs.pipeline import (
    ProposedRegions,
    RecognizeOptions,
    RegionNamer,
    RegionSource,
    Sample,
    run_pipeline,
)
from anyregion.runs.processes import CountDone, ProcessPool
from anyregion.runs.results_folder import encoded_picture
from anyregion.vocabulary import EncodedVocabulary, Progress

# images that a process is handed at once: the next are read while one is named
_IMAGES_AT_ONCE = 16

RecognizerSource: TypeAlias = Recognizer | Callable[[], Recognizer] | str | Path
"""A model, what loads it, or its name."""


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a run are drawn.

    Attributes:
        options: what they look like.
        refused: rows under the least score are drawn too.
    """

    options: PictureOptions
    refused: bool


@dataclass(frozen=True, eq=False)
class NamedImage:
    """What a run writes of an image.

    Attributes:
        name, key: of its `Sample`.
        predictions: the names of its regions.
        set_aside: its regions that cannot be used.
        duplicates: how many of its regions were left out for a better one of the same name.
        pixels: of which a picture is to be drawn; None for no picture, or where there is one.
        picture: as a file.
    """

    name: str
    key: str | None
    predictions: Predictions
    set_aside: tuple[SetAside, ...]
    duplicates: int
    pixels: Pixels | None
    picture: bytes | None = None


@dataclass(frozen=True, eq=False)
class NamedPart:
    """What became of some images of a run.

    Attributes:
        images: those that were named.
        skipped: names of those that cannot be used, and why.
        set_aside: what `Batch.set_aside` says.
        warnings: what the pipeline had to say in another process.
    """

    images: list[NamedImage]
    skipped: list[tuple[str, str]]
    set_aside: list[SetAside]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RunNaming:
    """A loaded model that names the images of a run.

    Attributes:
        namer: the model, the vocabulary and the options.
        proposer: finds the regions of images that bring none.
        drawing: how a picture of each image is drawn; None for no pictures.
    """

    namer: RegionNamer
    proposer: RegionProposer | None
    drawing: Drawing | None

    def models(self) -> dict[str, str]:
        """Fingerprints by the part of the model, as a run's folder states them."""
        # "words" is the text encoder: the keys are those that folders have in their run.json
        encoder = self.namer.recognizer.encoder
        models = {"words": self.namer.vocabulary.model, "encoder": encoder.fingerprint}
        if self.proposer is not None:
            models["proposer"] = self.proposer.fingerprint
        return models

    def name(
        self, samples: Sequence[Sample], progress: Progress | None = None
    ) -> Iterator[NamedPart]:
        """Name images, in order, a few at a time."""
        batches = run_pipeline(
            samples, self.namer.recognizer.encoder, self.namer, proposer=self.proposer,
            # an image in which nothing is to be named is a finished one, too
            ask_empty=True,
            batch_size=self.namer.options.batch_size,
            progress=progress,
        )  # fmt: skip
        for batch in batches:
            images = [
                NamedImage(
                    item.sample.name,
                    item.sample.key,
                    predictions,
                    tuple(item.set_aside),
                    len(item.regions) - len(np.unique(predictions.rows)),
                    item.pixels if self.drawing else None,
                )
                for item, predictions in batch.results
            ]
            skipped = [(sample.name, reason) for sample, reason in batch.skipped]
            yield NamedPart(images, skipped, batch.set_aside)


def load_naming(
    recognizer: RecognizerSource,
    vocabulary: EncodedVocabulary,
    source: RegionSource,
    options: RecognizeOptions,
    drawing: Drawing | None,
) -> RunNaming:
    """Load what names images by a vocabulary that is encoded already."""
    model = load_model(recognizer)
    namer, proposer = RegionNamer(model, vocabulary, options), None
    if isinstance(source, ProposedRegions):
        proposer = source.load(model)
        namer = replace(
            namer,
            use_masks=source.masks,
            use_scores=source.scores,
            duplicates=source.duplicates,
        )
    return RunNaming(namer, proposer, drawing)


def load_model(recognizer: RecognizerSource) -> Recognizer:
    """The model that was given, or that is to be loaded."""
    if isinstance(recognizer, (str, Path)):
        return factory.load_recognizer(recognizer)
    return recognizer if isinstance(recognizer, Recognizer) else recognizer()


def name_in_processes(
    load: Callable[[], RunNaming], samples: Sequence[Sample], workers: int, progress: Progress
) -> Iterator[NamedPart]:
    """Name images in processes of this machine, a few images at a time; they come in order.

    Args:
        load: `load_naming` with its arguments; it is sent to the processes.
        samples: the images.
        workers: processes at once.
        progress: called with (done, total) images.

    Raises:
        AnyRegionError: processes died again and again.
    """
    # small enough that all have work to the end
    size = max(1, min(_IMAGES_AT_ONCE, len(samples) // (4 * workers)))
    parts = [tuple(samples[start : start + size]) for start in range(0, len(samples), size)]
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done = min(done + images, len(samples))
        progress(done, len(samples))

    progress(0, len(samples))
    with ProcessPool(load, min(workers, len(parts))) as pool:
        reported: set[str] = set()
        # what is ready before its turn: the results are those of one process, to the byte
        waiting: dict[int, NamedPart] = {}
        turn = 0
        for (number, _), named in pool.map(_name_part, list(enumerate(parts)), count):
            waiting[number] = named
            while turn in waiting:
                part = waiting.pop(turn)
                turn += 1
                for text in part.warnings:
                    if text not in reported:
                        reported.add(text)
                        warnings.warn(text, InputWarning, stacklevel=2)
                yield part


def _name_part(
    naming: RunNaming, numbered: tuple[int, tuple[Sample, ...]], count: CountDone
) -> NamedPart:
    """What a process does; pictures are drawn by it, too."""
    _, samples = numbered
    whole = NamedPart([], [], [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        for part in naming.name(samples):
            for image in part.images:
                picture = None
                if image.pixels is not None and naming.drawing is not None:
                    picture = encoded_picture(
                        image.name,
                        image.pixels,
                        image.predictions,
                        min_score=naming.namer.options.min_score,
                        picture=naming.drawing.options,
                        draw_refused=naming.drawing.refused,
                    )
                whole.images.append(replace(image, pixels=None, picture=picture))
            whole.skipped.extend(part.skipped)
            whole.set_aside.extend(part.set_aside)
            count(len(part.images) + len(part.skipped))
    texts = [str(w.message) for w in caught if issubclass(w.category, InputWarning)]
    return replace(whole, warnings=tuple(texts))
