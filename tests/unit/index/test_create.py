"""Indexes are whole or go on: every image once, the same bytes, reasons for what is left out."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion.data.store.locks import try_lock
from anyregion.errors import AnyRegionError, InputError
from anyregion.index import RegionIndex
from anyregion.index.build import IndexModel, IndexOptions
from anyregion.index.engines import EngineOptions, open_engine
from anyregion.index.shards import halves_of
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from tests.helpers.colours import ColourEncoder, colour_recognizer
from tests.helpers.halves import picture
from tests.helpers.indexes import LEFT_RIGHT, found, half_precision, make_index, pictures

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    """All that an index holds; its folder is no part of it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_killed_again_and_again_it_is_as_if_never(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 48)
    (photos / "broken.png").write_bytes(b"no")
    make_index(photos, tmp_path / "whole")
    chance = random.Random(17)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.helpers.indexes", str(photos), str(out)]
    slowly = {**os.environ, "SECONDS_PER_IMAGE": "0.03"}
    kills = 0
    while kills < 5:
        # one process or three, of which the first alone is told
        workers = "1" if kills else "2"
        process = subprocess.Popen([*command, workers], cwd=ROOT, env=slowly)
        deadline = time.monotonic() + 60
        shards = len(list(out.glob("shards/*.regions.parquet")))
        while len(list(out.glob("shards/*.regions.parquet"))) < shards + 1:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    # its workers ended with the first process, and their locks with them
    report = make_index(photos, out, load=half_precision)
    assert (report.images, report.quarantined) == (48, 1)
    assert report.computed < 48
    assert files(out) == files(tmp_path / "whole")
    index = RegionIndex.open(out)
    names = Counter(image.image.name for n in range(len(index)) for image in index.images(n))
    assert len(names) == 49
    assert set(names.values()) == {1}


def test_what_cannot_be_used_is_in_quarantine(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 5)
    (photos / "broken.png").write_bytes(b"no")
    picture(photos / "refused.png", "#010203", "red")
    report = make_index(photos, tmp_path / "index")
    assert (report.images, report.regions, report.quarantined) == (5, 10, 2)
    reasons = {line["image"]: line["reason"] for line in lines(tmp_path / "index/quarantine.jsonl")}
    assert reasons.keys() == {"broken.png", "refused.png"}
    assert "not an image" in reasons["broken.png"]
    assert reasons["refused.png"] == "this image is refused"
    # a file that changes is not mistaken for what was planned, and neither is one that goes
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        make_index(photos, again, load=_stopping, shard_images=2)
    picture(photos / "2" / "002.png", "red", "red", size=(90, 90))
    (photos / "1" / "004.png").unlink()
    make_index(photos, again, load=_stopped, shard_images=2)
    reasons = {line["image"]: line["reason"] for line in lines(again / "quarantine.jsonl")}
    assert "changed since the index was planned" in reasons["2/002.png"]
    assert "not there any more" in reasons["1/004.png"]


class _Stops(ColourEncoder):
    def encode_images(self, images: Any) -> Any:
        if self.images_encoded >= 3:
            raise KeyboardInterrupt
        return super().encode_images(images)


def _stopping() -> Recognizer:
    return Recognizer(_Stops(), cache=None)


def _stopped() -> Recognizer:
    return Recognizer(ColourEncoder(), cache=None)


def test_quarantine_is_tried_again_where_asked(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 5)
    name = photos / "0" / "000.png"
    content, times = name.read_bytes(), name.stat()
    name.write_bytes(bytes(len(content)))
    os.utime(name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert make_index(photos, tmp_path / "index", shard_images=2).quarantined == 1
    name.write_bytes(content)
    os.utime(name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert make_index(photos, tmp_path / "index", shard_images=2).quarantined == 1
    report = make_index(photos, tmp_path / "index", shard_images=2, retry=True)
    assert (report.quarantined, report.computed) == (0, 2)


def test_a_finished_index_is_not_made_again(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 6)
    first = make_index(photos, tmp_path / "index")

    def refuses() -> Recognizer:
        raise AssertionError("a model was loaded")

    again = make_index(photos, tmp_path / "index", load=refuses)
    assert (again.images, again.regions, again.computed) == (first.images, first.regions, 0)
    # the plan is made once: a picture that has come since is not of this index
    picture(photos / "new.png", "red", "red")
    assert make_index(photos, tmp_path / "index", load=refuses).images == 6
    with pytest.raises(InputError, match="masks was False, now True"):
        make_index(photos, tmp_path / "index", masks=True)
    assert make_index(photos, tmp_path / "index", masks=True, overwrite=True).images == 7


def test_other_weights_do_not_go_on(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 6)
    with pytest.raises(KeyboardInterrupt):
        make_index(photos, tmp_path / "index", load=_stopping)
    with pytest.raises(InputError, match="1 of 2 shards are not there yet"):
        RegionIndex.open(tmp_path / "index")

    def other() -> Recognizer:
        encoder = ColourEncoder()
        encoder.logit_scale = 11.0
        return Recognizer(encoder, cache=None)

    with pytest.raises(InputError, match="begun by other weights"):
        make_index(photos, tmp_path / "index", load=other)


def test_a_damaged_shard_is_found_and_made_again(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 6)
    make_index(photos, tmp_path / "index")
    whole = files(tmp_path / "index")
    shard = tmp_path / "index" / "shards" / "00000.regions.parquet"
    content = bytearray(shard.read_bytes())
    index = RegionIndex.open(tmp_path / "index")
    (block,) = index.blocks(0, ["embedding"])
    at = bytes(content).index(halves_of(block, "embedding").tobytes())
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        list(index.blocks(0, ["embedding"]))
    shard.write_bytes(content[:-10])
    make_index(photos, tmp_path / "index")
    assert files(tmp_path / "index") == whole


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
def test_a_full_disk_names_the_shard_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    photos = pictures(tmp_path / "photos", 9)
    many = Regions.from_boxes(
        np.random.default_rng(0).uniform([0, 0, 20, 15], [20, 15, 40, 30], (200, 4))
    )
    make_index(photos, tmp_path / "whole", regions=many, shard_images=9)
    shutil.copytree(tmp_path / "whole", tmp_path / "index")
    shard = tmp_path / "index" / "shards" / "00000.regions.parquet"
    size = shard.stat().st_size
    for path in shard.parent.iterdir():
        path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the last bytes of the shard do not fit
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 50, before[1]))
    try:
        with pytest.raises(AnyRegionError, match=r"00000\.regions\.parquet: .*File too large"):
            make_index(photos, tmp_path / "index", regions=many, shard_images=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in shard.parent.iterdir()] == ["00000.images.parquet"]
    make_index(photos, tmp_path / "index", regions=many, shard_images=9)
    assert files(tmp_path / "index") == files(tmp_path / "whole")


