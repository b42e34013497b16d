"""The service under many clients: right answers, memory, p50 and p99, against one call at a time.

Starts `anyregion serve` in a process of its own, sends photographs, and lets clients (threads of a
second process) name 10 regions of one at a time; every tenth request is hostile: no JSON, a box
outside, too many bytes, a sender that goes away. Each answer is compared with the recogniser's own.
Then the same regions are named one call at a time by `Recognizer.predict_encoded` in this process.

    python benchmarks/service.py [--requests 10000] [--clients 16] [--images DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from anyregion import Regions, load_recognizer
from anyregion.images import read_image, size_of
from anyregion.serve.client import Client, ServiceError

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["person", "cat", "dog", "cup", "spoon", "helmet", "flag", "rocket", "car", "chair"]
BOXES = 10
TOLERANCE = 1e-4


def boxes_of(size: tuple[int, int], seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, np.array([size[1], size[0]]) * 0.6, (BOXES, 2))
    high = low + rng.uniform(0.1, 0.4, (BOXES, 2)) * [size[1], size[0]]
    return [[round(float(v), 1) for v in row] for row in np.concatenate([low, high], axis=1)]


def hostile(port: int, image: str, kind: int) -> bool:
    """Send what is to be refused; whether it was."""
    if kind == 3:  # goes away in the middle of its body
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            head = "POST /v1/teach HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        return True
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}
    outside = b'{"regions": [{"box": [90000, 1, 90001, 2]}]}'
    body = [b"{", outside, b"x" * 10][kind]
    if kind == 2:
        headers["Content-Length"] = str(10**12)
    try:
        connection.request("POST", f"/v1/images/{image}/regions", body, headers)
        return connection.getresponse().status in (400, 413)
    except OSError:
        return kind == 2  # the connection is closed before all of it is sent
    finally:
        connection.close()


def ask(
    port: int, images: list[tuple[str, list[list[float]], list[list[float]]]], count: int,
    clients: int, results: Any,
) -> None:  # fmt: skip
    """Every client in a thread; puts (seconds, wrong, refused rightly, sent away) of all."""
    seconds: list[float] = []
    wrong = refused = sent_away = 0
    lock = threading.Lock()

    def run(number: int) -> None:
        nonlocal wrong, refused, sent_away
        rng = random.Random(number)
        with Client(f"http://127.0.0.1:{port}") as client:
            for step in range(count // clients):
                image, boxes, scores = rng.choice(images)
                if step % 10 == 9:
                    right = hostile(port, image, rng.randrange(4))
                    with lock:
                        refused, wrong = refused + right, wrong + (not right)
                    continue
                start = time.perf_counter()
                try:
                    answers = client.name(image, [{"box": box} for box in boxes], NAMES)
                except ServiceError as error:
                    with lock:
                        sent_away, wrong = (
                            sent_away + (error.status == 429),
                            wrong + (error.status != 429),
                        )
                    continue
                taken = time.perf_counter() - start
                same = np.allclose([a["scores"] for a in answers], scores, atol=TOLERANCE)
                with lock:
                    seconds.append(taken)
                    wrong += not same

    threads = [threading.Thread(target=run, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((seconds, wrong, refused, sent_away))


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=Path, default=EXAMPLES, help="a folder of JPEG files")
    parser.add_argument("--port", type=int, default=8751)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recognizer = load_recognizer()
    files = sorted(args.images.glob("*.jpg"))[:8]
    pixels = [read_image(path) for path in files]
    encoded = recognizer.encoder.encode_images(pixels)
    vocabulary = recognizer.encode_vocabulary(NAMES)
    regions = []
    for i, image in enumerate(pixels):
        fitted, _ = Regions.from_boxes(boxes_of(size_of(image), i)).fit(*size_of(image))
        regions.append(fitted)
    expected = [
        recognizer.predict_encoded([e], [r], [size_of(p)], vocabulary)[0]
        for e, r, p in zip(encoded, regions, pixels, strict=True)
    ]
    command = [sys.executable, "-m", "anyregion", "serve", "--port", str(args.port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with Client(f"http://127.0.0.1:{args.port}") as client:
                    if client.health()["status"] == "ok":
                        break
            except OSError:
                pass
            time.sleep(0.2)
        with Client(f"http://127.0.0.1:{args.port}") as client:
            images = [
                (client.add_image(path), boxes_of(size_of(image), i), np.asarray(e.scores).tolist())
                for i, (path, image, e) in enumerate(zip(files, pixels, expected, strict=True))
            ]
            client.name(images[0][0], [{"box": images[0][1][0]}], NAMES)
        results: Any = multiprocessing.Queue()
        before = memory(server.pid)
        start = time.perf_counter()
        asking = multiprocessing.Process(
            target=ask, args=(args.port, images, args.requests, args.clients, results)
        )
        asking.start()
        peak, halfway = before, before
        while asking.is_alive() and results.empty():
            peak = max(peak, memory(server.pid))
            time.sleep(0.5)
        seconds, wrong, refused, sent_away = results.get()
        whole = time.perf_counter() - start
        halfway = memory(server.pid)
        asking.join()
    finally:
        server.terminate()
        ended = server.wait(60)
    count = len(seconds)
    start = time.perf_counter()
    for i in range(min(count, 400)):
        k = i % len(pixels)
        recognizer.predict_encoded([encoded[k]], [regions[k]], [size_of(pixels[k])], vocabulary)
    alone = min(count, 400) / (time.perf_counter() - start)
    report = {
        "requests": args.requests,
        "answered": count,
        "wrong": wrong,
        "hostile_refused": refused,
        "sent_away": sent_away,
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 1),
        "answers_a_second": round(count / whole, 1),
        "one_call_at_a_time_a_second": round(alone, 1),
        "ratio": round(count / whole / alone, 2),
        "memory_mb": [round(v) for v in (before, peak, halfway)],
        "exit_code": ended,
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
