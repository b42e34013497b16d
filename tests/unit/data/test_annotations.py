"""Parts of a data set: some of its images, some of its classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.errors import InputError
from tests.helpers.coco_files import content, region, write


@pytest.fixture
def three(tmp_path: Path) -> Annotations:
    """Image 0 has a and b, image 1 has nothing, image 2 has c, a and b."""
    images = [
        {"id": 0, "file_name": "0.jpg", "neg_category_ids": [3], "not_exhaustive_category_ids": []},
        {"id": 1, "file_name": "1.jpg", "neg_category_ids": [1, 2]},
        {"id": 2, "file_name": "2.jpg", "not_exhaustive_category_ids": [2]},
    ]
    categories = [{"id": k, "name": name} for k, name in ((1, "a"), (2, "b"), (3, "big_c"))]
    where = [(2, 3), (0, 1), (2, 1), (0, 2), (2, 2)]
    rows = [region(k, i, c, [0, 0, k + 1, 1]) for k, (i, c) in enumerate(where)]
    value = content(images=images, categories=categories, annotations=rows)
    return read_annotations(write(tmp_path / "three.json", value))


def ids(annotations: Annotations) -> list[list[int]]:
    """Region ids of each image."""
    return [annotations.region_ids[annotations.rows(i)].tolist() for i in range(len(annotations))]


def labels(columns: tuple[np.ndarray, ...]) -> list[list[int]]:
    return [column.tolist() for column in columns]


def test_select(three: Annotations) -> None:
    assert ids(three) == [[1, 3], [], [0, 2, 4]]
    part = three.select([2, 1])
    assert ids(part) == [[0, 2, 4], []]
    assert part.file_names == ("2.jpg", "1.jpg")
    assert part.boxes[:, 2].tolist() == [1, 3, 5]
    assert labels(part.negatives) == [[], [0, 1]]
    assert labels(part.not_exhaustive) == [[1], []]
    assert ids(three.select(np.array([1, 0, 2]))) == [[], [1, 3], [0, 2, 4]]
    assert len(three.select([])) == 0


@pytest.mark.parametrize("bad", [[3], [-1], [0, 0]])
def test_select_refuses(three: Annotations, bad: list[int]) -> None:
    with pytest.raises(InputError):
        three.select(bad)


def test_keep_categories(three: Annotations) -> None:
    part = three.keep_categories(["Big C", 1])
    assert ids(part) == [[1], [], [0, 2]]
    assert part.categories is three.categories
    assert part.labels.tolist() == [0, 2, 0]
    assert labels(part.negatives) == [[2], [0], []]
    rest = three.keep_categories(["big_c", 1], drop=True)
    assert ids(rest) == [[3], [], [4]]
    assert labels(rest.not_exhaustive) == [[], [], [1]]


def test_keep_categories_renumbered(three: Annotations) -> None:
    part = three.keep_categories([2, 3], renumber=True)
    assert part.categories.names == ("b", "big_c")
    assert part.categories.ids.tolist() == [2, 3]
    assert ids(part) == [[3], [], [0, 4]]
    assert part.labels.tolist() == [0, 1, 0]
    assert labels(part.negatives) == [[1], [0], []]
    assert ids(three.keep_categories([], renumber=True)) == [[], [], []]


def test_seen_and_unseen_are_everything(three: Annotations) -> None:
    seen, unseen = (three.keep_categories([1], drop=drop) for drop in (False, True))
    both = sorted([*seen.region_ids.tolist(), *unseen.region_ids.tolist()])
    assert both == sorted(three.region_ids.tolist())


@pytest.mark.parametrize("bad", [["d"], [4], ["1"], "a"])
def test_keep_categories_refuses(three: Annotations, bad: list[int | str]) -> None:
    with pytest.raises(InputError, match=r"no such category|list of ids or names"):
        three.keep_categories(bad)
