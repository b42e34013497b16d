"""Reads vocabularies: built-in ones by name, files, standard input, and names that are typed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import reprlib
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyregion.data.annotations.layouts import describe_file
from anyregion.errors import InputError
from anyregion.files import read_json, read_text, reading, unique_keys
from anyregion.teaching.vocabulary import TaughtVocabulary, is_taught
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Vocabulary, name_key

_BUILT_IN = files("anyregion") / "vocabularies"
BUILT_IN_NAMES = sorted(
    entry.name.removesuffix(".json")
    for entry in _BUILT_IN.iterdir()
    if entry.name.endswith(".json")
)
LAYOUTS = (
    'a text file (.txt, .names) with one name a line, "0 cat" or "1: cat" a line, or names in one '
    'line with commas between; .json with ["cat", ...], {"names" or "classes" or "categories": '
    '[...]}, {"0": "cat", ...}, {"id2label": {...}}, {"cat": ["synonym", ...], ...} or a COCO '
    "file; .csv with a column `name`; .yaml with `names`, as YOLO's data.yaml; .safetensors"
)
_TEXT_SUFFIXES = ("", ".txt", ".names", ".labels", ".lst", ".list")
# what is typed and ends like this is a file, also among commas
_FILE_SUFFIXES = (
    ".txt", ".json", ".csv", ".yaml", ".yml", ".tsv", ".names", ".safetensors", ".vocab",
)  # fmt: skip
# `vocab.yaml`, `labels.v2`, but neither `t.v.` nor `St. Bernard`, `St.Bernard` or `No.5`
_SUFFIX = re.compile(r"[^\s.]\.[a-z][a-z0-9]{1,11}$|[^\s.]\.[A-Z0-9]{3,5}$")
# the key under which a file of several things holds the names
_LIST_KEYS = ("names", "classes", "categories", "labels", "class_names", "id2label")
# what stands beside it in data sets and settings, lists though it may hold
_KEYS_BESIDE = {"images", "annotations", "info", "licenses", "train", "val", "test", "path"}
_WHOLE_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
# `0 cat`, `1: cat`, `2) cat`, `3<tab>cat`; and `cat: 0`. `3.5 mm jack` is none
_NUMBER_FIRST = re.compile(
    r"(?P<number>[0-9]{1,9})(?P<mark>\s*[:=;,]\s*|[.)]\s+|\s*\t\s*|\s+)(?P<name>\S.*)"
)
_NUMBER_LAST = re.compile(r"(?P<name>\S.*?)(?P<mark>\s*[:=]\s*|\s*\t\s*)(?P<number>[0-9]{1,9})")
_YAML_KEY = re.compile(r"^(names|classes|categories|id2label)[ \t]*:", re.MULTILINE)
# also what other systems end lines with, and what East Asian text has between words
_LINE_END = r"\r\n|[\r\n\x85\u2028\u2029]"
_MARKS = ",;\t\uff0c\u3001\uff1b"
_PARTS_OF_NAMES = {
    "begin with a WordNet id": re.compile(r"n\d{8}\s"),
    "end in a number": re.compile(r".*\S\s+\d{1,9}$"),
}
_BULLET = re.compile(r"[-*\u2022]\s+(\S.*)")


@dataclass
class _Draft:
    """Names as they are read, duplicates and all.

    Attributes:
        unit: what is counted where names stand: lines, entries, names.
        rows: of each name its position, itself, its synonyms, and its category id or None.
            Without a list of synonyms they stand behind the name: `name | synonym`.
        templates, cleaning: as the file states them, or None.
        notes: how the file was read, where that may surprise.
    """

    unit: str
    rows: list[tuple[int, str, list[str] | None, int | None]] = field(default_factory=list)
    templates: tuple[str, ...] | None = None
    cleaning: Cleaning | None = None
    notes: list[str] = field(default_factory=list)


def builtin_vocabularies() -> dict[str, int]:
    """The built-in lists and how many names each has; `load_vocabulary` knows them by name."""
    return {name: len(_built_in(name)["categories"]) for name in BUILT_IN_NAMES}


def load_vocabulary(
    spec: str | Path, *, synonyms: bool = True, cleaning: Cleaning | None = None
) -> Vocabulary | EncodedVocabulary:
    """Read a vocabulary. What `spec` names is decided in this order:

    1. The name of a built-in list, whatever its case: `coco`, `imagenet`, `lvis`, `objects365` or
       `openimages`. (`./coco` is a file of that name; so is any `Path`.)
    2. `-`: standard input, read as a text file.
    3. An existing file:
        `.txt`, `.names`, or no suffix: one name a line, `name | synonym | synonym`; empty lines and
            lines that begin with `#` are left out. One line alone may hold several names, with
            commas between. Numbers before or behind the names (`0 cat`, `1: cat`, `cat: 0`) are
            their ids, where every line has one: after a space they have to rise from 0 or 1.
        `.json`: a list of names; the same under `names`, `classes` or `categories`; `{"0": name}`,
            also under one of these or `id2label`; `{name: [synonyms]}`; or a COCO file, whose
            `categories` are read with their ids (and `synonyms`, where it has them, as LVIS does).
            What `Vocabulary.save` wrote is such a file, with templates and cleaning.
        `.yaml`: the same layouts; YOLO's `data.yaml` is one.
        `.csv`: a header with `name` and, if wanted, `id` and `synonyms` (these parted by `|`).
        `.safetensors`: an encoded vocabulary, as `EncodedVocabulary.save` wrote it.
        `.vocab`: one that was taught, as `TaughtVocabulary.save` wrote it.
    4. Anything else is the names themselves, parted by commas: `dog, red car | automobile, bus`.
       One that looks like a file (`vocab.yaml`, `my/labels`) is taken for a file that is missing,
       unless it stands among commas (`and/or,`).

    Names that are empty or repeat another are left out and listed in `set_aside`, with the line
    (of a JSON file: the place) they stand at; `notes` has what may surprise otherwise.

    Args:
        spec: as above.
        synonyms: False leaves synonyms out, as the published results on LVIS do.
        cleaning: see `Vocabulary`; it also decides which names repeat another. None for what the
            file states, or `plain`.

    Raises:
        InputError: `spec` looks like a file but there is none; the file is malformed, or of no
            layout that is read (with its name and the line); no usable name.
    """
    path: Path | None = None
    is_folder = False
    # built-in names come first: a file that is called as one is `./coco`, or a Path
    built_in = isinstance(spec, str) and spec.strip().casefold() in BUILT_IN_NAMES
    # names need not be possible file names: too long, or with a zero byte
    with suppress(OSError, ValueError, RuntimeError):
        file = Path(spec).expanduser()
        is_folder = file.is_dir()  # which may be called as a name is
        # a pipe (`<(...)`) is a file, too
        is_file = isinstance(spec, Path) or (file.exists() and not is_folder)
        path = file if is_file and not built_in and spec != "-" else None
    if path is not None and path.suffix.casefold() in (".safetensors", ".vocab"):
        # before names are read from what is no text
        if path.suffix.casefold() == ".vocab" or is_taught(path):
            return TaughtVocabulary.load(path)
        return EncodedVocabulary.load(path)
    source = "standard input" if spec == "-" else path
    try:
        if built_in:
            draft = _from_value(_built_in(str(spec)))
        elif spec == "-":
            draft = _from_text(_read_standard_input())
        else:
            draft = _typed(str(spec), is_folder=is_folder) if path is None else _from_file(path)
        cleaning = cleaning or draft.cleaning or "plain"
        first: dict[int, str] = {}
        names: list[str] = []
        others: list[list[str]] = []
        places = [f"{draft.unit} {position}" for position, *_ in draft.rows]
        for place, (_, name, words, number) in zip(places, draft.rows, strict=True):
            if words is None:
                name, *words = map(str.strip, name.split("|"))
            names.append(name)
            # what a binary file would give, if it decodes at all
            if "\0" in name:
                raise InputError(f"{place}: a zero byte; this is not a list of names")
            key = name_key(name) if words or number is not None else ""
            others.append([w for w in words if w and name_key(w) != key])
            if number is None:
                continue
            other = first.setdefault(number, name)
            # the same name again is set aside as a duplicate, id and all
            if other != name and name_key(other, cleaning) != name_key(name, cleaning):
                raise InputError(f"{place}: {other!r} and {name!r} share id {number}")
        ids = [number for *_, number in draft.rows if number is not None]
        if ids and len(ids) != len(draft.rows):
            raise InputError("some names have an id and some have none")
        vocabulary = Vocabulary.from_names(
            names,
            synonyms=others if synonyms and any(others) else None,
            templates=draft.templates,
            ids=ids or None,
            cleaning=cleaning,
            places=places,
        )
        return replace(vocabulary, notes=(*draft.notes, *vocabulary.notes))
    except InputError as error:
        if source is None or str(error).startswith(str(source)):
            raise
        raise InputError(f"{source}: {error}") from None


def _built_in(name: str) -> Any:
    name = name.strip().casefold()
    return json.loads((_BUILT_IN / f"{name}.json").read_text(encoding="utf-8"))


def _typed(spec: str, *, is_folder: bool) -> _Draft:
    """Names parted by commas; what looks like a path is a mistyped one more often than a name."""
    entries = re.split(r"[,\n\uff0c\u3001]", spec)
    if len(entries) == 1:
        like_path = bool(_SUFFIX.search(spec)) or spec.casefold().endswith(_FILE_SUFFIXES)
        if match := re.match(r"[^/\\]*(?=[/\\])", spec):
            like_path |= not re.search(r"\s", spec.strip())
            # `my files/names`, but not `cutting/chopping board`
            with suppress(OSError, ValueError, RuntimeError):
                like_path |= Path(match[0] or "/").expanduser().is_dir()
        if like_path:
            problem = "is a folder" if is_folder else "there is no such file"
            raise InputError(f"{spec}: {problem} (a name that looks like one ends in a comma)")
    elif not entries[-1].strip() and spec.strip(", \t\n"):
        entries.pop()  # the comma that tells a name from a file
    for entry in entries:
        if entry.strip().casefold().endswith(_FILE_SUFFIXES):
            raise InputError(
                f"{entry.strip()}: there is no such file, or it stands among names: a vocabulary "
                "is one file, or names with commas between"
            )
    return _Draft("name", [(i, entry, None, None) for i, entry in enumerate(entries, start=1)])


def _from_file(path: Path) -> _Draft:
    suffix = path.suffix.casefold()
    # a pipe can be read only once
    if (
        path.is_file()
        and suffix not in (".json", ".yaml", ".yml")
        and (known := describe_file(path))
    ):
        raise InputError(f"{known}. Read are: {LAYOUTS}")
    if suffix == ".json":
        return _from_value(read_json(path))
    if suffix == ".csv":
        return _from_csv(read_text(path))
    if suffix in (".yaml", ".yml"):
        return _from_value(_parse_yaml(read_text(path), str(path)))
    if suffix not in _TEXT_SUFFIXES:
        raise InputError(f"a vocabulary is one of: {LAYOUTS}")
    return _from_text(read_text(path))


def _parse_yaml(text: str, name: str) -> Any:
    from anyregion.yaml_text import parse_yaml  # PyYAML is needed for such files only

    return parse_yaml(text, name)


def _read_standard_input() -> str:
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("closed")
    with reading(Path("standard input")):
        return sys.stdin.buffer.read().decode("utf-8-sig")


def _from_text(text: str) -> _Draft:
    """The names of a text file: one a line, numbered or not, or several in its only line."""
    body = text.strip()
    if body[:1] + body[-1:] in ("[]", "{}"):
        try:
            value = json.loads(body, object_pairs_hook=unique_keys)
        except InputError:
            raise
        except (ValueError, RecursionError):
            value = _parse_yaml(body, "a list in brackets")  # ['cat', dog]
        return _from_value(value)
    if _YAML_KEY.search(text):
        return _from_value(_parse_yaml(text, "YAML"))
    draft = _Draft("line")
    entries = [
        (position, line.strip().rstrip(",; \t"))
        for position, line in enumerate(re.split(_LINE_END, text), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(entries) == 1 and (marks := [mark for mark in _MARKS if mark in entries[0][1]]):
        draft.unit = "name"
        entries = list(enumerate(map(str.strip, entries[0][1].split(marks[0])), start=1))
        draft.notes.append(f"one line, read as {len(entries)} names with {marks[0]!r} between")
    elif len(entries) == 1 and re.search(r"\S\s*[\s|/]\s*\S", entries[0][1]):
        line = " ".join(entries[0][1].split())
        draft.notes.append(f"one line without commas, read as one name: {line:.60}")
    for quote in "\"'":
        if all(len(e) > 1 and e[0] == e[-1] == quote for _, e in entries):
            entries = [(position, entry[1:-1]) for position, entry in entries]
    bullets = [_BULLET.fullmatch(entry) for _, entry in entries]
    if all(bullets):
        entries = [
            (p, bullet[1]) for (p, _), bullet in zip(entries, bullets, strict=True) if bullet
        ]
    first = [_NUMBER_FIRST.fullmatch(entry) for _, entry in entries]
    last = [_NUMBER_LAST.fullmatch(entry) for _, entry in entries]
    matches = [match for match in (last if all(last) else first) if match]
    ids = [int(match["number"]) for match in matches]
    marked = all(match["mark"].strip() or "\t" in match["mark"] for match in matches)
    rising = len(ids) > 1 and ids[0] < 2 and all(a < b for a, b in itertools.pairwise(ids))
    if len(matches) == len(entries) > 0 and (marked or rising):
        entries = [(p, match["name"]) for (p, _), match in zip(entries, matches, strict=True)]
        draft.notes.append("the number of each line is the id of its name")
    else:
        if 1 < len(ids) > len(entries) / 2:
            draft.notes.append(f"{len(ids)} names begin with a number, which is part of the name")
        for words, pattern in _PARTS_OF_NAMES.items():
            if 1 < (count := sum(bool(pattern.match(e)) for _, e in entries)) > len(entries) / 2:
                draft.notes.append(f"{count} names {words}, which is part of the name")
        ids = []
    if commas := sum("," in entry for _, entry in entries):
        draft.notes.append(f"{commas} lines hold commas: each line is one name")
    draft.rows = [
        (position, entry, None, ids[row] if ids else None)
        for row, (position, entry) in enumerate(entries)
    ]
    return draft


def _from_value(content: Any) -> _Draft:
    """The names of a JSON or YAML value, of any layout."""
    draft, listed = _Draft("entry"), content
    if isinstance(content, dict):
        keys = [key for key in _LIST_KEYS if isinstance(content.get(key), (list, dict))]
        if len(keys) > 1:
            raise InputError(f"only one of {' and '.join(keys)} can hold the names")
        if keys:
            listed = content[keys[0]]
            others = [content[key] for key in content.keys() - {keys[0], *_KEYS_BESIDE}]
            if others and all(map(_is_names, [listed, *others])):
                raise InputError(f"{keys[0]!r} may be a list of names, or a name with synonyms")
        if isinstance(nc := content.get("nc"), int) and keys and nc != len(listed):
            raise InputError(f"nc is {nc}, but there are {len(listed)} names")
        if isinstance(templates := content.get("templates"), list) and keys:
            draft.templates = tuple(map(str, templates))
        draft.cleaning = content.get("cleaning") if keys else None
        if content and content.keys() <= {"train", "val", "test", "path", "nc"}:
            raise InputError("a data set without `names`")
        if not keys and {"images", "annotations"} <= content.keys():
            raise InputError("annotations without `categories`")
    if isinstance(listed, list):
        categories = bool(listed) and all(isinstance(row, dict) for row in listed)
        for position, row in enumerate(listed, start=1):
            if not categories:
                draft.rows.append((position, *_entry(position, row, None), None))
                continue
            number = row.get("id")
            if not isinstance(number, int) or isinstance(number, bool):
                problem = f"its id {reprlib.repr(number)} is not a whole number"
                raise InputError(f"category {position}: {problem}")
            name, synonyms = _entry(position, row.get("name"), row.get("synonyms"))
            draft.rows.append((position, name, synonyms, number))
    elif isinstance(listed, dict):
        numbered = all(_WHOLE_NUMBER.fullmatch(str(key)) for key in listed)
        ids = all(
            isinstance(value, int) and not isinstance(value, bool) for value in listed.values()
        )
        for position, (key, value) in enumerate(listed.items(), start=1):
            if numbered:
                draft.rows.append((position, *_entry(position, value, None), int(key)))
            elif ids:
                draft.rows.append((position, *_entry(position, key, None), value))
            else:
                draft.rows.append((position, *_entry(position, key, value), None))
    else:
        raise InputError(f"{reprlib.repr(content)} is no list of names. Read are: {LAYOUTS}")
    return draft


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _entry(position: int, name: Any, synonyms: Any) -> tuple[str, list[str]]:
    """A name and its synonyms of a JSON or YAML file, checked."""
    if not isinstance(name, str):
        hint = f"Read are: {LAYOUTS}" if isinstance(name, (list, dict)) else "In quotes it is one"
        raise InputError(f"entry {position}: {reprlib.repr(name)} is not a name. {hint}")
    synonyms = synonyms or []
    if not _is_names(synonyms):
        problem = f"synonyms must be a list of names, not {reprlib.repr(synonyms)}"
        raise InputError(f"entry {position}: {problem}. Read are: {LAYOUTS}")
    return name, [" ".join(word.split()) for word in synonyms]


def _from_csv(text: str) -> _Draft:
    draft = _Draft("line")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().casefold() for cell in next(rows, [])]
        if twice := [name for name in ("name", "id", "synonyms") if header.count(name) > 1]:
            raise InputError(f"line 1: two columns are called {twice[0]}")
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
