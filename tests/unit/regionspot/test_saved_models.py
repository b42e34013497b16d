"""RegionSpot's folders open as the same model wherever they are, with their SAM and CLIP."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from anyregion import CheckpointError, InputError, Recognizer, Regions  # noqa: E402
from anyregion.localizers.loading import load_localizer  # noqa: E402
from anyregion.model_card import ModelCard  # noqa: E402
from anyregion.regionspot.adapter import Adapter, AdapterConfig  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.vlms.loading import load_vlm  # noqa: E402
from anyregion.vocabulary import Vocabulary  # noqa: E402
from tests.helpers.small_localizers import sam_config, spread  # noqa: E402
from tests.helpers.small_vlms import write_folder  # noqa: E402

PHOTO = np.random.default_rng(0).integers(255, size=(48, 64, 3), dtype=np.uint8)
BOXES = Regions.from_boxes([[2, 3, 40, 30], [10, 5, 60, 44]])
NAMES = Vocabulary.from_names(["cup", "pen", "key"], templates=["a {}."])


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    spread(transformers.SamModel(sam_config())).save_pretrained(root / "sam")
    write_folder(root / "clip", "clip")
    return root


@pytest.fixture
def recognizer(frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recognizer:
    """A RegionSpot whose frozen models were named relative to where one stands."""
    shutil.copytree(frozen, tmp_path / "here" / "models")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", refusing(transformers.AutoConfig)
    )
    torch.manual_seed(1)
    adapter = Adapter(AdapterConfig(token_width=32, feature_width=48, embed_width=40, layers=1))
    encoder = RegionSpotEncoder(load_localizer("models/sam"), load_vlm("models/clip"), adapter)
    card = ModelCard(licence="CC0-1.0", terms="a test's", origin="a test")
    return Recognizer(encoder, vocabulary=NAMES, card=card, cache=None)


def refusing(config: Any) -> Any:
    """`from_pretrained` of a folder; whatever else is named fails the test."""
    original = config.from_pretrained

    def load(name: str, **options: Any) -> Any:
        if not Path(name).is_dir():
            pytest.fail(f"a hub was asked for {name}")
        return original(name, **options)

    return load


def same(first: Recognizer, second: Recognizer) -> bool:
    (a,), (b,) = (r.recognize([PHOTO], [BOXES]) for r in (first, second))
    return (
        first.encoder.fingerprint == second.encoder.fingerprint
        and a.labels == b.labels
        and np.array_equal(a.scores, b.scores)
    )


def test_outside_models_are_stated_by_path_and_hash(
    recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer.save_pretrained("model")
    (tmp_path / "elsewhere").mkdir()
    Path("model").rename(tmp_path / "elsewhere" / "model")
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "elsewhere" / "model"
    again = Recognizer.from_pretrained(moved, cache=None)
    assert again.vocabulary == NAMES
    assert same(again, recognizer)
    assert again.card is not None
    assert (again.card.licence, again.card.terms, again.card.origin) == (
        "CC0-1.0", "a test's", "a test",
    )  # fmt: skip
    sam = tmp_path / "here" / "models" / "sam"
    assert set(again.card.sha256) == {
        "adapter.safetensors", str(sam), str(tmp_path / "here" / "models" / "clip"),
    }  # fmt: skip
    # another model of the same size in its place
    weights = sam / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match="sam: damaged or replaced"):
        Recognizer.from_pretrained(moved)
    weights.write_bytes(content)
    sam.rename(tmp_path / "sam")
    with pytest.raises(InputError, match=f"names {sam}, and there is no such file"):
        Recognizer.from_pretrained(moved)
    named = Recognizer.from_pretrained(moved, localizer=str(tmp_path / "sam"), cache=None)
    assert same(named, recognizer)


def test_with_the_frozen_models_inside_nothing_else_is_needed(
    recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer.save_pretrained("model", include_frozen=True)
    reference = recognizer.recognize([PHOTO], [BOXES])[0]
    Path("model").rename(tmp_path / "moved")
    shutil.rmtree("models")
    monkeypatch.chdir("/")
    again = Recognizer.from_pretrained(tmp_path / "moved", cache=None)
    assert again.encoder.fingerprint == recognizer.encoder.fingerprint
    assert np.array_equal(again.recognize([PHOTO], [BOXES])[0].scores, reference.scores)
    assert again.card is not None
    assert set(again.card.sha256) == {"adapter.safetensors", "localizer", "vlm"}
    dense = Recognizer.from_pretrained(tmp_path / "moved", method="dense", cache=None)
    assert len(dense.recognize([PHOTO], [BOXES], NAMES)[0]) == 2
    # saved again where its own models lie, they stay inside
    again.save_pretrained(tmp_path / "third", include_frozen=True)
    assert same(Recognizer.from_pretrained(tmp_path / "third", cache=None), again)
    adapter = tmp_path / "moved" / "adapter.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\7")
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors: damaged or replaced"):
        Recognizer.from_pretrained(tmp_path / "moved")
    (tmp_path / "third" / "localizer").rename(tmp_path / "localizer")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="names localizer, and there is no such file"):
        Recognizer.from_pretrained("third")  # not another one, where one stands


def test_models_that_cannot_be_copied_are_named(recognizer: Recognizer) -> None:
    assert isinstance(recognizer.encoder, RegionSpotEncoder)
    recognizer.encoder.vlm.name = "open_clip:RN50/openai"
    with pytest.raises(InputError, match="open_clip:RN50/openai: its files cannot be copied"):
        recognizer.save_pretrained("model", include_frozen=True)
    recognizer.encoder.vlm.name = "nobody/nothing"
    with pytest.raises(InputError, match="nobody/nothing: its files cannot be copied"):
        recognizer.save_pretrained("model", include_frozen=True)


def test_models_of_the_hub_are_copied_from_its_cache(
    recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"me/sam": "models/sam/config.json", "me/clip": "models/clip/config.json"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, _: cache.get(name))
    assert isinstance(recognizer.encoder, RegionSpotEncoder)
    recognizer.encoder.localizer.name, recognizer.encoder.vlm.name = cache
    recognizer.save_pretrained(tmp_path / "outside")
    assert '"me/sam"' in (tmp_path / "outside" / "config.json").read_text()
    recognizer.save_pretrained(tmp_path / "inside", include_frozen=True)
    assert same(Recognizer.from_pretrained(tmp_path / "inside", cache=None), recognizer)
