"""Vocabularies and scores, case by case: a documented result, or an error that names the item."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from anyregion import InputError, Vocabulary
from anyregion.scoring import top_names

RNG = np.random.default_rng(7)


REFUSED_VOCABULARIES: dict[str, tuple[dict[str, Any], str]] = {
    "no names": ({"names": []}, "empty"),
    "blank names": ({"names": [" ", "\t", ""]}, "empty"),
    "one string": ({"names": "cat"}, "list of strings"),
    "a number": ({"names": ["cat", 3]}, "name 1 is int"),
    "None": ({"names": None}, "list of strings"),
    "a set": ({"names": {"cat"}}, "list of strings"),
    "ids twice": ({"names": ["a", "b"], "ids": [1, 1]}, "share a category id"),
    "template without place": ({"names": ["a"], "templates": ["photo"]}, "must hold one"),
    "no templates": ({"names": ["a"], "templates": []}, "must not be empty"),
    "synonyms short": ({"names": ["a", "b"], "synonyms": [["x"]]}, "2 names but 1 synonyms"),
}


@pytest.mark.parametrize("case", REFUSED_VOCABULARIES)
def test_vocabulary_refused(case: str) -> None:
    arguments, reason = REFUSED_VOCABULARIES[case]
    with pytest.raises(InputError, match=reason):
        Vocabulary.from_names(**arguments)


def test_vocabulary_rules() -> None:
    words = Vocabulary.from_names(
        ["Cat", "dog ", "", "cat", "自転車", "DOG"], ids=[3, 5, 6, 7, 9, 11]
    )
    assert words.names == ("Cat", "dog", "自転車")
    assert words.ids == (3, 5, 9)
    reasons = [str(a) for a in words.set_aside]
    assert reasons == [
        "name 2: empty",
        "name 3: 'cat' repeats 'Cat'",
        "name 5: 'DOG' repeats 'dog '",
    ]


def test_one_thing_spelled_twice() -> None:
    words = Vocabulary.from_names(["cell phone", "cell_phone", "wall", "wall-stuff"])
    assert words.names == ("cell phone", "wall")
    assert [a.reason for a in words.set_aside] == [
        "'cell_phone' repeats 'cell phone'",
        "'wall-stuff' repeats 'wall'",
    ]
    assert len(Vocabulary.from_names(["wall", "wall-stuff"], cleaning="published")) == 2
    with pytest.raises(InputError, match="repeat"):
        Vocabulary(("cat", "cat"))


def test_one_word_vocabulary() -> None:
    region, word = np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)
    _, scores = top_names(region, word, top_k=5, scale=10, score="softmax")
    assert scores.tolist() == [[1.0]]  # as published: nothing can be refused
    _, scores = top_names(region, word, top_k=5, scale=10, score="sigmoid")
    assert scores[0, 0] < 1e-4


def test_hundred_thousand_words() -> None:
    matrix = RNG.standard_normal((100_000, 16)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    rows = [3, 50_000, 99_999]
    start = time.perf_counter()
    indices, scores = top_names(matrix[rows], matrix, top_k=5, scale=50)
    assert indices[:, 0].tolist() == rows
    assert (np.diff(scores, axis=1) <= 0).all()
    assert time.perf_counter() - start < 20
    names = Vocabulary.from_names([f"thing {i}" for i in range(100_000)])
    assert len(names) == 100_000


@pytest.mark.parametrize(
    ("embeddings", "options", "reason"),
    [
        (np.ones((1, 3), np.float32), {}, "3 wide but the vocabulary 2"),
        (np.full((1, 2), np.nan, np.float32), {}, "not finite"),
        (np.ones((1, 2), np.float32), {"score": "best"}, "softmax, sigmoid or probability"),
        (np.ones((1, 2), np.float32), {"top_k": 0}, "at least 1"),
        (np.ones((1, 2), np.float32), {"top_k": 2.0}, "whole number"),
    ],
)
def test_scoring_refused(embeddings: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        top_names(embeddings, np.eye(2, dtype=np.float32), **{"top_k": 1, "scale": 1, **options})
