"""Exemplars: regions of images that show what a name means, instead of words or beside them.

The row of a name in the vocabulary's matrix is the mean of its exemplars' region embeddings, each
of length 1, brought to length 1 again (the prototype of Snell et al., NeurIPS 2017, by cosine).
Nothing is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.images import (
    AS_STORED,
    DecodedImage,
    ImageLike,
    Pixels,
    image_digest,
    read_batches,
)
from anyregion.regions import Regions
from anyregion.vocabulary import EncodedVocabulary, Floats, Progress, Vocabulary, name_key

Embed = Callable[[Sequence[Pixels], Sequence[Regions]], list[Floats]]
"""Images and the regions of each to the embeddings `(N, E)` of each, a row a region."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """Some regions of one image that show what a name means.

    Attributes:
        image: see `read_image`; a path is read when it is needed.
        regions: regions of that image; None is the whole image as one region.
        size: `(height, width)` of the image that they were drawn on, where that is stated.
    """

    image: ImageLike
    regions: Regions | None = None
    size: tuple[int, int] | None = None

    @property
    def source(self) -> str:
        """The image in words: its path, where it has one."""
        return str(self.image) if isinstance(self.image, (str, Path)) else "its image"


@dataclass(frozen=True, eq=False)
class ExemplarVocabulary:
    """Names that stand for exemplars, words or both, before any model has encoded them.

    Attributes:
        vocabulary: all names: those of `words`, then those that only exemplars show.
        exemplars: by position in `vocabulary`; a name without any is its words alone.
        words: names as words, encoded or not, or None.
        weight: share of the exemplars, 0 to 1, in a name that has both; None: the more regions
            show a name, the larger (`exemplar_share`).
        set_aside: classes that the source names and has no exemplar of.
    """

    vocabulary: Vocabulary
    exemplars: Mapping[int, tuple[Exemplar, ...]]
    words: Vocabulary | EncodedVocabulary | None = None
    weight: float | None = None
    set_aside: tuple[SetAside, ...] = ()

    @classmethod
    def from_exemplars(
        cls,
        exemplars: Mapping[str, Sequence[Exemplar]],
        *,
        words: Vocabulary | EncodedVocabulary | Sequence[str] | None = None,
        weight: float | None = None,
        ids: Mapping[str, int] | None = None,
    ) -> ExemplarVocabulary:
        """Join names with their exemplars. Names are matched with words whatever their case.

        Args:
            exemplars: `{name: exemplars}`, at least one each.
            words: names as words; those without exemplars are kept as they are.
            weight: see the class.
            ids: category ids of names that are not among the words.

        Raises:
            InputError: no exemplars, a name without any, names that repeat, a wrong weight.
        """
        if not exemplars:
            raise InputError("no exemplars: give at least one name with an image")
        if weight is not None and not 0 <= weight <= 1:
            raise InputError(f"the weight of the exemplars lies between 0 and 1; it is {weight}")
        if words is not None and not isinstance(words, (Vocabulary, EncodedVocabulary)):
            words = Vocabulary.from_names(words)
        named = words.vocabulary if isinstance(words, EncodedVocabulary) else words
        if isinstance(words, EncodedVocabulary) and words.classifier is not None:
            raise InputError("this vocabulary was taught: teach it the exemplars, as corrections")
        vocabulary = all_names(list(exemplars), named, ids or {})
        # "Cup" among the words and "cup" among the exemplars are one name
        positions = {name_key(n, vocabulary.cleaning): i for i, n in enumerate(vocabulary.names)}
        by_position: dict[int, tuple[Exemplar, ...]] = {}
        for name, examples in exemplars.items():
            position = positions[name_key(name, vocabulary.cleaning)]
            if position in by_position:
                raise InputError(f"exemplars: {name!r} repeats {vocabulary.names[position]!r}")
            by_position[position] = tuple(examples)
            if not any(e.regions is None or len(e.regions) for e in by_position[position]):
                raise InputError(f"{name!r} has no exemplar: give at least one region")
        return cls(vocabulary, by_position, words, weight)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def weights(self) -> dict[int, float]:
        """The share of the exemplars in each name that has any, by its position."""
        return {
            position: exemplar_share(
                sum(1 if e.regions is None else len(e.regions) for e in exemplars)
            )
            if self.weight is None
            else self.weight
            for position, exemplars in self.exemplars.items()
        }

    @property
    def digest(self) -> str:
        """A hash of the exemplars' images, their regions and their weight; reads each image's file.

        Raises:
            InputError: a file that cannot be read.
        """
        # the same name is another row where it has words too
        words = self.words.vocabulary if isinstance(self.words, EncodedVocabulary) else self.words
        digest = hashlib.sha256(repr((self.weight, len(words or ()))).encode())
        for position, exemplars in sorted(self.exemplars.items()):
            for number, exemplar in enumerate(exemplars, start=1):
                digest.update(f"{position} {number}".encode())
                try:
                    digest.update(image_digest(exemplar.image))
                except InputError as error:
                    title = self._title(position, number, exemplar)
                    raise InputError(f"{title}: {error}") from None
                digest.update(_prompts(exemplar.regions))
        return digest.hexdigest()

    def rows(
        self, embed: Embed, *, batch_size: int = 4, progress: Progress | None = None
    ) -> dict[int, Floats]:
        """The row `(E,)` of each name that has exemplars, of length 1, by its position.

        Every image is read and embedded once, `batch_size` at a time, however many names it shows.

        Raises:
            InputError: an image that cannot be read, a region that does not lie in it, or
                exemplars that have no direction in common, naming each.
        """
        # by image, the position of the name, the exemplar's number under it, and the exemplar
        by_image: dict[object, list[tuple[int, int, Exemplar]]] = {}
        for position, exemplars in self.exemplars.items():
            for number, exemplar in enumerate(exemplars, start=1):
                image = exemplar.image
                # pixels and bytes have no name: the same object is the same image
                key = str(image) if isinstance(image, (str, Path)) else id(image)
                by_image.setdefault(key, []).append((position, number, exemplar))
        uses = list(by_image.values())
        embeddings: dict[int, list[tuple[int, Floats]]] = {i: [] for i in self.exemplars}
        done = 0
        images = [group[0][2].image for group in uses]
        for batch in read_batches(images, batch_size=batch_size):
            groups = uses[done : done + len(batch)]
            pixels, regions, owners = zip(*map(self._prepare, batch, groups), strict=True)
            for embedded, owner in zip(embed(pixels, regions), owners, strict=True):
                for (position, number), row in zip(owner, _unit(embedded), strict=True):
                    embeddings[position].append((number, row))
            done += len(batch)
            if progress is not None:
                progress(done, len(images))
        return {position: self._mean(position, rows) for position, rows in embeddings.items()}

    def _prepare(
        self, image: DecodedImage | InputError, group: Sequence[tuple[int, int, Exemplar]]
    ) -> tuple[Pixels, Regions, list[tuple[int, int]]]:
        """An image, all its exemplars' regions, and the name and exemplar of each region."""
        if isinstance(image, InputError):
            raise InputError(f"{self._title(*group[0])}: {image}")
        height, width = image.size.upright
        parts: list[Regions] = []
        owners: list[tuple[int, int]] = []
        for position, number, exemplar in group:
            regions = exemplar.regions
            stated = exemplar.size
            if regions is None:
                regions = Regions.from_boxes([[0, 0, width, height]])
            elif stated is not None and stated != (height, width):
                raise InputError(
                    f"{self._title(position, number, exemplar)}: {width} x {height}, but its "
                    f"regions were drawn on {stated[1]} x {stated[0]}"
                    + AS_STORED
                    * (stated == image.size.stored)
                )
            fitted, outside = regions.fit(height, width)
            if outside:
                raise InputError(f"{self._title(position, number, exemplar)}: {outside[0]}")
            parts.append(fitted)
            owners += [(position, number)] * len(fitted)
        return image.pixels, _concatenate(parts), owners

    def _mean(self, position: int, rows: list[tuple[int, Floats]]) -> Floats:
        # in the order of the exemplars: sums of floats depend on it
        mean = np.mean([row for _, row in sorted(rows, key=lambda r: r[0])], axis=0)  # (E,)
        length = float(np.linalg.norm(mean))
        # unit rows that cancel out; a mean of even two random rows of 384 numbers is some 0.7 long
        if not np.isfinite(length) or length < 1e-6:
            raise InputError(
                f"the exemplars of {self.vocabulary.names[position]!r} have no direction in common"
            )
        row: Floats = (mean / length).astype(np.float32)
        return row

    def _title(self, position: int, number: int, exemplar: Exemplar) -> str:
        return f"exemplar {number} of {self.vocabulary.names[position]!r} ({exemplar.source})"


