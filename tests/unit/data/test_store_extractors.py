"""The real extractors, small: what the store holds is what is computed on the fly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anyregion.data.features import CombinedReader, OnTheFly, to_half
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import create_store
from anyregion.errors import InputError
from anyregion.factory import load_extractor
from tests.helpers.feature_store import annotations, new_store, same, write_images

if TYPE_CHECKING:
    from anyregion.data.features import FeatureExtractor
    from anyregion.data.store.store import Store


def regionspot(**options: object) -> FeatureExtractor:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("open_clip")
    torch.set_num_threads(1)
    from anyregion.regionspot.extractor import RegionSpotExtractor
    from tests.helpers.small_localizers import build
    from tests.helpers.small_vlms import openai_clip

    return RegionSpotExtractor(build("sam"), openai_clip(), **options)  # type: ignore[arg-type]


def compact() -> FeatureExtractor:
    from anyregion.compact.model import CompactExtractor, CompactModel

    return CompactExtractor(CompactModel(threads=1))


def filled(tmp_path: Path, extractor: FeatureExtractor) -> Store:
    store = new_store(tmp_path, annotations([3, 0, 2]), extractor=extractor)
    assert not fill_store(store, extractor, tmp_path / "images", batch_size=2).set_aside
    return store


def test_regionspot_is_the_same_on_the_fly(tmp_path: Path) -> None:
    store = filled(tmp_path, regionspot())
    direct = OnTheFly(regionspot(), store.annotations, tmp_path / "images")
    assert direct.fingerprint == store.fingerprint
    for image in range(3):
        for flipped in (False, True):
            features = store.read(image, flipped=flipped)
            assert same(features, direct.read(image, flipped=flipped))
            assert features["tokens"].shape == (len(store.annotations.rows(image)), 32)
            assert features["tokens"].dtype == features["features"].dtype == np.float16
            assert features["features"].shape == (17, 128)


def test_tokens_and_features_of_the_mirror_image_are_those_of_a_mirrored_file(
    tmp_path: Path,
) -> None:
    from PIL import Image

    from anyregion.data.mirror import mirror_boxes

    extractor = regionspot()
    store = filled(tmp_path, extractor)
    name = store.annotations.file_names[0]
    pixels = np.asarray(Image.open(tmp_path / "images" / name))[:, ::-1]
    other = annotations([3, 0, 2], boxes=mirror_boxes(store.annotations.boxes, 24))
    write_images(tmp_path / "mirrored", other)
    Image.fromarray(pixels).save(tmp_path / "mirrored" / name)
    direct = OnTheFly(extractor, other, tmp_path / "mirrored")
    assert same(store.read(0, flipped=True), direct.read(0))
    assert not same(store.read(0), direct.read(0))


def test_compact_is_the_same_on_the_fly(tmp_path: Path) -> None:
    extractor = compact()
    store = new_store(tmp_path, annotations([1]), extractor=extractor)
    fill_store(store, extractor, tmp_path / "images")
    direct = OnTheFly(compact(), store.annotations, tmp_path / "images")
    for flipped in (False, True):
        features = store.read(0, flipped=flipped)
        assert same(features, direct.read(0, flipped=flipped))
        shapes = {name: values.shape for name, values in features.items()}
        assert shapes == {
            "stride8": (64, 96, 40),  # 24 x 16 becomes 768 x 512
            "stride16": (32, 48, 112),
            "stride32": (16, 24, 320),
            "last": (16, 24, 1280),
            "span": (2,),
        }
        assert [features[n].dtype for n in ("last", "span")] == [np.float16, np.float32]


def test_tokens_from_the_store_with_features_on_the_fly(tmp_path: Path) -> None:
    whole = filled(tmp_path, regionspot())
    tokens, maps = regionspot(), regionspot()
    tokens.vlm = maps.localizer = None  # type: ignore[attr-defined]
    store = create_store(tmp_path / "tokens", whole.annotations, tokens)
    fill_store(store, tokens, tmp_path / "images")
    assert set(store.read(0)) == {"tokens"}
    both = CombinedReader([store, OnTheFly(maps, whole.annotations, tmp_path / "images")])
    assert all(
        same(both.read(i, flipped=f), whole.read(i, flipped=f))
        for i in range(3)
        for f in (False, True)
    )


def test_fingerprints_tell_extractors_apart() -> None:
    plain, tokens, maps = regionspot(), regionspot(), regionspot()
    assert plain.fingerprint == regionspot(images_at_once=4).fingerprint
    tokens.vlm = maps.localizer = None  # type: ignore[attr-defined]
    others = [tokens, maps, regionspot(source="prompt"), regionspot(antialias=False), compact()]
    assert len({e.fingerprint for e in [plain, *others]}) == 6
    assert list(plain.describe()) == ["localizer", "tokens", "vlm", "features"]


def test_half_precision_does_not_overflow_unseen() -> None:
    assert to_half("a", [65504.0, -1e-9]).tolist() == [65504.0, 0.0]
    for wrong in (7e4, np.nan, np.inf):
        with pytest.raises(InputError, match="a: holds NaN or numbers"):
            to_half("a", [1.0, wrong])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "compact", "localizer": "x"}, "no localizer"),
        ({"vlm": "x"}, "tokens need no VLM"),
        ({"localizer": "x", "features": True}, "needs a VLM"),
        ({"model": "folder/that/is/not", "localizer": "x"}, "no RegionSpot model"),
    ],
)
def test_choices_that_make_no_sense(options: dict[str, object], reason: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=reason):
        load_extractor(**options)  # type: ignore[arg-type]
