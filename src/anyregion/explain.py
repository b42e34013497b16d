"""`explain`: one region is named, and what its answer was made of is stated beside the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from anyregion.errors import InputError
from anyregion.explanation import AnswerParts, Attention, Box, Explainer
from anyregion.images import ImageLike, read_image, size_of
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer, VocabularyLike, fit_regions
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.tile_grids import Window
from anyregion.tiles import TiledEncoder, regions_in_tile, untiled

# of `AnswerParts.classes` those that are stated: behind them each adds less than 0.01 to a cosine
CLASSES = 8


@dataclass(frozen=True, eq=False)
class Explanation:
    """One region's names, where it looked, and what the names' cosines are the sum of.

    Attributes:
        model: what the method is called.
        predictions: of the one region.
        score: how cosines became scores.
        cosines: by name as in `predictions.indices[0]`, the cosines that were scored.
        attention: where the region looked.
        parts: what the cosines are the sum of, with names as in `predictions.indices[0]`; None
            where the method has no such parts.
        stacking_gains: the largest gain that calibrated stacking gave to any name of the
            vocabulary with this region; 0 where it has none.
        window: the tile that the region was seen in; None for the whole image.
        taught: the names were taught: scores are a classifier's, of which the words are one part.
    """

    model: str
    predictions: Predictions
    score: str
    cosines: tuple[float, ...]
    attention: Attention
    parts: AnswerParts | None
    stacking_gains: float
    window: Window | None
    taught: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The best names, best first."""
        return self.predictions[0].labels

    @property
    def scores(self) -> tuple[float, ...]:
        """Their scores."""
        return self.predictions[0].scores

    @property
    def margin(self) -> float | None:
        """How much more the best name scores than the second; None of one name alone."""
        return self.scores[0] - self.scores[1] if len(self.scores) > 1 else None

    @property
    def box(self) -> Box:
        """The region's box, xyxy in pixels of the image."""
        box: Box = self.predictions.boxes[0]
        return box

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; numbers with six digits, as they differ from machine to machine beyond."""
        (record,) = self.predictions.to_records()
        record.pop("id")
        height, width = self.predictions.size
        area = float(np.prod(self.box[2:] - self.box[:2])) / (width * height)
        attention = self.attention
        content: dict[str, Any] = {
            "model": self.model,
            "size": [height, width],
            **record,
            "score_kind": self.score,
            "margin": None if self.margin is None else _digits(self.margin),
            "taught": self.taught,
            "tile": None if self.window is None else list(self.window),
            "attention": {
                "layer": attention.layer,
                "layers": attention.layers,
                "heads": attention.heads,
                "in_region": _digits(attention.share(self.box)),
                "region_area": _digits(area),
                "elsewhere": _digits(attention.elsewhere),
                "extent": [round(v, 3) for v in attention.extent.tolist()],
                "weights": [[_digits(v) for v in row] for row in attention.weights.tolist()],
            },
            "cosines": [_digits(cosine) for cosine in self.cosines],
        }
        if self.parts is not None:
            parts = self.parts
            content["parts"] = {
                name: [_digits(v) for v in values.tolist()]
                for name, values in parts.cosines.items()
            }
            content["classes"] = [
                {
                    "class": part.name,
                    "wordnet": part.wordnet,
                    "probability": _digits(part.probability),
                    "adds": _digits(float(part.cosines[0])),
                }
                for part in self.classes
            ]
            content["calibrated_stacking"] = {
                "applied": self.stacking_gains > 0,
                "largest_gain": _digits(self.stacking_gains),
                "region_doubt": _digits(parts.doubt),
                "name_newness": [_digits(v) for v in parts.newness.tolist()],
            }
        return content

    @property
    def classes(self) -> list[Any]:
        """The classes that add or take most of the best name's cosine, at most `CLASSES`."""
        if self.parts is None:
            return []
        ordered = sorted(self.parts.classes, key=lambda part: -abs(float(part.cosines[0])))
        return ordered[:CLASSES]

    def sentences(self) -> list[str]:
        """In words, beside the tables of names and classes."""
        attention, (height, width) = self.attention, self.predictions.size
        area = float(np.prod(self.box[2:] - self.box[:2])) / (width * height)
        lines = [
            f"{attention.share(self.box):.0%} of its attention to the image lies in the region, "
            f"which is {area:.0%} of it (layer {attention.layer} of {attention.layers}, mean of "
            f"{attention.heads} heads)"
        ]
        if attention.elsewhere > 0.005:
            lines.append(
                f"{attention.elsewhere:.0%} of its attention goes to what is no part of the image "
                "(padding, or the class token)"
            )
        if self.window is not None:
            x0, y0, x1, y1 = self.window
            lines.append(f"seen in the tile {x0}, {y0}, {x1}, {y1}, not in the whole image")
        if self.taught:
            lines.append(
                "these names were taught: the scores are the classifier's; cosines and their parts "
                "are those of the words, which it mixes in"
            )
        if self.parts is not None:
            lines.append(self._stacking())
        return lines

    def _stacking(self) -> str:
        assert self.parts is not None  # see `sentences`
        if self.stacking_gains > 0:
            own = float(self.parts.cosines["calibrated stacking"][0])
            return (
                f"calibrated stacking: names that were not trained gain up to "
                f"{self.stacking_gains:.3f} with this region; {self.labels[0]!r} gains {own:.3f}"
            )
        if self.parts.doubt == 0:
            return (
                "calibrated stacking: no name gains anything, since the region is surely like a "
                "name that was trained"
            )
        return (
            "calibrated stacking: no name gains anything, since all were trained, or new ones are "
            "many"
        )


