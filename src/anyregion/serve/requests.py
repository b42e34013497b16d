"""Bodies of requests, from JSON to regions and options: what is wrong is said with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from anyregion.errors import InputError
from anyregion.files import valid_text
from anyregion.masks import segmentation_to_rle
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.serve.engine import NamingOptions
from anyregion.serve.options import ServeOptions

_REGION_KEYS = {"id", "box", "points", "labels", "mask", "score", "label"}
MOST_NAMES = 100
"""Names and scores that are given of a region."""


@dataclass(frozen=True)
class NamingRequest:
    """What `POST /v1/images/{id}/regions` asks for.

    Attributes:
        regions: that fit the image.
        vocabulary: as `VocabularyStore.encode` takes it.
        options: how they are named.
    """

    regions: Regions
    vocabulary: str | list[str] | None
    options: NamingOptions


def parse_json(body: bytes) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        InputError: something else, or JSON that is none (`NaN` among it).
    """

    def refuse(constant: str) -> Any:
        raise InputError(f"the body holds {constant}, which is no JSON")

    try:
        # strictly UTF-8: json would take bytes, too, that no answer could repeat
        value = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    if b"\\ud" in body.lower():
        # JSON can write half a character, which no answer and no file of UTF-8 can repeat
        text = json.dumps(value, ensure_ascii=False)
        if valid_text(text) != text:
            raise InputError("the body holds half a character (a lone surrogate)")
    return value


def known_keys(body: Mapping[str, Any], keys: Sequence[str], where: str = "the body") -> None:
    """Refuse keys that nobody reads: a misspelt option would be silently ignored."""
    unknown = [key for key in body if key not in keys]
    if unknown:
        raise InputError(f"{where}: unknown {unknown[0]!r:.60}; there are {', '.join(keys)}")


def parse_naming(
    body: Mapping[str, Any], size: tuple[int, int], limits: ServeOptions
) -> NamingRequest:
    """Regions to name, and how.

    Args:
        body: with `regions`, and perhaps `vocabulary`, `top_k`, `masks`, `score`.
        size: `(height, width)` of the image.
        limits: how much may be asked for.
    """
    known_keys(body, ("regions", "vocabulary", "top_k", "masks", "score", "min_score"))
    regions, _ = parse_regions(body.get("regions"), size, limits)
    return NamingRequest(regions, parse_vocabulary(body, limits), parse_options(body))


def parse_options(body: Mapping[str, Any]) -> NamingOptions:
    """`top_k`, `masks` and `score` of a body."""
    top_k, masks, score = body.get("top_k", 5), body.get("masks", False), body.get("score")
    if type(top_k) is not int or not 1 <= top_k <= MOST_NAMES:
        raise InputError(f"top_k must be a whole number from 1 to {MOST_NAMES}, not {top_k!r:.40}")
    if type(masks) is not bool:
        raise InputError(f"masks must be true or false, not {masks!r:.40}")
    if score is not None and score not in get_args(Score):
        raise InputError(f"score must be one of {', '.join(get_args(Score))}, not {score!r:.40}")
    return NamingOptions(top_k, score, masks)


def parse_vocabulary(body: Mapping[str, Any], limits: ServeOptions) -> str | list[str] | None:
    """`vocabulary` of a body: a list of names, a name of one, or None."""
    vocabulary = body.get("vocabulary")
    if vocabulary is None or isinstance(vocabulary, str):
        return vocabulary
    return parse_names(vocabulary, limits, "vocabulary")


def parse_names(names: Any, limits: ServeOptions, where: str) -> list[str]:
    """A list of names."""
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{where} must be a list of names, or the name of one")
    if len(names) > limits.max_names:
        raise InputError(f"{where}: {len(names)} names; {limits.max_names} are the most")
    long = next((name for name in names if len(name) > 1000), None)
    if long is not None:
        raise InputError(f"{where}: {long[:40]!r}... has {len(long)} characters; 1000 are the most")
    return names


