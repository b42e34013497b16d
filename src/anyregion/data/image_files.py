"""Image files of a data set: found by name, and read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from anyregion.files import reading

# items submitted at once: plenty for every thread, and few results wait in memory
_AHEAD = 512

T = TypeVar("T")
R = TypeVar("R")


def find_image(folder: Path, name: str) -> Path | None:
    """The file that an annotation file calls `name`, or None.

    Leading folders of the name are left out one by one until a file is there: a data set may lie
    flat, or start lower than its authors' did (`images/v1/patch8/x.jpg` as `patch8/x.jpg`). A name
    never leads out of `folder`. `COCO_val2014_000000000139.jpg` may be `000000000139.jpg`.
    """
    parts = _parts(name)
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        if _is_file(path):
            return path
    # LVIS v0.5 has COCO's names of 2014, and its images are in the folders of 2017
    if parts and parts[-1].startswith("COCO_"):
        path = folder / parts[-1].rpartition("_")[2]
        return path if _is_file(path) else None
    return None


def image_path(folder: Path, name: str) -> Path:
    """`find_image`'s answer; where there is none, the first path that it tried, for a message."""
    return find_image(folder, name) or folder.joinpath(*_parts(name))


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


def _parts(name: str) -> list[str]:
    """The folders of a name and its last part, without what could lead out of the folder."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]


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
