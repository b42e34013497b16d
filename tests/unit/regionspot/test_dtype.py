"""RegionSpot with its frozen encoders in bfloat16: loaded so everywhere, and close to float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from anyregion import InputError, Regions  # noqa: E402
from anyregion.factory import load_extractor, load_proposer, load_recognizer  # noqa: E402
from anyregion.localizers.automatic import AutomaticMasks  # noqa: E402
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.regionspot.adapter import Adapter, AdapterConfig  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.regionspot.extractor import RegionSpotExtractor  # noqa: E402
from anyregion.vlms.loading import load_vlm  # noqa: E402
from tests.helpers.small_localizers import sam_config, spread  # noqa: E402
from tests.helpers.small_vlms import write_folder  # noqa: E402

PHOTO = np.random.default_rng(0).integers(255, size=(48, 64, 3), dtype=np.uint8)
BOXES = Regions.from_boxes([[2, 3, 40, 30], [10, 5, 60, 44]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RegionSpot folder with a small SAM and CLIP inside."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    spread(transformers.SamModel(sam_config())).save_pretrained(root / "sam")
    write_folder(root / "clip", "clip")
    adapter = Adapter(AdapterConfig(token_width=32, feature_width=48, embed_width=40, layers=1))
    encoder = RegionSpotEncoder(
        load_localizer(root / "sam"), load_vlm(root / "clip"), spread(adapter)
    )
    encoder.save_pretrained(root / "model", include_frozen=True)
    return root / "model"


def test_both_encoders_run_in_it_and_what_learned_does_not(folder: Path) -> None:
    exact = load_recognizer(folder, cache=None).encoder
    low = load_recognizer(folder, dtype="bfloat16", cache=None).encoder
    assert isinstance(low, RegionSpotEncoder)
    assert low.localizer.encoder_dtype == torch.bfloat16
    assert {p.dtype for p in low.adapter.parameters()} == {torch.float32}
    assert low.fingerprint != exact.fingerprint, "stores and caches of the two must not mix"
    rows = [e.embed_regions(e.encode_images([PHOTO]), [BOXES])[0].embeddings for e in (exact, low)]
    cosine = (rows[0] * rows[1]).sum(axis=1) / np.prod(
        [np.linalg.norm(r, axis=1) for r in rows], axis=0
    )
    assert not np.array_equal(*rows)
    assert (cosine > 0.98).all(), cosine
    texts = [e.text.encode_text(["cup", "pen"]) for e in (exact, low)]
    assert not np.array_equal(*texts)
    np.testing.assert_allclose(*texts, atol=0.05 * np.abs(texts[0]).max())


def test_proposers_and_extractors_take_it(folder: Path) -> None:
    proposer = load_proposer("sam", localizer=str(folder / "localizer"), dtype="bfloat16")
    assert isinstance(proposer, AutomaticMasks)
    assert proposer.localizer.encoder_dtype == torch.bfloat16
    extractor = load_extractor(folder, features=True, dtype="bfloat16")
    assert isinstance(extractor, RegionSpotExtractor)
    assert extractor.fingerprint != load_extractor(folder, features=True).fingerprint
    parts = {"localizer": str(folder / "localizer"), "vlm": str(folder / "vlm")}
    named = load_extractor(**parts, features=True, dtype="bfloat16")
    assert named.fingerprint != load_extractor(**parts, features=True).fingerprint
    dense = load_recognizer(folder, method="dense", dtype="bfloat16", cache=None)
    assert dense.encoder.fingerprint != (
        load_recognizer(folder, method="dense", cache=None).encoder.fingerprint
    )


def test_compact_has_its_own() -> None:
    pytest.importorskip("onnxruntime")
    for load in (load_recognizer, load_extractor):
        with pytest.raises(InputError, match="a precision of their own"):
            load(dtype="bfloat16")
    with pytest.raises(InputError, match="a precision of their own"):
        load_proposer("compact", dtype="float16")
    load_recognizer(dtype="auto", cache=None)