def parse_regions(
    entries: Any, size: tuple[int, int], limits: ServeOptions, *, labels: bool = False
) -> tuple[Regions, list[str | None]]:
    """Regions that fit an image, and what each is called.

    Args:
        entries: a list of objects with any of `box` (`[x0, y0, x1, y1]` in pixels), `points`
            (`[[x, y], ...]`) with their `labels` (1 and 0), `mask` (COCO's RLE or polygons), and
            perhaps `id` and `score`.
        size: `(height, width)` of the image.
        limits: how many there may be.
        labels: each says its right name in `label`; null is none of the names.

    Raises:
        InputError: what cannot be used, naming the region by its position.
    """
    if not isinstance(entries, list):
        raise InputError("regions must be a list")
    if len(entries) > limits.max_regions:
        raise InputError(f"{len(entries)} regions; {limits.max_regions} are the most")
    columns: dict[str, list[Any]] = {
        key: [] for key in ("boxes", "points", "point_labels", "masks", "ids", "scores")
    }
    names: list[str | None] = []
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise InputError("must be an object")
            known_keys(entry, sorted(_REGION_KEYS if labels else _REGION_KEYS - {"label"}), "it")
            if labels:
                names.append(_label(entry))
            _append(columns, entry, i, size)
        except InputError as error:
            raise InputError(f"region {i}: {error}") from None
    scores = columns.pop("scores")
    scored = sum(score is not None for score in scores)
    if scored not in (0, len(scores)):
        raise InputError("a score must stand with all regions or with none")
    if len(set(map(str, columns["ids"]))) < len(columns["ids"]):
        raise InputError("two regions have the same id")
    if not entries:
        return Regions.from_boxes(np.zeros((0, 4))), names
    regions = Regions.from_prompts(
        boxes=np.array(columns.pop("boxes"), dtype=np.float64).reshape(-1, 4),
        **columns,
        scores=scores if scored else None,
    )
    regions.refuse_fractions()
    fitted, outside = regions.fit(*size)
    if outside:
        raise InputError("; ".join(map(str, outside)))
    return fitted, names


def _label(entry: Mapping[str, Any]) -> str | None:
    if "label" not in entry:
        raise InputError("no label: a name, or null for none of the names")
    label = entry["label"]
    if label is not None and (not isinstance(label, str) or not label.strip() or len(label) > 1000):
        raise InputError(f"label must be a name or null, not {label!r:.40}")
    return label


def _append(
    columns: dict[str, list[Any]], entry: Mapping[str, Any], i: int, size: tuple[int, int]
) -> None:
    box, points, mask = entry.get("box"), entry.get("points"), entry.get("mask")
    if box is not None:
        _numbers(box, 4, "box")
    if points is not None:
        if not isinstance(points, list):
            raise InputError("points must be a list of [x, y]")
        for point in points:
            _numbers(point, 2, "a point")
    labels = entry.get("labels")
    if labels is not None and (
        not isinstance(labels, list) or any(type(v) is not int or v not in (0, 1) for v in labels)
    ):
        raise InputError("labels, those of points, must be a list of 1 and 0")
    region_id, score = entry.get("id", i), entry.get("score")
    if type(region_id) not in (int, str) or len(str(region_id)) > 200:
        raise InputError(f"id must be a whole number or a short text, not {region_id!r:.40}")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise InputError(f"score must be a number, not {score!r:.40}")
    columns["boxes"].append([np.nan] * 4 if box is None else box)
    columns["points"].append(points or None)
    columns["point_labels"].append(labels if points else None)
    columns["masks"].append(None if mask is None else segmentation_to_rle(mask, *size))
    columns["ids"].append(region_id)
    columns["scores"].append(score)


def _numbers(values: Any, count: int, what: str) -> None:
    plain = isinstance(values, list) and len(values) == count
    if not plain or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise InputError(f"{what} must be a list of {count} numbers, not {values!r:.60}")
    if any(abs(v) > 1e9 for v in values):
        raise InputError(f"{what} is no place in an image: {values!r:.60}")