def exemplar_share(regions: int) -> float:
    """How much so many regions count that show a name, beside its words: from a half on to 1.

    One region says little more than a word, thirty say nearly all (docs/results/exemplars.md).
    """
    return (regions + 2) / (regions + 5)


def mix_rows(
    words: Floats | None, exemplars: Mapping[int, Floats], weight: float | Mapping[int, float]
) -> Floats:
    """The matrix `(C, E)` of a vocabulary, rows of length 1, from rows of words and of exemplars.

    A name that has both becomes the weighted sum, brought to length 1. Positions from `W` on have
    exemplars alone.

    Args:
        words: `(W, E)`, or None.
        exemplars: `{position: (E,)}`.
        weight: share of the exemplars, of all names or by position.

    Raises:
        InputError: rows of other widths.
    """
    width = len(next(iter(exemplars.values())))
    words = np.zeros((0, width), dtype=np.float32) if words is None else words
    if words.shape[1] != width:
        raise InputError(f"pictures are {width} wide but words {words.shape[1]}")
    # positions beyond the words are names that only exemplars show, one after the other
    count = max(len(words), max(exemplars) + 1)
    matrix = np.zeros((count, width), dtype=np.float32)
    matrix[: len(words)] = words
    for position, row in exemplars.items():
        share = weight[position] if isinstance(weight, Mapping) else weight
        both = position < len(words)
        matrix[position] = _unit(share * row + (1 - share) * words[position]) if both else row
    return matrix


