"""Image files of a data set: found by name, and read."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from anyregion.files import name_parts, reading

# items submitted at once: plenty for every thread, and few results wait in memory
_AHEAD = 512

T = TypeVar("T")
R = TypeVar("R")


def find_image(folder: Path, name: str) -> Path | None:
    """The file that an annotation file calls `name`, or None.

    Leading folders of the name are left out one by one until a file is there: a data set may lie
    flat, or start lower than its authors' did (`images/v1/patch8/x.jpg` as `patch8/x.jpg`). But
    where the name leads to another file beside `folder`, that is the one that is meant, so
    `cam1/0001.jpg` is not `cam2/0001.jpg`. A name never leads out of `folder`. A part may be
    spelled otherwise than the file on the disk, as long as one file only fits (see `name_parts`).
    """
    # elsewhere a backslash parts folders; here a file may be called so
    if os.sep == "/" and "\\" in name and "/" not in name and _is_file(folder / name):
        return folder / name
    parts = name_parts(name)
    for start in range(len(parts)):
        if (path := _spelled(folder, parts[start:])) is not None:
            beside = folder.parent.joinpath(*parts[start - 1 :])
            is_other = start and parts[start - 1] != folder.name and _is_file(beside)
            return None if is_other else path
    return None


def image_path(folder: Path, name: str) -> Path:
    """`find_image`'s answer; where there is none, the first path that it tried, for a message."""
    return find_image(folder, name) or folder.joinpath(*name_parts(name))


def _spelled(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file of these parts below a folder, or the only one whose parts are spelled alike."""
    path = folder.joinpath(*parts)
    if _is_file(path):
        return path
    for part in parts:
        try:
            names = _spellings(folder, folder.stat().st_mtime_ns)
        except (OSError, ValueError):
            return None
        same = names.get(name_parts(part, alike=True), ())
        if len(same) != 1:
            return None
        folder /= same[0]
    return folder if _is_file(folder) else None


@lru_cache(maxsize=64)
def _spellings(folder: Path, modified: int) -> dict[tuple[str, ...], list[str]]:
    """The names in a folder by what all their spellings have in common; anew once it changes."""
    names: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for entry in os.scandir(folder):
        names[name_parts(entry.name, alike=True)].append(entry.name)
    return dict(names)


def read_file(path: Path) -> bytes:
    """The bytes of a file; `InputError` names it."""
    with reading(path):
        try:
            return path.read_bytes()
        except ValueError:  # a name that no file can have, as with a zero byte
            raise FileNotFoundError from None


def _is_file(path: Path) -> bool:
    """Also False for a name that no file can have, and in a folder that may not be entered."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def in_threads(
    work: Callable[[T], R], items: Iterable[T], *, threads: int = 8, ahead: int = _AHEAD
) -> Generator[R, None, None]:
    """`map(work, items)` by several threads, in order, `ahead` items ahead at most."""
    remaining, queue = iter(items), deque[Future[R]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="anyregion-read") as pool:
        try:
            while True:
                queue.extend(pool.submit(work, i) for i in islice(remaining, ahead - len(queue)))
                if not queue:
                    return
                yield queue.popleft().result()
        finally:
            # the caller stopped, or an error: what nobody waits for need not be done
            for future in queue:
                future.cancel()
