"""`create_app`: the routes of the service, on starlette."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from anyregion import __version__
from anyregion.errors import InputError
from anyregion.io.vocabulary import builtin_vocabularies
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.serve.guards import App, Guard
from anyregion.serve.http import error_response, json_body, route, text_of
from anyregion.serve.images import EncodedImage
from anyregion.serve.label_studio.routes import LabelStudioRoutes
from anyregion.serve.metrics import Metrics
from anyregion.serve.openapi import describe_api
from anyregion.serve.options import LabelStudioOptions, ServeOptions
from anyregion.serve.page import page_routes
from anyregion.serve.project.imports import Import
from anyregion.serve.project.routes import ProjectRoutes
from anyregion.serve.requests import (
    known_keys,
    parse_names,
    parse_naming,
    parse_options,
    parse_regions,
    parse_vocabulary,
)
from anyregion.serve.service import MOST_FOUND, Correction, Service
from anyregion.serve.xanylabeling import XAnyLabelingRoutes
from anyregion.teaching.vocabulary import TaughtVocabulary

OPTIONS_VARIABLE = "ANYREGION_SERVE"
"""Where processes that `anyregion serve` starts find their options, as JSON."""


@dataclass(frozen=True)
class ModelOptions:
    """Which recogniser is served, as `load_recognizer` takes it."""

    model: str = "compact"
    method: str | None = None
    localizer: str | None = None
    vlm: str | None = None
    antialias: bool | None = None
    device: str = "cpu"
    dtype: str = "float32"
    tiles: int | None = None
    fast: bool = False

    def load(self) -> Recognizer:
        """The recogniser."""
        from anyregion.factory import load_recognizer

        return load_recognizer(**asdict(self))


def from_environment() -> App:
    """The application of a process that `anyregion serve --processes N` started."""
    stated = json.loads(os.environ[OPTIONS_VARIABLE])
    options = stated["options"]
    for key in ("folder", "uploads", "project", "photographs"):
        options[key] = None if options[key] is None else Path(options[key])
    for key in ("allowed_hosts", "allowed_origins"):
        options[key] = tuple(options[key])
    places = options["label_studio"]
    for key in ("files", "uploads"):
        places[key] = None if places[key] is None else Path(places[key])
    options["label_studio"] = LabelStudioOptions(**places)
    return create_app(ModelOptions(**stated["model"]).load, ServeOptions(**options))


def create_app(
    load: Callable[[], Recognizer], options: ServeOptions, content: Import | None = None
) -> App:
    """The service as an ASGI application.

    Args:
        load: loads the recogniser; called once, when the application starts.
        options: see there.
        content: what the project is begun with.
    """
    metrics = Metrics()
    service = Service(load, options, metrics)
    label_studio = LabelStudioRoutes(service)
    project: ProjectRoutes | None = None
    if options.project is not None:
        project = ProjectRoutes(service, options.project, options.photographs, content)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        label_studio.backend.start()
        if project is not None:
            project.start()
        yield
        await label_studio.backend.stop()
        if project is not None:
            await project.stop()
        await service.stop()

    routes = _Routes(service, options, metrics)
    app = Starlette(
        routes=[
            route("/health", routes.health, "GET"),
            route("/metrics", routes.metrics_text, "GET"),
            route("/openapi.json", routes.openapi, "GET"),
            route("/v1/models", routes.models, "GET"),
            route("/v1/images", routes.add_image, "POST"),
            route("/v1/images/{image}", routes.image, "GET"),
            route("/v1/images/{image}/regions", routes.name_regions, "POST"),
            route("/v1/regions/find", routes.find_regions, "POST"),
            route("/v1/vocabularies", routes.list_vocabularies, "GET"),
            route("/v1/vocabularies/{name}", routes.vocabulary, "GET", "PUT", "DELETE"),
            route("/v1/teach", routes.teach, "POST"),
            *label_studio.routes(),
            *XAnyLabelingRoutes(service).routes(),
            *([] if project is None else [*project.routes(), *page_routes()]),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.state.service = service
    return Guard(app, options, metrics)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
    return error_response(error.status_code, code, str(error.detail))


class _Routes:
    """The handlers: bodies in, JSON out."""

    def __init__(self, service: Service, options: ServeOptions, metrics: Metrics) -> None:
        self.service, self.options, self.metrics = service, options, metrics

    async def health(self, _: Request) -> Response:
        """Whether the model is loaded; answers at once."""
        state = self.service.state
        status = 503 if state == "failed" else 200
        return JSONResponse({"status": state, "version": __version__}, status)

    async def metrics_text(self, _: Request) -> Response:
        """Counts and times for Prometheus."""
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """The description of all this."""
        return JSONResponse(describe_api(self.options))

    async def models(self, _: Request) -> Response:
        """The model that answers."""
        await self.service.ready()
        return JSONResponse({"models": [dict(self.service.describe())]})

    async def add_image(self, request: Request) -> Response:
        """An image's file as the body."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
        if not (kind.startswith("image/") or kind == "application/octet-stream"):
            return error_response(
                415, "media_type", "send a file as image/... or application/octet-stream"
            )
        return JSONResponse(_image(await self.service.add_image(await request.body())))

    async def image(self, request: Request) -> Response:
        """Whether an image is here, and its size."""
        return JSONResponse(_image(await self.service.image(request.path_params["image"])))

    async def name_regions(self, request: Request) -> Response:
        """Regions of an image, named."""
        body = await json_body(request)
        min_score = _share(body.pop("min_score", 0.0), "min_score")
        image = await self.service.image(request.path_params["image"])
        naming = parse_naming(body, image.size, self.options)
        predictions = await self.service.name(
            image, naming.regions, naming.vocabulary, naming.options
        )
        return JSONResponse({"image": image.id, "regions": _records(predictions, min_score)})

    async def find_regions(self, request: Request) -> Response:
        """Regions of anything; with a vocabulary, named."""
        body = await json_body(request)
        keys = ("image", "vocabulary", "top_k", "masks", "score", "most", "min_objectness")
        known_keys(body, (*keys, "min_score"))
        most, least = body.get("most"), body.get("min_objectness")
        if most is not None and (type(most) is not int or not 1 <= most <= MOST_FOUND):
            raise InputError(f"most must be a whole number from 1 to {MOST_FOUND}")
        if least is not None:
            least = _share(least, "min_objectness")
        options, min_score = parse_options(body), _share(body.get("min_score", 0.0), "min_score")
        vocabulary = parse_vocabulary(body, self.options)
        image = await self.service.image(text_of(body, "image"))
        regions = await self.service.find(image, most=most, min_objectness=least)
        if "vocabulary" not in body:
            scores = [] if regions.scores is None else regions.scores.tolist()
            records = [
                {"id": i, "box": [round(v, 3) for v in box], "objectness": round(score, 6)}
                for i, (box, score) in enumerate(zip(regions.boxes.tolist(), scores, strict=True))
            ]
            return JSONResponse({"image": image.id, "regions": records})
        predictions = await self.service.name(image, regions, vocabulary, options)
        distinct = self.service.distinct(predictions)
        records = _records(distinct, min_score)
        if regions.scores is not None:
            for record, row in zip(records, distinct.rows, strict=True):
                record["objectness"] = round(float(regions.scores[row]), 6)
        return JSONResponse({"image": image.id, "regions": records})

    async def list_vocabularies(self, _: Request) -> Response:
        """Those that are kept, and the built-in lists."""
        vocabularies = (await self.service.ready())[1]
        return JSONResponse(
            {"vocabularies": vocabularies.names(), "built_in": builtin_vocabularies()}
        )

    async def vocabulary(self, request: Request) -> Response:
        """Look at a vocabulary, make one, or delete one."""
        name = request.path_params["name"]
        if request.method == "DELETE":
            await self.service.delete_vocabulary(name)
            return Response(status_code=204)
        if request.method == "PUT":
            body = await json_body(request)
            known_keys(body, ("names",))
            names = parse_names(body.get("names"), self.options, "names")
            return JSONResponse(
                _vocabulary(name, await self.service.make_vocabulary(name, names)), 201
            )
        return JSONResponse(_vocabulary(name, await self.service.read_vocabulary(name)))

    async def teach(self, request: Request) -> Response:
        """Corrections of regions, which later answers know."""
        body = await json_body(request)
        known_keys(body, ("vocabulary", "corrections", "forget"))
        name, entries = text_of(body, "vocabulary"), body.get("corrections", [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError("corrections must be a list of objects")
        corrections: list[Correction] = []
        for i, entry in enumerate(entries):
            try:
                known_keys(entry, ("image", "name", "regions"), "it")
                image = await self.service.image(text_of(entry, "image"))
                title = text_of(entry, "name") if "name" in entry else None
                regions, labels = parse_regions(
                    entry.get("regions"), image.size, self.options, labels=True
                )
            except InputError as error:
                raise InputError(f"correction {i}: {error}") from None
            corrections.append(Correction(image, regions, labels, title))
        taught, added = await self.service.teach(name, corrections, _forgotten(body))
        return JSONResponse({**_vocabulary(name, taught), "added": added})


def _forgotten(body: dict[str, Any]) -> list[tuple[str, int | str | None]]:
    entries = body.get("forget", [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise InputError("forget must be a list of objects")
    forgotten: list[tuple[str, int | str | None]] = []
    for entry in entries:
        known_keys(entry, ("image", "region"), "forget")
        region = entry.get("region")
        if region is not None and type(region) not in (int, str):
            raise InputError(f"forget: region must be an id, not {region!r:.40}")
        forgotten.append((text_of(entry, "image"), region))
    return forgotten


def _share(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{name} must lie in 0 to 1, not {value!r:.40}")
    return float(value)


def _image(image: EncodedImage) -> dict[str, Any]:
    return {"id": image.id, "width": image.size[1], "height": image.size[0]}


def _vocabulary(name: str, taught: TaughtVocabulary) -> dict[str, Any]:
    corrections = 0 if taught.corrections is None else len(taught.corrections)
    return {
        "name": name,
        "names": list(taught.vocabulary.names),
        "counts": taught.counts.tolist(),
        "corrections": corrections,
    }


def _records(predictions: Predictions, min_score: float) -> list[dict[str, Any]]:
    """The records of `Predictions`, and whether the best name of each is not to be trusted."""
    records = predictions.to_records()
    for i, record in enumerate(records):
        taught = predictions.refused is not None and bool(predictions.refused[i])
        record["refused"] = taught or record["score"] < min_score
    return records
