"""Reads files with errors that name them, and writes them whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from anyregion.errors import AnyRegionError, InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# COCO's names of 2014: the folders of 2017 have the images without what stands before the number
_COCO_2014 = re.compile(r"COCO_[A-Za-z]+\d{4}_(?=\d{12}\.)")
_DRIVE = re.compile(r"[A-Za-z]:")


@contextmanager
def atomic_path(path: Path, *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; move it over `path` when the block ends well.

    After an error (a full disk, Ctrl-C) the old file is untouched and the sibling is removed.
    The parent folder is made if it is missing. The sibling keeps the suffix of `path`.

    Args:
        path: the file.
        private: whether only its owner may read it, and enter a folder that is made for it.
        durable: whether it is on the disk, not only on its way there, before it is moved: a machine
            that loses power has no file with holes then.
    """
    # beside the file, for a move from another disk would be a copy, which is not atomic
    if private and not path.parent.exists():
        private_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)  # whoever writes opens it by its name
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; the result gets the permissions any new file would have
        if private:
            temporary.chmod(0o600)
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        if durable:
            _to_disk(temporary)
        temporary.replace(path)
        if durable and os.name == "posix":  # Windows opens no folders
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, whatever the umask; so are missing ones above.

    A folder that is there already is closed to others, too.
    """
    for folder in reversed([p for p in path.parents if not p.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise AnyRegionError(
                f"{path}: the disk is full. What is finished is kept; make room and run the same "
                "command again"
            ) from error
        raise AnyRegionError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write `value` as JSON, atomically; what is no UTF-8 (file names may be) is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_line(value, indent=indent))


def to_line(value: Any, *, indent: int | None = None) -> bytes:
    """One line of JSON; file names that are not UTF-8 are escaped, everything else is readable.

    With `indent` it is as many lines as there are values.
    """
    # NaN is no JSON, though Python would write it
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def order_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in the order of its keys, in place.

    The library keeps them in a hash map and writes them in an order that differs from call to call:
    with this, equal content gives equal bytes. Tensors are in an order of its own already.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if len(header.get("__metadata__", ())) < 2:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        # written as the library does, so that it takes the same room: tensors stay where they are
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:
            raise ValueError(f"{path}: its header of {length} bytes became {len(text)}")
        file.seek(8)
        file.write(text.ljust(length))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically; of file names, bytes that are none are spelt out."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, atomically; of file names, bytes that are no UTF-8 are spelt out."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


# what moves the cursor, colours or renames a terminal, and ends of lines
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n"}


def plain_text(text: object) -> str:
    """A text as a terminal may have it: in one line, control characters spelt out.

    The name of a file may hold them, and files come from anywhere.
    """
    return str(text).translate(_CONTROLS)


def valid_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair that stands alone: JSON can write it.

    Halves that belong together become the character that they are.
    """
    # UTF-16 is what the halves come from
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what reading `path` in the block may raise into an `InputError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: Path) -> str:
    """Read UTF-8 text (a byte-order mark is dropped); `InputError` names the file."""
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of its keys and values; `InputError` for a key that stands there twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        # Python would keep the last and drop the others without a word
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"{twice!r:.80} stands twice in one object")
    return content


def read_json(path: Path, *, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read JSON; `InputError` names the file and the line that is malformed.

    `object_hook` is called with every object, and what it returns stands in its place.
    """
    text = read_text(path)

    def build(pairs: list[tuple[str, Any]]) -> Any:
        content = unique_keys(pairs)
        return content if object_hook is None else object_hook(content)

    try:
        return json.loads(text, object_pairs_hook=build)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: malformed JSON at line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}: JSON that cannot be read ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: JSON nested too deeply") from None


def name_parts(name: str, *, alike: bool = False) -> tuple[str, ...]:
    """The folders of a file's name and its last part, whichever system or web address it is from.

    Empty parts, `.`, `..` and a drive (`C:`) are left out, so no name leads out of a folder. Of an
    address the host is left out.

    Args:
        name: of the file, as somebody stated it.
        alike: reduce each part to what all spellings of it have in common: percent-encoding is
            undone, Unicode forms are one, the suffix is in small letters, and COCO's prefix of 2014
            (`COCO_val2014_`) is left out.
    """
    if "://" in name or name.startswith("/data/local-files/?"):
        try:
            address = urlsplit(name)
            # Label Studio serves files of its own disk under ?d=
            name = parse_qs(address.query).get("d", [address.path])[0]
        except ValueError:
            pass  # no address after all
    parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".", "..")]
    if parts and _DRIVE.fullmatch(parts[0]):
        del parts[0]
    if alike and parts:
        parts = [unicodedata.normalize("NFC", unquote(part)) for part in parts]
        stem, dot, suffix = _COCO_2014.sub("", parts[-1]).rpartition(".")
        parts[-1] = f"{stem}{dot}{suffix.lower() if dot else suffix}"
    return tuple(parts)


def shared_tail(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts two names (see `name_parts`) share, counted from their ends."""
    pairs = zip(first[::-1], second[::-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def cache_folder() -> Path:
    """The folder of encoded vocabularies: `ANYREGION_CACHE`, or `anyregion` in the user's cache."""
    if folder := os.environ.get("ANYREGION_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "anyregion"
