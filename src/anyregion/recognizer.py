"""`Recognizer`: one face for every method. It holds what they share: checks, scores, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.exemplars import Exemplar, PicturedVocabulary, mixed
from anyregion.images import ImageLike, Pixels, read_image, size_of
from anyregion.masks import RLE
from anyregion.predictions import Predictions
from anyregion.regions import Boxes, Regions
from anyregion.scoring import Score, top_names
from anyregion.vocabulary import (
    EncodedVocabulary,
    Floats,
    Progress,
    TextEncoder,
    Vocabulary,
    encode_vocabulary,
)

VocabularyLike = Vocabulary | EncodedVocabulary | PicturedVocabulary | Sequence[str]


@dataclass(frozen=True, eq=False)
class RegionEmbeddings:
    """What a region encoder says of one image's regions: `M` rows, one or three a region.

    Attributes:
        embeddings: `(M, E)` float32 in the space of the words, not normalised.
        boxes: `(M, 4)` float64, xyxy in pixels.
        rows: `(M,)` int64, the region each row answers; None means row i answers region i.
        masks, mask_scores, mask_logits: as in `Predictions`.
    """

    embeddings: NDArray[np.float32]
    boxes: Boxes
    rows: NDArray[np.int64] | None = None
    masks: tuple[RLE, ...] | None = None
    mask_scores: NDArray[np.float32] | None = None
    mask_logits: NDArray[np.float32] | None = None


class RegionEncoder(Protocol):
    """What a method has to supply to become a `Recognizer`.

    Attributes:
        name: what people call it.
        text: the text side; its embeddings live in the same space as the regions'.
        logit_scale, logit_bias: turn a cosine into the logit that is scored.
        default_score: how logits become scores where the caller does not choose.
    """

    name: str
    logit_scale: float
    logit_bias: float
    default_score: Score

    @property
    def text(self) -> TextEncoder:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever an answer would: method, weights, sizes."""
        ...

    def encode_images(self, images: Sequence[Pixels]) -> Sequence[Any]:
        """All that can be computed of each image before its regions are known."""
        ...

    def embed_regions(
        self,
        encoded: Sequence[Any],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[RegionEmbeddings]:
        """Embed the regions of each image; an image may have none.

        Args:
            encoded: what `encode_images` returned, image by image.
            regions: regions that fit their images (`Regions.fit`).
            masks: also decode masks, where the method has any of its own.
            multimask: three candidates a region, best mask first, where the method has them.
        """
        ...


class Recognizer:
    """Names regions: `set_image` once and `predict` many times, or `recognize` a batch.

    `set_image` keeps one image, so threads that share a recogniser use `recognize` alone.

    Args:
        encoder: the method (see `anyregion.load_recognizer` for the ready ones).
        cache: folder of encoded vocabularies; None for no cache.
    """

    def __init__(
        self, encoder: RegionEncoder, *, cache: Path | Literal["default"] | None = "default"
    ) -> None:
        self.encoder = encoder
        self._cache: Path | Literal["default"] | None = cache
        self._image: tuple[Any, tuple[int, int]] | None = None
        self._last: EncodedVocabulary | None = None
        self._last_pictured: tuple[PicturedVocabulary, EncodedVocabulary] | None = None

    def encode_vocabulary(
        self, vocabulary: VocabularyLike, *, progress: Progress | None = None
    ) -> EncodedVocabulary:
        """Encode names once; what comes back can be used for any number of images.

        Raises:
            InputError: an empty vocabulary, one that another text model encoded, or one whose
                pictures another model saw; exemplars that cannot be used.
        """
        if isinstance(vocabulary, PicturedVocabulary):
            if self._last_pictured is None or self._last_pictured[0] is not vocabulary:
                self._last_pictured = (vocabulary, self._encode_pictured(vocabulary, progress))
            return self._last_pictured[1]
        text = self.encoder.text
        if isinstance(vocabulary, EncodedVocabulary):
            if vocabulary.model != text.fingerprint:
                raise InputError(
                    f"this vocabulary was encoded by {vocabulary.model}, "
                    f"but {self.encoder.name} reads {text.fingerprint}"
                )
            # a fingerprint may cost a hash over all weights: only pictures need it
            if vocabulary.regions is not None and vocabulary.regions != self.encoder.fingerprint:
                raise InputError(
                    f"the pictures of this vocabulary were seen by {vocabulary.regions}, "
                    f"but {self.encoder.name} is {self.encoder.fingerprint}"
                )
            return vocabulary
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.from_names(vocabulary)
        last = self._last
        if last is None or last.vocabulary != vocabulary:
            last = encode_vocabulary(vocabulary, text, cache=self._cache, progress=progress)
            self._last = last
        return last

    def encode_exemplars(
        self,
        exemplars: Mapping[str, Sequence[Exemplar]],
        *,
        words: Vocabulary | EncodedVocabulary | Sequence[str] | None = None,
        weight: float = 0.5,
        progress: Progress | None = None,
    ) -> EncodedVocabulary:
        """A vocabulary of pictures, or of pictures and words (see `PicturedVocabulary`).

        Args:
            exemplars: `{name: regions that show it}`.
            words: names as words; those that have exemplars too are the weighted sum of both.
            weight: share of the pictures in that sum.
            progress: called with (done, total) images.

        Raises:
            InputError: a name without exemplar, an image that cannot be read, a region that does
                not lie in it, naming each.
        """
        pictured = PicturedVocabulary.from_exemplars(exemplars, words=words, weight=weight)
        return self._encode_pictured(pictured, progress)

    def embed(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Floats]:
        """Embeddings `(N, E)` of each image's regions in the space of the words, not normalised.

        Args:
            images: as `read_image` returns them.
            regions: one `Regions` an image; their numbers may differ, and be 0.

        Raises:
            InputError: a region that does not lie in its image, numbers that are not finite.
        """
        fitted = [
            _fitted(r, size_of(p), f"image {i}")
            for i, (p, r) in enumerate(zip(images, regions, strict=True))
        ]
        found = self.encoder.embed_regions(self.encoder.encode_images(images), fitted)
        if not all(np.isfinite(f.embeddings).all() for f in found):
            raise InputError("a region embedding is not finite: the weights or images are broken")
        return [f.embeddings for f in found]

    def _encode_pictured(
        self, pictured: PicturedVocabulary, progress: Progress | None
    ) -> EncodedVocabulary:
        words = None if pictured.words is None else self.encode_vocabulary(pictured.words)
        rows = pictured.rows(self.embed, progress=progress)
        shown = {pictured.vocabulary.names[i] for i in rows}
        return EncodedVocabulary(
            pictured.vocabulary,
            mixed(None if words is None else words.matrix, rows, pictured.weight),
            self.encoder.text.fingerprint,
            () if words is None else tuple(n for n in words.unreadable if n not in shown),
            self.encoder.fingerprint,
        )

    def set_image(self, image: ImageLike) -> None:
        """Encode an image, for `predict`. See `read_image` for what is accepted."""
        pixels = read_image(image)
        self._image = (self.encoder.encode_images([pixels])[0], size_of(pixels))

    def predict(
        self,
        regions: Regions,
        vocabulary: VocabularyLike,
        *,
        top_k: int = 5,
        score: Score | None = None,
        masks: bool = False,
        multimask: bool = False,
    ) -> Predictions:
        """Name regions of the image that `set_image` was given.

        Args:
            regions: prompts in pixels of that image, clipped to it.
            vocabulary: names, or a vocabulary, encoded or not.
            top_k: how many names to keep of each region.
            score: `softmax` over the vocabulary, or `sigmoid` of each name on its own; None for
                the encoder's own choice (`compact` is calibrated for `sigmoid`). Where the regions
                have a detector's scores, the result is multiplied by them.
            masks: decode masks too. Names alone do not need them.
            multimask: three candidate masks a region, each named on its own.

        Raises:
            InputError: no image was set; a region that does not lie in it; an empty vocabulary.
        """
        if self._image is None:
            raise InputError("no image yet: call set_image first")
        encoded, size = self._image
        fitted = _fitted(regions, size, "the image")
        (predictions,) = self.predict_encoded(
            [encoded], [fitted], [size], self.encode_vocabulary(vocabulary),
            top_k=top_k, score=score, masks=masks, multimask=multimask,
        )  # fmt: skip
        return predictions

    ask = predict

    def recognize(
        self,
        images: Sequence[ImageLike],
        regions: Sequence[Regions],
        vocabulary: VocabularyLike,
        *,
        top_k: int = 5,
        score: Score | None = None,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[Predictions]:
        """Name the regions of several images in one pass; the answers equal the one-by-one ones.

        Args:
            images: paths, file bytes, PIL images or arrays.
            regions: one `Regions` an image; their numbers may differ, and be 0.
            vocabulary, top_k, score, masks, multimask: as for `predict`.

        Raises:
            InputError: as for `predict`, naming the image.
        """
        if len(images) != len(regions) or not all(isinstance(r, Regions) for r in regions):
            raise InputError("give one Regions for each image")
        encoded_vocabulary = self.encode_vocabulary(vocabulary)
        pixels = [read_image(image) for image in images]
        sizes = [size_of(p) for p in pixels]
        fitted = [
            _fitted(r, s, f"image {i}") for i, (r, s) in enumerate(zip(regions, sizes, strict=True))
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
        embedded = self.encoder.embed_regions(encoded, regions, masks=masks, multimask=multimask)
        return [
            self._named(e, r, s, vocabulary, top_k, score)
            for e, r, s in zip(embedded, regions, sizes, strict=True)
        ]

    def _named(
        self,
        embedded: RegionEmbeddings,
        regions: Regions,
        size: tuple[int, int],
        words: EncodedVocabulary,
        top_k: int,
        score: Score | None,
    ) -> Predictions:
        indices, scores = top_names(
            embedded.embeddings,
            words.matrix,
            top_k=top_k,
            score=score or self.encoder.default_score,
            scale=self.encoder.logit_scale,
            bias=self.encoder.logit_bias,
        )
        rows = np.arange(len(scores)) if embedded.rows is None else embedded.rows
        if regions.scores is not None:
            scores = (scores * regions.scores[rows, None]).astype(np.float32)
        return Predictions(
            vocabulary=words.vocabulary,
            regions=regions,
            size=size,
            rows=rows,
            indices=indices,
            scores=scores,
            boxes=embedded.boxes,
            embeddings=embedded.embeddings,
            masks=embedded.masks,
            mask_scores=embedded.mask_scores,
            mask_logits=embedded.mask_logits,
        )


def _fitted(regions: Regions, size: tuple[int, int], where: str) -> Regions:
    if not isinstance(regions, Regions):
        raise InputError(
            f"{where}: regions must be Regions, not {type(regions).__name__}: "
            "Regions.from_boxes([[x0, y0, x1, y1], ...])"
        )
    fitted, aside = regions.fit(*size)
    if aside:
        raise InputError(f"{where}: " + "; ".join(map(str, aside)))
    return fitted
