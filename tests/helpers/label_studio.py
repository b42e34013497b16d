"""What Label Studio 1.23.2 really sent, and a stand-in for its server: files, tokens, export."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RECORDED = json.loads((Path(__file__).parent / "label_studio_payloads.json").read_text())
"""Bodies by route or action, of a project with two tasks; `headers` of its requests."""
SIZE = (240, 320)
"""Of the images of its tasks."""
UNTAUGHT = "anyregion-untaught"
LEGACY = "a" * 40


def recorded(name: str) -> Any:
    """A copy of a body."""
    return copy.deepcopy(RECORDED[name])


def ask(url: str, route: str, body: Any, **headers: str) -> tuple[int, Any]:
    """A request of the back end as Label Studio makes it: status and JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        sent = {**RECORDED["headers"], "Content-Type": "application/json", **headers}
        connection.request("POST", f"/label-studio/{route}", json.dumps(body).encode(), sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def post(url: str, route: str, body: Any, **headers: str) -> Any:
    """The answer of a request that is one."""
    status, answer = ask(url, route, body, **headers)
    assert status == 200, answer
    return answer


def predict(url: str, body: Any = None) -> list[Any]:
    """`results` of the recorded tasks, or of others."""
    results: list[Any] = post(url, "predict", body or recorded("predict"))["results"]
    return results


def interface(*tags: str) -> str:
    """A labelling interface of an image and tags."""
    return f'<View><Image name="img" value="$image"/>{"".join(tags)}</View>'


def tag(kind: str, *labels: str, name: str = "box", more: str = "") -> str:
    """A tag of the image with labels."""
    listed = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<{kind} name="{name}" toName="img" {more}>{listed}</{kind}>'


def jwt(**payload: Any) -> str:
    """A token of that form; nobody checks its signature here."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(payload)}.c2lnbmF0dXJl"


REFRESH = jwt(token_type="refresh", exp=8102444800)


class FakeLabelStudio:
    """What it serves, and what it was asked.

    Attributes:
        files: by path (without the query).
        export: what the API's export answers.
        requests: method, path and `Authorization` of each.
        redirects: by path, where to.
        access: the access token that is valid now.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.export: Any = []
        self.requests: list[tuple[str, str, str]] = []
        self.redirects: dict[str, str] = {}
        self.access = jwt(token_type="access", n=1)
        self.url = ""


@contextmanager
def fake_label_studio() -> Iterator[FakeLabelStudio]:
    """A server on a port of its own."""
    state = FakeLabelStudio()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            authorization = self.headers.get("Authorization", "")
            state.requests.append((self.command, self.path, authorization))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if path in state.redirects:
                self.send_response(303)
                self.send_header("Location", state.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if path == "/api/token/refresh/":
                valid = json.loads(body).get("refresh") == REFRESH
                self.reply(
                    200 if valid else 401, json.dumps({"access": state.access} if valid else {})
                )
            elif authorization not in (f"Token {LEGACY}", f"Bearer {state.access}"):
                self.reply(401, "{}")
            elif path in state.files:
                self.reply(200, state.files[path])
            elif path.endswith("/export"):
                self.reply(200, json.dumps(state.export))
            else:
                self.reply(404, "{}")

        def reply(self, status: int, content: str | bytes) -> None:
            content = content.encode() if isinstance(content, str) else content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
