"""`Guard`: who may use the service, with how much, and for how long; and what is counted."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from anyregion.serve.metrics import Metrics
from anyregion.serve.options import ServeOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("anyregion.serve")
LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPEN_ROUTES = ("/health",)
"""What answers without a token: that something runs is no secret."""
BASIC_ROUTES = "/label-studio"
"""What takes the token as a password, too: Label Studio knows Basic authentication alone."""
KEY_ROUTES = "/x-anylabeling/v1"
"""What takes the token in a header `Token`, too, as X-AnyLabeling sends its `api_key`."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class BodyTooLargeError(Exception):
    """A request has more bytes than may be."""


class Guard:
    """An ASGI middleware.

    - `Host` must be a name that the service is known by: a web page whose domain was pointed at
      this machine (DNS rebinding) has another.
    - `Origin`, which browsers send, must be the service's own or an allowed one: no other page can
      use it (CSRF). Programs that are no browsers send none.
    - With a token, all but `/health` and the page's files need it.
    - A body over `max_body` is refused as soon as that is known, and one that takes longer than
      `timeout` to come, with its answer, is cut off.
    - A line of the log has method, route, status and time: no names, no addresses, no ids.
    """

    def __init__(self, app: App, options: ServeOptions, metrics: Metrics) -> None:
        self.app, self.options, self.metrics = app, options, metrics
        self.hosts = {*LOCAL, options.host.casefold(), *map(str.casefold, options.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # the caller went away
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                names = {name for name, _ in message["headers"]}
                added = [header for header in HEADERS if header[0] not in names]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _answer(send_on, *refusal)
                return
            async with asyncio.timeout(self.options.timeout):
                await self.app(scope, self._limited(receive), send_on)
        except BodyTooLargeError:
            if not begun:
                most = self.options.max_body
                await _answer(send_on, 413, "too_large", f"{most} bytes are the most")
        except TimeoutError:
            if not begun:
                text = f"the request and its answer took over {self.options.timeout:g} s"
                await _answer(send_on, 408, "timeout", text)
        finally:
            seconds = time.perf_counter() - started
            endpoint = scope.get("route_pattern", "other")
            self.metrics.request(scope["method"], endpoint, status, seconds)
            log.info("%s %s %d %.0f ms", scope["method"], endpoint, status, 1000 * seconds)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        """The status, code and text with which a request is refused by its head; None to go on."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", b"authorization"):
                return 400, "bad_header", f"two headers {name.decode('latin-1')}"
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1").casefold()
        if _without_port(host) not in self.hosts:
            return (
                421,
                "bad_host",
                (f"not known as {host[:100]!r}: --allow-host adds names that it answers to"),
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed(origin.decode("latin-1"), host):
            return 403, "bad_origin", "web pages of other origins may not use this service"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "bad_header", "content-length is no number"
        if int(length) > self.options.max_body:
            return 413, "too_large", f"{self.options.max_body} bytes are the most"
        token = self.options.token
        path, guarded = scope["path"], ("/v1", "/metrics", BASIC_ROUTES, KEY_ROUTES)
        if token is not None and path.startswith(guarded):
            expected, stated = f"Bearer {token}".encode(), headers.get(b"authorization", b"")
            if path.startswith(BASIC_ROUTES) and stated[:6].lower() == b"basic ":
                stated = _basic_password(stated)
            elif path.startswith(KEY_ROUTES) and b"token" in headers:
                stated = b"Bearer " + headers[b"token"]
            if not hmac.compare_digest(stated, expected):
                return 401, "unauthorized", "a token is needed: Authorization: Bearer TOKEN"
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin in self.options.allowed_origins:
            return True
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and rest.casefold() == host

    def _limited(self, receive: Receive) -> Receive:
        total = 0

        async def receive_on() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.options.max_body:
                raise BodyTooLargeError
            return message

        return receive_on


def error_body(code: str, text: str) -> dict[str, Any]:
    """What every answer but 2xx holds."""
    return {"error": {"code": code, "message": text}}


async def _answer(send: Send, status: int, code: str, text: str) -> None:
    body = json.dumps(error_body(code, text)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # the rest of a body that nobody reads is not to be taken for the next request
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _basic_password(header: bytes) -> bytes:
    """The password of Basic authentication, of any user, as a header of the other kind."""
    try:
        decoded = base64.b64decode(header[6:].strip(), validate=True)
    except ValueError:
        return b""
    return b"Bearer " + decoded.partition(b":")[2]


def _without_port(host: str) -> str:
    if host.startswith("["):  # [::1]:8750
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
