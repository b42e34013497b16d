"""Reads vocabularies: built-in ones by name, files, and names typed on a command line."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyregion.errors import InputError
from anyregion.files import read_json, read_text
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Vocabulary, name_key

_BUILT_IN = files("anyregion") / "vocabularies"
BUILT_IN_NAMES = sorted(
    entry.name.removesuffix(".json")
    for entry in _BUILT_IN.iterdir()
    if entry.name.endswith(".json")
)
_FILE_SUFFIXES = (".txt", ".json", ".csv", ".safetensors")
_ANY_SUFFIX = re.compile(r"[/\\][^/\\,]*\.[A-Za-z0-9]{1,12}$")


def builtin_vocabularies() -> dict[str, int]:
    """The built-in lists and how many names each has; `load_vocabulary` knows them by name."""
    return {name: len(_built_in(name)["categories"]) for name in BUILT_IN_NAMES}


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
    path: Path | None = None
    # built-in names come first: a file that is called as one is `./coco`, or a Path
    built_in = isinstance(spec, str) and spec.strip().casefold() in BUILT_IN_NAMES
    # names need not be possible file names: too long, or with a zero byte
    with suppress(OSError, ValueError, RuntimeError):
        file = Path(spec).expanduser()
        path = file if not built_in and (isinstance(spec, Path) or file.is_file()) else None
    if path is not None and path.suffix.casefold() == ".safetensors":
        return EncodedVocabulary.load(path)
    try:
        draft = _from_json(_built_in(str(spec))) if built_in else _read(str(spec), path)
        cleaning = cleaning or draft.cleaning or "plain"
        first: dict[int, str] = {}
        others: list[list[str]] = []
        for position, name, words, number in draft.rows:
            place = f"{draft.unit} {position}"
            # what a binary file would give, if it decodes at all
            if "\0" in name:
                raise InputError(f"{place}: a zero byte; this is not a list of names")
            others.append([w for w in words if w and name_key(w) != name_key(name)])
            other = name if number is None else first.setdefault(number, name)
            # the same name again is set aside as a duplicate, id and all
            if name_key(other, cleaning) != name_key(name, cleaning):
                raise InputError(f"{place}: {other!r} and {name!r} share id {number}")
        ids = [number for *_, number in draft.rows if number is not None]
        if ids and len(ids) != len(draft.rows):
            raise InputError("some names have an id and some have none")
        return Vocabulary.from_names(
            [name for _, name, _, _ in draft.rows],
            synonyms=others if synonyms and any(others) else None,
            templates=draft.templates,
            ids=ids or None,
            cleaning=cleaning,
            places=[f"{draft.unit} {position}" for position, *_ in draft.rows],
        )
    except InputError as error:
        if path is None or str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from None


@dataclass
class _Draft:
    """Names as they are read, duplicates and all.

    Attributes:
        unit: what is counted where names stand: lines, entries, names.
        rows: of each name its position, itself, its synonyms, and its category id or None.
        templates, cleaning: as the file states them, or None.
    """

    unit: str
    rows: list[tuple[int, str, list[str], int | None]] = field(default_factory=list)
    templates: tuple[str, ...] | None = None
    cleaning: Cleaning | None = None


def _read(spec: str, path: Path | None) -> _Draft:
    """The names of a file, or, where there is none, those that `spec` itself lists."""
    if path is None:
        # what looks like a path is a mistyped one more often than a name
        if spec.casefold().endswith(_FILE_SUFFIXES) or _ANY_SUFFIX.search(spec):
            raise InputError(f"{spec}: there is no such file")
        draft, entries = _Draft("name"), re.split(r"[,\n]", spec)
    else:
        suffix = path.suffix.casefold()
        if suffix == ".json":
            return _from_json(read_json(path))
        if suffix == ".csv":
            return _from_csv(read_text(path))
        if suffix not in ("", ".txt"):
            raise InputError(f"a vocabulary is one of {', '.join(_FILE_SUFFIXES)}")
        draft, entries = _Draft("line"), read_text(path).split("\n")
    for position, entry in enumerate(entries, start=1):
        # in a file, empty lines and comments stand between names
        if path is None or (entry.strip() and not entry.startswith("#")):
            name, *synonyms = (word.strip() for word in entry.split("|"))
            draft.rows.append((position, name, synonyms, None))
    return draft


def _built_in(name: str) -> Any:
    name = name.strip().casefold()
    return json.loads((_BUILT_IN / f"{name}.json").read_text(encoding="utf-8"))


def _from_json(content: Any) -> _Draft:
    draft = _Draft("entry")
    rows = content.get("categories") if isinstance(content, dict) else None
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        for position, row in enumerate(rows, start=1):
            number = row.get("id")
            if not isinstance(number, int) or isinstance(number, bool):
                raise InputError(f"category {position}: its id {number!r} is not a whole number")
            name, synonyms = _entry(position, row.get("name"), row.get("synonyms"))
            draft.rows.append((position, name, synonyms, number))
        if isinstance(templates := content.get("templates"), list):
            draft.templates = tuple(map(str, templates))
        draft.cleaning = content.get("cleaning")
    elif isinstance(content, dict):
        for position, pair in enumerate(content.items(), start=1):
            draft.rows.append((position, *_entry(position, *pair), None))
    elif isinstance(content, list):
        for position, name in enumerate(content, start=1):
            draft.rows.append((position, *_entry(position, name, None), None))
    else:
        raise InputError("neither a list of names, nor {name: [synonyms]}, nor COCO categories")
    return draft


def _entry(position: int, name: Any, synonyms: Any) -> tuple[str, list[str]]:
    """A name and its synonyms of a JSON file, checked."""
    if not isinstance(name, str):
        raise InputError(f"entry {position}: {name!r} is not a name")
    synonyms = synonyms or []
    if not isinstance(synonyms, list) or not all(isinstance(word, str) for word in synonyms):
        raise InputError(f"entry {position}: synonyms must be a list of names, not {synonyms!r}")
    return name, [" ".join(word.split()) for word in synonyms]


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
            try:
                number = int(cells["id"]) if cells.get("id") else None
            except ValueError:
                reason = f"id {cells['id']!r} is not a whole number"
                raise InputError(f"line {rows.line_num}: {reason}") from None
            draft.rows.append((rows.line_num, cells["name"], synonyms, number))
    except csv.Error as error:
        raise InputError(f"line {rows.line_num}: malformed CSV ({error})") from None
    return draft
