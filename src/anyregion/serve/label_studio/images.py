"""`TaskImages`: images of tasks, from Label Studio's own host or a folder, and nowhere else."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from anyregion.errors import AnyRegionError, InputError
from anyregion.serve.options import LabelStudioOptions

CLOUD = ("s3", "gs", "azure-blob", "azure_spi", "dbfs", "redis")
"""Schemes of storages that Label Studio reads for its users."""
LOCAL_FILES, UPLOADS = "/data/local-files/", "/data/upload/"
TIMEOUT = 20.0
"""Seconds."""
ACCESS_SECONDS = 240.0
"""Label Studio's access tokens live for five minutes."""


class UnreachableError(AnyRegionError):
    """Label Studio does not answer, or refuses."""


class TaskImages:
    """Reads what the data of a task calls its image.

    - `/data/local-files/?d=...` and `/data/upload/...` from the folders of the options, if they are
      set; nothing outside them.
    - Otherwise such paths, and addresses that begin with the `url` of the options, from there. No
      redirect is followed, and no other host is ever asked: whoever imports tasks could else make
      the service fetch addresses of its own network.
    - `s3://` and other storages through Label Studio, which has their keys.
    - `data:` addresses from themselves.

    Methods may be called by several threads.

    Args:
        options: see there.
        most: bytes of a file.
    """

    def __init__(self, options: LabelStudioOptions, most: int) -> None:
        self.options, self.most = options, most
        self._lock = threading.Lock()
        self._access: dict[str, tuple[str, float]] = {}

    def read(self, reference: str, task: int | None, token: str | None = None) -> bytes:
        """The file of an image.

        Args:
            reference: what the task's data says.
            task: the task's id, by which Label Studio reads from a storage.
            token: of the project, where the options have none.

        Raises:
            InputError: a place that is not read, or a file that is not there or too large.
            UnreachableError: Label Studio does not answer, or refuses.
        """
        if reference.startswith("data:"):
            return self._inline(reference)
        try:
            parts = urlsplit(reference)
        except ValueError:
            raise InputError(f"{reference[:120]!r} is no address") from None
        if parts.scheme in CLOUD:
            encoded = base64.urlsafe_b64encode(reference.encode()).decode()
            return self._fetch(f"/tasks/{task}/resolve/?fileuri={encoded}", token)
        if parts.scheme or parts.netloc or not reference.startswith("/"):
            reference = self._own(reference)
            parts = urlsplit(reference)
        files, uploads = self.options.files, self.options.uploads
        if files is not None and parts.path.rstrip("/").endswith(LOCAL_FILES.rstrip("/")):
            return self._file(files, (parse_qs(parts.query).get("d") or [""])[0])
        if uploads is not None and UPLOADS in parts.path:
            return self._file(uploads, unquote(parts.path.partition(UPLOADS)[2]))
        return self._fetch(reference, token)

    def get_json(self, path: str, token: str | None = None) -> Any:
        """What an address of Label Studio's answers, as JSON.

        Raises:
            UnreachableError: no answer, or none that is JSON.
        """
        content = self._fetch(path, token)
        try:
            return json.loads(content)
        except ValueError:
            raise UnreachableError(f"{self.options.url}{path}: no JSON") from None

    def _own(self, reference: str) -> str:
        """Path and query of an address on Label Studio's host.

        Raises:
            InputError: another host, or what is no address.
        """
        own = urlsplit(self.options.url or "")
        parts = urlsplit(reference)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"{reference[:120]!r} is not read: an image is a path or an address of Label "
                "Studio's, a storage's (s3://...), or data:"
            )
        if not self.options.url or (parts.scheme, _place(parts)) != (own.scheme, _place(own)):
            raise InputError(
                f"{reference[:120]!r} lies on another host than --label-studio-url; other hosts "
                "are never asked"
            )
        return parts._replace(scheme="", netloc="", fragment="").geturl() or "/"

    def _inline(self, reference: str) -> bytes:
        head, _, body = reference.partition(",")
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            raise InputError("of data: addresses only data:image/...;base64 is read")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("a data: address that is no base64") from None

    def _file(self, folder: Path, name: str) -> bytes:
        """A file below a folder, also after links are followed."""
        try:
            root = folder.resolve(strict=True)
            path = (root / name).resolve(strict=True)
            if not path.is_relative_to(root) or not path.is_file():
                raise FileNotFoundError
            content = path.read_bytes() if path.stat().st_size <= self.most else None
        except (OSError, ValueError, RuntimeError):  # not there, a NUL in the name, a circle
            raise InputError(f"{name[:120]!r}: no such file in the mapped folder") from None
        if content is None:
            raise InputError(f"{name[:120]!r} has more than {self.most} bytes")
        return content

    def _fetch(self, path: str, token: str | None) -> bytes:
        if not self.options.url:
            raise InputError(
                f"{path[:120]!r} is Label Studio's: start with --label-studio-url (or map its "
                "folder with --label-studio-files or --label-studio-uploads)"
            )
        key = self.options.key or token
        status, content = self._get(path, self._authorization(key))
        if status == 401 and key is not None and _is_refresh_token(key):
            with self._lock:
                self._access.clear()
            status, content = self._get(path, self._authorization(key))
        if status == 200:
            return content
        place = f"{self.options.url}{path[:120]}"
        if status in (401, 403) or (300 <= status < 400 and path.startswith("/data/")):
            raise UnreachableError(
                f"{place} answers {status}: set LABEL_STUDIO_API_KEY or --label-studio-token-file "
                "to a token of a user who may see the project"
            )
        if 300 <= status < 400:
            raise UnreachableError(
                f"{place} answers {status}, a redirect, which is not followed: let Label Studio "
                "hand out the storage's files itself (turn off pre-signed URLs)"
            )
        raise UnreachableError(f"{place} answers {status}")

    def _authorization(self, key: str | None) -> dict[str, str]:
        """The header for a token: an old one as it is, a new one by an access token."""
        if key is None:
            return {}
        if not _is_refresh_token(key):
            return {"Authorization": f"Token {key}"}
        with self._lock:
            access, until = self._access.get(key, ("", 0.0))
            if time.monotonic() >= until:
                body = json.dumps({"refresh": key}).encode()
                status, content = self._get("/api/token/refresh/", {}, body)
                try:
                    access = str(json.loads(content)["access"])
                except (ValueError, KeyError, TypeError):
                    raise UnreachableError(
                        f"{self.options.url} gives no access for the personal access token "
                        f"({status}): it may be revoked"
                    ) from None
                self._access = {key: (access, time.monotonic() + ACCESS_SECONDS)}
        return {"Authorization": f"Bearer {access}"}

    def _get(
        self, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        """One request of the configured host; neither redirects nor proxies."""
        own = urlsplit(self.options.url or "")
        prefix = own.path.rstrip("/")
        if prefix and not path.startswith(f"{prefix}/"):
            path = prefix + path
        secure = own.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        try:
            connection = kind(own.hostname or "", own.port, timeout=TIMEOUT)
            try:
                if body is not None:
                    headers = {**headers, "Content-Type": "application/json"}
                # what a task's data says may hold anything
                target = quote(path, safe="/?&=%:,;+@!$'()*~-._")
                connection.request("GET" if body is None else "POST", target, body, headers)
                response = connection.getresponse()
                content = response.read(self.most + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"{self.options.url} does not answer: {error}") from None
        if len(content) > self.most:
            raise InputError(f"{path[:120]!r} has more than {self.most} bytes")
        return response.status, content


def _place(parts: Any) -> tuple[str | None, int | None]:
    """Host and port; an address's name and password do not count."""
    try:
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # a port that is none
        return None, None


def _is_refresh_token(key: str) -> bool:
    """Whether a token is one of the new ones, a JWT, which access tokens are made from."""
    parts = key.split(".")
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return len(parts) == 3 and isinstance(payload, dict)
    except (IndexError, ValueError):
        return False
