"""A server of one CVAT task on a port of its own: the calls of cvat-sdk that reading, naming and
auto-annotation make, answered as CVAT 2.80 does.

Answers have the form that cvat-sdk's generated client demands. `PATCH ?action=update` does what
CVAT's `JobAnnotation.update` does: the shapes with these ids are removed, and made anew under new
ids, after their labels and attributes were checked.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-secret-of-this-test"
PASSWORD = "a-password-of-this-test"  # of the user ann
SESSION = "cookie-of-this-test"
MOMENT = "2026-11-01T12:00:00Z"


@dataclass(eq=False)
class FakeCvat:
    """One task (number 7, job 70 of its frames from `job_start` on) and what was asked of it.

    Attributes:
        frames: the files of its images, by their names.
        sizes: `(height, width)` of each.
        labels: as `/api/labels` lists them.
        annotations: as `/api/tasks/7/annotations` answers.
        requests: method and path of each request.
        refuse: by method and path, status and body of what is refused.
        before_patch: called before a PATCH is done, as somebody else who works in the task.
    """

    frames: dict[str, bytes]
    sizes: list[tuple[int, int]]
    labels: list[dict[str, Any]]
    annotations: dict[str, Any]
    deleted: list[int] = field(default_factory=list)
    dimension: str = "2d"
    job_start: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    refuse: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    reads: int = 0
    meanwhile: Any = None
    next_id: int = 1000
    url: str = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """JSON, bytes, or `(status, text)`."""
        if (method, path) in self.refuse:
            return self.refuse[method, path]
        parts = path.strip("/").split("/")[1:]  # without api
        if parts == ["labels"]:
            return {
                "count": len(self.labels),
                "next": None,
                "previous": None,
                "results": self.labels,
            }
        if parts == ["tasks", "7"]:
            return self._task()
        if parts == ["jobs", "70"]:
            return self._job()
        if parts == ["tasks", "7", "data", "meta"]:
            return self._meta()
        if parts == ["tasks", "7", "data"]:
            return self._data(query)
        if parts in (["tasks", "7", "annotations"], ["jobs", "70", "annotations"]):
            first = self.job_start if parts[0] == "jobs" else 0
            return self._annotations(method, query, body, first)
        return 404, '{"detail": "Not found."}'

    def _annotations(self, method: str, query: dict[str, str], body: Any, first: int) -> Any:
        if method == "GET":
            self.reads += 1
            if self.reads == 2 and self.meanwhile is not None:
                self.meanwhile(self)
            shapes = [s for s in self.annotations["shapes"] if s["frame"] >= first]
            return {**self.annotations, "shapes": shapes}
        self.patches.append({"query": query, "body": body})
        labels = {label["id"]: label for label in self.labels}
        for shape in body.get("shapes", []):
            label = labels.get(shape["label_id"])
            if label is None:
                return 400, json.dumps([f"label_id `{shape['label_id']}` is invalid"])
            specs = {a["id"] for a in label["attributes"]}
            if any(v["spec_id"] not in specs for v in shape.get("attributes", [])):
                return 400, json.dumps(["spec_id is invalid"])
        if query["action"] == "update":
            ids = {shape["id"] for shape in body["shapes"]}
            kept = [s for s in self.annotations["shapes"] if s["id"] not in ids]
        else:
            kept = self.annotations["shapes"]
        made = []
        for shape in body.get("shapes", []):
            made.append(full_shape({**shape, "id": self.next_id}))
            self.next_id += 1
        self.annotations["shapes"] = [*kept, *made]
        return {"version": 0, "tags": [], "tracks": [], "shapes": made}

    def _task(self) -> dict[str, Any]:
        return {
            "url": f"{self.url}/api/tasks/7", "id": 7, "name": "street", "project_id": None,
            "project_name": None, "mode": "annotation", "media_type": "image", "owner": None,
            "assignee": None, "bug_tracker": "", "created_date": MOMENT, "updated_date": MOMENT,
            "overlap": None, "segment_size": 100, "status": "annotation", "subset": "",
            "data_chunk_size": 36, "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset", "size": len(self.frames), "image_quality": 70,
            "data": 7, "dimension": self.dimension, "organization": None, "organization_id": None,
            "target_storage": None, "source_storage": None, "guide_id": None,
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": f"{self.url}/api/jobs"},
            "labels": {"url": f"{self.url}/api/labels?task_id=7"}, "assignee_updated_date": None,
            "validation_mode": None, "data_cloud_storage_id": None,
        }  # fmt: skip

    def _job(self) -> dict[str, Any]:
        return {
            "url": f"{self.url}/api/jobs/70", "id": 70, "task_id": 7, "task_name": "street",
            "project_id": None, "project_name": None, "assignee": None, "guide_id": None,
            "dimension": "2d", "mode": "annotation", "media_type": "image", "bug_tracker": None,
            "status": "annotation", "stage": "annotation", "state": "new", "frame_count": 1,
            "start_frame": self.job_start, "stop_frame": len(self.frames) - 1,
            "data_chunk_size": 36, "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset", "created_date": MOMENT,
            "updated_date": MOMENT, "type": "annotation", "organization": None,
            "target_storage": None, "source_storage": None, "assignee_updated_date": None,
            "parent_job_id": None, "replicas_count": 0,
            "issues": {"count": 0, "url": f"{self.url}/api/issues"},
            "labels": {"url": f"{self.url}/api/labels?job_id=70"},
        }  # fmt: skip

    def _meta(self) -> dict[str, Any]:
        frames = [
            {"name": name, "width": width, "height": height, "related_files": 0,
             "has_related_context": False}
            for name, (height, width) in zip(self.frames, self.sizes, strict=True)
        ]  # fmt: skip
        return {
            "chunks_updated_date": MOMENT, "chunk_size": 36, "size": len(frames),
            "image_quality": 70, "start_frame": 0, "stop_frame": len(frames) - 1,
            "frame_filter": "", "frames": frames, "deleted_frames": self.deleted,
            "included_frames": None, "storage": "local", "cloud_storage_id": None,
            "chapters": None,
        }  # fmt: skip

    def _data(self, query: dict[str, str]) -> Any:
        files = list(self.frames.values())
        if query["type"] == "frame":
            return files[int(query["number"])]
        chunk = io.BytesIO()
        with zipfile.ZipFile(chunk, "w") as archive:
            for name, content in self.frames.items():
                archive.writestr(name, content)
        return chunk.getvalue()


def full_shape(shape: dict[str, Any]) -> dict[str, Any]:
    """A shape with all keys that CVAT states."""
    default: dict[str, Any] = {
        "type": "rectangle", "occluded": False, "outside": False, "z_order": 0, "rotation": 0.0,
        "points": [], "id": 0, "frame": 0, "label_id": 1, "group": 0, "source": "manual",
        "attributes": [], "elements": [], "score": 1.0,
    }  # fmt: skip
    return {**default, **shape, "points": [float(v) for v in shape.get("points", ())]}


def label(id: int, name: str, kind: str = "any", *attributes: dict[str, Any]) -> dict[str, Any]:
    """A label of a task."""
    return {
        "id": id, "name": name, "color": "#fa3253", "attributes": list(attributes), "type": kind,
        "sublabels": [], "project_id": None, "task_id": 7, "parent_id": None, "has_parent": False,
    }  # fmt: skip


def attribute(id: int, name: str, kind: str, values: list[str]) -> dict[str, Any]:
    """An attribute of a label."""
    return {
        "id": id, "name": name, "mutable": False, "input_type": kind, "values": values,
        "default_value": values[0] if values else "",
    }  # fmt: skip


@contextmanager
def serving(fake: FakeCvat) -> Iterator[FakeCvat]:
    """Serve in a thread; `fake.url` is the address."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            path = address.path.rstrip("/")
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            fake.requests.append((self.command, path))
            cookies = self.headers.get("cookie") or ""
            log_in = (self.command, path) == ("POST", "/api/auth/login")
            if log_in and body == {"username": "ann", "password": PASSWORD}:
                answer = {"key": "k"}
            elif (
                self.headers.get("authorization") == f"Bearer {TOKEN}"
                or f"sessionid={SESSION}" in cookies
            ):
                answer = fake.answer(self.command, path, query, body)
            else:
                answer = 401, '{"detail": "Invalid token."}'
            status = 200
            if isinstance(answer, tuple):
                status, answer = answer
            kind = "application/json"
            if isinstance(answer, bytes):
                content, kind = answer, "image/png"
            else:
                content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            # what an error must never print
            self.send_header("set-cookie", f"sessionid={SESSION}")
            if log_in:
                self.send_header("set-cookie", "csrftoken=c")
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked has given up
                self.wfile.write(content)

        do_GET = do_PATCH = do_PUT = do_POST = _respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
