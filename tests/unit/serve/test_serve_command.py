"""`anyregion serve` as a real process: it answers, drains when it ends, and its copies agree."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anyregion.cli.main import main
from anyregion.serve.client import Client, ServiceError
from tests.helpers.label_studio import predict, recorded
from tests.unit.serve.conftest import photo
from tests.unit.serve.test_routes import NAMES, regions


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def served(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    command = [sys.executable, "-m", "anyregion", "serve", "--port", str(port), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: Client(url).health()["status"] == "ok")
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, ServiceError):
            pass
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_it_answers_and_ends_with_what_it_began(tmp_path: Path) -> None:
    with served("--vocabulary", "cat, bus", "--vocabularies", str(tmp_path / "mine")) as (
        process,
        url,
    ):
        with Client(url) as client:
            image = client.add_image(photo())
            assert set(client.name(image, regions())[0]["labels"]) == {"cat", "bus"}
            client.make_vocabulary("mine", NAMES)
            client.teach("mine", image, [{**r, "label": "rug"} for r in regions()])
        # thousands of new names take seconds: the request is on its way when the signal comes
        names = [f"a thing of kind {i}" for i in range(1500)]
        answers: list[Any] = []

        def ask() -> None:
            with Client(url) as other:
                answers.append(other.name(image, regions(), names))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert len(answers) == 1, "what was begun is answered"
        assert process.wait(30) == 0
    assert (tmp_path / "mine").stat().st_mode & 0o077 == 0, "what was taught is its owner's alone"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.vocab"]


@pytest.mark.skipif(os.name == "nt", reason="uvicorn's processes are POSIX's")
def test_processes_answer_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(photo())
    places = ["--label-studio-files", str(tmp_path / "files")]
    with served("--processes", "2", "--vocabularies", str(tmp_path), *places) as (process, url):
        image = Client(url).add_image(photo())
        # each connection may be another process's
        Client(url).make_vocabulary("mine", NAMES)
        for i in range(6):
            with Client(url) as client:
                box = [5 + i, 5, 60, 70]
                wait_until(lambda c=client: c.health()["status"] == "ok")
                client.teach("mine", image, [{"box": box, "label": "rug"}])
        answers = []
        for _ in range(6):
            with Client(url) as client:
                assert client.vocabulary("mine")["corrections"] == 6
                answers.append(client.name(image, regions(), "mine"))
        assert all(answer == answers[0] for answer in answers)
        body = recorded("predict_interactive")
        body["tasks"][0]["data"]["image"] = "/data/local-files/?d=a.png"
        (answer,) = predict(url, body)
        assert answer["result"][0]["value"]["rectanglelabels"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """It ended with 3, which says that something was set aside."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
        assert f"127.0.0.1:{port}: cannot listen there" in capsys.readouterr().err
    assert main(["serve", "--host", "192.0.2.1"]) == 1  # an address that nobody has
    assert "cannot listen there" in capsys.readouterr().err


def test_what_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", "--port", "70000"]) == 1
    assert "port must lie in 0 to 65535" in capsys.readouterr().err
    (tmp_path / "token").write_text("\n")
    assert main(["serve", "--token-file", str(tmp_path / "token")]) == 1
    assert "there is no token in it" in capsys.readouterr().err
    (tmp_path / "token").write_text("long enough")
    command = ["serve", "--token-file", str(tmp_path / "token"), "--project", str(tmp_path / "p")]
    assert main(command) == 1
    assert "no place for a token" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    (tmp_path / "token").write_text("")
    assert main(["serve", "--label-studio-token-file", str(tmp_path / "token")]) == 1
    assert "there is no token in it" in capsys.readouterr().err
    assert main(["serve", "--label-studio-url", "localhost:8080"]) == 1
    assert "the address of Label Studio must be" in capsys.readouterr().err
    assert main(["serve", "--label-studio-files", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["serve", "--score", "softmax"]) == 1
    assert "each request says its own" in capsys.readouterr().err
