"""`Teacher`: takes corrections, one image after the other, and makes a `TaughtVocabulary`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import CheckpointError, InputError
from anyregion.exemplars import all_names
from anyregion.images import ImageLike, image_digest, read_image, size_of
from anyregion.model_card import ModelCard
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.teaching.classifier import LeftOut, TaughtClassifier, learn, word_probabilities
from anyregion.teaching.corrections import (
    NONE_OF_THESE,
    CorrectedImage,
    Corrections,
    region_keys,
)
from anyregion.teaching.familiarity import FITTED_TO, Familiarity, fit_line
from anyregion.teaching.features import feature_rows
from anyregion.teaching.kernel import KernelColumns
from anyregion.teaching.ridge import (
    by_image,
    choose_landmarks,
    choose_penalty,
    penalty_regions,
)
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.tiles import untiled
from anyregion.vocabulary import EncodedVocabulary, Floats, Vocabulary, name_key

Labels = NDArray[np.int64]
Doubles = NDArray[np.float64]


class Teacher:
    """Learns names from corrected regions; every correction counts at once.

    >>> teacher = Teacher(recognizer, ["hat", "scarf"])
    >>> teacher.add("a.jpg", regions, ["hat", None])  # None: none of these
    >>> recognizer.recognize(["b.jpg"], [others], teacher.vocabulary())

    Args:
        recognizer: whose features are learnt from.
        names: the names as words; corrections may bring others. Or a taught vocabulary to go on
            with.

    Raises:
        CheckpointError: a taught vocabulary of another model.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        names: Vocabulary | TaughtVocabulary | Sequence[str] | None = None,
    ) -> None:
        self.recognizer = recognizer
        self.names: Vocabulary | None = None
        self.corrections: Corrections | None = None
        self.card = ModelCard()
        self.folders: tuple[str, ...] = ()
        self._kernel: KernelColumns | None = None
        # what words say of every correction, and whose words these are
        self._words: tuple[EncodedVocabulary, Doubles] | None = None
        # the penalty, and the labels and images that it was chosen by
        self._penalty: tuple[bytes, float] | None = None
        # how familiar regions are, and what that was fitted to
        self._line: tuple[object, Familiarity, Doubles] | None = None
        self._taught: TaughtVocabulary | None = None
        if isinstance(names, TaughtVocabulary):
            recognizer.encode_vocabulary(names)  # raises where another model saw the corrections
            self.names, self.corrections = names.vocabulary, names.corrections
            self.card, self.folders = names.card, names.folders
        elif isinstance(names, Vocabulary) or names is None:
            self.names = names
        else:
            self.names = Vocabulary.from_names(names)

    def __len__(self) -> int:
        return 0 if self.corrections is None else len(self.corrections)

    def add(
        self,
        image: ImageLike,
        regions: Regions,
        labels: Sequence[str | None],
        *,
        name: str | None = None,
    ) -> None:
        """Say what regions of an image are; what was said of the same regions before is forgotten.

        Args:
            image: as `read_image` takes it.
            regions: of the image, clipped to it.
            labels: the right name of each; None, or "none of these", for none of the names.
            name: what to call the image; unless given, its file's name.

        Raises:
            InputError: another number of labels, a region that does not lie in the image.
        """
        # a string is a sequence of strings, too: its letters
        if isinstance(labels, str) or not all(n is None or isinstance(n, str) for n in labels):
            raise InputError(f"labels must be a list of names or None, not {labels!r:.60}")
        if len(labels) != len(regions):
            raise InputError(f"{len(regions)} regions but {len(labels)} labels")
        digest = image_digest(image).hex()
        pixels = read_image(image)
        size = size_of(pixels)
        regions.refuse_fractions()
        fitted, outside = regions.fit(*size)
        if outside:
            raise InputError("; ".join(map(str, outside)))
        if name is None:
            name = Path(image).name if isinstance(image, (str, Path)) else digest[:12]
        record = CorrectedImage(name, digest, size)
        encoder = self.recognizer.encoder
        self.add_encoded(record, fitted, labels, lambda: encoder.encode_images([pixels])[0])

    def add_encoded(
        self,
        image: CorrectedImage,
        regions: Regions,
        labels: Sequence[str | None],
        encode: Callable[[], Any],
    ) -> int:
        """Say what regions of an encoded image are, as `add` does.

        Args:
            image: which image.
            regions: clipped to it.
            labels: see `add`.
            encode: gives the encoded image; called where regions are new.

        Returns:
            How many of the regions are new.
        """
        new = self.update(image, regions, labels)
        if new:
            part = regions[new]
            (embedded,) = self.recognizer.encoder.embed_regions([encode()], [part], features=True)
            self.add_embedded(image, part, embedded, [labels[i] for i in new])
        return len(new)

    def rename(self, names: Vocabulary) -> int:
        """Have these names alone from now on; corrections of names that are gone are forgotten.

        Returns:
            How many corrections were forgotten.
        """
        before, self.names = self.names, names
        if before is None or before == names:
            return 0
        self._words = self._taught = None
        corrections = self.corrections
        if corrections is None or not len(corrections):
            return 0
        at = {name_key(name, names.cleaning): i for i, name in enumerate(names.names)}
        # (names before + 1,) the last is "none of these", which stays
        moved = np.array([at.get(name_key(n, names.cleaning), -2) for n in before.names] + [-1])
        labels = moved[corrections.labels]
        gone = np.flatnonzero(labels == -2)
        corrections = corrections.relabel(range(len(labels)), np.maximum(labels, -1))
        if len(gone):
            corrections = corrections.without(gone.tolist())
            self._kernel = None
        self.corrections = corrections
        return len(gone)

    def update(
        self, image: CorrectedImage, regions: Regions, labels: Sequence[str | None]
    ) -> list[int]:
        """Give regions that were corrected before the names that are said now.

        Args:
            image: which image; by its digest.
            regions: clipped to the image.
            labels: see `add`.

        Returns:
            The positions of regions that are new: their features are needed (`add_embedded`).
        """
        if self.corrections is None:
            return list(range(len(regions)))
        known = self.corrections.positions(image.digest)
        keys = region_keys(regions)
        at = [i for i, key in enumerate(keys) if key in known]
        if at:
            positions = [known[keys[i]] for i in at]
            right = self._positions([labels[i] for i in at])
            if not np.array_equal(self.corrections.labels[positions], right):
                self.corrections = self.corrections.relabel(positions, right)
                self._taught = None
        return [i for i in range(len(regions)) if keys[i] not in known]

    def add_embedded(
        self,
        image: CorrectedImage,
        regions: Regions,
        embedded: RegionEmbeddings,
        labels: Sequence[str | None],
    ) -> None:
        """Add regions as the encoder embedded them with `features`; known ones are named anew.

        Args:
            image: which image; a copy of it under another name is the same one.
            regions: `N` of them, clipped to the image; of equal prompts the last one counts.
            embedded: one row a region.
            labels: see `add`.

        Raises:
            CheckpointError: features of another layout.
        """
        features = feature_rows(embedded, image.size)
        if self.corrections is None:
            self.corrections = Corrections.empty(features.layout, embedded.embeddings.shape[1])
        elif self.corrections.layout != features.layout:
            raise CheckpointError(
                f"the corrections were seen as {self.corrections.layout}, these regions as "
                f"{features.layout}: another model, or another version of it"
            )
        right = self._positions(labels)
        last = {key: i for i, key in enumerate(region_keys(regions))}
        # a copy of an image may have come between, in the same file of corrections
        new = self.update(image, regions, labels)
        if not (rows := sorted(set(last.values()).intersection(new))):
            return
        self.corrections = self.corrections.append(
            image,
            regions[rows],
            right[rows],
            features.rows[rows],
            embedded.embeddings[rows],
            embedded.boxes[rows],
        )
        if self._kernel is not None:
            # as they are stored: a file that is opened again is to say the same
            self._kernel.append(self.corrections.rows[-len(rows) :].astype(np.float32))
        self._taught = None

    def forget(self, image: str, region: int | str | None = None) -> int:
        """Take corrections back; names stay.

        Args:
            image: its name or digest.
            region: the id of one region; None for all of the image.

        Returns:
            How many were forgotten.

        Raises:
            InputError: no correction is of that image and region.
        """
        corrections = self.corrections
        positions: list[int] = []
        if corrections is not None:
            images = [i for i, m in enumerate(corrections.images) if image in (m.name, m.digest)]
            positions = [
                i
                for i in np.flatnonzero(np.isin(corrections.image_of, images)).tolist()
                if region is None or str(corrections.ids[i]) == str(region)
            ]
        if corrections is None or not positions:
            of = f"region {region!r} of {image!r}" if region is not None else repr(image)
            names = [] if corrections is None else [m.name for m in corrections.images]
            there = f"there are of {', '.join(names[:3])}" if names else "there are none at all"
            more = f" and {len(names) - 3} more images" if len(names) > 3 else ""
            raise InputError(f"{of}: there is no correction of it to forget; {there}{more}")
        self.corrections = corrections.without(positions)
        self._kernel = self._words = self._taught = None
        return len(positions)

    def vocabulary(self) -> TaughtVocabulary:
        """The names with all that was learnt so far.

        Raises:
            InputError: no names at all.
        """
        if self._taught is not None:
            return self._taught
        if self.names is None:
            raise InputError("nothing to learn: give names, or corrections that name something")
        recognizer, corrections = self.recognizer, self.corrections
        encoded = recognizer.encode_vocabulary(self.names)
        classifier: TaughtClassifier | None = None
        left_out: LeftOut | None = None
        if corrections is not None and len(corrections):
            classifier, left_out = self._learn(encoded, corrections)
        self._taught = TaughtVocabulary(
            vocabulary=self.names,
            matrix=encoded.matrix,
            model=encoded.model,
            unreadable=encoded.unreadable,
            # words alone are nobody's features
            regions=None if classifier is None else untiled(recognizer.encoder).fingerprint,
            classifier=classifier,
            corrections=corrections,
            left_out=left_out,
            card=self.card,
            folders=self.folders,
        )
        return self._taught

    def _learn(
        self, encoded: EncodedVocabulary, corrections: Corrections
    ) -> tuple[TaughtClassifier, LeftOut]:
        if self._kernel is None:
            self._kernel = KernelColumns(corrections.rows.astype(np.float32))
        labels = np.where(corrections.labels < 0, len(encoded.matrix), corrections.labels)
        landmarks = choose_landmarks(labels)
        return learn(
            self._kernel.rows,
            corrections.layout,
            self._kernel.columns(landmarks),
            landmarks,
            labels,
            corrections.image_of,
            self._by_words(encoded, corrections),
            self._chosen_penalty(labels, corrections.image_of),
            self._familiarity(corrections),
        )

    def _by_words(self, encoded: EncodedVocabulary, corrections: Corrections) -> Doubles:
        """What words say of every correction; of those that were asked before, as it was."""
        parts: list[Doubles] = []
        if self._words is not None and self._words[0] is encoded:
            parts.append(self._words[1])
        start = sum(map(len, parts))
        if start < len(corrections):
            new: Floats = corrections.embeddings[start:].astype(np.float32)
            parts.append(word_probabilities(self.recognizer.encoder, new, encoded.matrix))
        self._words = (encoded, np.concatenate(parts))
        return self._words[1]

    def _chosen_penalty(self, labels: Labels, images: Labels) -> float:
        assert self._kernel is not None
        count = penalty_regions(len(labels))
        labels, images = labels[:count], images[:count]
        key = labels.tobytes() + images.tobytes()
        if self._penalty is None or self._penalty[0] != key:
            landmarks = choose_landmarks(labels)
            rows = self._kernel.rows[:count]
            shown, classes = np.unique(labels, return_inverse=True)
            penalty = choose_penalty(
                rows @ rows[landmarks].T,
                landmarks,
                classes,
                by_image(images),
                len(shown),
            )
            self._penalty = (key, penalty)
        return self._penalty[1]

    def _familiarity(self, corrections: Corrections) -> tuple[Familiarity, Doubles] | None:
        """By the encoder's everyday regions, where it has any."""
        everyday = getattr(untiled(self.recognizer.encoder), "everyday", None)
        if everyday is None or self._kernel is None:
            return None
        count = penalty_regions(len(corrections), FITTED_TO)
        rows, images = self._kernel.rows, corrections.image_of[:count]
        key = (corrections.keys[:count], images.tobytes())
        if self._line is None or self._line[0] != key:
            # their place is not looked at
            others = feature_rows(everyday, (1, 1)).rows
            line = fit_line(rows[:count], images, corrections.layout, others)
            self._line = (key, *line)
        _, familiarity, scores = self._line
        assert familiarity.direction is not None
        return familiarity, np.concatenate([scores, rows[count:] @ familiarity.direction])

    def _positions(self, labels: Sequence[str | None]) -> Labels:
        """Positions of names, -1 for none of these; names that are new join the others."""
        none = name_key(NONE_OF_THESE)
        named = [n for n in labels if n is not None and name_key(n) != none]
        if named or self.names is not None:
            # an empty name is nobody's
            if empty := [n for n in named if not name_key(n)]:
                raise InputError(f"{empty[0]!r} is no name; None means none of these")
            by_key: dict[str, str] = {}
            for name in named:  # `Cup` and `cup` are one, which is called as it was called first
                by_key.setdefault(name_key(name), name)
            names = all_names(list(by_key.values()), self.names, {})
            if names is not self.names:
                self.names, self._words = names, None
        cleaning = "plain" if self.names is None else self.names.cleaning
        listed = () if self.names is None else self.names.names
        at = {name_key(name, cleaning): i for i, name in enumerate(listed)}
        return np.array(
            [-1 if n is None or name_key(n) == none else at[name_key(n, cleaning)] for n in labels],
            dtype=np.int64,
        )
