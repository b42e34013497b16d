"""`CvatServer`: a CVAT server through cvat-sdk; errors are in words, and no secret is in them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from anyregion.errors import AnyRegionError, InputError, require

TOKEN_VARIABLE = "CVAT_ACCESS_TOKEN"
"""cvat-sdk's own name for a personal access token in the environment."""
PASSWORD_VARIABLE = "PASS"
BATCH = 2000
"""Shapes of one request. It bounds a request of masks to some tens of megabytes."""
CONNECT_SECONDS = 10.0
"""To reach the server."""
READ_SECONDS, WRITE_SECONDS = 60.0, 300.0
"""Between two parts of an answer: cvat-sdk itself waits without end. A write is answered when all
shapes are in the server's database."""


class CvatError(AnyRegionError):
    """A CVAT server that cannot be reached, or refuses."""


@dataclass(frozen=True, kw_only=True)
class CvatConnection:
    """Where a CVAT server is, and who asks.

    Attributes:
        host: its address; None for that of the saved profile, else http://localhost.
        user: `USER` or `USER:PASSWORD`; without a password that of `PASS`, else it is asked for.
            None: the token of `CVAT_ACCESS_TOKEN`, or the saved profile.
        profile: a profile that `cvat-cli profile` saved.
        organization: its short name; an empty text for the personal workspace.
    """

    host: str | None = None
    user: str | None = None
    profile: str | None = None
    organization: str | None = None


@dataclass(frozen=True)
class CvatAttribute:
    """An attribute of a label: its values are texts that have to be of `kind`."""

    id: int
    name: str
    kind: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class CvatLabel:
    """A label of a task.

    Attributes:
        id, name: as the server has them.
        kind: the type of shapes that may have it; `any` for all.
        attributes: by their names.
    """

    id: int
    name: str
    kind: str
    attributes: Mapping[str, CvatAttribute]

    def fits(self, kind: str) -> bool:
        """Whether a shape of this type may have it."""
        return self.kind in ("any", kind)


@dataclass(frozen=True)
class CvatTarget:
    """A task, or one of its jobs.

    Attributes:
        task: the task's number.
        job: the job's; None for the whole task.
        name: the task's name.
        labels: in their order.
        frames: name and `(height, width)` of each frame of the task, or of all its frames where
            there is one entry alone (a video).
        deleted: frames that were removed.
    """

    task: int
    job: int | None
    name: str
    labels: tuple[CvatLabel, ...]
    frames: tuple[tuple[str, tuple[int, int] | None], ...]
    deleted: frozenset[int]

    def frame(self, number: int) -> tuple[str, tuple[int, int] | None]:
        """The name and size of a frame; no two frames of a video have the same name."""
        if len(self.frames) == 1:
            name, size = self.frames[0]
            return (name if number == 0 else f"{name}, frame {number}"), size
        if not 0 <= number < len(self.frames):
            raise InputError(f"the task has no frame {number}")
        return self.frames[number]


