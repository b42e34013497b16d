"""What the service refuses, and that others are answered meanwhile."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from anyregion.recognizer import Recognizer
from anyregion.serve.client import Client, ServiceError
from tests.unit.serve.conftest import photo, serving
from tests.unit.serve.test_routes import BOXES, NAMES, call, regions

JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"regions": [{"box": [1, 2, NaN, 4]}]}', "NaN"),
        (b"\xff\xfe", "no JSON"),
        ({"regions": 3}, "must be a list"),
        ({"regions": [3]}, "region 0: must be an object"),
        ({"regions": [{}]}, "neither a box"),
        ({"regions": [{"box": [1, 2, 3]}]}, "list of 4 numbers"),
        ({"regions": [{"box": [1, 2, 3, "4"]}]}, "list of 4 numbers"),
        ({"regions": [{"box": [1, 2, 3, True]}]}, "list of 4 numbers"),
        ({"regions": [{"box": [9, 9, 3, 3]}]}, "empty or inverted"),
        ({"regions": [{"box": [500, 500, 600, 600]}]}, "outside"),
        ({"regions": [{"box": [0.1, 0.1, 0.5, 0.5]}]}, "fractions"),
        ({"regions": [{"box": [1e300, 1, 2e300, 9]}]}, "no place"),
        ({"regions": [{"points": [[1, 2]], "labels": [2]}]}, "1 and 0"),
        ({"regions": [{"points": [[1]]}]}, "list of 2 numbers"),
        ({"regions": [{"mask": {"size": [9, 9], "counts": "x"}}]}, "size"),
        ({"regions": [{"mask": "x"}]}, "region 0"),
        ({"regions": [{"box": BOXES[0], "id": [1]}]}, "id must be"),
        ({"regions": [{"box": BOXES[0], "id": 1}, {"box": BOXES[0], "id": "1"}]}, "same id"),
        ({"regions": [{"box": BOXES[0], "score": 7}]}, "score"),
        ({"regions": [{"box": BOXES[0], "score": 0.5}, {"box": BOXES[1]}]}, "all regions or"),
        ({"regions": [{"box": BOXES[0], "bocks": 1}]}, "unknown 'bocks'"),
        ({"regions": [], "vocabulary": []}, "list of names"),
        ({"regions": [], "vocabulary": [3]}, "list of names"),
        ({"regions": [], "vocabulary": {"a": 1}}, "list of names"),
        ({"regions": [], "vocabulary": ["x" * 2000]}, "characters"),
        ({"regions": [], "vocabulary": "../../etc/passwd"}, "no vocabulary"),
        ({"regions": [], "vocabulary": [" "]}, "empty"),
        ({"regions": [], "top_k": 0}, "top_k"),
        ({"regions": [], "top_k": True}, "top_k"),
        ({"regions": [], "masks": 1}, "masks"),
        ({"regions": [], "score": "best"}, "score must be one of"),
        ({"regions": [], "min_score": 2}, "min_score"),
        ({"regions": [], "vocab": NAMES}, "top_k, masks, score, min_score"),
    ],
)
def test_bad_requests_say_what_is_wrong(client: Client, url: str, body: Any, message: str) -> None:
    image = client.add_image(photo())
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = call(url, "POST", f"/v1/images/{image}/regions", content, JSON)
    assert status == 400, answer
    assert message in json.loads(answer)["error"]["message"]
    assert client.name(image, regions(), NAMES), "and the next one is answered"


@pytest.mark.parametrize("content", [b"", b"no image", photo()[:200], b"GIF89a"])
def test_files_that_are_no_images(client: Client, content: bytes) -> None:
    with pytest.raises(ServiceError) as error:
        client.add_image(content)
    assert (error.value.status, error.value.code) == (400, "bad_input")


def test_heads_that_are_refused(url: str) -> None:
    port = urlsplit(url).port
    cases = [
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{port}"}, 421),
        ({"Host": f"localhost:{port}"}, 200),
        ({"Host": f"[::1]:{port}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{(port or 0) + 1}"}, 403),
        ({"Origin": f"http://127.0.0.1:{port}"}, 200),
    ]
    for headers, expected in cases:
        assert call(url, "GET", "/v1/models", headers=headers)[0] == expected, headers
    # a form of another page needs no permission of the browser for these
    image = {"Content-Type": "text/plain"}
    assert call(url, "POST", "/v1/images", photo(), image)[0] == 415
    assert call(url, "POST", "/v1/teach", b"{}", image)[0] == 400


def test_allowed_names_and_origins(compact: Recognizer) -> None:
    origin = "https://tool.example"
    with serving(compact, allowed_hosts=("box.lan",), allowed_origins=(origin,)) as url:
        headers = {"Host": "box.lan", "Origin": origin}
        assert call(url, "GET", "/v1/models", headers=headers)[0] == 200


def test_limits(compact: Recognizer) -> None:
    limits = {"max_body": 100_000, "max_regions": 2, "max_names": 3, "max_pixels": 20_000}
    with serving(compact, **limits) as url, Client(url) as client:
        image = client.add_image(photo())
        with pytest.raises(ServiceError, match="3 regions; 2 are the most"):
            client.name(image, [{"box": BOXES[0]}] * 3, NAMES)
        with pytest.raises(ServiceError, match="4 names; 3 are the most"):
            client.name(image, regions(), ["a", "b", "c", "d"])
        with pytest.raises(ServiceError, match="pixels"):
            client.add_image(photo(size=(200, 200)))
        status, _, answer = call(url, "POST", "/v1/images", b"x" * 200_000, PNG)
        assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")
        # without a length the bytes are counted as they come
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 10) as connection:
            head = "POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
            for _ in range(4):
                connection.sendall(chunk)
            assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]
        assert client.name(image, regions(), NAMES)


def test_slow_and_vanished_senders(compact: Recognizer) -> None:
    # long enough for a first answer on a busy machine, short enough to wait for
    with serving(compact, timeout=5.0) as url, Client(url) as client:
        image = client.add_image(photo())
        address = ("127.0.0.1", urlsplit(url).port or 0)
        head = (
            f"POST /v1/images/{image}/regions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        )
        with (
            socket.create_connection(address, 10) as slow,
            socket.create_connection(address) as gone,
        ):
            slow.sendall(head.encode())
            gone.sendall(head.encode())
            gone.close()
            assert client.name(image, regions(), NAMES), "others are answered meanwhile"
            slow.settimeout(30)
            assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert client.name(image, regions(), NAMES)


def test_too_many_are_sent_away(compact: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    held, released = threading.Event(), threading.Event()
    predict = compact.predict_encoded

    def wait(*args: Any, **options: Any) -> Any:
        held.set()
        assert released.wait(20)
        return predict(*args, **options)

    with serving(compact, queue=2, batch=1) as url, Client(url) as client:
        image = client.add_image(photo())
        client.name(image, regions(), NAMES)
        monkeypatch.setattr(compact, "predict_encoded", wait)
        answers: list[Any] = []

        def ask() -> None:
            with Client(url) as other:
                try:
                    answers.append(other.name(image, regions(), NAMES))
                except ServiceError as error:
                    answers.append(error.status)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        threads[0].start()
        assert held.wait(20)
        for thread in threads[1:]:
            thread.start()
        # one is in the model, two wait, three were sent away
        end = time.monotonic() + 20
        while answers.count(429) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert answers == [429] * 3
        assert client.health()["status"] == "ok"
        released.set()
        for thread in threads:
            thread.join(20)
        assert len([a for a in answers if a != 429]) == 3


def test_clients_get_their_own_answers(url: str, compact: Recognizer) -> None:
    """Many at once, valid and not: none gets another's answer."""
    from anyregion import Regions

    seeds = range(4)
    images = {}
    with Client(url) as client:
        images = {seed: client.add_image(photo(seed)) for seed in seeds}
    boxes = Regions.from_boxes(BOXES)
    lists = [NAMES, ["dog", "car"], [*NAMES, "tree", "sofa"]]
    expected = {
        (seed, i): [
            r["scores"] for r in compact.recognize([photo(seed)], [boxes], names)[0].to_records()
        ]
        for seed in seeds
        for i, names in enumerate(lists)
    }
    wrong: list[Any] = []

    def ask(number: int) -> None:
        with Client(url) as client:
            for step in range(12):
                seed, i = (number + step) % 4, (number * 7 + step) % 3
                if (number + step) % 5 == 0:
                    try:
                        client.name(images[seed], [{"box": [3, 3, 1, 1]}], lists[i])
                        wrong.append("no error")
                    except ServiceError as error:
                        if error.status != 400:
                            wrong.append(error)
                    continue
                answers = client.name(images[seed], regions(), lists[i])
                for answer, scores in zip(answers, expected[seed, i], strict=True):
                    if (
                        max(abs(a - b) for a, b in zip(answer["scores"], scores, strict=True))
                        > 1e-5
                    ):
                        wrong.append((seed, i))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
