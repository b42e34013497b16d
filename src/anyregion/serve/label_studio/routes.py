"""The routes of the back end, as Label Studio's `ml` package calls them (1.23)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from anyregion.serve.http import json_body, route
from anyregion.serve.label_studio.backend import LabelStudioBackend
from anyregion.serve.service import Service

PREFIX = "/label-studio"


class LabelStudioRoutes:
    """The handlers: Label Studio's JSON in and out."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.backend = LabelStudioBackend(service)

    def routes(self) -> list[BaseRoute]:
        """Those that Label Studio calls."""
        return [
            route(f"{PREFIX}/health", self.health, "GET"),
            route(f"{PREFIX}/setup", self.setup, "POST"),
            route(f"{PREFIX}/predict", self.predict, "POST"),
            route(f"{PREFIX}/webhook", self.webhook, "POST"),
            route(f"{PREFIX}/versions", self.versions, "GET"),
        ]

    async def health(self, _: Request) -> Response:
        """Answers at once, also while the model is loaded; Label Studio waits for a second."""
        state = self.service.state
        if state == "failed":
            return JSONResponse({"status": "DOWN", "error": "the model could not be loaded"}, 503)
        return JSONResponse({"status": "UP", "model_class": "anyregion"})

    async def setup(self, request: Request) -> Response:
        """A project is connected; Label Studio waits for three seconds."""
        return JSONResponse(self.backend.setup(await json_body(request)))

    async def predict(self, request: Request) -> Response:
        """Tasks, named; Label Studio waits for a hundred seconds."""
        return JSONResponse(await self.backend.predict(await json_body(request)))

    async def webhook(self, request: Request) -> Response:
        """Something happened; Label Studio waits for a second, and does not say it again."""
        return JSONResponse(self.backend.webhook(await json_body(request)))

    async def versions(self, _: Request) -> Response:
        """One version at a time answers; which one, `setup` says."""
        return JSONResponse({"versions": []})
