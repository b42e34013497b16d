"""The best names and their scores: visiting words in chunks changes nothing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.scoring import logits, top_names

Floats = NDArray[np.float32]


def some(rows: int, words: int, width: int = 16, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(words, width)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return rng.normal(size=(rows, width)).astype(np.float32), matrix


def plain_scores(
    embeddings: Floats, matrix: Floats, score: str, scale: float, bias: float
) -> NDArray[np.float64]:
    """Every score, in float64 and all at once."""
    x = embeddings.astype(np.float64)
    values = scale * x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7) @ matrix.T + bias
    if score == "sigmoid":
        return 1 / (1 + np.exp(-values))
    weights = np.exp(values - values.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_logits_follow_the_published_formula() -> None:
    region = np.array([[3.0, 4.0]], np.float32)
    words = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(
        logits(region, words, scale=10.0, bias=-1.0), [[5.0, 9.0]], rtol=1e-6
    )
    zero = logits(np.zeros((1, 2), np.float32), words, scale=10.0)
    assert zero.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 5),
    words=st.integers(1, 70),
    top_k=st.integers(1, 80),
    chunk=st.integers(1, 80),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 100.0]),
)
def test_chunks_equal_all_at_once(
    score: str, rows: int, words: int, top_k: int, chunk: int, seed: int, scale: float
) -> None:
    embeddings, matrix = some(rows, words, seed=seed)
    index, scores = top_names(
        embeddings,
        matrix,
        top_k=top_k,
        score=score,  # type: ignore[arg-type]
        scale=scale,
        bias=-0.5,
        chunk=chunk,
    )
    every = plain_scores(embeddings, matrix, score, scale, -0.5)
    kept = min(top_k, words)
    assert index.shape == scores.shape == (rows, kept)
    assert index.dtype == np.int64
    assert scores.dtype == np.float32
    best = -np.sort(-every, axis=1)[:, :kept]
    np.testing.assert_allclose(scores, best, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(np.take_along_axis(every, index, axis=1), best, rtol=2e-4, atol=1e-7)
    assert all(len(set(row)) == kept for row in index.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    if score == "softmax" and kept == words:
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    kinds=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    top_k=st.integers(1, 90),
    chunk=st.integers(1, 90),
)
def test_of_equal_scores_the_earlier_word_comes_first(
    kinds: list[int], top_k: int, chunk: int
) -> None:
    # words along the axes: each logit is one product, so equal words score equally to the last bit
    matrix = np.eye(4, dtype=np.float32)[kinds]
    region = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    index, _ = top_names(region, matrix, top_k=top_k, scale=1.0, chunk=chunk)
    expected = sorted(range(len(kinds)), key=lambda i: (kinds[i], i))[:top_k]
    assert index[0].tolist() == expected
    assert index[1].tolist() == list(range(min(top_k, len(kinds))))


def test_one_word_always_scores_one_by_softmax_and_not_by_sigmoid() -> None:
    embeddings, matrix = some(3, 1)
    assert top_names(embeddings, matrix, top_k=1, scale=5.0)[1].tolist() == [[1.0]] * 3
    assert (top_names(embeddings, matrix, top_k=1, scale=5.0, score="sigmoid")[1] < 1).all()


def test_large_scales_neither_overflow_nor_lose_the_sum() -> None:
    embeddings, matrix = some(4, 50)
    with np.errstate(over="raise", invalid="raise"):
        _, scores = top_names(embeddings, matrix, top_k=50, scale=1e4, chunk=7)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_softmax_does_not_depend_on_a_bias_and_sigmoid_does() -> None:
    embeddings, matrix = some(2, 9)
    for score, same in (("softmax", True), ("sigmoid", False)):
        a, b = (
            top_names(embeddings, matrix, top_k=3, scale=4.0, bias=bias, score=score)[1]  # type: ignore[arg-type]
            for bias in (0.0, 3.0)
        )
        assert np.allclose(a, b, rtol=1e-4) is same


def test_a_hundred_thousand_words_in_bounded_memory() -> None:
    embeddings, matrix = some(200, 100_000)
    tracemalloc.start()
    index, scores = top_names(embeddings, matrix, top_k=5, scale=20.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6  # the whole (200, 100000) matrix in float64 alone would be 160 MB
    every = plain_scores(embeddings[:20], matrix, "softmax", 20.0, 0.0)
    np.testing.assert_allclose(scores[:20], -np.sort(-every, axis=1)[:, :5], rtol=1e-4)
    assert (index[:20, 0] == every.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones((2, 5), np.float32)}, "another model"),
        ({"embeddings": np.full((2, 16), np.nan, np.float32)}, "not finite"),
        ({"embeddings": np.full((2, 16), np.inf, np.float32)}, "not finite"),
        ({"top_k": 0}, "top_k"),
        ({"score": "cosine"}, "softmax, sigmoid or probability"),
        ({"score": "probability"}, "how often its answers are right"),
    ],
)
def test_what_cannot_be_scored(change: dict[str, object], message: str) -> None:
    embeddings, matrix = some(2, 3)
    arguments = {"embeddings": embeddings, "matrix": matrix, "top_k": 1, "scale": 1.0, **change}
    with pytest.raises(InputError, match=message):
        top_names(**arguments)  # type: ignore[arg-type]
