"""The lists of names that are right for a class, the built-in one and one's own."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from anyregion.errors import InputError
from anyregion.evaluation.regions.right_names import load_right_names
from anyregion.io.vocabulary import BUILT_IN_NAMES, load_vocabulary
from anyregion.vocabulary import Vocabulary, name_key


def built_in(name: str) -> Vocabulary:
    vocabulary = load_vocabulary(name)
    assert isinstance(vocabulary, Vocabulary)
    return vocabulary


def right(vocabulary: str) -> dict[str, set[str]]:
    """Each class's right names in a built-in vocabulary, as it writes them."""
    names, coco = built_in(vocabulary), dict(enumerate(built_in("coco").names))
    found = load_right_names("coco").positions(coco, names)
    return {coco[i]: {names.names[at] for at in positions} for i, positions in found.items()}


def test_the_list_is_of_cocos_classes_and_the_vocabularies_names() -> None:
    classes = load_right_names("coco").classes
    assert tuple(classes) == built_in("coco").names
    held = {name for vocabulary in BUILT_IN_NAMES for name in built_in(vocabulary).names}
    listed = [name for names in classes.values() for name in names]
    assert len(listed) > 500
    assert not set(listed) - held


def test_no_name_is_under_two_classes_unless_it_is_said() -> None:
    owners: dict[str, list[str]] = {}
    for name, words in load_right_names("coco").classes.items():
        keys = [name_key(word) for word in words]
        assert len(set(keys)) == len(keys), name
        for key in keys:
            owners.setdefault(key, []).append(name)
    path = files("anyregion") / "vocabularies" / "kinds" / "coco.json"
    shared = json.loads(path.read_text(encoding="utf-8"))["shared"]
    assert {key: names for key, names in owners.items() if len(names) > 1} == shared


@pytest.mark.parametrize("vocabulary", BUILT_IN_NAMES)
def test_a_class_has_its_own_name_and_lviss_synonyms(vocabulary: str) -> None:
    names, found = built_in(vocabulary), right(vocabulary)
    for name, words in zip(names.names, names.synonyms, strict=True):
        keys = {name_key(word) for word in (name, *words)}
        for cls in built_in("coco").names:
            if name_key(cls) in keys:
                assert name in found[cls], cls


def test_what_is_right_and_what_is_not() -> None:
    lvis, imagenet = right("lvis"), right("imagenet")
    assert {"mug", "teacup", "cup"} <= lvis["cup"]
    assert "trophy_cup" not in lvis["cup"]
    assert lvis["tie"] == {"necktie", "bow-tie", "bolo_tie"}
    assert not {"animal", "wheel", "table", "cougar"} & {n for ns in lvis.values() for n in ns}
    # ImageNet's 118 breeds, 59 birds and five cats; wolves and the great cats are none
    assert len(imagenet["dog"]) == 118
    assert {"Chihuahua", "pug"} <= imagenet["dog"]
    assert "grey wolf" not in imagenet["dog"]
    assert len(imagenet["bird"]) == 59
    assert "kite" not in imagenet, "the bird of prey is no kite"
    assert len(imagenet["cat"]) == 5
    assert right("openimages")["person"] == {"Person", "Man", "Woman", "Boy", "Girl"}


def test_ones_own_list(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"classes": {"Cup": ["coffee_mug", "MUG"]}}))
    names = Vocabulary.from_names(["mug", "dog", "coffee mug", "cup", "bowl"])
    categories = {7: "cup", 3: "dog", 4: "cat", -1: "bowl"}
    found = load_right_names(path).positions(categories, names)
    assert found == {7: (0, 2, 3), 3: (1,)}, "dog has its own name alone, cat none"
    with pytest.raises(InputError, match=r"list\.json: lists none of the categories; 'dog'"):
        load_right_names(path).positions({3: "dog"}, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a list of right names"),
        ('{"classes": {}}', "not a list of right names"),
        ('{"classes": {"cup": "mug"}}', "'cup': not a list of names"),
        ('{"classes": {"cup": ["mug", 3]}}', "'cup': not a list of names"),
        ('{"classes": {"cup": [], "Cup": []}}', "'cup' and 'Cup' are one class"),
        ('{"classes": {"cup": [], "cup": []}}', "'cup' stands twice"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_right_names(path)
    with pytest.raises(InputError, match="there is no such file"):
        load_right_names(tmp_path / "none.json")
