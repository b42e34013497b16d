"""`Recognizer` names regions by any method: input checks, vocabulary, scores and names are its own.

A method is a `RegionEncoder` (region_encoder.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anyregion.errors import CheckpointError, InputError
from anyregion.exemplars import Exemplar, ExemplarVocabulary, mix_rows
from anyregion.images import ImageLike, Pixels, read_image, size_of
from anyregion.model_card import ModelCard
from anyregion.predictions import Predictions
from anyregion.region_encoder import RegionEncoder, name_embedded
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.tiles import untiled
from anyregion.vocabulary import (
    EncodedVocabulary,
    Floats,
    Progress,
    Vocabulary,
    encode_vocabulary,
)

VocabularyLike = Vocabulary | EncodedVocabulary | ExemplarVocabulary | Sequence[str]


@dataclass(eq=False, repr=False)
class Recognizer:
    """Names regions: `set_image` once and `predict` many times, or `recognize` a batch.

    `set_image` keeps one image, so threads that share a recogniser use `recognize` alone.

    Attributes:
        encoder: the method.
        vocabulary: the names that the model was trained on, used where none are named; or None.
        card: licence, terms and origin of its weights, where it states them.
        cache: folder of encoded vocabularies; None for no cache.
    """

    encoder: RegionEncoder
    _: KW_ONLY
    vocabulary: Vocabulary | None = None
    card: ModelCard | None = None
    cache: Path | Literal["default"] | None = "default"
    _image: tuple[Any, tuple[int, int]] | None = field(default=None, init=False, repr=False)
    # the vocabulary that was encoded last, as it came and as it was encoded
    _last: tuple[Any, EncodedVocabulary] | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_pretrained(cls, model: str | Path = "compact", **options: Any) -> Recognizer:
        """Open a folder that `save_pretrained` or a training made, or a model by its name.

        Args:
            model, options: as for `anyregion.load_recognizer`, which this calls.
        """
        # the factory knows all methods, each of which imports this module
        from anyregion.factory import load_recognizer

        return load_recognizer(model, **options)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        vocabulary: Vocabulary | Sequence[str] | None = None,
        licence: str | None = None,
        terms: str | None = None,
        origin: str | None = None,
        include_frozen: bool = False,
    ) -> None:
        """Write a folder that `from_pretrained` opens as this model, wherever it is moved.

        Args:
            folder: made if it is missing.
            vocabulary: the names that the model is to know; unless given, those it knows.
            licence, terms, origin: see `ModelCard`; unless given, as the model states them.
            include_frozen: copy a RegionSpot's localizer and VLM into the folder. Else those of
                this machine are stated by their absolute path and hash, those of a hub by name.

        Raises:
            InputError: a method without weights of its own (crop, dense).
            AnyRegionError: the folder cannot be written.
        """
        # not in `RegionEncoder`: what was not trained has nothing to save
        save = getattr(untiled(self.encoder), "save_pretrained", None)
        if save is None:
            raise InputError(
                f"{self.encoder.name} was not trained, so there are no weights to save: load it by "
                "its name"
            )
        card = self.card or ModelCard()
        card = replace(
            card,
            licence=licence or card.licence,
            terms=terms or card.terms,
            origin=origin or card.origin,
        )
        if vocabulary is None:
            vocabulary = self.vocabulary
        elif not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_names(vocabulary)
        save(Path(folder), card=card, vocabulary=vocabulary, include_frozen=include_frozen)

    def encode_vocabulary(
        self, vocabulary: VocabularyLike | None = None, *, progress: Progress | None = None
    ) -> EncodedVocabulary:
        """Encode names once; the result can be used for any number of images.

        Args:
            vocabulary: names, or a vocabulary; None for the names that the model knows.
            progress: called with (done, total) names or images of exemplars.

        Raises:
            InputError: an empty vocabulary, one that another text model encoded, or one whose
                exemplars another model embedded; exemplars that cannot be used.
        """
        if vocabulary is None:
            if self.vocabulary is None:
                raise InputError(
                    f"no vocabulary: {self.encoder.name} knows no names of its own; give names"
                )
            vocabulary = self.vocabulary
        if isinstance(vocabulary, EncodedVocabulary):
            self._check_encoded(vocabulary)
            return vocabulary
        # the last vocabulary is kept, for callers who name image after image by the same list; as a
        # tuple, since the list may have changed by then
        key = tuple(vocabulary) if isinstance(vocabulary, list) else vocabulary
        # vocabularies with exemplars are equal only to themselves: their images may have changed
        if self._last is None or type(self._last[0]) is not type(key) or self._last[0] != key:
            if isinstance(vocabulary, ExemplarVocabulary):
                encoded = self._encode_exemplars(vocabulary, progress)
            else:
                if not isinstance(vocabulary, Vocabulary):
                    vocabulary = Vocabulary.from_names(vocabulary)
                encoded = encode_vocabulary(
                    vocabulary, self.encoder.text, cache=self.cache, progress=progress
                )
            self._last = (key, encoded)
        return self._last[1]

    def encode_exemplars(
        self,
        exemplars: Mapping[str, Sequence[Exemplar]],
        *,
        words: Vocabulary | EncodedVocabulary | Sequence[str] | None = None,
        weight: float | None = None,
        progress: Progress | None = None,
    ) -> EncodedVocabulary:
        """Encode names that exemplars show, and words if there are any (see `ExemplarVocabulary`).

        Args:
            exemplars, words, weight: see `ExemplarVocabulary.from_exemplars`.
            progress: called with (done, total) images.

        Raises:
            InputError: a name without exemplar, an image that cannot be read, a region that does
                not lie in it, naming each.
        """
        vocabulary = ExemplarVocabulary.from_exemplars(exemplars, words=words, weight=weight)
        return self._encode_exemplars(vocabulary, progress)

    def embed(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Floats]:
        """Embeddings `(N, E)` of each image's regions in the space of the words, not normalised.

        Args:
            images: as `read_image` returns them.
            regions: one `Regions` an image; their numbers may differ, and be 0.

        Raises:
            InputError: a region that does not lie in its image, numbers that are not finite.
        """
        fitted = [
            fit_regions(r, size_of(p), f"image {i}")
            for i, (p, r) in enumerate(zip(images, regions, strict=True))
        ]
        embedded = self.encoder.embed_regions(self.encoder.encode_images(images), fitted)
        if not all(np.isfinite(e.embeddings).all() for e in embedded):
            raise InputError("a region embedding is not finite: the weights or images are broken")
        return [e.embeddings for e in embedded]

    def set_image(self, image: ImageLike) -> None:
        """Encode an image, for `predict`. See `read_image` for what is accepted."""
        pixels = read_image(image)
        self._image = (self.encoder.encode_images([pixels])[0], size_of(pixels))

    def predict(
        self,
        regions: Regions,
        vocabulary: VocabularyLike | None = None,
        *,
        top_k: int = 5,
        score: Score | None = None,
        masks: bool = False,
        multimask: bool = False,
    ) -> Predictions:
        """Name regions of the image that `set_image` encoded.

        Args:
            regions: prompts in pixels of that image, clipped to it.
            vocabulary: names, or a vocabulary, encoded or not; None for the names that the model
                was trained on, where it knows them.
            top_k: how many names to keep of each region.
            score: `softmax` over the vocabulary, `sigmoid` of each name on its own, or
                `probability`, how often such an answer is right, where the encoder can tell
                (`compact`); None for the encoder's own choice. Where the regions have a detector's
                scores, the result is multiplied by them.
            masks: decode masks too. Names alone do not need them.
            multimask: three candidate masks a region, each named on its own.

        Raises:
            InputError: no image was set; a region that does not lie in it; an empty vocabulary.
        """
        if self._image is None:
            raise InputError("no image yet: call set_image first")
        encoded, size = self._image
        encoded_vocabulary = self.encode_vocabulary(vocabulary)
        (predictions,) = self.predict_encoded(
            [encoded], [fit_regions(regions, size, "the image")], [size], encoded_vocabulary,
            top_k=top_k, score=score, masks=masks, multimask=multimask,
        )  # fmt: skip
        return predictions

    ask = predict  # its first name

    def recognize(
        self,
        images: Sequence[ImageLike],
        regions: Sequence[Regions],
        vocabulary: VocabularyLike | None = None,
        *,
        top_k: int = 5,
        score: Score | None = None,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[Predictions]:
        """Name the regions of several images in one pass; equal to naming them one by one.

        Args:
            images: paths, file bytes, PIL images or arrays.
            regions: one `Regions` an image; their numbers may differ, and be 0.
            vocabulary, top_k, score, masks, multimask: as for `predict`.

        Raises:
            InputError: as for `predict`, naming the image.
        """
        if len(images) != len(regions) or not all(isinstance(r, Regions) for r in regions):
            raise InputError("give one Regions for each image")
        # what costs least and may be wrong comes first: names, then images, then their regions
        encoded_vocabulary = self.encode_vocabulary(vocabulary)
        pixels = [read_image(image) for image in images]
        sizes = [(p.shape[0], p.shape[1]) for p in pixels]
        fitted = [
            fit_regions(r, s, f"image {i}")
            for i, (r, s) in enumerate(zip(regions, sizes, strict=True))
        ]
        return self.predict_encoded(
            self.encoder.encode_images(pixels), fitted, sizes, encoded_vocabulary,
            top_k=top_k, score=score, masks=masks, multimask=multimask,
        )  # fmt: skip

    def predict_encoded(
        self,
        encoded: Sequence[Any],
        regions: Sequence[Regions],
        sizes: Sequence[tuple[int, int]],
        vocabulary: EncodedVocabulary,
        *,
        top_k: int = 5,
        score: Score | None = None,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[Predictions]:
        """Name regions of images that are encoded already: nothing is read or checked again.

        Args:
            encoded: what `encoder.encode_images` returned, image by image.
            regions: regions that fit their images (`Regions.fit`).
            sizes: `(height, width)` of each image.
            vocabulary: as `encode_vocabulary` returned it.
            top_k, score, masks, multimask: as for `predict`.
        """
        encoder = self.encoder
        options: dict[str, bool] = {"masks": masks, "multimask": multimask}
        if vocabulary.classifier is not None:
            options["features"] = True
        embedded = encoder.embed_regions(encoded, regions, **options)
        predictions: list[Predictions] = []
        for e, r, size in zip(embedded, regions, sizes, strict=True):
            names = name_embedded(encoder, e, vocabulary, size, top_k=top_k, score=score)
            scores = names.scores  # (M, K)
            rows = np.arange(len(scores)) if e.rows is None else e.rows  # (M,)
            # a detector's doubt whether there is anything is independent of what it would be
            if r.scores is not None:
                scores = (scores * r.scores[rows, None]).astype(np.float32)
            predictions.append(
                Predictions(
                    vocabulary=vocabulary.vocabulary,
                    regions=r,
                    size=size,
                    rows=rows,
                    indices=names.indices,
                    scores=scores,
                    boxes=e.boxes,
                    embeddings=e.embeddings,
                    masks=e.masks,
                    mask_scores=e.mask_scores,
                    mask_logits=e.mask_logits,
                    none=names.none,
                    refused=names.refused,
                )
            )
        return predictions

    def _check_encoded(self, vocabulary: EncodedVocabulary) -> None:
        encoder, text = self.encoder, self.encoder.text
        if vocabulary.model != text.fingerprint:
            raise InputError(
                f"this vocabulary was encoded by {vocabulary.model}, "
                f"but {encoder.name} reads {text.fingerprint}: make it again with this model"
            )
        if vocabulary.classifier is not None:
            # tiles change which pixels a region is seen by, not what its features mean
            fingerprint = untiled(encoder).fingerprint
            if vocabulary.regions != fingerprint:
                raise CheckpointError(
                    f"this vocabulary was taught to {vocabulary.regions}, but {encoder.name} is "
                    f"{fingerprint}: teach it again, with its corrections and their images"
                )
            return
        # the encoder's fingerprint may cost a hash over all weights: only exemplars need it
        if vocabulary.regions is not None and vocabulary.regions != encoder.fingerprint:
            raise InputError(
                f"the pictures of this vocabulary were seen by {vocabulary.regions}, "
                f"but {encoder.name} is {encoder.fingerprint}"
            )

    def _encode_exemplars(
        self, vocabulary: ExemplarVocabulary, progress: Progress | None
    ) -> EncodedVocabulary:
        words = None if vocabulary.words is None else self.encode_vocabulary(vocabulary.words)
        rows = vocabulary.rows(self.embed, progress=progress)  # {position: (E,)}
        with_exemplars = {vocabulary.vocabulary.names[i] for i in rows}
        return EncodedVocabulary(
            vocabulary.vocabulary,
            mix_rows(None if words is None else words.matrix, rows, vocabulary.weights),
            self.encoder.text.fingerprint,
            () if words is None else tuple(n for n in words.unreadable if n not in with_exemplars),
            self.encoder.fingerprint,
        )


def fit_regions(regions: Regions, size: tuple[int, int], image: str) -> Regions:
    """Regions of one image, clipped to it.

    Args:
        regions: as the caller gave them.
        size: `(height, width)`.
        image: what the image is called in errors.

    Raises:
        InputError: not `Regions`, fractions in place of pixels, or one that lies outside.
    """
    if not isinstance(regions, Regions):
        raise InputError(
            f"{image}: regions must be Regions, not {type(regions).__name__}: "
            "Regions.from_boxes([[x0, y0, x1, y1], ...])"
        )
    try:
        regions.refuse_fractions()
    except InputError as error:
        raise InputError(f"{image}: {error}") from None
    fitted, outside = regions.fit(*size)
    if outside:
        raise InputError(f"{image}: " + "; ".join(map(str, outside)))
    return fitted
