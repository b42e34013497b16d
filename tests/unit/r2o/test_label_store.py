"""The store of label maps: computed once, never wrong, whatever happens to it or to the images."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.data.store import fill
from anyregion.data.store.verify import discard, verify
from anyregion.errors import AnyRegionError, InputError
from anyregion.images import read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store import store as label_store
from anyregion.r2o.label_store.image_list import list_images
from anyregion.r2o.label_store.store import INFO, LabelStore, checksum
from anyregion.r2o.superpixels import PriorConfig, segment

pytest.importorskip("skimage")

SIZE = 24
PRIOR = PriorConfig(segments=12)
IMAGES = 7


def photo(seed: int) -> Image.Image:
    """Blots of colour: superpixels of their own."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((50, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for i in range(IMAGES):
        photo(i).save(images / ("sub" if i % 2 else ".") / f"{i}.png")
    return images


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_store, "IMAGES_PER_SHARD", 2)
    monkeypatch.setattr(fill, "WAIT", 0.01)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images whose maps are computed."""
    names: list[str] = []
    compute = label_store.compute_labels

    def noted(images: Any, image: int, **settings: Any) -> Any:
        names.append(images.name(image))
        return compute(images, image, **settings)

    monkeypatch.setattr(label_store, "compute_labels", noted)
    return names


def opened(folder: Path, **settings: Any) -> LabelStore:
    cache = settings.pop("cache", folder.parent / "cache")
    options = {"size": SIZE, "prior": PRIOR, "workers": 1, **settings}
    return LabelStore.open_or_fill(cache, list_images(folder), **options)


def assert_right(store: LabelStore) -> None:
    """Every usable map is what `segment` says of the image as it is now."""
    for image in store.usable.tolist():
        pixels = read_image(store.images.path(image))
        expected = segment(spanning_view(pixels, store.size), store.prior)
        labels = store.read(image)
        assert labels.dtype == expected.dtype
        np.testing.assert_array_equal(labels, expected)
    assert store.recomputed == 0


def shards(store: LabelStore) -> list[Path]:
    return sorted(store.folder.glob("shards/*"))


def test_maps_are_what_segment_says_and_are_computed_once(
    folder: Path, small_shards: None, computed: list[str]
) -> None:
    seen: list[tuple[int, int]] = []
    store = opened(folder, progress=lambda *now: seen.append(now))
    assert_right(store)
    assert store.usable.tolist() == list(range(IMAGES))
    assert (seen[0][1], seen[-1]) == (IMAGES, (IMAGES, IMAGES))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert sorted(computed) == [store.images.name(i) for i in range(IMAGES)]
    assert len(shards(store)) == 4  # no lock, no leftover
    seen.clear()
    again = opened(folder, progress=lambda *now: seen.append(now))
    assert_right(again)
    assert len(computed) == IMAGES
    assert not seen
    assert (len(again), len(again.set_aside), len(again.shards)) == (IMAGES, 0, 4)


def test_workers_change_nothing(folder: Path, small_shards: None) -> None:
    stores = [opened(folder, workers=n, cache=folder.parent / f"{n}") for n in (1, 2)]
    one, two = ([(p.name, p.read_bytes()) for p in shards(store)] for store in stores)
    assert one == two


def test_more_segments_take_16_bits(folder: Path) -> None:
    store = opened(folder, size=40, prior=PriorConfig(kind="grid", segments=400))
    assert store.read(0).dtype == np.uint16
    assert store.read(0).max() == 399
    assert_right(store)


def test_unusable_images_are_set_aside_for_good(folder: Path, computed: list[str]) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").write_text("not an image")
    Image.new("1", (20_000, 10_000)).save(folder / "huge.png")
    (folder / "note.txt").write_text("no image, and not called one")
    store = opened(folder)
    assert [item.item for item in store.set_aside] == ["0.png", "2.png", "4.png", "huge.png"]
    assert "broken" in store.set_aside[0].reason
    assert "pixels" in store.set_aside[3].reason
    assert [store.images.name(i) for i in store.usable] == [
        "6.png",
        "sub/1.png",
        "sub/3.png",
        "sub/5.png",
    ]
    assert store.images.ignored == 1
    assert_right(store)
    with pytest.raises(InputError, match=r"0\.png.*broken"):
        store.read(0)
    with pytest.raises(InputError, match="no image 8"):
        store.read(8)
    before = len(computed)
    assert opened(folder).set_aside == store.set_aside
    assert len(computed) == before


def test_a_file_that_cannot_be_reached_is_looked_at_again(folder: Path) -> None:
    away = folder.parent / "away.png"
    (folder / "away.png").symlink_to(away)
    images = list_images(folder)
    photo(50).save(away)
    listed = list_images(folder)
    assert len(listed) == len(images) + 1
    away.unlink()
    cache = folder.parent / "cache"
    store = LabelStore.open_or_fill(cache, listed, SIZE, PRIOR)
    assert [item.item for item in store.set_aside] == ["away.png"]
    assert "cannot be read" in store.set_aside[0].reason
    photo(50).save(away)
    store = LabelStore.open_or_fill(cache, listed, SIZE, PRIOR)
    assert not store.set_aside
    assert_right(store)


def test_a_failing_disk_is_no_verdict_on_an_image(
    folder: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    read = label_store.read_file

    def failing(path: Path) -> bytes:
        if path.name in ("0.png", "2.png", "3.png"):
            raise InputError(f"{path}: cannot be read (Input/output error)")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(label_store, "read_file", failing)
        store = opened(folder)
    assert [item.item for item in store.set_aside] == ["0.png", "2.png", "sub/3.png"]
    assert_right(store)
    computed.clear()
    store = opened(folder)
    assert computed == ["0.png", "2.png", "sub/3.png"]
    assert not store.set_aside
    assert_right(store)


@pytest.mark.parametrize("mode", ["L", "CMYK", "LA", "P"])
def test_images_of_other_colours_are_taken(tmp_path: Path, mode: str) -> None:
    (tmp_path / "images").mkdir()
    suffix = "jpg" if mode == "CMYK" else "png"
    photo(1).convert(mode).save(tmp_path / "images" / f"1.{suffix}")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "images" / "dot.png")
    store = opened(tmp_path / "images")
    assert len(store.usable) == 2
    assert_right(store)


def test_changed_added_and_removed_images_are_noticed(
    folder: Path, small_shards: None, computed: list[str]
) -> None:
    opened(folder)
    computed.clear()
    photo(100).save(folder / "0.png")
    photo(101).save(folder / "new.png")
    (folder / "sub" / "1.png").unlink()
    times = (folder / "2.png").stat()
    photo(102).save(folder / "2.png")  # the same size or not, the time says it
    os.utime(folder / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    store = opened(folder)
    assert sorted(computed) == ["0.png", "2.png", "new.png"]
    assert len(store) == IMAGES
    assert_right(store)


def test_other_lists_share_a_cache_and_their_images(
    folder: Path, small_shards: None, computed: list[str]
) -> None:
    everything = opened(folder)
    computed.clear()
    assert_right(opened(folder / "sub", cache=folder.parent / "cache"))
    assert not computed
    assert_right(everything)


def test_alike_files_of_two_folders_are_two_images(folder: Path) -> None:
    """As uncompressed files out of one archive are: one name, one size, one time."""
    other = folder.parent / "other"
    other.mkdir()
    paths = [folder / "0.bmp", other / "0.bmp"]
    for i, path in enumerate(paths):
        photo(60 + i).save(path)
        os.utime(path, ns=(10**18, 10**18))
    store = LabelStore.open_or_fill(
        folder.parent / "cache", list_images([folder, other]), 24, PRIOR
    )
    assert paths[0].stat().st_size == paths[1].stat().st_size
    assert_right(store)


def test_what_is_finished_stays_after_ctrl_c(
    folder: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    whole = label_store.compute_labels

    def stopped(images: Any, image: int, **settings: Any) -> Any:
        if image == 5:
            raise KeyboardInterrupt
        return whole(images, image, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(label_store, "compute_labels", stopped)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    computed.clear()
    assert_right(opened(folder))
    assert len(computed) == 3  # two of three shards' images, and the last


def test_a_full_disk_says_so_and_keeps_what_is_there(
    folder: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, computed: list[str]
) -> None:
    write, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".safetensors" and path.parent.name == "shards":
            calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(AnyRegionError, match="disk is full"):
            opened(folder)
    computed.clear()
    store = opened(folder)
    assert len(computed) == 3
    assert len(shards(store)) == 4
    assert_right(store)


KILLED = """
import sys, time
from anyregion.r2o.label_store import store as label_store
from anyregion.r2o.label_store.image_list import list_images
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.superpixels import PriorConfig

