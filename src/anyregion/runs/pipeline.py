"""One pipeline over images: they are read ahead, checked, encoded, and their regions named.

An image is read once, its regions are checked once, and it is encoded once, also where the model
that names its regions proposes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

from anyregion.errors import InputError, SetAside
from anyregion.images import ImageLike, Pixels, read_ahead
from anyregion.predictions import Predictions
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEncoder
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Progress

Answer = TypeVar("Answer")

Track: TypeAlias = Callable[[str, str], Progress]
"""Shows how far a long piece of work is. Called with what is being done and the unit it is counted
in; what it returns is called with (done, total)."""


def silent(doing: str, unit: str) -> Progress:
    """The `Track` that shows nothing."""
    return lambda done, total: None


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and the regions to name in it.

    Attributes:
        name: what results and reports call it.
        image: its file, or whatever else `read_image` reads.
        regions: its regions; None where a proposer is to find them.
        key: its id in the file of regions, if it is listed in one.
        size: `(height, width)` as that file states it, if it does: regions that were drawn on an
            image of another size mean other places.
        mismatch: how to say that the image has another size: its own, then the stated one.
    """

    name: str
    image: ImageLike
    regions: Regions | None
    key: str | None = None
    size: tuple[int, int] | None = None
    mismatch: str = "the image is {} upright, but the region file says {}"


@dataclass(frozen=True, eq=False)
class ReadSample:
    """A sample that was read, with the regions that lie in its image.

    Attributes:
        sample: as it was asked for.
        pixels: the image.
        size: its `(height, width)`.
        regions: clipped to the image.
        set_aside: regions that do not lie in the image.
        encoded: what the encoder made of the image, where a proposer has needed it already.
    """

    sample: Sample
    pixels: Pixels
    size: tuple[int, int]
    regions: Regions
    set_aside: list[SetAside]
    encoded: Any = None


@dataclass(frozen=True, eq=False)
class Batch(Generic[Answer]):
    """What became of a few samples, each in the order they were given.

    Attributes:
        read: the samples that could be used, with regions to ask about or without.
        results: those that were asked about, and the answer for each.
        skipped: samples that cannot be used, and why.
        set_aside: the skipped images, then regions that do not lie in their images.
    """

    read: list[ReadSample]
    results: list[tuple[ReadSample, Answer]]
    skipped: list[tuple[Sample, str]]
    set_aside: list[SetAside]


@dataclass(frozen=True, kw_only=True)
class RecognizeOptions:
    """How regions are named.

    Attributes:
        top_k: names kept of each region.
        score: `softmax` or `sigmoid`; None for the model's own (see `Recognizer.predict`).
        min_score: regions whose best name scores less are left out.
        masks: also find each region's mask.
        multimask: three candidate masks a region, each named, where the method has them.
        batch_size: images at once.

    Raises:
        InputError: a number out of its range.
    """

    top_k: int = 5
    score: Score | None = None
    min_score: float = 0.0
    masks: bool = False
    multimask: bool = False
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.top_k < 1:
            raise InputError("batch size and top_k must be at least 1")
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score must lie between 0 and 1; it is {self.min_score}")


@dataclass(frozen=True, eq=False)
class RegionNamer:
    """What answers the pipeline with `Predictions`.

    Attributes:
        recognizer: the model.
        vocabulary: encoded once, for all images.
        options: how regions are named.
        use_masks: give the masks that regions bring as prompts.
        use_scores: multiply the names' scores by the regions' own.
    """

    recognizer: Recognizer
    vocabulary: EncodedVocabulary
    options: RecognizeOptions
    use_masks: bool = True
    use_scores: bool = True

    def __call__(self, encoded: Sequence[Any], items: Sequence[ReadSample]) -> list[Predictions]:
        """Name the regions of encoded images."""
        options, prompts = self.options, [item.regions for item in items]
        # what is not to be used is taken out of the prompts, so that no method has to know of it
        if not self.use_masks:
            prompts = [replace(r, masks=(None,) * len(r)) for r in prompts]
        if not self.use_scores:
            prompts = [replace(r, scores=None) for r in prompts]
        answers = self.recognizer.predict_encoded(
            encoded, prompts, [item.size for item in items], self.vocabulary,
            top_k=options.top_k, score=options.score,
            masks=options.masks, multimask=options.multimask,
        )  # fmt: skip
        if options.min_score:
            answers = [answer.above(options.min_score) for answer in answers]
        if self.use_masks and self.use_scores:
            return answers
        # masks that were no prompts are still there to be judged
        return [replace(a, regions=item.regions) for a, item in zip(answers, items, strict=True)]


