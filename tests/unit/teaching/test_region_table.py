"""Regions' features in a file, and what is done with them without images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anyregion import Regions, Vocabulary
from anyregion.region_encoder import RegionEmbeddings
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.region_table import RegionTable
from anyregion.teaching.teacher import Teacher
from tests.helpers.colours import ColourWords, colour_recognizer

RED, GREEN, BLUE = ColourWords().encode_text(["red", "lime", "blue"])


def table() -> RegionTable:
    """Two images of different sizes, with red and green, and blue."""
    first = Regions.from_boxes([[0, 0, 10, 10], [10, 0, 20, 10]], ids=["a", 7])
    second = Regions.from_boxes([[0, 0, 5, 5]])
    return RegionTable.from_images(
        [
            (
                CorrectedImage("1.png", "11", (10, 20)),
                first,
                RegionEmbeddings(np.stack([RED, GREEN]), first.boxes),
            ),
            (
                CorrectedImage("2.png", "22", (5, 5)),
                second,
                RegionEmbeddings(BLUE[None], second.boxes),
            ),
        ]
    )


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    saved, path = table(), tmp_path / "features.safetensors"
    saved.save(path, "this model, these regions")
    assert RegionTable.load(path, "another model") is None
    loaded = RegionTable.load(path, "this model, these regions")
    assert loaded is not None
    assert (loaded.ids, loaded.images) == (saved.ids, saved.images)
    assert loaded.image_of.tolist() == [0, 0, 1]
    assert loaded.categories.tolist() == [-1, -1, -1]
    assert np.array_equal(loaded.rows(), saved.rows())
    path.write_bytes(path.read_bytes()[:-10])
    assert RegionTable.load(path, "this model, these regions") is None
    assert RegionTable.load(tmp_path / "none", "") is None


def test_a_file_gives_back_the_order_of_the_features(tmp_path: Path) -> None:
    """Rows that were seen just now and rows of a file have their numbers in the same places."""
    regions = Regions.from_boxes([[0, 0, 10, 10]])
    features = {"z": np.ones((1, 2), np.float32), "a": np.zeros((1, 3), np.float32)}
    embedded = RegionEmbeddings(RED[None], regions.boxes, features=features)
    image = CorrectedImage("1.png", "11", (10, 20))
    saved, path = RegionTable.from_images([(image, regions, embedded)]), tmp_path / "features"
    saved.save(path, "")
    loaded = RegionTable.load(path, "")
    assert loaded is not None
    assert list(loaded.features) == ["z", "a"]
    assert np.array_equal(loaded.rows(), saved.rows())


def test_names_are_asked_and_taught_without_images() -> None:
    recognizer, regions = colour_recognizer(), table()
    names = Vocabulary.from_names(["red", "lime", "blue"])
    words = regions.probabilities(recognizer.encoder, recognizer.encode_vocabulary(names))
    assert words.shape == (3, 4)
    assert words[:, :3].argmax(axis=1).tolist() == [0, 1, 2]
    teacher = Teacher(recognizer, names)
    regions.teach(teacher, np.array([2, 0, 1]), ["red", None, "blue"])
    assert len(teacher) == 3
    taught = teacher.vocabulary()
    assert taught.corrections is not None
    assert [image.name for image in taught.corrections.images] == ["2.png", "1.png"]
    assert taught.corrections.labels.tolist() == [0, -1, 2]
    assert np.array_equal(taught.corrections.rows, regions.rows()[[2, 0, 1]].astype(np.float16))
    answers = regions.select(np.array([1, 2])).probabilities(recognizer.encoder, taught)
    assert answers[:, :3].argmax(axis=1).tolist() == [2, 0]
