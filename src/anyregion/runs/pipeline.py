"""One pipeline over images: they are read ahead, checked, encoded, and their regions named.

Regions come from a source: the same for all images, a file's, or proposed ones. An image is read
once, its regions are checked once, and it is encoded once, also where the model that names its
regions proposes them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from anyregion import factory
from anyregion.data.annotations.conventions import describe_beyond
from anyregion.data.image_files import find_image
from anyregion.errors import InputError, InputWarning, SetAside
from anyregion.files import name_parts, shared_tail
from anyregion.images import AS_STORED, UNSURE_TURN, ImageLike, Pixels, read_batches
from anyregion.io.regions import ImageEntry, RegionFile
from anyregion.predictions import Predictions
from anyregion.proposals import DuplicateOptions, RegionProposer, without_duplicates
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEncoder
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Progress

if TYPE_CHECKING:
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.region_trees.proposer import TreeOptions

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
class SameRegions:
    """The same boxes and points for every image."""

    regions: Regions
    set_aside: tuple[SetAside, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the prompts."""
        regions = self.regions
        columns = (regions.points, regions.point_labels)
        content = [regions.boxes.tolist(), *([p.tolist() for p in column] for column in columns)]
        # only where there are any: the digests of earlier runs are not to change
        if any(mask is not None for mask in regions.masks):
            content.append(list(regions.masks))
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def samples(self, images: Mapping[str, Path]) -> dict[str, Sample | str]:
        """By the images' names, each with its regions."""
        return {name: Sample(name, path, self.regions) for name, path in images.items()}


@dataclass(frozen=True)
class ProposedRegions:
    """Regions that a proposer finds in each image, with its objectness as score.

    The proposer's fingerprint is pinned beside the recogniser's, so that no run mixes two.

    Attributes:
        proposer: `own`, `compact`, `sam` or `r2o:WHERE`, as `load_proposer` takes it, or a
            proposer.
        localizer, device, dtype, tiles: see `load_proposer`.
        masks: also use the masks as prompts.
        scores: multiply the names' scores by the regions' objectness.
        duplicates: which regions of one name are of one thing; None keeps all.
        options: which regions the proposer keeps; None for its own.
    """

    proposer: factory.Proposer | RegionProposer = "own"
    localizer: str | None = None
    device: str = "cpu"
    masks: bool = False
    scores: bool = True
    tiles: int | None = None
    duplicates: DuplicateOptions | None = field(default_factory=DuplicateOptions)
    options: ProposalOptions | TreeOptions | None = None
    dtype: factory.Dtype = "float32"
    set_aside: tuple[SetAside, ...] = ()

    @property
    def digest(self) -> str:
        """What is to be proposed, in words: known before anything is loaded."""
        # run.json of earlier runs has these words
        name = self.proposer if isinstance(self.proposer, str) else self.proposer.name
        words = f"found by {name}, masks={self.masks}, scores={self.scores}, {self.duplicates}"
        return words if self.options is None else f"{words}, {self.options}"

    def samples(self, images: Mapping[str, Path]) -> dict[str, Sample | str]:
        """By the images' names, each without regions as yet."""
        return {name: Sample(name, path, None) for name, path in images.items()}

    def load(self, recognizer: Recognizer) -> RegionProposer:
        """The proposer. A RegionSpot has a localizer, which is loaded already."""
        if not isinstance(self.proposer, str):
            return self.proposer
        return factory.load_proposer(
            self.proposer,
            localizer=self.localizer,
            recognizer=recognizer,
            device=self.device,
            dtype=self.dtype,
            tiles=self.tiles,
            options=self.options,
        )


_NO_REGIONS = "no regions for this image"

RegionSource: TypeAlias = SameRegions | RegionFile | ProposedRegions
"""Each has a `digest` that changes whenever the regions do, and `set_aside`, those that cannot be
used. Images become samples by its `samples`; those of a file by `file_samples`."""