def run_pipeline(
    samples: Sequence[Sample],
    encoder: RegionEncoder,
    answer: Callable[[Sequence[Any], Sequence[ReadSample]], list[Answer]],
    *,
    proposer: RegionProposer | None = None,
    ask_empty: bool = False,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Iterator[Batch[Answer]]:
    """Ask about the regions of many images, batch by batch, while the next batch is read.

    An image that cannot be read, has another size than its regions were drawn on, or is refused by
    the model or the proposer, is skipped with the reason, and the rest goes on.

    Args:
        samples: the images, in the order they are to be asked about.
        encoder: the method; `answer` is given what its `encode_images` made of each image.
        answer: encoded images and their samples to one answer each, as a `RegionNamer` does.
        proposer: finds the regions of samples that bring none. Where it builds on `encoder` (see
            `EncodedProposer`), images are not encoded a second time.
        ask_empty: also ask about images without any region; else they are not even encoded.
        batch_size: images at once.
        progress: called with (done, total) images, each time the caller is done with a batch.
    """
    start = 0
    if progress is not None:
        # loading the model took its own time: what remains is counted from here
        progress(0, len(samples))
    for images in read_ahead([sample.image for sample in samples], batch_size=batch_size):
        part = samples[start : start + len(images)]
        read: list[ReadSample] = []
        skipped: list[tuple[Sample, str]] = []
        for sample, pixels in zip(part, images, strict=True):
            try:
                if isinstance(pixels, InputError):
                    raise pixels
                height, width = pixels.shape[:2]
                if sample.size is not None and sample.size != (height, width):
                    stated = f"{sample.size[1]} x {sample.size[0]}"
                    raise InputError(sample.mismatch.format(f"{width} x {height}", stated))
                regions, encoded = sample.regions, None
                if regions is None:
                    regions, encoded = _propose(pixels, encoder, proposer)
                # the one place where regions meet their image: all that follows trusts them
                regions, outside = regions.fit(height, width)
                read.append(ReadSample(sample, pixels, (height, width), regions, outside, encoded))
            except InputError as error:
                skipped.append((sample, str(error)))
        results: list[tuple[ReadSample, Answer]] = []
        # an encoder pass for nothing would cost as much as one for a hundred regions
        with_regions = [item for item in read if ask_empty or len(item.regions)]
        for item, result in _ask(with_regions, encoder, answer):
            if isinstance(result, InputError):
                read.remove(item)
                skipped.append((item.sample, str(result)))
            else:
                results.append((item, result))
        set_aside = [SetAside(sample.name, reason) for sample, reason in skipped]
        for item in read:
            set_aside += [
                SetAside(f"{item.sample.name}, {a.item}", a.reason) for a in item.set_aside
            ]
        yield Batch(read, results, skipped, set_aside)
        # the caller is done with the batch when it asks for the next one
        start += len(images)
        if progress is not None:
            progress(start, len(samples))


def _propose(
    pixels: Pixels, encoder: RegionEncoder, proposer: RegionProposer | None
) -> tuple[Regions, Any]:
    """The regions of an image that brings none; and what the encoder made of it, or None."""
    if proposer is None:
        raise InputError("no regions for this image, and nothing to find them")
    # the same object, not one like it: another copy may have other weights
    if getattr(proposer, "encoder", None) is encoder:
        # one by one: the proposer's own work on an image outweighs what a batch would save
        (encoded,) = encoder.encode_images([pixels])
        return proposer.propose_encoded(encoded), encoded  # type: ignore[attr-defined]
    return proposer.propose(pixels), None


def _ask(
    items: list[ReadSample],
    encoder: RegionEncoder,
    answer: Callable[[Sequence[Any], Sequence[ReadSample]], list[Answer]],
) -> list[tuple[ReadSample, Answer | InputError]]:
    """Each sample with its answer; one that the model refuses does not take its batch along."""
    if not items:
        return []
    try:
        if any(item.encoded is None for item in items):
            encoded = encoder.encode_images([item.pixels for item in items])
        else:
            encoded = [item.encoded for item in items]
        return list(zip(items, answer(encoded, items), strict=True))
    except InputError as error:
        # nothing but a refusal is tried again: a bug is to stop the run
        if len(items) == 1:
            return [(items[0], error)]
        return [pair for item in items for pair in _ask([item], encoder, answer)]