def test_several_processes_and_one_write_the_same(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 10)
    make_index(photos, tmp_path / "one", regions=LEFT_RIGHT, masks=True)
    report = make_index(photos, tmp_path / "two", regions=LEFT_RIGHT, masks=True, workers=2)
    assert (report.images, report.computed) == (10, 10)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def _dies() -> Recognizer:
    os._exit(9)


class _DiesAtSecondBatch(ColourEncoder):
    def encode_images(self, images: Any) -> Any:
        if self.images_encoded:
            os._exit(9)
        return super().encode_images(images)


class _DiesAtPhotos(ColourEncoder):
    def encode_images(self, images: Any) -> Any:
        if images[0].shape != (64, 64, 3):  # what shows how wide embeddings are
            os._exit(9)
        return super().encode_images(images)


def _dies_at_second_batch() -> Recognizer:
    return Recognizer(_DiesAtSecondBatch(), cache=None)


def _dies_at_photos() -> Recognizer:
    return Recognizer(_DiesAtPhotos(), cache=None)


def test_what_a_dead_worker_had_is_done_by_another(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 10)
    report = make_index(photos, tmp_path / "index", load=_dies_at_second_batch, workers=2)
    assert (report.images, report.regions) == (10, 20)


def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 6)
    with pytest.raises(AnyRegionError, match="the process that loaded the model died"):
        make_index(photos, tmp_path / "index", load=_dies, workers=2)
    with pytest.raises(AnyRegionError, match="died 3 times in a row"):
        make_index(photos, tmp_path / "index", load=_dies_at_photos, workers=2)


def test_an_error_of_a_worker_is_said(tmp_path: Path) -> None:
    model = IndexModel(_refuses, None, IndexOptions())
    with (
        pytest.raises(InputError, match="no such weights"),
        open_engine(model, EngineOptions(workers=2)) as engine,
    ):
        engine.describe()


def _refuses() -> Recognizer:
    raise InputError("no such weights")


def test_no_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="no image there"):
        make_index(tmp_path / "photos", tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def test_regions_that_are_found_have_their_objectness(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 3)
    make_index(photos, tmp_path / "index", regions=found(), load=colour_recognizer)
    index = RegionIndex.open(tmp_path / "index")
    assert index.proposed
    (block,) = index.blocks(0, ["objectness", "image", "id"])
    assert block.column("objectness").to_pylist() == [0.9, 0.8, 0.7] * 3
    assert block.column("image").to_pylist()[::3] == ["0/000.png", "1/001.png", "2/002.png"]
    assert block.column("id").to_pylist() == ["0", "1", "2"] * 3


def test_a_small_collection_has_shards_enough_to_share() -> None:
    sizes = [IndexOptions().images_of_shard(n) for n in (1, 100, 2000, 32_768, 10**6)]
    assert sizes == [16, 16, 31, 512, 512]
    assert IndexOptions(shard_images=7).images_of_shard(10**6) == 7


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    photos, out = pictures(tmp_path / "photos", 5), tmp_path / "index"
    make_index(photos, out)
    expected = files(out)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = json.loads(_lock_of_this_process(tmp_path / "lock"))
    # killed between the last move of a shard and the end of its lock, and while it planned
    (out / "shards" / "00000.lock").write_text(json.dumps({**lock, "pid": ended.pid}))
    (out / "shards" / ".00000.regions-x1.parquet").write_bytes(b"half")
    (out / ".plan-x2.parquet").write_bytes(b"half")
    # and one that is at work, on a shard that it has not begun
    (out / "shards" / "00001.lock").write_text(json.dumps(lock))
    make_index(photos, out)
    (out / "shards" / "00001.lock").unlink()
    assert files(out) == expected


def _lock_of_this_process(path: Path) -> str:
    with try_lock(path):
        return path.read_text()
