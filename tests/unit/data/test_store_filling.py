"""Filling: stopped at any moment and gone on, by several processes at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anyregion.data.features import OnTheFly
from anyregion.data.store import build_store
from anyregion.data.store import fill as filling
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.locks import try_lock
from anyregion.data.store.shards import ShardError
from anyregion.data.store.store import Store, create_store
from anyregion.data.store.verify import verify
from anyregion.errors import InputError
from tests.helpers.feature_store import (
    HEIGHT,
    WIDTH,
    SmallExtractor,
    annotations,
    new_store,
    same,
    write_images,
)

ROOT = Path(__file__).parents[3]
COUNTS = [1, 2, 0, 3, 1, 2, 1, 1]

# fills the store beside it, slowly; says when each image is begun
FILLER = """
import sys, time
from pathlib import Path
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import Store
from tests.helpers.feature_store import SmallExtractor

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def slowly(pixels):
    print("image", flush=True)
    time.sleep(seconds)

report = fill_store(Store(folder / "store"), SmallExtractor(before=slowly), folder / "images")
print("computed", report.computed, flush=True)
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "WAIT", 0.02)


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FILLER, str(folder), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(store: Store) -> list[int]:
    numbers = []
    for number in range(len(store.shards)):
        try:
            store.shards.open(number)
        except ShardError:
            continue
        numbers.append(number)
    return numbers


def expected(tmp_path: Path, store: Store) -> list[Any]:
    """What an undisturbed filling gives."""
    other = new_store(tmp_path / "undisturbed", store.annotations)
    fill_store(other, SmallExtractor(), tmp_path / "undisturbed" / "images")
    return [other.read(i, flipped=f) for i in range(len(other)) for f in (False, True)]


def assert_whole(store: Store, right: list[Any]) -> None:
    assert verify(store) == []
    features = [store.read(i, flipped=f) for i in range(len(store)) for f in (False, True)]
    assert all(same(a, b) for a, b in zip(features, right, strict=True))
    left = [p.name for p in (store.folder / "shards").iterdir() if p.suffix != ".safetensors"]
    assert left == [], "no locks, no halves of files"
    assert not list((store.folder / "shards").glob(".*"))


