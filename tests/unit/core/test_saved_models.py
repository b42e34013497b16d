"""A saved model opens as the same one wherever its folder is, knows its names, carries its card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion import CheckpointError, InputError, Recognizer, Regions, Vocabulary
from anyregion.io.vocabulary import load_vocabulary
from anyregion.model_card import ModelCard, hash_path, read_card
from tests.helpers.colours import colour_recognizer

PHOTO = np.random.default_rng(0).integers(255, size=(48, 64, 3), dtype=np.uint8)
BOXES = Regions.from_boxes([[2, 3, 40, 30]])


def answers(recognizer: Recognizer, names: Any = None) -> tuple[list[str], list[float]]:
    (predictions,) = recognizer.recognize([PHOTO], [BOXES], names)
    return list(predictions[0].labels), list(predictions[0].scores)


@pytest.fixture(scope="module")
def compact() -> Recognizer:
    return Recognizer.from_pretrained("compact", cache=None)


def test_the_built_in_model_knows_its_names(compact: Recognizer) -> None:
    assert compact.vocabulary is not None
    assert {"person", "traffic light"} <= set(compact.vocabulary.names)
    labels, scores = answers(compact)
    assert (labels, scores) == answers(compact, compact.vocabulary)
    compact.set_image(PHOTO)
    assert compact.predict(BOXES)[0].labels == tuple(labels)
    assert compact.card is not None
    assert compact.card.licence == "Apache-2.0"
    assert "COCO" in compact.card.terms


def test_a_folder_of_compact_is_compact(compact: Recognizer, tmp_path: Path) -> None:
    compact.save_pretrained(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    again = Recognizer.from_pretrained(tmp_path / "moved", cache=None)
    assert again.encoder.fingerprint == compact.encoder.fingerprint
    assert answers(again) == answers(compact)
    assert again.card is not None
    assert compact.card is not None
    assert (again.card.licence, again.card.origin) == (compact.card.licence, compact.card.origin)
    assert {"anyregion", "python", "numpy"} <= set(again.card.versions)
    assert set(again.card.sha256) == {"namer.onnx", "namer.safetensors"}
    assert again.card.fingerprint in (tmp_path / "moved" / "README.md").read_text()
    # and of it another, with other names and terms
    names = Vocabulary.from_names(["cup", "pen"], synonyms=[["mug"], []], templates=["a {}."])
    again.save_pretrained(tmp_path / "named", vocabulary=names, terms="none", licence="CC0-1.0")
    third = Recognizer.from_pretrained(tmp_path / "named", cache=None)
    assert third.vocabulary == names
    assert answers(third) == answers(compact, names)
    assert third.card is not None
    assert (third.card.terms, third.card.licence) == ("none", "CC0-1.0")
    assert third.card.fingerprint == again.card.fingerprint, "the same weights"


def test_damaged_and_missing_weights_are_refused(compact: Recognizer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    compact.save_pretrained(folder)
    shutil.copytree(folder, tmp_path / "older")
    (tmp_path / "older" / "card.json").unlink()
    older = Recognizer.from_pretrained(tmp_path / "older", cache=None)
    assert older.card is None, "made before there were cards"
    assert answers(older) == answers(compact)
    content = (folder / "namer.safetensors").read_bytes()
    (folder / "namer.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"namer\.safetensors: damaged or replaced"):
        Recognizer.from_pretrained(folder)
    (folder / "namer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"namer\.safetensors: cannot be read"):
        Recognizer.from_pretrained(folder)
    for content in ("[]", '{"format": "other"}', '{"format": "anyregion.card/1", "sha256": 1}'):
        (folder / "card.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"card\.json"):
            Recognizer.from_pretrained(folder)


def test_what_knows_no_names_says_so(tmp_path: Path) -> None:
    recognizer = colour_recognizer()
    recognizer.set_image(PHOTO)
    with pytest.raises(InputError, match="colours knows no names of its own"):
        recognizer.predict(BOXES)
    with pytest.raises(InputError, match="no weights to save"):
        recognizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="no weights to save"):
        Recognizer.from_pretrained("compact", method="dense", cache=None).save_pretrained(tmp_path)
    recognizer.vocabulary = Vocabulary.from_names(["red", "blue"])
    assert len(recognizer.predict(BOXES)[0].labels) == 2


def test_a_vocabulary_is_written_as_it_is_read(tmp_path: Path) -> None:
    words = Vocabulary.from_names(
        ["cell_phone", "wall-other"],
        synonyms=[["mobile"], []],
        templates=["a {}.", "{}"],
        ids=[7, 3],
        cleaning="published",
    )
    words.save(tmp_path / "names.json")
    assert load_vocabulary(tmp_path / "names.json") == words
    assert json.loads((tmp_path / "names.json").read_text())["categories"][0]["id"] == 7
    plain = load_vocabulary(tmp_path / "names.json", cleaning="plain", synonyms=False)
    assert isinstance(plain, Vocabulary)
    assert plain.cleaning == "plain"
    assert not any(plain.synonyms)


def test_a_union_of_vocabularies() -> None:
    first = Vocabulary.from_names(["cup", "pen"], templates=["a {}."], ids=[5, 9])
    second = Vocabulary.from_names(["Pen", "key"], synonyms=[[], ["lock"]])
    assert Vocabulary.union([first]) is first
    both = Vocabulary.union([first, second])
    assert both.names == ("cup", "pen", "key")
    assert both.synonyms == ((), (), ("lock",))
    assert (both.ids, both.templates, both.set_aside) == ((1, 2, 3), ("a {}.",), ())


def test_hashes_of_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_text("1")
    first = hash_path(tmp_path / "a")
    (tmp_path / "a" / ".cache").write_text("hidden files are no content")
    assert hash_path(tmp_path / "a") == first
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert hash_path(tmp_path / "b") == first
    (tmp_path / "b" / "deep" / "x").rename(tmp_path / "b" / "deep" / "y")
    assert hash_path(tmp_path / "b") != first
    assert read_card(tmp_path) is None
    assert ModelCard().licence == "not stated"
