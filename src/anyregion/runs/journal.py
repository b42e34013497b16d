"""The journal of a run: one line of JSON an image, whole or absent whatever interrupts writing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from anyregion.errors import AnyRegionError, InputError
from anyregion.files import atomic_path, writing

try:
    import fcntl
except ImportError:
    # Windows: two runs into one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Entry:
    """The part of a line that stays in memory.

    Attributes:
        offset: where the line starts, in bytes.
        size: `(height, width)` of the image.
        image_id: the image's id in the region file, or None.
        picture: path of its picture inside the folder, or None.
        regions: how many rows it has.
        set_aside: regions of the image that could not be used: `[{"item", "reason"}, ...]`.
        file: what tells the image's file from another of its name (see `file_mark`).
    """

    offset: int
    size: tuple[int, int]
    image_id: int | None
    picture: str | None
    regions: int
    set_aside: list[dict[str, str]]
    file: dict[str, int] | None

    @classmethod
    def from_line(cls, line: dict[str, Any], offset: int) -> Entry:
        """Of the line of a finished image, which starts at `offset`."""
        return cls(
            offset=offset,
            size=(int(line["height"]), int(line["width"])),
            image_id=line.get("image_id"),
            picture=line.get("picture"),
            regions=len(line["regions"]),
            set_aside=line.get("set_aside", []),
            file=line.get("file"),
        )


class Journal:
    """Finished images by name. Opening it drops a last line that was cut short.

    Raises:
        InputError: a line before the last is malformed: the file is not a journal, or was edited.
        AnyRegionError: another run is writing it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._open()

    def close(self) -> None:
        """Close the file; another run may then continue."""
        self._file.close()

    def append(self, line: dict[str, Any]) -> None:
        """Add the line of one finished image; after an error the file is as it was before."""
        with writing(self.path):
            start = append_lines(self._file, [line])
        self.entries[line["image"]] = Entry.from_line(line, start)

    def drop(self, names: Iterable[str]) -> None:
        """Take out the lines of some images; the others keep their bytes and their order."""
        dropped = set(names)
        remaining = [entry for name, entry in self.entries.items() if name not in dropped]
        with writing(self.path), atomic_path(self.path) as temporary:
            with self.path.open("rb") as old, temporary.open("wb") as new:
                for entry in sorted(remaining, key=lambda entry: entry.offset):
                    old.seek(entry.offset)
                    new.write(old.readline())
            # some systems replace no file that is open
            self._file.close()
        # the same dictionary: whoever holds it sees what remains
        self.entries.clear()
        self._open()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line, in the order of the images' names: the same however often a run stopped."""
        with self.path.open("rb") as file:
            for name in sorted(self.entries):
                file.seek(self.entries[name].offset)
                yield json.loads(file.readline())

    def _open(self) -> None:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: a line is on its way to the disk before the image counts as finished
            self._file = self.path.open("a+b", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise AnyRegionError(
                f"{self.path.parent}: another run is writing there; wait for it, or give another "
                "folder"
            ) from None
        except OSError:
            # a network disk without locks: the run goes on without one
            pass
        try:
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _recover(self) -> None:
        """Read the lines, and cut off a last one that a kill or a full disk left unfinished."""
        good = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    if not raw.endswith(b"\n"):
                        raise ValueError("cut short")
                    line = json.loads(raw)
                    self.entries[line["image"]] = Entry.from_line(line, good)
                except (ValueError, KeyError, TypeError):
                    # only the last line can be torn; any other was edited
                    if file.read(1):
                        raise InputError(
                            f"{self.path}: line {number} is malformed; repair it, or start anew "
                            "with --overwrite or in another folder"
                        ) from None
                    break
                good += len(raw)
        with writing(self.path):
            self._file.truncate(good)


def append_lines(file: FileIO, values: Iterable[Any]) -> int:
    """Append each value as a line of JSON to an unbuffered file, all of them or none.

    Returns where the first starts.
    """
    start = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(b"".join(to_line(value) for value in values))
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        # a torn line would be cut off when the run is continued, but none is better
        with suppress(OSError):
            file.truncate(start)
        raise
    return start


def to_line(value: Any) -> bytes:
    """One line of JSON; file names that are not UTF-8 are escaped, everything else is readable."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, allow_nan=False) + "\n").encode()


def file_mark(path: Path) -> dict[str, int] | None:
    """Size and time of change of a file: a cheap sign that it was overwritten. None if gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
