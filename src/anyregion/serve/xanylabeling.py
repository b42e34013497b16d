"""X-AnyLabeling's remote dialect, under `/x-anylabeling`: its models, and `predict`.

By the documentation of X-AnyLabeling-Server (docs/router.md, user_guide.md, configuration.md). Its
`/v1/models` has another form than ours, hence the prefix: the user gives it as the server's URL.
Errors are answers of status 200 with `success: false`, but for a full queue, which is 503.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anyregion.errors import InputError
from anyregion.io.outlines import outline_polygons
from anyregion.io.vocabulary import BUILT_IN_NAMES
from anyregion.predictions import Prediction, Predictions
from anyregion.prompts import clicked_region
from anyregion.regions import Regions
from anyregion.serve.engine import NamingOptions, OverloadError
from anyregion.serve.http import json_body, route, text_of
from anyregion.serve.images import EncodedImage
from anyregion.serve.requests import parse_names
from anyregion.serve.service import Service

PREFIX = "/x-anylabeling"
UNNAMED = "AUTOLABEL_OBJECT"
"""The label of a shape that X-AnyLabeling asks a name for when the object is finished."""
TOLERANCE = 0.5
"""Pixels that an outline may lie from its mask's edge; at a half no pixel changes sides."""
FIND, WORDS, RECTANGLES, OUTLINE = (
    "anyregion_find", "anyregion_words", "anyregion_rectangles", "anyregion_outline",
)  # fmt: skip
_WORDS = ({"name": "edit_text", "value": ""}, {"name": "button_send", "value": None})
_CONFIDENCE = ({"name": "input_conf", "value": None}, {"name": "edit_conf", "value": 0.0})
_KEEP = {"name": "toggle_preserve_existing_annotations", "value": True}


def _buttons(*names: str) -> tuple[dict[str, Any], ...]:
    return tuple({"name": name, "value": None} for name in names)


# by id: title, widgets of X-AnyLabeling, and whether a batch asks for words first
MODELS: dict[str, tuple[str, tuple[dict[str, Any], ...], str]] = {
    FIND: (
        "anyregion: find and name, by the server's names",
        (*_buttons("button_run"), *_CONFIDENCE, _KEEP),
        "default",
    ),
    WORDS: ("anyregion: find and name, by words", (*_WORDS, *_CONFIDENCE, _KEEP), "text_prompt"),
    RECTANGLES: (
        "anyregion: name rectangles",
        (
            *_WORDS,
            *_buttons("add_pos_rect", "button_run_rect", "button_clear", "button_finish_object"),
        ),
        "default",
    ),
    OUTLINE: (
        "anyregion: outline from points and a box",
        _buttons(
            *("button_add_point", "button_remove_point", "button_add_rect"),
            *("button_clear", "button_finish_object"),
        ),
        "default",
    ),
}


@dataclass(frozen=True)
class Mark:
    """A prompt that the user has drawn.

    Attributes:
        kind: `point` or `rectangle`.
        inside: whether it marks the thing; else what is not of it.
        data: x and y, or x0, y0, x1, y1, in pixels.
    """

    kind: str
    inside: bool
    data: tuple[float, ...]