def all_names(
    exemplars: Sequence[str], words: Vocabulary | None, ids: Mapping[str, int]
) -> Vocabulary:
    """The names of the words, then those of exemplars alone, with category ids of their own."""
    keys = set() if words is None else {name_key(n, words.cleaning) for n in words.names}
    cleaning = "plain" if words is None else words.cleaning
    new = [name for name in exemplars if name_key(name, cleaning) not in keys]
    if not new and words is not None:
        return words
    used = set() if words is None else set(words.ids)
    highest = max(used, default=0)
    new_ids: list[int] = []
    for name in new:
        # an id that a word has already would make two names one category
        number = ids.get(name, highest + 1)
        if number in used:
            number = highest + 1
        used.add(number)
        highest = max(highest, number)
        new_ids.append(number)
    added = Vocabulary.from_names(new, ids=new_ids, cleaning=cleaning)
    if added.set_aside:
        raise InputError(f"exemplars: {added.set_aside[0].reason}")
    if words is None:
        return added
    return replace(
        words,
        names=words.names + added.names,
        synonyms=words.synonyms + added.synonyms,
        ids=words.ids + added.ids,
        notes=words.notes + added.notes,
    )


def _concatenate(parts: Sequence[Regions]) -> Regions:
    if len(parts) == 1:
        return parts[0]
    return Regions(
        boxes=np.concatenate([p.boxes for p in parts]),
        points=tuple(x for p in parts for x in p.points),
        point_labels=tuple(x for p in parts for x in p.point_labels),
        masks=tuple(x for p in parts for x in p.masks),
        mask_logits=tuple(x for p in parts for x in p.mask_logits),
        ids=tuple(x for p in parts for x in p.ids),
    )


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Floats = (rows / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
    return unit


def _prompts(regions: Regions | None) -> bytes:
    if regions is None:
        return b"whole"
    logits = [None if m is None else m.tolist() for m in regions.mask_logits]
    points = [p.tolist() for p in regions.points], [p.tolist() for p in regions.point_labels]
    return repr((regions.boxes.tolist(), points, regions.masks, logits)).encode()