def file_samples(
    file: RegionFile, images: Mapping[str, Path], root: Path
) -> dict[str, Sample | str]:
    """By the images' names: each with its regions of the file, or the reason why it has none.

    An entry of the file belongs to one image. Where several images fit it (`a/x.jpg` and
    `b/x.jpg`), the one whose path agrees best has it; where they agree equally, none has. The
    names of the images start from `root`.
    """
    samples: dict[str, Sample | str] = {}
    # by entry, the images that fit it
    candidates: dict[str, list[str]] = defaultdict(list)
    for name, path in images.items():
        samples[name] = _NO_REGIONS
        try:
            entry = file.find(path, root=root)
        except InputError as error:
            samples[name] = str(error)
            continue
        if entry is not None and len(entry.regions):
            candidates[entry.key].append(name)
    if not candidates and set(samples.values()) == {_NO_REGIONS}:
        # a file of other names, most likely
        listed = [entry for entry in file.images.values() if len(entry.regions)][:3]
        if listed:
            few = ", ".join(entry.file_name or entry.key for entry in listed)
            by_id = " by their ids: --annotations names them" * (listed[0].file_name is None)
            reason = f"{_NO_REGIONS}; the region file lists {few}{by_id}"
            samples = dict.fromkeys(samples, reason)
    for key, names in candidates.items():
        entry = file.images[key]
        if len(names) > 1:
            stated = name_parts(entry.file_name or "", alike=True)
            shared = {
                name: shared_tail(stated, name_parts(str(images[name]), alike=True))
                for name in names
            }
            names = [name for name in names if shared[name] == max(shared.values())]
        if len(names) > 1:
            # a guess would name the regions of another photograph
            reason = f"the regions of {entry.file_name or key} fit several images of this run"
            samples.update(dict.fromkeys(names, reason))
        else:
            (name,) = names
            samples[name] = Sample(name, images[name], entry.regions, key, entry.size)
    return samples