label_store.IMAGES_PER_SHARD = 2
whole = label_store.compute_labels

def slow(images, image, **settings):
    if image == 5:
        print("at it", flush=True)
        time.sleep(60)
    return whole(images, image, **settings)

label_store.compute_labels = slow
images = list_images(sys.argv[1])
LabelStore.open_or_fill(sys.argv[2], images, 24, PriorConfig(segments=12), 1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_what_it_finished(
    folder: Path, small_shards: None, computed: list[str]
) -> None:
    cache = folder.parent / "cache"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at it\n"
        process.kill()
    assert list(cache.rglob("*.lock"))
    store = opened(folder)
    assert len(computed) == 3
    assert_right(store)
    assert len(shards(store)) == 4


def test_two_that_fill_at_once_share_the_work(
    folder: Path, small_shards: None, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = label_store.compute_labels

    def compute(*args: Any, **settings: Any) -> Any:
        time.sleep(0.02)
        return slow(*args, **settings)

    monkeypatch.setattr(label_store, "compute_labels", compute)
    start = threading.Barrier(2)

    def work(_: int) -> LabelStore:
        start.wait()
        return opened(folder)

    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(work, range(2)))
    assert sorted(computed) == sorted(stores[0].images.name(i) for i in range(IMAGES))
    for store in stores:
        assert_right(store)


def test_a_damaged_map_is_computed_on_the_spot(folder: Path) -> None:
    store = opened(folder)
    expected = [store.read(i) for i in range(IMAGES)]
    path = shards(store)[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the last map
    path.write_bytes(content)
    store = opened(folder)
    for i in (0, IMAGES - 1, IMAGES - 1):
        np.testing.assert_array_equal(store.read(i), expected[i])
    assert store.recomputed == 2
    store.images.path(IMAGES - 1).unlink()
    with pytest.raises(InputError, match="no such file"):
        store.read(IMAGES - 1)


@pytest.mark.parametrize("harm", ["header", "column", "cut", "empty", "gone"])
def test_a_damaged_shard_is_filled_again(folder: Path, harm: str, computed: list[str]) -> None:
    path = shards(opened(folder))[0]
    content = bytearray(path.read_bytes())
    if harm == "header":
        content[20] ^= 255
    elif harm == "column":
        content[8 + int.from_bytes(content[:8], "little") + 3] ^= 1
    elif harm == "cut":
        del content[-50:]
    elif harm == "empty":
        content.clear()
    path.write_bytes(content)
    if harm == "gone":
        path.unlink()
    computed.clear()
    store = opened(folder)
    assert len(computed) == IMAGES
    assert_right(store)


def test_verify_reports_damage_and_it_is_repaired(folder: Path, small_shards: None) -> None:
    store = opened(folder)
    assert verify(store) == []
    paths = shards(store)
    content = bytearray(paths[2].read_bytes())
    content[-3] ^= 1
    paths[2].write_bytes(content)
    paths[0].unlink()
    problems = verify(store)
    assert [(p.shard, p.item) for p in problems] == [(0, str(paths[0])), (2, str(paths[2]))]
    assert "missing" in problems[0].reason
    assert "does not have its checksum" in problems[1].reason
    assert discard(store, problems) == [0, 2]
    store = opened(folder)
    assert verify(store) == []
    assert_right(store)


def test_a_shard_that_goes_while_it_is_needed_is_no_end(folder: Path) -> None:
    store = opened(folder)
    expected = store.read(3)
    fresh = opened(folder)
    shards(store)[0].unlink()
    np.testing.assert_array_equal(fresh.read(3), expected)
    assert fresh.recomputed == 1


def test_checksums_tell_records_apart() -> None:
    content = b"the same bytes"
    assert checksum(1, content) != checksum(2, content)


def test_stores_of_other_settings_lie_beside_each_other(folder: Path) -> None:
    stores = [
        opened(folder),
        opened(folder, size=16),
        opened(folder, prior=PriorConfig(segments=12, normalised=False)),
        opened(folder, prior=PriorConfig(kind="grid", segments=12)),
    ]
    assert len({store.folder for store in stores}) == 4
    for store in stores:
        assert_right(store)
    about = stores[0].folder / INFO
    about.write_text(about.read_text().replace("12", "13"))
    with pytest.raises(InputError, match=r"13.*12.*another cache"):
        opened(folder)


@pytest.mark.parametrize("settings", [{"size": 0}, {"workers": 0}])
def test_settings_out_of_range(folder: Path, settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        opened(folder, **settings)


def test_maps_from_files_follow_their_files(folder: Path, computed: list[str]) -> None:
    maps = folder.parent / "maps"
    (maps / "sub").mkdir(parents=True)
    prior = PriorConfig(kind="files", folder=str(maps))
    ids = np.arange(4).reshape(2, 2) * 1000 - 7
    for i in range(1, IMAGES):
        np.save(maps / ("sub" if i % 2 else ".") / f"{i}.npy", ids)
    store = opened(folder, prior=prior)
    assert [item.item for item in store.set_aside] == ["0.png"]
    assert "label map" in store.set_aside[0].reason
    np.testing.assert_array_equal(store.read(1)[[0, 0, -1, -1], [0, -1, 0, -1]], [0, 1, 2, 3])
    computed.clear()
    np.save(maps / "0.npy", ids)  # the missing one comes
    np.save(maps / "2.npy", ids[:1])  # another changes
    store = opened(folder, prior=prior)
    assert sorted(computed) == ["0.png", "2.png"]
    assert not store.set_aside
    assert store.read(1).max() == 1
    (folder / "4.png").write_bytes(b"broken")  # a map does not make up for its image
    assert [item.item for item in opened(folder, prior=prior).set_aside] == ["4.png"]


def test_reading_in_threads_and_elsewhere(folder: Path, small_shards: None) -> None:
    store = opened(folder)
    expected = [store.read(i) for i in range(IMAGES)]
    sent = pickle.loads(pickle.dumps(store))
    order = np.random.default_rng(0).integers(0, IMAGES, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        for i, labels in zip(order, pool.map(sent.read, order), strict=True):
            np.testing.assert_array_equal(labels, expected[i])
    mine = store.read(0)
    mine[:] = 99  # the caller's own
    np.testing.assert_array_equal(store.read(0), expected[0])
