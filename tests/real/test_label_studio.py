"""A Label Studio that really runs, with this package as its back end: minutes, so only on demand.

`ANYREGION_LABEL_STUDIO` runs it: 1 (`label-studio` is on the PATH), or the path of that program.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from anyregion.data.annotations.brush_rle import decode_brush, encode_brush
from anyregion.images import read_size
from anyregion.serve.options import LabelStudioOptions
from tests.unit.serve.conftest import compact, serving

__all__ = ["compact"]  # the fixture

STATED = os.environ.get("ANYREGION_LABEL_STUDIO", "")
PROGRAM = shutil.which("label-studio" if STATED == "1" else STATED) if STATED else None
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="ANYREGION_LABEL_STUDIO is not 1 or the path of label-studio"
)

EXAMPLES = Path(__file__).parents[2] / "examples"
LEGACY, SECRET = "0123456789abcdef0123456789abcdef01234567", "a-long-secret"
ENVIRONMENT = {
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
}
INTERFACE = """
<View>
  <Image name="img" value="$image"/>
  <RectangleLabels name="box" toName="img" smart="true">
    <Label value="cat"/><Label value="cup"/><Label value="rocket"/><Label value="whiskers"/>
  </RectangleLabels>
  <BrushLabels name="brush" toName="img" smart="true"><Label value="cat"/></BrushLabels>
  <KeyPointLabels name="point" toName="img" smart="true"><Label value="cat"/></KeyPointLabels>
