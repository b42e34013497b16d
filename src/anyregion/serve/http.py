"""What every route has: errors as JSON, bodies read and checked, work that ends with its caller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anyregion.errors import AnyRegionError, InputError
from anyregion.serve.engine import OverloadError
from anyregion.serve.guards import BodyTooLargeError, error_body
from anyregion.serve.requests import parse_json
from anyregion.serve.service import UnknownItemError

Handler = Callable[[Request], Awaitable[Response]]
RETRY_AFTER = "1"

log = logging.getLogger("anyregion.serve")


def route(path: str, handler: Handler, *methods: str) -> Route:
    """A route whose errors are answered as JSON, and which is counted by its pattern."""

    async def answer(request: Request) -> Response:
        request.scope["route_pattern"] = path
        try:
            return await _unless_gone(request, handler)
        except InputError as error:
            return error_response(400, "bad_input", str(error))
        except UnknownItemError as error:
            return error_response(404, "not_found", str(error))
        except OverloadError as error:
            response = error_response(429, "overloaded", str(error))
            response.headers["retry-after"] = RETRY_AFTER
            return response
        except BodyTooLargeError:
            return error_response(413, "too_large", "the body has more bytes than are taken")
        except ClientDisconnect:
            return Response(status_code=499)
        except AnyRegionError as error:
            return error_response(503, "unavailable", str(error))
        except Exception:
            # the caller gets no trace of the code; whoever runs the service finds it in the log
            log.exception("%s %s failed", request.method, path)
            return error_response(500, "internal", "a fault of the service: its log says more")

    return Route(path, answer, methods=list(methods))


async def _unless_gone(request: Request, handler: Handler) -> Response:
    """The handler's answer; its work is cancelled when the caller goes away."""
    if request.method in ("POST", "PUT"):
        await request.body()  # kept by the request, so that what comes next is its end
    work = asyncio.ensure_future(handler(request))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(status: int, code: str, text: str) -> JSONResponse:
    return JSONResponse(error_body(code, text), status)


async def json_body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        # a form of another page could send anything else without the browser asking first
        raise InputError("the body must be sent as application/json")
    return dict(parse_json(await request.body()))


def text_of(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise InputError(f"{key} must be a text, not {value!r:.40}")
    return value
