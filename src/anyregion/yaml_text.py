"""YAML text as plain values, read within bounds and with errors that name the line.

PyYAML's safe loader runs no code, but a few hundred bytes of nested aliases become a value that no
program gets through, deep nesting ends in a RecursionError, and a scalar that does not fit its tag
(`!!float x`) in whatever Python raises for it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from anyregion.errors import InputError
from anyregion.files import valid_text

# settings have some hundred values in five levels; a vocabulary as YAML some thousand
MAX_VALUES = 200_000
MAX_DEPTH = 50
MAX_CHARACTERS = 4_000_000


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader; what a scalar's constructor raises becomes an error with its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            reason = f"not a value of its kind ({type(error).__name__}: {error})"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        # before merge keys (`<<`) are put in, whose values a mapping may well repeat
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            key = next(key for i, key in enumerate(keys) if key in keys[:i])
            problem = f"{key[1]!r} stands twice in one mapping"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_yaml(text: str, name: str) -> Any:
    """The value of one YAML document: mappings, lists, texts, numbers, booleans, dates, None.

    Args:
        text: the document; halves of characters become U+FFFD.
        name: what an error calls it.

    Raises:
        InputError: no YAML, a key that stands twice in a mapping, a value that is not of its tag,
            or more than `MAX_CHARACTERS`, `MAX_DEPTH` levels or, with every alias written out,
            `MAX_VALUES` values. It names the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{name}: YAML of more than {MAX_CHARACTERS:,} characters")
    try:
        text = valid_text(text)
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{name}{place}: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{name}, line {line}: {error.reason}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{name}: not YAML ({error})") from None


def _check_size(text: str) -> None:
    """Count levels and values from the parser's events, which are made without recursion."""
    # of each anchor the values below it; None while it is open
    anchors: dict[str, int | None] = {}
    # per open mapping or list: its anchor, and the values so far
    levels: list[tuple[str | None, int]] = [(None, 0)]

    def refuse(problem: str, event: yaml.Event) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)

    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        values = 0
        if isinstance(event, yaml.CollectionStartEvent):
            if len(levels) > MAX_DEPTH:
                refuse(f"nested deeper than {MAX_DEPTH} levels", event)
            if event.anchor:
                anchors[event.anchor] = None
            levels.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values = levels.pop()
            if anchor:
                anchors[anchor] = values
        elif isinstance(event, yaml.ScalarEvent):
            values = 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size = anchors.get(event.anchor, 1)
            if size is None:
                refuse(f"the alias {event.anchor!r} lies within what it stands for", event)
            values = size or 1
        anchor, count = levels[-1]
        levels[-1] = anchor, count + values
        if count + values > MAX_VALUES:
            refuse(f"more than {MAX_VALUES:,} values, with every alias written out", event)
