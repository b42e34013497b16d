"""Reads vocabularies: built-in ones by name, files, and names typed on a command line."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyregion.errors import InputError, SetAside
from anyregion.files import read_json, read_text
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Vocabulary, name_key

_BUILT_IN = files("anyregion") / "vocabularies"
_FILE_SUFFIXES = (".txt", ".json", ".csv", ".safetensors")
_ANY_SUFFIX = re.compile(r"[/\\][^/\\,]*\.[A-Za-z0-9]{1,12}$")


def builtin_vocabularies() -> dict[str, int]:
    """The built-in lists and how many names each has; `load_vocabulary` knows them by name."""
    return {name: len(_built_in(name)["categories"]) for name in built_in_names()}


def built_in_names() -> list[str]:
    """The names of the built-in lists, without reading any."""
    names = (entry.name for entry in _BUILT_IN.iterdir())
    return sorted(n.removesuffix(".json") for n in names if n.endswith(".json"))


def load_vocabulary(
    spec: str | Path, *, synonyms: bool = True, cleaning: Cleaning | None = None
) -> Vocabulary | EncodedVocabulary:
    """Read a vocabulary. What `spec` names is decided in this order:

    1. The name of a built-in list, whatever its case: `coco`, `imagenet`, `lvis`, `objects365` or
       `openimages`. (`./coco` is a file of that name; so is any `Path`.)
    2. An existing file:
        `.txt`, or no suffix: one name a line, `name | synonym | synonym`; empty lines and lines
            that begin with `#` are left out.
        `.json`: a list of names, `{name: [synonyms]}`, or a COCO file, whose `categories` are read
            with their ids (and `synonyms`, where it has them, as LVIS does). What
            `Vocabulary.save` wrote is such a file, with templates and cleaning.
        `.csv`: a header with `name` and, if wanted, `id` and `synonyms` (these parted by `|`).
        `.safetensors`: an encoded vocabulary, as `EncodedVocabulary.save` wrote it.
    3. Anything else is the names themselves, parted by commas: `dog, red car | automobile, bus`.

    Names that are empty or repeat another are left out and listed in `set_aside`, with the line
    (of a JSON file: the place) they stand at.

    Args:
        spec: as above.
        synonyms: False leaves synonyms out, as the published results on LVIS do.
        cleaning: see `Vocabulary`; it also decides which names repeat another. None for what the
            file states, or `plain`.

    Raises:
        InputError: `spec` ends like a file but there is none; the file is malformed (with its name
            and the line); no usable name.
    """
    if isinstance(spec, str):
        # built-in names come first: a file that is called as one is `./coco`, or a Path
        name = spec.strip().casefold()
        if name in built_in_names():
            return _from_json(_built_in(name)).build(synonyms, cleaning)
        is_file = False
        # names need not be possible file names: too long, or with a zero byte
        with suppress(OSError, ValueError, RuntimeError):
            is_file = Path(spec).expanduser().is_file()
        if not is_file:
            # what looks like a path is a mistyped one more often than a name
            if spec.casefold().endswith(_FILE_SUFFIXES) or _ANY_SUFFIX.search(spec):
                raise InputError(f"{spec}: there is no such file")
            return _from_typed(spec).build(synonyms, cleaning)
    path = Path(spec).expanduser()
    if path.suffix.casefold() == ".safetensors":
        return EncodedVocabulary.load(path)
    try:
        return _read(path).build(synonyms, cleaning)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None


@dataclass
class _Draft:
    """Names as they are read, duplicates and all.

    Attributes:
        unit: what `positions` count: lines, entries, names.
        names, synonyms, ids, positions: one each a name; `ids` may be empty.
        templates, cleaning: as the file states them, or None.
    """

    unit: str
    names: list[str] = field(default_factory=list)
    synonyms: list[list[str]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    templates: tuple[str, ...] | None = None
    cleaning: Cleaning | None = None

    def add(self, position: int, name: str, synonyms: list[str], number: int | None = None) -> None:
        # what a binary file would give, if it decodes at all
        if "\0" in name:
            raise InputError(f"{self.unit} {position}: a zero byte; this is not a list of names")
        self.positions.append(position)
        self.names.append(name)
        self.synonyms.append([s for s in synonyms if s and name_key(s) != name_key(name)])
        if number is not None:
            self.ids.append(number)

    def build(self, synonyms: bool, cleaning: Cleaning | None) -> Vocabulary:
        cleaning = cleaning or self.cleaning or "plain"
        if self.ids and len(self.ids) != len(self.names):
            raise InputError("some names have an id and some have none")
        first: dict[int, str] = {}
        for position, name, number in zip(self.positions, self.names, self.ids, strict=False):
            other = first.setdefault(number, name)
            # the same name again is set aside as a duplicate, id and all
            if name_key(other, cleaning) != name_key(name, cleaning):
                raise InputError(
                    f"{self.unit} {position}: {other!r} and {name!r} share id {number}"
                )
        vocabulary = Vocabulary.from_names(
            self.names,
            synonyms=self.synonyms if synonyms and any(self.synonyms) else None,
            templates=self.templates,
            ids=self.ids or None,
            cleaning=cleaning,
        )
        # `from_names` counts names; people look for lines
        skipped = [
            SetAside(f"{self.unit} {self.positions[int(s.item.removeprefix('name '))]}", s.reason)
            for s in vocabulary.set_aside
        ]
        return replace(vocabulary, set_aside=tuple(skipped))


def _read(path: Path) -> _Draft:
    suffix = path.suffix.casefold()
    if suffix == ".json":
        return _from_json(read_json(path))
    if suffix == ".csv":
        return _from_csv(read_text(path))
    if suffix in ("", ".txt"):
        return _from_lines(read_text(path))
    raise InputError(f"a vocabulary is one of {', '.join(_FILE_SUFFIXES)}")


def _built_in(name: str) -> Any:
    return json.loads((_BUILT_IN / f"{name}.json").read_text(encoding="utf-8"))


def _from_typed(spec: str) -> _Draft:
    draft = _Draft("name")
    for position, entry in enumerate(re.split(r"[,\n]", spec), start=1):
        name, *synonyms = (word.strip() for word in entry.split("|"))
        draft.add(position, name, synonyms)
    return draft


def _from_lines(text: str) -> _Draft:
    draft = _Draft("line")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *synonyms = (word.strip() for word in line.split("|"))
        draft.add(number, name, synonyms)
    return draft


def _from_json(content: Any) -> _Draft:
    draft = _Draft("entry")
    if isinstance(content, dict) and _holds_categories(content):
        for position, row in enumerate(content["categories"], start=1):
            number = row.get("id")
            if not isinstance(number, int) or isinstance(number, bool):
                raise InputError(f"category {position}: its id {number!r} is not a whole number")
            name = _name(position, row.get("name"))
            draft.add(position, name, _synonyms(position, row.get("synonyms")), number)
        if isinstance(templates := content.get("templates"), list):
            draft.templates = tuple(map(str, templates))
        draft.cleaning = content.get("cleaning")
    elif isinstance(content, dict):
        for position, (name, synonyms) in enumerate(content.items(), start=1):
            draft.add(position, name, _synonyms(position, synonyms))
    elif isinstance(content, list):
        for position, name in enumerate(content, start=1):
            draft.add(position, _name(position, name), [])
    else:
        raise InputError("neither a list of names, nor {name: [synonyms]}, nor COCO categories")
    return draft


def _holds_categories(content: dict[str, Any]) -> bool:
    rows = content.get("categories")
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def _name(position: int, name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(f"entry {position}: {name!r} is not a name")
    return name


def _synonyms(position: int, words: Any) -> list[str]:
    words = words or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"entry {position}: synonyms must be a list of names, not {words!r}")
    return [" ".join(word.split()) for word in words]


def _from_csv(text: str) -> _Draft:
    draft = _Draft("line")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().casefold() for cell in next(rows, [])]
        if "name" not in header:
            raise InputError("line 1: the header holds no column `name`")
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise InputError(f"line {rows.line_num}: {len(row)} cells, {len(header)} columns")
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            synonyms = [word.strip() for word in cells.get("synonyms", "").split("|")]
            number = _number(rows.line_num, cells.get("id"))
            draft.add(rows.line_num, cells["name"], synonyms, number)
    except csv.Error as error:
        raise InputError(f"line {rows.line_num}: malformed CSV ({error})") from None
    return draft


def _number(line: int, cell: str | None) -> int | None:
    if not cell:
        return None
    try:
        return int(cell)
    except ValueError:
        raise InputError(f"line {line}: id {cell!r} is not a whole number") from None