def annotated_samples(
    entries: Iterable[ImageEntry],
    folder: Path,
    *,
    limit: int | None = None,
    without_regions: bool = False,
    set_aside: list[SetAside],
) -> list[Sample]:
    """The first `limit` entries, each with its image file; one that has none is set aside.

    Args:
        folder: `file_name` starts from it; see `find_image`.
        without_regions: also take entries that have no regions.

    Raises:
        InputError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    # of all entries, not of the first `limit`: two that claim one file may lie far apart
    listed = [entry for entry in entries if entry.file_name]
    paths: dict[str, Path | None] = {}
    for entry in listed:
        paths[entry.key] = find_image(folder, str(entry.file_name))
    claims = Counter(paths.values())
    samples: list[Sample] = []
    for entry in [e for e in listed if without_regions or len(e.regions)][:limit]:
        path = paths[entry.key]
        if path is None:
            set_aside.append(SetAside(str(entry.file_name), f"not in {folder}"))
        elif claims[path] > 1:
            # `a/1.jpg` and `b/1.jpg` both lead to `1.jpg`: whose regions it has, nobody can tell
            reason = f"{path} could be the file of {claims[path]} entries"
            set_aside.append(SetAside(str(entry.file_name), reason))
        else:
            mismatch = "{}, but the annotations say {}"
            samples.append(Sample(str(path), path, entry.regions, entry.key, entry.size, mismatch))
    return samples


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
        min_score: regions whose best name scores less are refused: a run marks them in its journal.
        masks: also find each region's mask.
        multimask: three candidate masks a region, each named, where the method has them.
        batch_size: images at once.
        merge: of regions of one name that are of one thing keep the best (`DuplicateOptions`), also
            where the regions were given; of found ones `ProposedRegions` says.

    Raises:
        InputError: a number out of its range.
    """

    top_k: int = 5
    score: Score | None = None
    min_score: float = 0.0
    masks: bool = False
    multimask: bool = False
    batch_size: int = 4
    merge: bool = False

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
        duplicates: of regions that a proposer found, which of one name are of one thing; None for
            none. Regions that were given are all answered, unless the options say `merge`.
    """

    recognizer: Recognizer
    vocabulary: EncodedVocabulary
    options: RecognizeOptions
    use_masks: bool = True
    use_scores: bool = True
    duplicates: DuplicateOptions | None = None

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
        if not (self.use_masks and self.use_scores):
            # masks that were no prompts are still there to be judged
            pairs = zip(answers, items, strict=True)
            answers = [replace(a, regions=item.regions) for a, item in pairs]
        stated = DuplicateOptions() if options.merge else None
        return [
            _without_duplicates(a, self.duplicates if item.sample.regions is None else stated)
            for a, item in zip(answers, items, strict=True)
        ]


def _without_duplicates(predictions: Predictions, options: DuplicateOptions | None) -> Predictions:
    """The rows of the regions that no better one of the same name stands for."""
    if options is None:
        return predictions
    best = predictions.best_candidates()
    # as they came: masks that the model grows from boxes say no more of whose boxes these are
    masks = [predictions.regions.masks[row] for row in best.rows]
    kept = without_duplicates(
        best.boxes, best.indices[:, 0], best.scores[:, 0], options, masks=masks
    )
    return predictions[np.isin(predictions.rows, best.rows[kept])]


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
    the model or the proposer, is skipped with the reason, and the rest goes on. Where EXIF turns
    images, and no size tells whether the boxes given were drawn before that, an `InputWarning`
    at the end names them. Another says so where no sizes are stated, and most boxes reach beyond
    their images.

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
    unsure: list[str] = []
    # of each image without a stated size: its boxes (N, 4), and its width and height (N, 2)
    boxes: list[NDArray[np.float64]] = []
    limits: list[NDArray[np.float64]] = []
    if progress is not None:
        # loading the model took its own time: what remains is counted from here
        progress(0, len(samples))
    for images in read_batches([sample.image for sample in samples], batch_size=batch_size):
        part = samples[start : start + len(images)]
        read: list[ReadSample] = []
        skipped: list[tuple[Sample, str]] = []
        for sample, image in zip(part, images, strict=True):
            try:
                if isinstance(image, InputError):
                    raise image
                pixels, (height, width) = image.pixels, image.size.upright
                if sample.size is not None and sample.size != (height, width):
                    stated = f"{sample.size[1]} x {sample.size[0]}"
                    reason = sample.mismatch.format(f"{width} x {height}", stated)
                    raise InputError(reason + AS_STORED * (sample.size == image.size.stored))
                regions, encoded_image = sample.regions, None
                if regions is None:
                    regions, encoded_image = _propose(pixels, encoder, proposer)
                if sample.regions is not None and sample.size is None:
                    stated_boxes = regions.boxes[np.isfinite(regions.boxes).all(axis=1)]
                    boxes.append(stated_boxes)
                    limits.append(np.tile([float(width), float(height)], (len(stated_boxes), 1)))
                # the one place where regions meet their image: all that follows trusts them
                regions, outside = regions.fit(height, width)
                size = (height, width)
                read.append(ReadSample(sample, pixels, size, regions, outside, encoded_image))
                # what is found here is found in the upright image
                if sample.regions is not None and image.size.hides_turn(sample.size):
                    unsure.append(sample.name)
            except InputError as error:
                skipped.append((sample, str(error)))
        results: list[tuple[ReadSample, Answer]] = []
        # an encoder pass for nothing would cost as much as one for a hundred regions
        with_regions = [item for item in read if ask_empty or len(item.regions)]
        pending = [with_regions] if with_regions else []
        while pending:
            items = pending.pop(0)
            try:
                encoded: Sequence[Any] = [item.encoded for item in items]
                if any(e is None for e in encoded):
                    encoded = encoder.encode_images([item.pixels for item in items])
                results += zip(items, answer(encoded, items), strict=True)
            except InputError as error:
                # only a refusal is tried again, image by image: a bug is to stop the run
                if len(items) > 1:
                    pending = [[item] for item in items]
                else:
                    read.remove(items[0])
                    skipped.append((items[0].sample, str(error)))
        set_aside = [SetAside(sample.name, reason) for sample, reason in skipped]
        set_aside += [
            SetAside(f"{item.sample.name}, {a.item}", a.reason)
            for item in read
            for a in item.set_aside
        ]
        yield Batch(read, results, skipped, set_aside)
        # the caller is done with the batch when it asks for the next one
        start += len(images)
        if progress is not None:
            progress(start, len(samples))
    if unsure:
        names = ", ".join(unsure[:3]) + (", ..." if len(unsure) > 3 else "")
        text = f"EXIF turns {len(unsure)} images ({names}), {UNSURE_TURN}"
        warnings.warn(text, InputWarning, stacklevel=2)
    if boxes and (said := describe_beyond(np.concatenate(boxes), np.concatenate(limits))):
        warnings.warn(f"of the boxes {said}", InputWarning, stacklevel=2)


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
