"""Segments before learning: SLIC as published, other priors, maps from files; lists of images."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.errors import InputError
from anyregion.r2o.label_store.image_list import list_images
from anyregion.r2o.label_store.store import identity_of
from anyregion.r2o.superpixels import PriorConfig, read_label_map, renumbered, segment
from tests.helpers.shared import SHARED

FIXTURE = SHARED / "fixtures" / "r2o" / "data.npz"


def blocks(size: int = 64) -> np.ndarray:
    """Four quarters of plain colours."""
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    half = size // 2
    pixels[:half, half:] = (250, 30, 30)
    pixels[half:, :half] = (30, 30, 250)
    pixels[half:, half:] = (240, 240, 40)
    return pixels


@pytest.mark.skipif(not FIXTURE.is_file(), reason=f"no fixture at {FIXTURE}")
def test_published_slic_is_reproduced_exactly() -> None:
    data = np.load(FIXTURE)
    plain = PriorConfig(normalised=False)
    for pixels, expected in zip(data["raw_uint8"], data["slic_labels"], strict=True):
        labels = segment(pixels, PriorConfig())
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected)
        assert (segment(pixels, plain) != expected).any()  # the other way is another


@pytest.mark.parametrize("kind", ["slic", "felzenszwalb", "grid", "whole"])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_ids_are_consecutive_at_any_size(kind: Any, size: int) -> None:
    pytest.importorskip("skimage")
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (size, size, 3)).astype(np.uint8)
    labels = segment(pixels, PriorConfig(kind=kind))
    assert labels.shape == (size, size)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))


@pytest.mark.parametrize("kind", ["slic", "felzenszwalb"])
def test_superpixels_keep_to_the_borders_of_colours(kind: Any) -> None:
    pytest.importorskip("skimage")
    pixels = blocks()
    # Felzenszwalb's blur before it would round the corners
    labels = segment(pixels, PriorConfig(kind=kind, segments=20, sigma=0, min_size=5))
    for label in range(int(labels.max()) + 1):
        assert len(np.unique(pixels[labels == label], axis=0)) == 1


def test_a_grid_has_squares() -> None:
    labels = segment(blocks(60), PriorConfig(kind="grid", segments=36))
    assert np.bincount(labels.reshape(-1)).tolist() == [100] * 36
    np.testing.assert_array_equal(labels[:10, :10], 0)
    assert labels[0, 59] == 5
    assert labels[59, 0] == 30


def test_one_region_is_the_whole_image() -> None:
    assert not segment(blocks(), PriorConfig(kind="whole")).any()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "watershed"}, "watershed"),
        ({"segments": 0}, "segments"),
        ({"segments": 70_000}, "segments"),
        ({"compactness": 0}, "compactness"),
        ({"compactness": float("nan")}, "compactness"),
        ({"kind": "felzenszwalb", "scale": -1}, "scale"),
        ({"sigma": -0.1}, "sigma"),
        ({"min_size": -1}, "min_size"),
        ({"kind": "files"}, "folder"),
        ({"folder": "maps"}, "files"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        PriorConfig(**settings)


def test_stores_differ_by_the_settings_that_count() -> None:
    plain = PriorConfig()
    same = PriorConfig(compactness=10, scale=7, min_size=2)
    assert identity_of(8, plain) == identity_of(8, same)
    others = [
        PriorConfig(segments=101),
        PriorConfig(normalised=False),
        PriorConfig(kind="grid"),
        PriorConfig(kind="files", folder="a"),
        PriorConfig(kind="files", folder="b"),
    ]
    assert len({identity_of(8, prior) for prior in (plain, *others)}) == 6


def test_maps_from_files_are_not_computed() -> None:
    with pytest.raises(InputError, match="files"):
        segment(blocks(), PriorConfig(kind="files", folder="maps"))


@pytest.mark.parametrize(
    "values",
    [
        [-5, -1, 0, 9],
        [0, 3, 2**40, 2**60],
        np.array([1, 2, 2**63, 2**64 - 1], dtype=np.uint64),
        np.array([0, 1, 2, 200], dtype=np.uint64),
    ],
)
def test_ids_of_any_size_are_renumbered_in_order(values: Any) -> None:
    ids = np.asarray(values)[[[3, 0], [1, 2]]]
    np.testing.assert_array_equal(renumbered(ids), [[3, 0], [1, 2]])


def test_ids_take_16_bits_where_8_do_not_suffice() -> None:
    assert renumbered(np.arange(256).reshape(16, 16)).dtype == np.uint8
    more = renumbered(np.arange(512).reshape(16, 32) * 3)
    assert more.dtype == np.uint16
    np.testing.assert_array_equal(more, np.arange(512).reshape(16, 32))
    with pytest.raises(InputError, match="65537"):
        renumbered(np.arange(65537)[None])


IDS = np.array([[7, 7, 300], [7, 12, 300]])


def write_map(folder: Path, form: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "npy":
        np.save(folder / "7.npy", IDS)
    elif form == "deep":
        Image.fromarray(IDS.astype(np.uint16)).save(folder / "7.png")
    elif form == "palette":
        image = Image.fromarray(np.where(IDS == 300, 30, IDS).astype(np.uint8), mode="P")
        image.putpalette(list(range(256)) * 3)
        image.save(folder / "7.png")
    elif form == "big-endian":
        np.save(folder / "7.npy", IDS.astype(">i4"))


@pytest.mark.parametrize("form", ["npy", "deep", "palette", "big-endian"])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_label_maps_are_read_and_squashed(tmp_path: Path, form: str) -> None:
    write_map(tmp_path / "dog", form)
    labels = read_label_map(tmp_path, "dog/7.jpg", 6)
    rows = [[0, 0, 0, 0, 2, 2]] * 3 + [[0, 0, 1, 1, 2, 2]] * 3
    np.testing.assert_array_equal(labels, rows)
    # of a map that shrinks, each cell has the id at its centre
    np.testing.assert_array_equal(read_label_map(tmp_path, "dog/7.jpg", 1), [[0]])


def test_label_maps_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such label map"):
        read_label_map(tmp_path, "7.jpg", 4)
    Image.fromarray(blocks()).save(tmp_path / "7.png")
    with pytest.raises(InputError, match="RGB"):
        read_label_map(tmp_path, "7.jpg", 4)
    Image.fromarray(blocks()[..., 0]).save(tmp_path / "7.png")
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:-40])
    with pytest.raises(InputError, match="broken"):
        read_label_map(tmp_path, "7.jpg", 4)
    (tmp_path / "7.png").unlink()
    for wrong in (IDS / 2, IDS[None], np.zeros((0, 4), dtype=int), np.array([["a"]])):
        np.save(tmp_path / "7.npy", wrong)
        with pytest.raises(InputError, match=r"7\.npy"):
            read_label_map(tmp_path, "7.jpg", 4)
    np.save(tmp_path / "7.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="broken"):
        read_label_map(tmp_path, "7.jpg", 4)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_listed_by_name_and_others_counted(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "a/z.PNG", "a-1/x.webp", "a/readme.txt", "list.csv", ".hidden.jpg")
    images = list_images(tmp_path)
    names = [images.name(i) for i in range(len(images))]
    assert names == ["a-1/x.webp", "a/z.PNG", "b/2.jpg"]
    assert images.path(1) == tmp_path.resolve() / "a" / "z.PNG"
    assert images.ignored == 3
    assert images.passed_over == ()
    touch(tmp_path, "a/y.heic", "a/w.jfif")
    images = list_images(tmp_path)
    assert [images.name(i) for i in range(len(images))][1] == "a/w.jfif"
    assert [Path(a.item).name for a in images.passed_over] == ["y.heic"]
    assert images.ignored == 4


def test_several_folders_follow_each_other_and_no_file_comes_twice(tmp_path: Path) -> None:
    touch(tmp_path, "one/1.jpg", "two/1.jpg", "two/deep/3.jpg", "two/note.txt")
    images = list_images([tmp_path / "two", tmp_path / "one", tmp_path / "two" / "deep"])
    paths = [images.path(i).relative_to(tmp_path.resolve()) for i in range(len(images))]
    assert [p.as_posix() for p in paths] == ["two/1.jpg", "two/deep/3.jpg", "one/1.jpg"]
    assert images.ignored == 1


def test_names_that_are_no_utf8_lead_to_their_files(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    path = Path(str(tmp_path)) / name.decode("utf-8", "surrogateescape")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    assert list_images(tmp_path).path(0).is_file()


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image there"):
        list_images(tmp_path)
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(InputError, match="2 other files"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    with pytest.raises(InputError, match="give the folder"):
        list_images(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no folder"):
        list_images([])


def test_ten_thousand_images_are_listed_in_no_time(tmp_path: Path) -> None:
    for folder in range(10):
        touch(tmp_path / f"{folder}", *(f"{i}.jpg" for i in range(1000)))
    started = time.process_time()
    assert len(list_images(tmp_path)) == 10_000
    assert time.process_time() - started < 5  # measured: 0.3 s
    shutil.rmtree(tmp_path)
