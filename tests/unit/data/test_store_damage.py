"""A store that was damaged says so, names the shard, and is repaired; it never answers wrongly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import Features, to_half
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.shards import hash_array
from anyregion.data.store.store import Store
from anyregion.data.store.verify import discard, verify
from anyregion.errors import InputError
from tests.helpers.feature_store import SmallExtractor, annotations, new_store, same, write_images


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = new_store(tmp_path)
    fill_store(store, SmallExtractor(), tmp_path / "images")
    assert verify(store, tmp_path / "images") == []
    return store


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def read_all(store: Store) -> list[Features]:
    """Everything of shard 1."""
    return [store.read(i, flipped=f) for i in (2, 3) for f in (False, True)]


def test_no_flipped_bit_gives_wrong_features(store: Store) -> None:
    path = store.shards.specs[1].path
    right = read_all(store)
    whole = path.read_bytes()
    unnoticed = 0
    for at in [*range(0, 8), *range(8, len(whole), 7)]:
        damage(path, at)
        fresh = Store(store.folder)
        problem = ""
        try:
            features = read_all(fresh)
        except InputError as error:
            problem = str(error)
        if problem:
            assert str(path) in problem
            assert verify(fresh), "what a reader refuses, verify finds"
        else:
            unnoticed += 1
            assert all(same(a, b) for a, b in zip(features, right, strict=True))
        path.write_bytes(whole)
    # what is left is the padding behind the header, at most
    assert unnoticed <= 2


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "foreign", "exchanged", "wrong"])
def test_a_bad_shard_is_named_and_rebuilt(store: Store, tmp_path: Path, how: str) -> None:
    path, right = store.shards.specs[1].path, store.read(3)
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "foreign":
        path.write_bytes(b"no shard at all, but a text" * 20)
    elif how == "exchanged":
        shutil.copy(store.shards.specs[0].path, path)
    else:
        damage(path, len(content) - 40)
    with pytest.raises(InputError, match=r"anyregion cache --out .* --verify --repair") as error:
        read_all(Store(store.folder))
    assert str(path) in str(error.value)
    problems = verify(store)
    assert [(p.shard, p.item) for p in problems] == [(1, str(path))]
    discard(store, problems)
    extractor = SmallExtractor()
    assert fill_store(store, extractor, tmp_path / "images").computed == 2
    assert extractor.seen == 4, "the whole shards were left alone"
    assert verify(store) == []
    assert same(Store(store.folder).read(3), right)


def test_changed_images_are_listed(store: Store, tmp_path: Path) -> None:
    names = store.annotations.file_names
    (tmp_path / "images" / names[0]).write_bytes(b"something else")
    (tmp_path / "images" / names[4]).unlink()
    changed = [(p.shard, Path(p.item).name, p.reason) for p in verify(store, tmp_path / "images")]
    assert changed == [
        (0, Path(names[0]).name, "changed since the store was filled"),
        (2, Path(names[4]).name, "there is no such file"),
    ]
    assert verify(store) == []


def test_an_image_that_came_later_is_used(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    late = tmp_path / "images" / store.annotations.file_names[2]
    late.unlink()
    fill_store(store, SmallExtractor(), tmp_path / "images")
    assert verify(store, tmp_path / "images") == [], "known, and set aside"
    write_images(tmp_path / "images", store.annotations)
    (problem,) = verify(store, tmp_path / "images")
    assert "can be now" in problem.reason
    discard(store, [problem])
    assert not fill_store(store, SmallExtractor(), tmp_path / "images").set_aside


def test_a_damaged_index_is_written_anew(store: Store, tmp_path: Path) -> None:
    index = store.folder / "index.safetensors"
    whole = index.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), 31):
        damage(index, at)
        with pytest.raises(InputError, match=r"index\.safetensors: missing or damaged"):
            Store(store.folder)
        index.write_bytes(whole)
    for content in (b"", whole[:20], whole[:-3], b"{" * 100):
        index.write_bytes(content)
        with pytest.raises(InputError, match="same annotations"):
            Store(store.folder)
    again = new_store(tmp_path)
    assert same(again.read(2), store.read(2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "x/9"),
        ("images_per_shard", 0),
        ("images", "many"),
        ("categories", None),
        ("mirrored", []),
        ("regions", True),
        ("fingerprint", 3),
        ("extractor", {"eyes": [1]}),
        ("columns", {"boxes": None}),
        ("notes", "x"),
    ],
)
def test_a_malformed_statement_is_refused(store: Store, key: str, value: object) -> None:
    path = store.folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=r"store\.json|index"):
        Store(store.folder)


def state_anew(store: Store, **changes: np.ndarray[Any, Any]) -> None:
    """Columns of the index replaced, and their hashes as if they had been written so."""
    index, info = store.folder / "index.safetensors", store.folder / "store.json"
    columns = load_file(index) | changes
    save_file(columns, index)
    stated = json.loads(info.read_text())
    stated["columns"] |= {name: hash_array(values).hex() for name, values in columns.items()}
    info.write_text(json.dumps(stated))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda v: v + 10**6),
        ("labels", lambda v: v - 10**6),
        ("labels", lambda v: v.astype(np.float64)),
        ("starts", lambda v: v[::-1].copy()),
        ("starts", lambda v: v + 1),
        ("starts", lambda v: v[:-1]),
        ("boxes", lambda v: v[:, [2, 3, 0, 1]]),
        ("boxes", lambda v: v * np.nan),
        ("boxes", lambda v: v.reshape(-1)),
        ("crowd", lambda v: v[:1]),
        ("sizes", lambda v: v[:1]),
        ("file_names.ends", lambda v: v[:-1]),
    ],
)
def test_columns_that_do_not_fit_are_refused_though_their_hash_is_right(
    store: Store, name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    columns = load_file(store.folder / "index.safetensors")
    state_anew(store, **{name: np.ascontiguousarray(change(columns[name]))})
    with pytest.raises(InputError, match="missing or damaged"):
        Store(store.folder)


def test_columns_stated_anew_as_they_are_open(store: Store) -> None:
    state_anew(store)
    assert len(Store(store.folder)) == len(store)


def test_categories_count_too(store: Store) -> None:
    path = store.folder / "store.json"
    path.write_text(path.read_text().replace('"cup"', '"cap"'))
    with pytest.raises(InputError, match="categories is not what"):
        Store(store.folder)


def test_numbers_beyond_half_precision_are_set_aside(tmp_path: Path) -> None:
    original: Annotations = annotations(sizes=np.full((5, 2), -1))
    original.boxes[0] = 0, 0, 30, 8
    store = new_store(tmp_path, original)

    class Huge(SmallExtractor):
        def extract(self, images, regions):  # type: ignore[no-untyped-def]
            features = super().extract(images, regions)
            if len(regions[0]) and regions[0].ids[0] == 100:
                to_half("tokens", [1e6])
            return features

    report = fill_store(store, Huge(), tmp_path / "images", batch_size=1)
    assert [(a.item, a.reason) for a in report.set_aside] == [
        (original.file_names[0], "tokens: holds NaN or numbers that half precision cannot hold")
    ]
