"""A vocabulary of pictures: a name may stand for regions that were shown, instead of words.

The row of a name is the mean of its exemplars' region embeddings, each of length 1, brought to
length 1 again (the prototype of Snell et al., NeurIPS 2017, by cosine). Nothing is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyregion.errors import InputError, SetAside
from anyregion.images import ImageLike, Pixels, read_image, size_of
from anyregion.regions import Regions
from anyregion.vocabulary import EncodedVocabulary, Floats, Progress, Vocabulary, name_key

Embed = Callable[[Sequence[Pixels], Sequence[Regions]], list[Floats]]
"""Images and the regions of each to embeddings `(M, E)` of each, a row a region."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """Some regions of one image that show what a name means.

    Attributes:
        image: see `read_image`; a path is read when it is needed.
        regions: regions of that image; None is the whole image as one region.
    """

    image: ImageLike
    regions: Regions | None = None

    @property
    def where(self) -> str:
        """The image in words."""
        return str(self.image) if isinstance(self.image, (str, Path)) else "its image"


@dataclass(frozen=True, eq=False)
class PicturedVocabulary:
    """Names that stand for pictures, words or both, before any model has seen them.

    Attributes:
        vocabulary: all names: those of `words`, then those that only pictures show.
        exemplars: by position in `vocabulary`; a name without any is its words alone.
        words: names as words, encoded or not, or None.
        weight: share of the pictures, 0 to 1, in a name that has both.
        set_aside: classes that the source names and shows nothing of.
    """

    vocabulary: Vocabulary
    exemplars: Mapping[int, tuple[Exemplar, ...]]
    words: Vocabulary | EncodedVocabulary | None = None
    weight: float = 0.5
    set_aside: tuple[SetAside, ...] = ()

    @classmethod
    def from_exemplars(
        cls,
        exemplars: Mapping[str, Sequence[Exemplar]],
        *,
        words: Vocabulary | EncodedVocabulary | Sequence[str] | None = None,
        weight: float = 0.5,
        ids: Mapping[str, int] | None = None,
    ) -> PicturedVocabulary:
        """Join names with what shows them. Names are matched with words whatever their case.

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
        if not 0 <= weight <= 1:
            raise InputError(f"the weight of the exemplars lies between 0 and 1; it is {weight}")
        if words is not None and not isinstance(words, (Vocabulary, EncodedVocabulary)):
            words = Vocabulary.from_names(words)
        known = words.vocabulary if isinstance(words, EncodedVocabulary) else words
        vocabulary = _all_names(list(exemplars), known, ids or {})
        places = {name_key(n, vocabulary.cleaning): i for i, n in enumerate(vocabulary.names)}
        shown: dict[int, tuple[Exemplar, ...]] = {}
        for name, given in exemplars.items():
            place = places[name_key(name, vocabulary.cleaning)]
            if place in shown:
                raise InputError(f"exemplars: {name!r} repeats {vocabulary.names[place]!r}")
            shown[place] = tuple(given)
            if not any(e.regions is None or len(e.regions) for e in shown[place]):
                raise InputError(f"{name!r} has no exemplar: give at least one region")
        return cls(vocabulary, shown, words, weight)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def digest(self) -> str:
        """A hash of the pictures, their regions and their weight; reads each image's file.

        Raises:
            InputError: a file that cannot be read.
        """
        # the same name is another row where it has words too
        words = self.words.vocabulary if isinstance(self.words, EncodedVocabulary) else self.words
        digest = hashlib.sha256(repr((self.weight, len(words or ()))).encode())
        for place, given in sorted(self.exemplars.items()):
            for number, exemplar in enumerate(given, start=1):
                digest.update(f"{place} {number}".encode())
                digest.update(_content(exemplar, self._called(place, number, exemplar)))
                digest.update(_prompts(exemplar.regions))
        return digest.hexdigest()

    def rows(
        self, embed: Embed, *, batch_size: int = 4, progress: Progress | None = None
    ) -> dict[int, Floats]:
        """The row `(E,)` of each name that has exemplars, of length 1.

        Every image is read and embedded once, `batch_size` at a time, however many names it shows.

        Raises:
            InputError: an image that cannot be read, a region that does not lie in it, or
                exemplars that have no direction in common, naming each.
        """
        groups: dict[object, list[tuple[int, int, Exemplar]]] = {}
        for place, given in self.exemplars.items():
            for number, exemplar in enumerate(given, start=1):
                image = exemplar.image
                key = str(image) if isinstance(image, (str, Path)) else id(image)
                groups.setdefault(key, []).append((place, number, exemplar))
        images = list(groups.values())
        found: dict[int, list[tuple[int, Floats]]] = {place: [] for place in self.exemplars}
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels, regions, owners = zip(*map(self._read, part), strict=True)
            for embedded, owner in zip(embed(pixels, regions), owners, strict=True):
                for (place, number), row in zip(owner, _unit(embedded), strict=True):
                    found[place].append((number, row))
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
        return {place: self._mean(place, rows) for place, rows in found.items()}

    def _read(
        self, group: Sequence[tuple[int, int, Exemplar]]
    ) -> tuple[Pixels, Regions, list[tuple[int, int]]]:
        """One image, all regions it is shown for, and the name and exemplar of each region."""
        try:
            pixels = read_image(group[0][2].image)
        except InputError as error:
            raise InputError(f"{self._called(*group[0])}: {error}") from None
        height, width = size_of(pixels)
        parts: list[Regions] = []
        owners: list[tuple[int, int]] = []
        for place, number, exemplar in group:
            given = exemplar.regions
            if given is None:
                given = Regions.from_boxes([[0, 0, width, height]])
            fitted, outside = given.fit(height, width)
            if outside:
                raise InputError(f"{self._called(place, number, exemplar)}: {outside[0]}")
            parts.append(fitted)
            owners += [(place, number)] * len(fitted)
        return pixels, _joined(parts), owners

    def _mean(self, place: int, rows: list[tuple[int, Floats]]) -> Floats:
        # in the order they were given: sums of floats depend on it
        mean = np.mean([row for _, row in sorted(rows, key=lambda r: r[0])], axis=0)
        length = float(np.linalg.norm(mean))
        if not np.isfinite(length) or length < 1e-6:
            raise InputError(
                f"the exemplars of {self.vocabulary.names[place]!r} have no direction in common"
            )
        row: Floats = (mean / length).astype(np.float32)
        return row

    def _called(self, place: int, number: int, exemplar: Exemplar) -> str:
        return f"exemplar {number} of {self.vocabulary.names[place]!r} ({exemplar.where})"


