"""The store: what goes in comes out, by itself, in any order, in threads and other processes."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.features import CombinedReader, OnTheFly
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import Store, create_store
from anyregion.errors import InputError
from tests.helpers.feature_store import (
    SmallExtractor,
    annotations,
    full_annotations,
    new_store,
    same,
)


def assert_equal(first: Annotations, second: Annotations, *, but: tuple[str, ...] = ()) -> None:
    for field in fields(Annotations):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name in but:
            continue
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b)
        elif field.name == "categories":
            assert a.ids.tolist() == b.ids.tolist()
            assert (a.names, a.synonyms, a.frequency) == (b.names, b.synonyms, b.frequency)
        elif a and isinstance(a[0], np.ndarray):
            assert [x.tolist() for x in a] == [x.tolist() for x in b], field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("original", [annotations(), full_annotations(), annotations([0, 1])])
def test_annotations_survive(tmp_path: Path, original: Annotations) -> None:
    create_store(tmp_path / "store", original, SmallExtractor())
    assert_equal(Store(tmp_path / "store", masks=True).annotations, original)
    without = Store(tmp_path / "store").annotations
    assert without.segmentations is None
    assert_equal(without, original, but=("segmentations",))


def test_what_is_changed_in_memory_stays_there(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.annotations.labels[:] = 0
    assert Store(store.folder).annotations.labels.any()


@pytest.mark.parametrize("flipped", [False, True])
def test_the_same_as_on_the_fly(tmp_path: Path, flipped: bool) -> None:
    store, extractor = new_store(tmp_path), SmallExtractor()
    report = fill_store(store, extractor, tmp_path / "images", batch_size=2)
    assert (report.computed, report.set_aside, extractor.seen) == (5, (), 10)
    direct = OnTheFly(SmallExtractor(), store.annotations, tmp_path / "images")
    assert direct.fingerprint == store.fingerprint
    for image in (4, 0, 3, 1, 2):
        features = store.read(image, flipped=flipped)
        assert len(features["tokens"]) == len(store.annotations.rows(image))
        assert same(features, direct.read(image, flipped=flipped))
    assert not same(store.read(0), store.read(0, flipped=True))


def test_mirror_images_are_seen_with_mirrored_boxes(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    fill_store(store, SmallExtractor(), tmp_path / "images")
    plain, mirrored = (store.read(0, flipped=f) for f in (False, True))
    x0, x1 = plain["tokens"][:, 0].astype(float), plain["tokens"][:, 1].astype(float)
    np.testing.assert_allclose(mirrored["tokens"][:, 0], 24 - x1, atol=0.02)
    np.testing.assert_allclose(mirrored["tokens"][:, 1], 24 - x0, atol=0.02)
    pixels = np.asarray(Image.open(tmp_path / "images" / store.annotations.file_names[0]))
    np.testing.assert_array_equal(
        mirrored["map"], (pixels[:, ::-1][::4, ::4] / 255).astype(np.float16)
    )


def test_a_store_without_mirror_images(tmp_path: Path) -> None:
    store = new_store(tmp_path, mirrored=False)
    extractor = SmallExtractor()
    fill_store(store, extractor, tmp_path / "images")
    assert extractor.seen == 5
    store.read(2)
    with pytest.raises(InputError, match="without mirror images"):
        store.read(2, flipped=True)


def test_images_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    original = annotations()
    original.sizes[3] = 99, 99
    original.boxes[0] = 40, 2, 50, 8
    store = new_store(tmp_path, original)
    images = [tmp_path / "images" / name for name in original.file_names]
    images[1].unlink()
    images[2].write_bytes(b"no image")
    report = fill_store(store, SmallExtractor(), tmp_path / "images", batch_size=3)
    reasons = ["outside the 24 x 16", "no such file", "not an image", "annotations say 99 x 99"]
    assert [a.item for a in report.set_aside] == list(original.file_names[:4])
    for item, reason in zip(report.set_aside, reasons, strict=True):
        assert reason in item.reason
    assert store.usable().tolist() == [4]
    direct = OnTheFly(SmallExtractor(), original, tmp_path / "images")
    for image, reason in enumerate(reasons):
        for reader in (store, direct):
            with pytest.raises(InputError, match=reason) as error:
                reader.read(image)
            assert original.file_names[image] in str(error.value)
    assert same(store.read(4), direct.read(4))


def test_one_image_that_the_extractor_refuses_costs_no_other(tmp_path: Path) -> None:
    seen = np.asarray(Image.open(new_store(tmp_path).folder.parent / "images/sub/bild ä1.png"))

    def refuse(pixels: Any) -> None:
        if np.array_equal(pixels, seen):
            raise InputError("odd")

    store = Store(tmp_path / "store")
    report = fill_store(store, SmallExtractor(before=refuse), tmp_path / "images", batch_size=5)
    assert [(a.item, a.reason) for a in report.set_aside] == [("sub/bild ä1.png", "odd")]
    assert store.usable().tolist() == [0, 2, 3, 4]


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    store = new_store(tmp_path, images_per_shard=1)
    fill_store(store, SmallExtractor(), tmp_path / "images")
    small = Store(store.folder, open_shards=1)
    requests = [(i, f) for i in range(5) for f in (False, True)] * 20
    with ThreadPoolExecutor(8) as pool:
        features = list(pool.map(lambda w: small.read(w[0], flipped=w[1]), requests))
    assert all(
        same(f, store.read(i, flipped=m)) for f, (i, m) in zip(features, requests, strict=True)
    )


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    fill_store(store, SmallExtractor(), tmp_path / "images")
    assert same(pickle.loads(pickle.dumps(store)).read(2), store.read(2))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"extractor": SmallExtractor("other")}, "eyes: small there, other here"),
        ({"mirrored": False}, "mirror images: there, not here"),
        ({"images_per_shard": 3}, "images a shard: 2 there, 3 here"),
        ({"original": annotations([1])}, "5 images with 8 regions there, 1 with 1 here"),
        ({"original": annotations(boxes=annotations().boxes + 0.5)}, "annotations of other boxes"),
        ({"original": full_annotations()}, "masks"),
    ],
)
def test_a_store_of_something_else_is_refused(
    tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    new_store(tmp_path)
    with pytest.raises(InputError, match=named):
        new_store(tmp_path, **options)


def test_a_store_of_no_regions_is_refused(tmp_path: Path) -> None:
    """As `anyregion cache` does: nothing could be learned from it."""
    with pytest.raises(InputError, match="no region that can be used"):
        new_store(tmp_path, annotations((0, 0)))
    crowds = replace(annotations(), crowd=np.ones(len(annotations().boxes), dtype=bool))
    with pytest.raises(InputError, match="no region that can be used"):
        new_store(tmp_path, crowds)
    assert not (tmp_path / "store").exists()


def test_the_same_again_goes_on(tmp_path: Path) -> None:
    first = new_store(tmp_path, full_annotations())
    # the store may have masks that this time were not read
    again = new_store(tmp_path, replace(full_annotations(), segmentations=None, set_aside=()))
    assert again.info == first.info


def test_another_extractor_cannot_fill(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="eyes: small there, other here"):
        fill_store(new_store(tmp_path), SmallExtractor("other"), tmp_path / "images")


def test_readers_together(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    fill_store(store, SmallExtractor(), tmp_path / "images")
    both = CombinedReader(
        [store, OnTheFly(SmallExtractor("second"), store.annotations, tmp_path / "images")]
    )
    assert both.fingerprint == "small-1 + second-1"
    assert same(both.read(2), store.read(2))
    with pytest.raises(InputError, match="differ"):
        CombinedReader([store, OnTheFly(SmallExtractor(), annotations([1, 1]), tmp_path)])


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no store\.json"):
        Store(tmp_path)
    with pytest.raises(InputError, match="no image 5 of 5"):
        new_store(tmp_path).read(5)