class CvatServer:
    """The calls that naming needs. Shapes are dictionaries, as the server states them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.host: str = client.api_map.host

    @classmethod
    def connect(cls, connection: CvatConnection) -> CvatServer:
        """Log in, where there is a password to log in with.

        Raises:
            InputError: nothing says who asks.
            CvatError: the server cannot be reached, or does not know who asks.
            MissingExtraError: cvat-sdk is not installed.
        """
        require("cvat", "cvat_sdk")
        from cvat_sdk.core.auth import (
            AccessTokenCredentials,
            AuthStore,
            ClientAuthParameters,
            get_auth_factory,
            make_client_from_cli,
        )

        with _in_words(connection.host or "CVAT"):
            factory = None
            if connection.user is not None:
                alone = ":" not in connection.user and not os.environ.get(PASSWORD_VARIABLE)
                if alone and not sys.stdin.isatty():
                    raise InputError(
                        f"no password for {connection.user}: set {PASSWORD_VARIABLE}, or better "
                        f"{TOKEN_VARIABLE} in place of a user"
                    )
                factory = get_auth_factory(connection.user)
            elif connection.profile is None and TOKEN_VARIABLE not in os.environ:
                default = None if connection.host else AuthStore().get_default_profile()
                if default is None:
                    raise InputError(
                        f"CVAT has to know who you are: set the environment variable "
                        f"{TOKEN_VARIABLE} to a personal access token (in CVAT: the menu under "
                        "your name, Profile, Security), or give --auth USER (its password from the "
                        f"variable {PASSWORD_VARIABLE}, or typed), or --profile NAME (saved by "
                        "`cvat-cli profile`)"
                    )
            parameters = ClientAuthParameters(
                profile=connection.profile,
                # a user logs in below, where the time is limited: this makes no request
                auth=None if factory is None else lambda _: AccessTokenCredentials(""),
                server_host=connection.host,
                organization=connection.organization,
            )
            client = make_client_from_cli(parameters)
            _limit_time(client.api_client.rest_client)
            if factory is not None:
                configuration = client.api_client.configuration
                configuration.access_token = None
                client.login(factory(configuration.host))
            return cls(client)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def target(self, task: int, job: int | None = None) -> CvatTarget:
        """A task with its labels and frames, or one of its jobs.

        Raises:
            InputError: no such task or job, a job of another task, or a task of no images.
            CvatError: the server refuses.
        """
        with _in_words(f"task {task}"):
            entry = self._client.tasks.retrieve(task)
            if entry.dimension == "3d":
                raise InputError(f"task {task} is one of point clouds")
            labels = tuple(_label(label) for label in entry.get_labels())
            meta = entry.get_meta()
        if job is not None:
            with _in_words(f"job {job}"):
                owner = self._client.jobs.retrieve(job).task_id
            if owner != task:
                raise InputError(f"job {job} belongs to task {owner}, not to task {task}")
        frames = tuple((frame.name, _size(frame)) for frame in meta.frames or ())
        deleted = frozenset(meta.deleted_frames)
        return CvatTarget(task, job, entry.name, labels, frames, deleted)

    def annotations(self, target: CvatTarget) -> dict[str, Any]:
        """All that is drawn: `shapes`, `tracks`, `tags`, whole, also what this program ignores."""
        api, number = self._api(target)
        with _in_words(f"annotations of {_title(target)}"):
            _, response = api.retrieve_annotations(number, _parse_response=False)
            content: dict[str, Any] = json.loads(response.data)
            shapes = content.get("shapes") if isinstance(content, dict) else None
            if not isinstance(shapes, list) or not all(map(is_shape, shapes)):
                raise CvatError(f"annotations of {_title(target)}: not in CVAT's form")
            return content

    def frame(self, target: CvatTarget, number: int) -> bytes:
        """The file of a frame, as it was uploaded."""
        with _in_words(f"frame {number} of task {target.task}"):
            _, response = self._client.api_client.tasks_api.retrieve_data(
                target.task, type="frame", number=number, quality="original", _parse_response=False
            )
            content: bytes = response.data
            return content

    def update(self, target: CvatTarget, shapes: Sequence[Mapping[str, Any]]) -> None:
        """Put shapes in the place of those with their ids (PATCH, `action=update`)."""
        from cvat_sdk import models

        api, number = self._api(target)
        unsure = "what was sent may be written all the same: look at the task before you go on"
        with _in_words(f"writing to {_title(target)}", unsure=unsure):
            request = models.PatchedLabeledDataRequest(
                shapes=[models.LabeledShapeRequest(**shape) for shape in shapes],
                tags=[],
                tracks=[],
            )
            api.partial_update_annotations(
                "update",
                number,
                patched_labeled_data_request=request,
                _parse_response=False,
                _request_timeout=(CONNECT_SECONDS, WRITE_SECONDS),
            )

    def _api(self, target: CvatTarget) -> tuple[Any, int]:
        if target.job is None:
            return self._client.api_client.tasks_api, target.task
        return self._client.api_client.jobs_api, target.job


def is_shape(shape: Any) -> bool:
    """Whether a shape of an answer, or of a backup, has what is used of it, but for its points."""
    if not isinstance(shape, dict) or not isinstance(shape.get("type"), str):
        return False
    if any(type(shape.get(key)) is not int for key in ("id", "frame", "label_id")):
        return False
    if not isinstance(shape.get("rotation") or 0, (int, float)):
        return False
    values = shape.get("attributes") or []
    return isinstance(values, list) and all(
        isinstance(v, dict) and type(v.get("spec_id")) is int and isinstance(v.get("value"), str)
        for v in values
    )


def _title(target: CvatTarget) -> str:
    return f"task {target.task}" if target.job is None else f"job {target.job}"


def _label(label: Any) -> CvatLabel:
    attributes = {
        a.name: CvatAttribute(a.id, a.name, _text(a.input_type), tuple(a.values))
        for a in label.attributes
    }
    return CvatLabel(label.id, label.name, _text(label.type), attributes)


def _text(value: Any) -> str:
    """A text, or the text of one of cvat-sdk's enumerations."""
    return str(getattr(value, "value", value))


def _size(frame: Any) -> tuple[int, int] | None:
    width, height = getattr(frame, "width", None), getattr(frame, "height", None)
    return (height, width) if width and height else None


def _limit_time(rest_client: Any) -> None:
    """Give requests without a limit one: cvat-sdk takes it a request, and passes none itself."""
    request = rest_client.request

    def limited(*args: Any, **keywords: Any) -> Any:
        if not keywords.get("_request_timeout"):
            keywords["_request_timeout"] = (CONNECT_SECONDS, READ_SECONDS)
        return request(*args, **keywords)

    rest_client.request = limited


@contextmanager
def _in_words(what: str, *, unsure: str = "") -> Iterator[None]:
    """Errors of cvat-sdk as ours: their own texts print headers, with the session's cookies.

    Args:
        what: is asked for.
        unsure: to add where the server got a request, and no answer came.
    """
    import urllib3
    from cvat_sdk import exceptions

    try:
        yield
    except AnyRegionError:
        raise
    except exceptions.ApiException as error:
        status, body = error.status, error.body or b""
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        if status == 404:
            raise InputError(f"{what}: CVAT knows none, or you may not see it") from None
        if status in (401, 403):
            hint = f"is {TOKEN_VARIABLE} right, and may its owner do this?"
            raise CvatError(f"{what}: CVAT refuses ({status}): {hint} {text[:200]}") from None
        raise CvatError(f"{what}: CVAT answers {status} {error.reason}: {text[:300]}") from None
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, urllib3.exceptions.ReadTimeoutError):
            hint = f". {unsure}" if unsure else ""
            raise CvatError(f"{what}: CVAT gave no answer in time{hint}") from None
        raise CvatError(f"{what}: CVAT cannot be reached ({type(reason).__name__})") from None
    except (
        exceptions.OpenApiException,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        # cvat-sdk's classes stumble in many ways over an answer that lacks something
        raise CvatError(f"{what}: CVAT's answer is not what cvat-sdk reads: {error}") from None
    except exceptions.CvatSdkException as error:
        raise CvatError(f"{what}: {error}") from None
