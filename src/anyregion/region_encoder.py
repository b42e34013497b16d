"""`RegionEncoder`, the protocol of a method: images and regions in, embeddings of regions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anyregion.images import Pixels
from anyregion.masks import RLE
from anyregion.regions import Boxes, Regions
from anyregion.scoring import Floats, Score, best_names, logits, top_names
from anyregion.vocabulary import EncodedVocabulary, TextEncoder

# Regions whose features are in memory together, so that it does not grow with the regions of an
# image. Fewer cost time on small images; up to so many are one block, and keep their bits.
REGIONS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class RegionEmbeddings:
    """The embeddings of one image's regions: `M` rows, one or three a region.

    Attributes:
        embeddings: `(M, E)` float32 in the space of the words, not normalised.
        boxes: `(M, 4)` float64, xyxy in pixels.
        rows: `(M,)` int64, the region that each row belongs to; None: row i to region i.
        masks, mask_scores, mask_logits: as in `Predictions`.
        features: `{name: (M, F)}`, what a classifier of regions learns from (`teaching`); None
            where it was not asked for, or where that is the embeddings alone.
    """

    embeddings: NDArray[np.float32]
    boxes: Boxes
    rows: NDArray[np.int64] | None = None
    masks: tuple[RLE, ...] | None = None
    mask_scores: NDArray[np.float32] | None = None
    mask_logits: NDArray[np.float32] | None = None
    features: Mapping[str, NDArray[np.float32]] | None = None


class ScoringRules(Protocol):
    """What of a method turns embeddings into scores; `answers` may be there too (`AnswerModel`).

    Attributes:
        name: what people call it.
        logit_scale, logit_bias: turn a cosine into the logit that is scored.
        default_score: how logits become scores where the caller does not choose.
    """

    name: str
    logit_scale: float
    logit_bias: float
    default_score: Score


class RegionEncoder(ScoringRules, Protocol):
    """A method: what embeds the regions of images. A `Recognizer` is made of one.

    Attributes:
        text: the text side; its embeddings live in the same space as the regions'.
    """

    @property
    def text(self) -> TextEncoder:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever a prediction would: method, weights, sizes."""
        ...

    def encode_images(self, images: Sequence[Pixels]) -> Sequence[Any]:
        """All that can be computed of each image without its regions."""
        ...

    def embed_regions(
        self,
        encoded: Sequence[Any],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """Embed the regions of each image; an image may have none.

        Args:
            encoded: what `encode_images` returned, image by image.
            regions: regions that fit their images (`Regions.fit`).
            masks: also decode masks, where the method has any of its own.
            multimask: three candidates a region, best mask first, where the method has them.
            features: also give what a classifier learns from, where that is more than embeddings.
        """
        ...


@dataclass(frozen=True, eq=False)
class RegionAnswers:
    """What a classifier says of one image's regions.

    Attributes:
        probabilities: `(M, C)` of each name.
        none: `(M,)`, of "none of these".
        refused: `(M,)`, whether the best name is not to be trusted.
    """

    probabilities: Floats
    none: Floats
    refused: NDArray[np.bool_]


class RegionClassifier(Protocol):
    """What names regions by more than the cosines of their embeddings; see `teaching`."""

    @property
    def digest(self) -> str:
        """Changes whenever an answer would."""
        ...

    def answer(
        self,
        encoder: ScoringRules,
        embedded: RegionEmbeddings,
        matrix: Floats,
        size: tuple[int, int],
        score: Score | None,
    ) -> RegionAnswers:
        """Name regions that were embedded with their features.

        Args:
            encoder: the method.
            embedded: one image's regions.
            matrix: `(C, E)`, the names as words.
            size: `(height, width)` of the image.
            score: which score the caller asked for, or None.

        Raises:
            InputError: a score that it cannot give.
            CheckpointError: features of another model.
        """
        ...


def word_logits(encoder: ScoringRules, embeddings: Floats, matrix: Floats) -> NDArray[np.float64]:
    """The logits of a softmax over the names, `(M, C)`, on the scale of the encoder's own score."""
    answers = getattr(encoder, "answers", None)
    scale = encoder.logit_scale if answers is None else answers.softmax_scale
    return logits(embeddings, matrix, scale=scale).astype(np.float64)


@dataclass(frozen=True, eq=False)
class RegionNames:
    """The best names of one image's regions.

    Attributes:
        indices, scores: `(M, K)`, names as positions in the vocabulary, best first.
        none, refused: `(M,)`, as in `RegionAnswers`; None without a classifier.
    """

    indices: NDArray[np.int64]
    scores: Floats
    none: Floats | None = None
    refused: NDArray[np.bool_] | None = None


def name_embedded(
    rules: ScoringRules,
    embedded: RegionEmbeddings,
    vocabulary: EncodedVocabulary,
    size: tuple[int, int],
    *,
    top_k: int,
    score: Score | None,
) -> RegionNames:
    """Name one image's regions that are embedded already, by words or by a taught classifier.

    Args:
        rules: the method's.
        embedded: with `features` where the vocabulary was taught.
        vocabulary: the names.
        size: `(height, width)` of the image.
        top_k, score: as for `Recognizer.predict`.

    Raises:
        InputError, CheckpointError: as for `RegionClassifier.answer`.
    """
    if vocabulary.classifier is None:
        return RegionNames(
            *name_embeddings(
                rules, embedded.embeddings, vocabulary.matrix, top_k=top_k, score=score
            )
        )
    answers = vocabulary.classifier.answer(rules, embedded, vocabulary.matrix, size, score)
    indices, scores = best_names(answers.probabilities, top_k)
    return RegionNames(indices, scores, answers.none, answers.refused)


def name_embeddings(
    encoder: ScoringRules, embeddings: Floats, matrix: Floats, *, top_k: int, score: Score | None
) -> tuple[NDArray[np.int64], Floats]:
    """`top_names` of an encoder's regions, by its own numbers and, unless given, its own score.

    An encoder that can tell how often its answers are right has `answers` (see `AnswerModel`).

    Raises:
        InputError: as for `top_names`.
    """
    return top_names(
        embeddings,
        matrix,
        top_k=top_k,
        score=score or encoder.default_score,
        scale=encoder.logit_scale,
        bias=encoder.logit_bias,
        # not in `RegionEncoder`: no other method is calibrated
        answers=getattr(encoder, "answers", None),
    )
