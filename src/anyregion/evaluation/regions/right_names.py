"""Lists of right names: for each class its own name, synonyms of it, and kinds of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyregion.errors import InputError
from anyregion.files import read_json
from anyregion.vocabulary import Vocabulary, name_key

_BUILT_IN = files("anyregion") / "vocabularies" / "kinds"
LAYOUT = '{"classes": {"cup": ["mug", "teacup"], ...}}'


@dataclass(frozen=True)
class RightNames:
    """Which names are right for a region of each class, in whatever vocabulary they occur.

    Attributes:
        classes: `{class: names}`; a class's own name need not be among them.
        source: where the list is from, for messages.
    """

    classes: Mapping[str, tuple[str, ...]]
    source: str

    def positions(
        self, categories: Mapping[int, str], names: Vocabulary
    ) -> dict[int, tuple[int, ...]]:
        """`{category id: positions of its right names}`, of the categories that have any.

        Names are compared whatever their case and underscores. A category that the list lacks
        has its own name alone.

        Raises:
            InputError: the list has none of the categories.
        """
        listed = {name_key(name, names.cleaning) for name in self.classes}
        if not any(name_key(name, names.cleaning) in listed for name in categories.values()):
            first = next(iter(categories.values()))
            raise InputError(f"{self.source}: lists none of the categories; {first!r}, for one")
        return positions_of(categories, names, self.classes)


def positions_of(
    categories: Mapping[int, str], names: Vocabulary, others: Mapping[str, Sequence[str]]
) -> dict[int, tuple[int, ...]]:
    """`{category id: positions in a vocabulary}` of each category's name and its `others`, rising.

    Names are compared whatever their case and underscores; categories without a position are left
    out.
    """
    cleaning = names.cleaning
    listed = {name_key(name, cleaning): words for name, words in others.items()}
    by_key: dict[str, list[int]] = {}
    for position, name in enumerate(names.names):
        by_key.setdefault(name_key(name, cleaning), []).append(position)
    positions: dict[int, tuple[int, ...]] = {}
    for category, name in categories.items():
        key = name_key(name, cleaning)
        right = {key, *(name_key(word, cleaning) for word in listed.get(key, ()))}
        at = sorted(position for word in right for position in by_key.get(word, ()))
        # a region of no category has -1, which is no category's id
        if at and category != -1:
            positions[category] = tuple(at)
    return positions


def load_right_names(spec: str | Path) -> RightNames:
    """Read a list: `coco`, the built-in one, or a JSON file, `{"classes": {class: [name, ...]}}`.

    Raises:
        InputError: a file that is missing, malformed or of another layout; a class twice.
    """
    if isinstance(spec, str) and spec.strip().casefold() == "coco":
        content = json.loads((_BUILT_IN / "coco.json").read_text(encoding="utf-8"))
    else:
        content = read_json(Path(spec))
    classes: Any = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, dict) or not classes:
        raise InputError(f"{spec}: not a list of right names, {LAYOUT}")
    first: dict[str, str] = {}
    for name, words in classes.items():
        if not isinstance(words, list) or not all(isinstance(w, str) and w.strip() for w in words):
            raise InputError(f"{spec}: {name!r}: not a list of names, as in {LAYOUT}")
        other = first.setdefault(name_key(name), name)
        if other != name:
            raise InputError(f"{spec}: {other!r} and {name!r} are one class")
    return RightNames({name: tuple(words) for name, words in classes.items()}, str(spec))
