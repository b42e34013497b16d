"""`Client`: the service from Python, with nothing but the standard library: copy this file.

>>> client = Client("http://127.0.0.1:8750")
>>> image = client.add_image("photo.jpg")
>>> client.name(image, [{"box": [12, 40, 200, 310]}], ["cat", "dog"])
[{'id': 0, 'box': [...], 'label': 'cat', 'score': 0.93, ...}]
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit


class ServiceError(Exception):
    """The service refused a request.

    Attributes:
        status: of HTTP.
        code: one word for it: `bad_input`, `not_found`, `overloaded`, ...
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Client:
    """One connection to the service, which is opened again when it was closed.

    Args:
        url: where it listens.
        token: if it asks for one.
        timeout: seconds.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8750",
        *,
        token: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url}: expected http://HOST:PORT")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=timeout)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def health(self) -> dict[str, Any]:
        """`status` (`loading`, `ok`, `failed`) and `version`."""
        return self._call("GET", "/health")

    def add_image(self, image: str | Path | bytes) -> str:
        """Send an image, by its path or its file's bytes; returns its id."""
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        answer = self._call("POST", "/v1/images", content, "application/octet-stream")
        return str(answer["id"])

    def name(
        self,
        image: str,
        regions: Sequence[dict[str, Any]],
        vocabulary: Sequence[str] | str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Name regions of an image.

        Args:
            image: its id.
            regions: of each any of `box` (`[x0, y0, x1, y1]`), `points` with `labels`, `mask`.
            vocabulary: names, or the name of a vocabulary; None for those that the model knows.
            options: `top_k`, `masks`, `score`, `min_score`.
        """
        body = {"regions": list(regions), "vocabulary": vocabulary, **options}
        return self._regions(f"/v1/images/{quote(image, safe='')}/regions", body)

    def find(self, image: str, **options: Any) -> list[dict[str, Any]]:
        """Find regions; with `vocabulary=`, named. `most` and `min_objectness` limit them."""
        return self._regions("/v1/regions/find", {"image": image, **options})

    def make_vocabulary(self, name: str, names: Sequence[str]) -> dict[str, Any]:
        """Keep names under a name, to teach them."""
        return self._send("PUT", f"/v1/vocabularies/{quote(name, safe='')}", {"names": list(names)})

    def vocabulary(self, name: str) -> dict[str, Any]:
        """A kept vocabulary: its names, and how many examples each has."""
        return self._call("GET", f"/v1/vocabularies/{quote(name, safe='')}")

    def delete_vocabulary(self, name: str) -> None:
        """Remove a vocabulary."""
        self._call("DELETE", f"/v1/vocabularies/{quote(name, safe='')}")

    def teach(
        self, vocabulary: str, image: str, regions: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Correct regions of an image: each as for `name`, with its right `label` (None: none)."""
        corrections = [{"image": image, "regions": list(regions)}]
        return self._send(
            "POST", "/v1/teach", {"vocabulary": vocabulary, "corrections": corrections}
        )

    def forget(
        self, vocabulary: str, image: str, region: int | str | None = None
    ) -> dict[str, Any]:
        """Take back corrections of an image, or of one region of it."""
        entry = {"image": image} if region is None else {"image": image, "region": region}
        return self._send("POST", "/v1/teach", {"vocabulary": vocabulary, "forget": [entry]})

    def _regions(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        regions: list[dict[str, Any]] = self._send("POST", path, body)["regions"]
        return regions

    def _send(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call(method, path, json.dumps(body).encode(), "application/json")

    def _call(
        self, method: str, path: str, body: bytes | None = None, kind: str | None = None
    ) -> dict[str, Any]:
        headers = dict(self._headers) if kind is None else {**self._headers, "Content-Type": kind}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except BaseException:
            # half an answer may be left on it
            self._connection.close()
            raise
        if response.status >= 300:
            try:
                error = json.loads(content)["error"]
                raise ServiceError(response.status, error["code"], error["message"])
            except (ValueError, LookupError, TypeError):
                raise ServiceError(response.status, "http", response.reason) from None
        answer: dict[str, Any] = json.loads(content) if content else {}
        return answer
