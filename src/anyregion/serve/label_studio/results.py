"""Regions in Label Studio's results, and results that name them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyregion.data.annotations.label_studio import (
    label_key,
    newest_results,
    regions_of,
    shape_geometry,
    shape_of,
)
from anyregion.data.annotations.shape_rows import ShapeRows, number
from anyregion.errors import InputError
from anyregion.io.labels import LabelledImage, LabelledRegion
from anyregion.io.writers.label_studio import named_results, region_results
from anyregion.io.writers.writing import Outlines, Shapes, WriteOptions, WriteReport
from anyregion.masks import RLE
from anyregion.predictions import Predictions
from anyregion.regions import Regions
from anyregion.serve.label_studio.config import Control, LabelConfig
from anyregion.serve.options import ServeOptions
from anyregion.serve.requests import parse_regions
from anyregion.teaching.corrections import NONE_OF_THESE
from anyregion.vocabulary import name_key

_WRITTEN: dict[str, Shapes] = {"brush": "auto", "polygon": "polygons"}
VERSION = "anyregion-"
"""How the model versions of the back end begin."""


@dataclass(frozen=True)
class DrawnRegion:
    """A region of a task.

    Attributes:
        id: its results' id.
        shape: the result that says where it is.
        parts: all its results; one of them may be its label.
        control: the tag that drew it.
        label: the name that it has, or None.
    """

    id: str
    shape: dict[str, Any]
    parts: tuple[dict[str, Any], ...]
    control: Control
    label: str | None

    @property
    def is_point(self) -> bool:
        """Whether it is a point, which has no extent."""
        return _kind(self.shape) == "keypoint"


def results_of_task(task: Mapping[str, Any]) -> list[Any]:
    """The results of a task whose regions are to be named.

    Those of the newest annotation that was not cancelled; without any region in it, of the newest
    draft; and then of the newest prediction that is not the back end's own.
    """
    for kind in ("annotations", "drafts", "predictions"):
        entries = task.get(kind)
        usable = [
            e
            for e in (entries if isinstance(entries, list) else ())
            if isinstance(e, dict) and not str(e.get("model_version") or "").startswith(VERSION)
        ]
        results = newest_results({"annotations": usable}, ShapeRows(), "")
        if any(isinstance(r, dict) and _kind(r) for r in results):
            return results
    return []


def read_drawn(results: Sequence[Any], config: LabelConfig) -> list[DrawnRegion]:
    """The regions of an image in results, in their order; other results are left out."""
    drawn: list[DrawnRegion] = []
    for identity, parts in regions_of(list(results)).items():
        sound = tuple(part for part in parts if isinstance(part, dict))
        shape = next((part for part in sound if _kind(part)), None)
        if shape is None or shape.get("to_name", config.image) != config.image:
            continue
        control = config.control(shape.get("from_name"))
        if control is None:
            # of an import that calls its tags otherwise
            control = config.drawing(str(_kind(shape)))
        if control is None:
            continue
        labels = (
            part["value"][key][0]
            for part in sound
            if isinstance(part.get("value"), dict)
            and (key := label_key(part["value"]))
            and part["value"][key]
        )
        label = next((text for text in labels if isinstance(text, str)), None)
        drawn.append(DrawnRegion(str(identity), shape, sound, control, label))
    return drawn


def point_prompt(
    drawn: Sequence[DrawnRegion], size: tuple[int, int], limits: ServeOptions
) -> Regions:
    """The one region that points are on, and those that Label Studio calls negative are not.

    Raises:
        InputError: a point that lies nowhere in the image.
    """
    usable, regions, problems = prompts(drawn, size, limits)
    if problems or not any(map(_is_positive, usable)):
        raise InputError("; ".join(problems) or "no point says where the region is")
    points = [points[0] for points in regions.points]
    return Regions.from_prompts(
        points=[points], point_labels=[[int(_is_positive(region)) for region in usable]]
    )


def _is_positive(region: DrawnRegion) -> bool:
    return region.shape.get("is_positive") is not False and region.shape.get("is_positive") != 0


def prompts(
    drawn: Sequence[DrawnRegion], size: tuple[int, int], limits: ServeOptions, prefix: str = ""
) -> tuple[list[DrawnRegion], Regions, list[str]]:
    """What the model is asked for the regions of one image.

    Args:
        drawn: the regions.
        size: `(height, width)` of the upright image.
        limits: how many there may be.
        prefix: put before their ids.

    Returns:
        The regions that can be used, their prompts, and what is wrong with each other.
    """
    entries: list[dict[str, Any]] = []
    usable: list[DrawnRegion] = []
    problems: list[str] = []
    for region in drawn:
        try:
            try:
                entry = {"id": f"{prefix}{region.id}", **_prompt(region, size)}
            except InputError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise InputError(f"malformed ({type(error).__name__}: {error})") from None
            parse_regions([entry], size, limits)
        except InputError as error:
            problems.append(f"region {region.id[:80]}: {str(error).removeprefix('region 0: ')}")
        else:
            entries.append(entry)
            usable.append(region)
    return usable, parse_regions(entries, size, limits)[0], problems


def _prompt(region: DrawnRegion, size: tuple[int, int]) -> dict[str, Any]:
    """An entry of `parse_regions`."""
    if region.is_point:
        value = region.shape["value"]
        scale = np.array(size[::-1]) / 100
        point = np.array([number(value["x"], "x"), number(value["y"], "y")]) * scale
        # a point on the right or lower edge lies in the last pixel
        point = np.minimum(point, np.array(size[::-1]) - 1e-3)
        return {"points": [point.tolist()]}
    place = shape_geometry(region.shape, size)
    if "box" in place:
        return {"box": place["box"]}
    return {"mask": place.get("polygons") or place["mask"]}


def _kind(result: Mapping[str, Any]) -> str | None:
    """`shape_of`, and points."""
    kind = str(result.get("type") or "").removesuffix("labels")
    value = result.get("value")
    if kind == "keypoint":
        return kind if isinstance(value, dict) and {"x", "y"} <= value.keys() else None
    return shape_of(result)


@dataclass(frozen=True)
class NamedRegion:
    """What the model says of a region.

    Attributes:
        box: xyxy in pixels.
        labels, scores: names and their scores, best first.
        refused: whether what was taught does not trust the best.
        mask: or None.
    """

    box: tuple[float, float, float, float]
    labels: Sequence[str]
    scores: Sequence[float]
    refused: bool = False
    mask: RLE | None = None

    @classmethod
    def from_predictions(cls, predictions: Predictions) -> list[NamedRegion]:
        """Those of an image, in order."""
        return [
            cls(
                tuple(record["box"]),
                record["labels"],
                record["scores"],
                predictions.refused is not None and bool(predictions.refused[i]),
                record.get("mask"),
            )
            for i, record in enumerate(predictions.to_records())
        ]


@dataclass(frozen=True)
class Answer:
    """The name of a region.

    Attributes:
        label: the text that results state; None where no label of the region's tag is right.
        score: how sure that is, from 0 to 1; of a region without a label the best name's.
    """

    label: str | None
    score: float


def choose_label(named: NamedRegion, config: LabelConfig, control: Control) -> Answer:
    """The best label that a tag has.

    Names that other tags have are passed over. A best name that no tag has, a refusal of what was
    taught and a score under the threshold are no label; where the tag has a label "none of these",
    they are that.
    """
    labeller = config.labeller(control)
    known, mine = config.label_keys(), {} if labeller is None else labeller.labels
    refusal = Answer(mine.get(name_key(NONE_OF_THESE)), float(named.scores[0]))
    if named.refused:
        return refusal
    for name, score in zip(named.labels, named.scores, strict=True):
        key = known.get(name_key(name))
        if key is None:
            return refusal
        if key in mine:
            return Answer(mine[key], float(score)) if score >= config.threshold else refusal
    return refusal


def answer_drawn(region: DrawnRegion, answer: Answer, config: LabelConfig) -> list[dict[str, Any]]:
    """The results of a region that was drawn: where it was, with its name and the score."""
    shape = {k: v for k, v in region.shape.items() if k != "score"}
    value = {k: v for k, v in shape["value"].items() if k != label_key(shape["value"])}
    control = region.control
    shape |= {
        "from_name": control.name,
        "to_name": config.image,
        "type": control.type,
        "value": value,
    }
    return named_results(
        shape, _labels_part(control, config), _listed(answer), round(answer.score, 6)
    )


def answer_found(
    named: NamedRegion,
    size: tuple[int, int],
    answer: Answer,
    config: LabelConfig,
    control: Control,
) -> list[dict[str, Any]]:
    """The results of a region of the model's, as a tag draws it.

    Rectangles are its box; brushes and polygons its mask, each part a polygon; ellipses the largest
    that fits into its box; points the middle of it.
    """
    region = LabelledRegion(uuid.uuid4().hex[:10], named.box, answer.label or "", None, named.mask)
    options = WriteOptions(shapes=_WRITTEN.get(control.shape, "boxes"))
    image = LabelledImage("", size, (region,))
    results: list[dict[str, Any]] = []
    for result in region_results(image, region, options, Outlines(options, WriteReport())):
        key = label_key(result["value"])
        value = {k: v for k, v in result["value"].items() if k != key}
        if control.shape == "keypoint":
            middle = {"x": value["x"] + value["width"] / 2, "y": value["y"] + value["height"] / 2}
            value = {**middle, "width": 0.5}
        elif control.shape == "ellipse":
            rx, ry = value["width"] / 2, value["height"] / 2
            value = {"x": value["x"] + rx, "y": value["y"] + ry, "radiusX": rx, "radiusY": ry,
                     "rotation": 0}  # fmt: skip
        shape = {**result, "from_name": control.name, "to_name": config.image,
                 "type": control.type, "value": value}  # fmt: skip
        results += named_results(
            shape, _labels_part(control, config), _listed(answer), round(answer.score, 6)
        )
    return results


def _listed(answer: Answer) -> list[str]:
    return [] if answer.label is None else [answer.label]


def _labels_part(control: Control, config: LabelConfig) -> list[dict[str, Any]]:
    """The result that holds the label of a region whose own tag has none."""
    labeller = config.labeller(control)
    if control.is_labelled or labeller is None:
        return []
    label = {"from_name": labeller.name, "to_name": config.image, "type": labeller.type}
    return [{**label, "value": {labeller.type: [""]}}]