def mixed(words: Floats | None, pictures: Mapping[int, Floats], weight: float) -> Floats:
    """Rows of words `(W, E)`, or None, joined with rows of pictures, `(C, E)` of length 1.

    A name that has both becomes the weighted sum, brought to length 1. Positions from `W` on have
    pictures alone.

    Raises:
        InputError: rows of other widths.
    """
    width = len(next(iter(pictures.values())))
    words = np.zeros((0, width), dtype=np.float32) if words is None else words
    count = max(len(words), max(pictures) + 1)
    if words.shape[1] != width:
        raise InputError(f"pictures are {width} wide but words {words.shape[1]}")
    matrix = np.zeros((count, width), dtype=np.float32)
    matrix[: len(words)] = words
    for place, row in pictures.items():
        both = place < len(words)
        matrix[place] = _unit(weight * row + (1 - weight) * words[place]) if both else row
    return matrix


def _all_names(
    shown: Sequence[str], known: Vocabulary | None, ids: Mapping[str, int]
) -> Vocabulary:
    """The names of the words, then those that are only shown, with category ids of their own."""
    keys = set() if known is None else {name_key(n, known.cleaning) for n in known.names}
    cleaning = "plain" if known is None else known.cleaning
    new = [name for name in shown if name_key(name, cleaning) not in keys]
    taken = set() if known is None else set(known.ids)
    free = max(taken, default=0)
    chosen: list[int] = []
    for name in new:
        number = ids.get(name, free + 1)
        if number in taken:
            number = free + 1
        taken.add(number)
        free = max(free, number)
        chosen.append(number)
    added = Vocabulary.from_names(new, ids=chosen, cleaning=cleaning) if new else None
    if added is not None and added.set_aside:
        raise InputError(f"exemplars: {added.set_aside[0].reason}")
    if known is None or added is None:
        found = known or added
        if found is None:
            raise InputError("no exemplars: give at least one name with an image")
        return found
    return replace(
        known,
        names=known.names + added.names,
        synonyms=known.synonyms + added.synonyms,
        ids=known.ids + added.ids,
    )


def _joined(parts: Sequence[Regions]) -> Regions:
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


def _content(exemplar: Exemplar, called: str) -> bytes:
    image = exemplar.image
    if isinstance(image, (str, Path)):
        try:
            with Path(image).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"{called}: cannot be read ({error.strerror})") from None
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    pixels = read_image(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _prompts(regions: Regions | None) -> bytes:
    if regions is None:
        return b"whole"
    logits = [None if m is None else m.tolist() for m in regions.mask_logits]
    points = [p.tolist() for p in regions.points], [p.tolist() for p in regions.point_labels]
    return repr((regions.boxes.tolist(), points, regions.masks, logits)).encode()