def explain(
    recognizer: Recognizer,
    image: ImageLike,
    region: Regions,
    vocabulary: VocabularyLike | None = None,
    *,
    top_k: int = 5,
    score: Score | None = None,
    layer: int = -1,
) -> Explanation:
    """Name one region, and say what the answer was made of.

    The names and scores are those of `Recognizer.recognize` with this region alone.

    Args:
        recognizer: `compact`, or a model trained from it, or a RegionSpot.
        image: see `read_image`.
        region: one region, in pixels of the image.
        vocabulary, top_k, score: as for `Recognizer.predict`.
        layer: of the attention, from 0; negative ones count from the last.

    Raises:
        InputError: another method, which does not attend to the image; more than one region; as
            for `Recognizer.recognize`.
    """
    encoder, method = recognizer.encoder, untiled(recognizer.encoder)
    # not in `RegionEncoder`: most methods do not attend
    if not hasattr(method, "explain_region"):
        raise InputError(
            f"{method.name} has no attention to show: explain knows compact's trained region head "
            "and RegionSpot (of an export to ONNX, the folder that was exported)"
        )
    if not isinstance(region, Regions) or len(region) != 1:
        raise InputError("explain takes one region: Regions.from_boxes([[x0, y0, x1, y1]])")
    pixels = read_image(image)
    size = size_of(pixels)
    names = recognizer.encode_vocabulary(vocabulary)
    fitted = fit_regions(region, size, "the image")
    (encoded,) = encoder.encode_images([pixels])
    (predictions,) = recognizer.predict_encoded(
        [encoded], [fitted], [size], names, top_k=top_k, score=score
    )
    window: Window | None = None
    seen, prompt = encoded, fitted
    if isinstance(encoder, TiledEncoder):
        (window,) = (w for w, rows in encoder.plan(encoded, fitted).items() if rows)
        seen = encoded.whole
        if window is not None:
            seen, prompt = encoded.tile(window, method), regions_in_tile(fitted, window)
    attention, parts = cast(Explainer, method).explain_region(
        seen, prompt, names.matrix, layer=layer
    )
    if window is not None:
        x0, y0 = window[:2]
        attention = replace(attention, extent=attention.extent + np.array([x0, y0, x0, y0]))
    embedding = predictions.embeddings[0]
    best = predictions.indices[0]  # (K,)
    gains = 0.0
    if parts is None:
        unit = embedding / (np.linalg.norm(embedding) + np.float32(1e-7))
        cosines = names.matrix[best] @ unit
    else:
        cosines = np.sum([values[best] for values in parts.cosines.values()], axis=0)
        gains = float((parts.gains * np.float32(parts.doubt)).max(initial=0.0))
        parts = _of_names(parts, best)
    taught = names.classifier is not None
    return Explanation(
        model=method.name,
        predictions=predictions,
        score="probability" if taught else score or encoder.default_score,
        cosines=tuple(cosines.tolist()),
        attention=attention,
        parts=parts,
        stacking_gains=gains,
        window=window,
        taught=taught,
    )


def _of_names(parts: AnswerParts, columns: Sequence[int] | Any) -> AnswerParts:
    """The parts of some of the names alone."""
    return replace(
        parts,
        cosines={name: values[columns] for name, values in parts.cosines.items()},
        classes=[replace(part, cosines=part.cosines[columns]) for part in parts.classes],
        newness=parts.newness[columns],
        gains=parts.gains[columns],
    )


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