def test_an_interruption_keeps_what_is_finished(tmp_path: Path) -> None:
    store = new_store(tmp_path, annotations(COUNTS))
    seen = 0

    def interrupted(_pixels: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 10:  # of 16: in the third of four shards
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_store(store, SmallExtractor(before=interrupted), tmp_path / "images", batch_size=1)
    assert finished(store) == [0, 1]
    extractor, progress = SmallExtractor(), []
    report = fill_store(
        store, extractor, tmp_path / "images", progress=lambda done, total: progress.append(done)
    )
    assert (report.computed, extractor.seen) == (4, 8)
    assert progress[0] == 0
    assert progress == sorted(progress)
    assert progress[-1] == len(store)
    assert_whole(store, expected(tmp_path, store))
    again = SmallExtractor()
    assert fill_store(store, again, tmp_path / "images").computed == again.seen == 0


def test_large_images_make_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    class Counting(SmallExtractor):
        def extract(self, images: Any, regions: Any) -> Any:
            batches.append(len(images))
            return super().extract(images, regions)

    one = 3 * WIDTH * HEIGHT
    for name, limit, most in (("a", 1, 1), ("b", 2 * one, 2), ("c", 99 * one, 4)):
        monkeypatch.setattr(build_store, "BATCH_BYTES", limit)
        store = new_store(tmp_path / name, annotations(COUNTS), images_per_shard=99, mirrored=False)
        batches.clear()
        fill_store(store, Counting(), tmp_path / name / "images", batch_size=4)
        assert max(batches) == most
        assert sum(batches) == len(store)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_and_two_at_once(tmp_path: Path) -> None:
    store = new_store(tmp_path, annotations(COUNTS))
    killed = start(tmp_path, 60)
    assert killed.stdout is not None
    killed.stdout.readline()  # it has claimed the first shard
    killed.kill()
    killed.communicate()
    lock = store.folder / "shards" / "000000.lock"
    assert lock.exists()
    (store.folder / "shards" / ".000000-half.safetensors").write_bytes(b"half")
    both = [start(tmp_path, 0.05) for _ in range(2)]
    computed = [int(p.communicate(timeout=120)[0].split()[-1]) for p in both]
    assert sum(computed) == len(store), "nothing twice"
    assert [p.returncode for p in both] == [0, 0]
    assert_whole(store, expected(tmp_path, store))


def test_a_shard_that_another_machine_is_at_is_left_to_it(tmp_path: Path) -> None:
    store = new_store(tmp_path, annotations(COUNTS))
    folder = store.folder / "shards"
    folder.mkdir()
    lock = folder / "000001.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "id": "x"}))
    extractor = SmallExtractor()
    worker = threading.Thread(target=fill_store, args=(store, extractor, tmp_path / "images"))
    worker.start()
    deadline = time.monotonic() + 30
    while finished(store) != [0, 2, 3] and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert finished(store) == [0, 2, 3]
    assert worker.is_alive(), "it waits"
    os.utime(lock, (1, 1))  # the other has been silent for long
    worker.join(timeout=30)
    assert extractor.seen == 2 * len(store)
    assert_whole(store, expected(tmp_path, store))


def test_files_are_looked_up_as_the_check_does(tmp_path: Path) -> None:
    """LVIS names images `train2017/1.jpg`; the folder given may be `train2017` itself."""
    original = annotations([1, 2, 1], file_names=("a.png", "deeper/b.png", "../secret.png"))
    names = ("a.png", "b.png", "../secret.png")
    write_images(tmp_path / "images", replace(original, file_names=names))
    store = create_store(tmp_path / "store", original, SmallExtractor(), images_per_shard=2)
    report = fill_store(store, SmallExtractor(), tmp_path / "images")
    assert [str(a) for a in report.set_aside] == ["../secret.png: there is no such file"]
    assert verify(store, tmp_path / "images") == []
    computed = OnTheFly(SmallExtractor(), original, tmp_path / "images")
    assert same(computed.read(1), store.read(1))
    with pytest.raises(InputError, match="there is no such file"):
        computed.read(2)


def test_names_of_half_characters_cost_only_themselves(tmp_path: Path) -> None:
    original = annotations([1, 1], file_names=("a\ud800.png", "x" * 300 + ".png"))
    store = create_store(tmp_path / "store", original, SmallExtractor())
    (tmp_path / "images").mkdir()
    report = fill_store(store, SmallExtractor(), tmp_path / "images")
    assert [a.item for a in report.set_aside] == list(original.file_names)
    assert Store(store.folder).annotations.file_names == original.file_names


def test_claims(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with try_lock(lock) as first:
        with try_lock(lock) as second:
            assert (first, second) == (True, False)
        here = json.loads(lock.read_text())["host"]
        assert lock.exists(), "who has no claim ends none"
    assert not lock.exists()
    # a process of this machine that is gone
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"host": here, "pid": gone.pid, "id": "x"}))
    with try_lock(lock) as locked:
        assert locked
    # another machine's, and a lock that was cut off by a full disk: age decides
    # another container's that has this machine's name, too: its processes have other numbers
    names = ("elsewhere", f"{socket.gethostname()} pid:[1]")
    owners = [json.dumps({"host": name, "pid": gone.pid, "id": "x"}) for name in names]
    for content in (*owners, ""):
        lock.write_text(content)
        with try_lock(lock) as locked:
            assert not locked
        os.utime(lock, (time.time() - 500, time.time() - 500))
        with try_lock(lock) as locked:
            assert locked
    assert list(tmp_path.iterdir()) == []


def test_a_claim_shows_signs_of_life_and_leaves_what_was_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with try_lock(lock, heartbeat=0.02):
        os.utime(lock, (1, 1))
        deadline = time.monotonic() + 5
        while lock.stat().st_mtime < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 100
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "id": "another"}))
    assert lock.exists()


def test_many_claim_one(tmp_path: Path) -> None:
    lock, results = tmp_path / "a.lock", []
    lock.write_text("")
    os.utime(lock, (1, 1))
    ready = threading.Barrier(8)

    def take() -> None:
        ready.wait()
        with try_lock(lock) as locked:
            results.append(locked)
            ready.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 1
