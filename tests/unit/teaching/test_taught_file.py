"""Taught vocabularies whose hash is right and whose parts do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from anyregion import InputError, load_vocabulary
from anyregion.teaching import vocabulary as module
from tests.unit.teaching.test_teacher import taught_teacher

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def rewrite(path: Path, change: Change) -> None:
    """Change the parts of a file, under a hash that is right."""
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()[module._KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["sha256"]
    change(metadata, tensors)
    tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    metadata["sha256"] = module._digest(metadata, tensors)
    path.write_bytes(save(tensors, metadata={module._KEY: json.dumps(metadata)}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "my.vocab"
    taught_teacher().vocabulary().save(path)
    return path


def test_the_same_parts_are_read(path: Path) -> None:
    rewrite(path, lambda metadata, tensors: None)
    assert module.TaughtVocabulary.load(path).counts.tolist() == [5, 6, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m.update(format="anyregion.taught/2"), "another format"),
        (lambda m, t: t.pop("rows"), "of another version; teach it again"),
        (lambda m, t: m.update(familiarity={"mean": 0.5}), "of another version; teach it again"),
        (lambda m, t: m.update(names=["moss", "fern"]), "keys or counts"),
        (lambda m, t: m.update(keys_of_regions=["a"]), "keys or counts"),
        (lambda m, t: m.update(images=m["images"][:1]), "image_of lies outside 0 to 0"),
        (lambda m, t: t.update(rows=t["rows"][:3]), "rows is float16 of shape"),
        (lambda m, t: t.update(boxes=t["boxes"][:3]), "boxes of shape"),
        (lambda m, t: t.update(weights=t["weights"][:2]), "weights is float32 of shape"),
        (lambda m, t: t.update(matrix=t["matrix"][:1]), "matrix is float32 of shape"),
        (lambda m, t: t.update(left_out=t["left_out"][:, :1]), "left_out is float32 of shape"),
        (lambda m, t: t.update(labels=t["labels"].astype(float)), "labels is float64"),
        (lambda m, t: t.update(labels=t["labels"] + 1), "labels lies outside -1 to 2"),
        (lambda m, t: t.update(shown=t["shown"] + 2), "shown lies outside 0 to 3"),
        (lambda m, t: t.update(landmarks=t["landmarks"] + 1), "landmarks lies outside"),
        (lambda m, t: t.update(weights=t["weights"] * np.nan), "weights has numbers"),
        (lambda m, t: t.update(matrix=t["matrix"] * np.nan), "matrix has numbers"),
    ],
)
def test_parts_that_do_not_fit_are_named(path: Path, change: Change, message: str) -> None:
    rewrite(path, change)
    with pytest.raises(InputError, match=message) as raised:
        load_vocabulary(path)
    assert str(raised.value).startswith(str(path))


def test_safetensors_of_something_else_are_no_taught_vocabulary(path: Path) -> None:
    path.write_bytes(save({"matrix": np.zeros((1, 2), dtype=np.float32)}))
    with pytest.raises(InputError, match="not of `anyregion teach`"):
        load_vocabulary(path)