</View>
"""


class LabelStudio:
    """Its API, for one project."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.project = self.backend = 0

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """JSON or bytes in, JSON out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Token {LEGACY}", "Content-Type": "application/json", **headers}
        try:
            connection.request(method, path, None if body is None else content, sent)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert 200 <= response.status < 300, (path, response.status, answer[:2000])
        is_json = "json" in (response.getheader("Content-Type") or "")
        return json.loads(answer) if answer and is_json else answer

    def upload(self, path: Path) -> None:
        """Import a photograph as a task."""
        boundary = "a-boundary-that-no-photograph-has"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"'
            "\r\nContent-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self.call("POST", f"/api/projects/{self.project}/import", body, **kind)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Tasks by the stem of their photograph, with annotations and predictions."""
        listed = self.call("GET", f"/api/tasks/?project={self.project}&fields=all")["tasks"]
        tasks = [self.call("GET", f"/api/tasks/{task['id']}") for task in listed]
        return {t["data"]["image"].rpartition("-")[2].partition(".")[0]: t for t in tasks}

    def predict(self, stem: str) -> dict[str, Any]:
        """Retrieve predictions of all tasks; the newest of one."""
        self.call(
            "POST", f"/api/dm/actions/?id=retrieve_tasks_predictions&project={self.project}",
            {"selectedItems": {"all": True, "excluded": []}},
        )  # fmt: skip
        predictions = self.tasks()[stem]["predictions"]
        newest: dict[str, Any] = max(predictions, key=lambda p: p["id"])
        return newest

    def while_drawing(self, task: int, results: list[Any]) -> list[Any]:
        """What the page gets for what is being drawn."""
        answer = self.call(
            "POST", f"/api/ml/{self.backend}/interactive-annotating",
            {"task": task, "context": {"result": results}},
        )  # fmt: skip
        suggestions: list[Any] = answer["data"]["result"]
        return suggestions


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A Label Studio with an empty data base in a temporary folder."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("label-studio")
    command = [
        str(PROGRAM), "start", "--no-browser", "--port", str(port), "--user-token", LEGACY,
        "--username", "a@example.com", "--password", "a-password-for-a-test",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {**ENVIRONMENT, "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    started = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        running = LabelStudio(port)

        def is_up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            try:
                running.call("GET", "/health")
            except (OSError, http.client.HTTPException, AssertionError):
                return False
            return True

        wait_for(is_up, 400)
        print(f"\nLabel Studio started in {time.monotonic() - started:.0f} s")
        yield running
    finally:
        process.terminate()
        process.wait(30)


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return result


def result(kind: str, tag: str, stem: str, value: dict[str, Any], name: str) -> dict[str, Any]:
    height, width = read_size(EXAMPLES / f"{stem}.jpg").upright
    return {
        "id": name, "type": kind, "from_name": tag, "to_name": "img", "value": value,
        "original_width": width, "original_height": height, "image_rotation": 0,
    }  # fmt: skip


def box(stem: str, x: float, y: float, w: float, h: float, name: str, *labels: str) -> Any:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
    named = {"rectanglelabels": list(labels)} if labels else {}
    return result("rectanglelabels", "box", stem, {**value, **named}, name)


def test_the_whole_story(studio: LabelStudio, compact: Any, tmp_path: Path) -> None:
    times: dict[str, float] = {}

    def timed(what: str, function: Callable[[], Any]) -> Any:
        started = time.monotonic()
        answer = function()
        times[what] = time.monotonic() - started
        return answer

    version = studio.call("GET", "/api/version")["release"]
    studio.project = studio.call(
        "POST", "/api/projects/", {"title": "story", "label_config": INTERFACE}
    )["id"]
    for stem in ("cat", "coffee"):
        studio.upload(EXAMPLES / f"{stem}.jpg")
    # a personal access token reads the images; the back end's own is in its address
    token = studio.call("POST", "/api/token/", {})["token"]
    place = LabelStudioOptions(url=f"http://127.0.0.1:{studio.port}", key=token)
    folder = tmp_path / "vocabularies"
    with serving(compact, label_studio=place, token=SECRET, folder=folder) as url:
        address = url.replace("http://", f"http://label-studio:{SECRET}@") + "/label-studio"
        connected = timed("connect", lambda: studio.call(
            "POST", "/api/ml",
            {"project": studio.project, "url": address, "title": "any", "is_interactive": True},
        ))  # fmt: skip
        assert connected["state"] == "CO"
        studio.backend = connected["id"]
        task = {stem: entry["id"] for stem, entry in studio.tasks().items()}

        # nothing is drawn: regions are found
        found = timed("find and name two photographs", lambda: studio.predict("cat"))
        assert found["model_version"] == "anyregion-untaught"
        assert found["result"][0]["from_name"] == "box"

        # drawn boxes and a brush are named where they are
        height, width = read_size(EXAMPLES / "cat.jpg").upright
        mask = np.zeros((height, width), dtype=bool)
        mask[height // 4 : height // 2, width // 3 : width // 2] = True
        mask[height // 3, width // 2 : width // 2 + 7] = True
        brush = {"format": "rle", "rle": encode_brush(mask)}
        drawn = [box("cat", 20, 10, 60, 80, "b"), result("brushlabels", "brush", "cat", brush, "m")]
        annotation = studio.call(
            "POST", f"/api/tasks/{task['cat']}/annotations/", {"result": drawn}
        )
        wait_for(lambda: list(folder.glob("label-studio-*.vocab")))
        named = timed("name what is drawn", lambda: studio.predict("cat"))
        assert named["model_version"] not in ("anyregion-untaught", "")
        parts = {r["id"]: r for r in named["result"]}
        assert parts["b"]["value"]["rectanglelabels"] == ["cat"]
        assert {k: parts["b"]["value"][k] for k in ("x", "y", "width", "height")} == {
            "x": 20, "y": 10, "width": 60, "height": 80,
        }  # fmt: skip
        assert parts["m"]["value"]["brushlabels"] == ["cat"]
        np.testing.assert_array_equal(decode_brush(parts["m"]["value"]["rle"], height, width), mask)

        # while something is drawn, too; a point becomes a brush
        (suggestion,) = timed(
            "while drawing", lambda: studio.while_drawing(task["cat"], [drawn[0]])
        )
        assert (suggestion["id"], suggestion["value"]["rectanglelabels"]) == ("b", ["cat"])
        point = {"x": 50, "y": 40, "width": 0.5}
        (painted,) = studio.while_drawing(
            task["cat"], [result("keypointlabels", "point", "cat", point, "p")]
        )
        assert (painted["type"], painted["value"]["brushlabels"]) == ("brushlabels", ["cat"])
        converter_agrees(mask, painted["value"]["rle"], (height, width))

        # annotations teach: the other photograph's cup is called whiskers from now on
        coffee = [box("coffee", 30, 20, 45, 60, "c"), box("coffee", 0, 0, 25, 25, "d")]
        studio.call("POST", f"/api/tasks/{task['coffee']}/annotations/", {"result": coffee})
        before = {r["id"]: r["value"] for r in studio.predict("coffee")["result"]}
        assert before["c"]["rectanglelabels"] == ["cup"]
        (before_drawing,) = studio.while_drawing(task["coffee"], coffee[:1])
        lesson = [
            *[box("coffee", 30 + i, 20 + i, 45 - i, 60 - i, f"c{i}", "whiskers") for i in range(4)],
            box("coffee", 0, 0, 25, 25, "d", "rocket"),
        ]
        taught = timed("learn an annotation", lambda: learnt(studio, folder, lambda: studio.call(
            "POST", f"/api/tasks/{task['coffee']}/annotations/", {"result": lesson}
        )))  # fmt: skip
        (after,) = studio.while_drawing(task["coffee"], coffee[:1])
        assert after["value"]["rectanglelabels"] == ["whiskers"]
        # and all is as before when the annotation is deleted
        learnt(studio, folder, lambda: studio.call("DELETE", f"/api/annotations/{taught['id']}/"))
        (again,) = studio.while_drawing(task["coffee"], coffee[:1])
        assert again["value"] == before_drawing["value"]

        # "Start training" learns what is there
        studio.call("PATCH", f"/api/annotations/{annotation['id']}/", {"result": [
            box("cat", 20, 10, 60, 80, "b", "cat"), box("cat", 0, 0, 10, 10, "e", "rocket"),
        ]})  # fmt: skip
        learnt(studio, folder, lambda: studio.call("POST", f"/api/ml/{studio.backend}/train", {}))
        tested = studio.call("POST", f"/api/ml/{studio.backend}/predict/test?random=true")
        assert tested["response"][0]["result"]
    print(f"Label Studio {version}: " + ", ".join(f"{k} {v:.2f} s" for k, v in times.items()))


def learnt(studio: LabelStudio, folder: Path, function: Callable[[], Any]) -> Any:
    """Do something that teaches, and wait until the project's vocabulary was written anew."""
    (path,) = folder.glob("label-studio-*.vocab")
    time.sleep(1)  # what was said before is learnt
    before = path.stat().st_mtime_ns
    answer = function()
    wait_for(lambda: path.stat().st_mtime_ns != before)
    return answer


def converter_agrees(mask: Any, code: list[int], size: tuple[int, int]) -> None:
    """Label Studio's own converter reads our code, and we read its code."""
    python = Path(str(PROGRAM)).resolve().with_name("python")
    script = (
        "import json, sys, numpy as np\n"
        "from label_studio_sdk.converter.brush import decode_rle, encode_rle\n"
        "ours, theirs = json.load(sys.stdin)\n"
        "alpha = [decode_rle(c).reshape(-1, 4)[:, 3].tolist() for c in ours]\n"
        "flat = np.repeat(np.array(theirs, dtype=np.uint8) * 255, 4)\n"
        "print(json.dumps([alpha, encode_rle(flat)]))\n"
    )
    given = [[encode_brush(mask), code], mask.reshape(-1).astype(int).tolist()]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", script], input=json.dumps(given), capture_output=True, text=True,
        check=True, env=environment,
    )  # fmt: skip
    (first, second), coded = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_array_equal(np.array(first).reshape(size) > 0, mask)
    np.testing.assert_array_equal(np.array(second).reshape(size) > 0, decode_brush(code, *size))
    np.testing.assert_array_equal(decode_brush(coded, *size), mask)