class _DialectError(Exception):
    """An answer of `success: false`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class XAnyLabelingRoutes:
    """The handlers of the dialect."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            route(f"{PREFIX}/health", self.health, "GET"),
            route(f"{PREFIX}/v1/models", self.models, "GET"),
            route(f"{PREFIX}/v1/models/{{model}}/info", self.info, "GET"),
            route(f"{PREFIX}/v1/predict", self.predict, "POST"),
        ]

    async def health(self, _: Request) -> Response:
        """That something runs."""
        ready = self.service.state == "ok"
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        loaded = len(MODELS) if ready else 0
        return JSONResponse({"status": "healthy", "models_loaded": loaded, "timestamp": moment})

    async def models(self, _: Request) -> Response:
        """What the user may choose from."""
        return _success({name: _description(name) for name in MODELS})

    async def info(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["model"]
        if name not in MODELS:
            return _failure("MODEL_NOT_FOUND", f"Model {name[:80]!r} not loaded")
        return _success({"model_id": name, **_description(name)})

    async def predict(self, request: Request) -> Response:
        """Shapes of an image."""
        try:
            return _success({"shapes": await self._shapes(request), "description": ""})
        except _DialectError as error:
            return _failure(error.code, str(error))
        except OverloadError as error:
            return JSONResponse({"detail": str(error)}, 503)
        except InputError as error:
            return _failure("INFERENCE_ERROR", str(error))

    async def _shapes(self, request: Request) -> list[dict[str, Any]]:
        body = await json_body(request)
        model, params = text_of(body, "model"), body.get("params") or {}
        if model not in MODELS:
            raise _DialectError("MODEL_NOT_FOUND", f"Model {model[:80]!r} not loaded")
        if not isinstance(params, dict):
            raise InputError("params must be an object")
        content = _image_bytes(body.get("image"))
        marks = parse_marks(params.get("marks"), self.service.options.max_regions)
        words = await self._words(params)
        try:
            image = await self.service.add_image(content)
        except InputError as error:
            raise _DialectError("INVALID_IMAGE", str(error)) from None
        if model == OUTLINE:
            return await self._outline(image, marks)
        if model == RECTANGLES or marks:
            return await self._rectangles(image, marks, words)
        return await self._find(image, words, _confidence(params))

    async def _words(self, params: Mapping[str, Any]) -> str | list[str] | None:
        """Names that were typed, or the name of a vocabulary; None where nothing was."""
        text = params.get("text_prompt") or ""
        if not isinstance(text, str):
            raise InputError("text_prompt must be a text")
        stated = text.strip()
        if not stated:
            return None
        vocabularies = (await self.service.ready())[1]
        if stated in BUILT_IN_NAMES or stated in vocabularies.names():
            return stated
        names = [name.strip() for name in stated.split("," if "," in stated else ".")]
        names = list(dict.fromkeys(name for name in names if name))
        return parse_names(names, self.service.options, "text_prompt")

    async def _find(
        self, image: EncodedImage, words: str | list[str] | None, confidence: float
    ) -> list[dict[str, Any]]:
        regions = await self.service.find(image, most=None, min_objectness=None)
        predictions = await self.service.name(image, regions, words, NamingOptions(1))
        predictions = self.service.distinct(predictions)
        return [
            _rectangle(prediction.box, prediction.label, prediction.score)
            for row, prediction in enumerate(predictions)
            if prediction.score >= confidence and not _is_refused(predictions, row)
        ]

    async def _rectangles(
        self, image: EncodedImage, marks: list[Mark], words: str | list[str] | None
    ) -> list[dict[str, Any]]:
        """Each rectangle that marks a thing, named; one that no name fits stays without."""
        boxes = [m.data for m in marks if m.kind == "rectangle" and m.inside]
        regions, _ = Regions.from_boxes(np.reshape(boxes, (-1, 4))).fit(*image.size)
        if not len(regions):
            return []
        predictions = await self.service.name(image, regions, words, NamingOptions(1))
        return [
            _rectangle(
                prediction.box,
                UNNAMED if _is_refused(predictions, row) else prediction.label,
                prediction.score,
            )
            for row, prediction in enumerate(predictions)
        ]

    async def _outline(self, image: EncodedImage, marks: list[Mark]) -> list[dict[str, Any]]:
        """The outline of the one thing that all marks show, and its likeliest names in words."""
        boxes = [m.data for m in marks if m.kind == "rectangle" and m.inside]
        clicks = [m for m in marks if m.kind == "point"]
        regions = clicked_region(
            image.size,
            box=boxes[-1] if boxes else None,
            inside=[m.data for m in clicks if m.inside],
            outside=[m.data for m in clicks if not m.inside],
        )
        if regions is None:
            return []
        options = NamingOptions(3, None, masks=True)
        predictions = await self.service.name(image, regions, None, options)
        prediction: Prediction = predictions[0]
        if prediction.mask is None:
            raise InputError("the model that is served makes no masks")
        names = ", ".join(
            f"{label} {score:.2f}"
            for label, score in zip(prediction.labels, prediction.scores, strict=True)
        )
        polygons = outline_polygons(prediction.mask, tolerance=TOLERANCE)
        if not polygons:
            return []
        # a shape is one polygon: that of the largest part, which comes first
        points = np.reshape(polygons[0], (-1, 2)).tolist()
        return [_shape("polygon", [*points, points[0]], UNNAMED, prediction.score, names)]


def parse_marks(entries: Any, most: int) -> list[Mark]:
    """Points and rectangles of `params.marks`; what is of another type is left out.

    Raises:
        InputError: no list of such, or more than `most`.
    """
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InputError("marks must be a list of objects")
    if len(entries) > most:
        raise InputError(f"{len(entries)} marks; {most} are the most")
    marks: list[Mark] = []
    for i, entry in enumerate(entries):
        kind, data = entry.get("type"), entry.get("data")
        count = {"point": 2, "rectangle": 4}.get(kind) if isinstance(kind, str) else None
        if count is None:
            continue
        plain = isinstance(data, list) and len(data) == count
        if not plain or any(
            isinstance(v, bool) or not isinstance(v, (int, float)) or abs(v) > 1e9 for v in data
        ):
            raise InputError(f"mark {i}: data must be {count} numbers, not {data!r:.60}")
        values = tuple(map(float, data))
        if kind == "rectangle":  # drawn from any corner
            (x0, x1), (y0, y1) = sorted(values[::2]), sorted(values[1::2])
            values = (x0, y0, x1, y1)
            if not (x1 > x0 and y1 > y0):
                continue  # a click, not a drag
        marks.append(Mark(str(kind), entry.get("label", 1) == 1, values))
    return marks


def _image_bytes(value: Any) -> bytes:
    """The file of an image, from base64 with or without `data:image/...;base64,` before it."""
    if not isinstance(value, str) or not value:
        raise _DialectError("INVALID_IMAGE", "image must be a file in base64")
    head, comma, rest = value.partition(",")
    text = rest if comma and head.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _DialectError("INVALID_IMAGE", "image is no base64") from None


def _confidence(params: Mapping[str, Any]) -> float:
    value = params.get("conf_threshold", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"conf_threshold must lie in 0 to 1, not {value!r:.40}")
    return float(value)


def _is_refused(predictions: Predictions, row: int) -> bool:
    return predictions.refused is not None and bool(predictions.refused[row])


def _rectangle(box: Any, label: str, score: float) -> dict[str, Any]:
    x0, y0, x1, y1 = (round(float(v), 3) for v in box)
    return _shape("rectangle", [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], label, score)


def _shape(
    kind: str, points: list[Any], label: str, score: float, description: str | None = None
) -> dict[str, Any]:
    return {
        "label": label,
        "shape_type": kind,
        "points": points,
        "score": round(float(score), 6),
        "attributes": {},
        "description": description,
        "difficult": False,
        "direction": 0,
        "flags": None,
        "group_id": None,
        "kie_linking": [],
    }


def _description(name: str) -> dict[str, Any]:
    title, widgets, batch = MODELS[name]
    return {
        "display_name": title,
        "widgets": list(widgets),
        "params": {},
        "batch_processing_mode": batch,
    }


def _success(data: Any) -> JSONResponse:
    return JSONResponse({"success": True, "data": data})


def _failure(code: str, message: str) -> JSONResponse:
    return JSONResponse({"success": False, "error": {"code": code, "message": message}})
