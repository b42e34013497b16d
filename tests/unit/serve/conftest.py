"""A real server on a port of its own, with the built-in model."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from anyregion.factory import load_recognizer  # noqa: E402
from anyregion.recognizer import Recognizer  # noqa: E402
from anyregion.serve.app import create_app  # noqa: E402
from anyregion.serve.client import Client  # noqa: E402
from anyregion.serve.options import LabelStudioOptions, ServeOptions  # noqa: E402
from anyregion.serve.project.imports import Import  # noqa: E402
from tests.helpers.label_studio import (  # noqa: E402
    LEGACY,
    RECORDED,
    SIZE,
    FakeLabelStudio,
    fake_label_studio,
)


@contextmanager
def serving(recognizer: Recognizer, content: Import | None = None, **options: Any) -> Iterator[str]:
    """Serve in a thread; yields the address."""
    with serving_with(lambda: recognizer, content, **options) as address:
        yield address


@contextmanager
def serving_with(
    load: Callable[[], Recognizer], content: Import | None = None, **options: Any
) -> Iterator[str]:
    """Serve what is loaded while it serves already."""
    app = create_app(load, ServeOptions(**options), content)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="session")
def compact() -> Recognizer:
    return load_recognizer(cache=None)


@pytest.fixture(scope="module")
def url(compact: Recognizer) -> Iterator[str]:
    with serving(compact) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as connected:
        yield connected


def photo(seed: int = 0, size: tuple[int, int] = (120, 160)) -> bytes:
    """A PNG of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def studio() -> Iterator[FakeLabelStudio]:
    """A stand-in for Label Studio that has the images of the recorded tasks."""
    with fake_label_studio() as running:
        for number, task in enumerate(RECORDED["predict"]["tasks"]):
            running.files[task["data"]["image"]] = photo(number, SIZE)
        yield running


@pytest.fixture(scope="module")
def backend(compact: Recognizer, studio: FakeLabelStudio) -> Iterator[str]:
    """A service that fetches images there."""
    with serving(compact, label_studio=place(studio)) as address:
        yield address


def place(studio: FakeLabelStudio) -> LabelStudioOptions:
    """Options with which images are fetched there."""
    return LabelStudioOptions(url=studio.url, key=LEGACY)
