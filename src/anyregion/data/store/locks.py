"""Lock files with a heartbeat, for files that several processes or machines could write."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anyregion.files import read_json, writing

# seconds between signs of life, and how long after the last one a lock counts for nothing: long
# enough for a file server that is away for a minute. On its own machine a lock ends at once with
# its process
HEARTBEAT = 15.0
STALE = 120.0


@contextmanager
def try_lock(path: Path, *, heartbeat: float = HEARTBEAT, stale: float = STALE) -> Iterator[bool]:
    """Whether this process has the lock `path`; the lock ends with the block.

    The worst that can happen, on file systems with odd clocks or a process that slept for minutes,
    is that two processes write the same file with the same content.

    Args:
        path: the lock file; its folder must be there.
        heartbeat, stale: see `STALE`.

    Raises:
        AnyRegionError: the lock file cannot be written.
    """
    token = uuid.uuid4().hex
    if not _acquire(path, token, stale):
        yield False
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, heartbeat, ended), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        ended.set()
        beating.join()
        # without a token, or with another, a different process has taken the lock over
        with suppress(ValueError, KeyError, TypeError):
            if read_json(path)["id"] == token:
                path.unlink(missing_ok=True)


def _acquire(path: Path, token: str, stale: float) -> bool:
    if _create(path, token):
        return True
    if not _is_stale(path, stale):
        return False
    # who looked before another took over must not take that one's new lock away: one at a time,
    # and each looks again
    guard = path.with_name(f"{path.name}.guard")
    if not _create(guard, token):
        with suppress(OSError):
            if _server_time(path) - guard.stat().st_mtime > stale:  # killed within this very moment
                guard.unlink()
        return False
    try:
        if _is_stale(path, stale):
            path.unlink(missing_ok=True)
        return _create(path, token)
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path, token: str) -> bool:
    """Make the file, unless it is there."""
    with writing(path):
        try:
            # mode x is atomic on local disks and on NFS since version 3
            with path.open("x", encoding="utf-8") as file:
                json.dump({"host": _machine(), "pid": os.getpid(), "id": token}, file)
        except FileExistsError:
            return False
    return True


def _is_stale(path: Path, stale: float) -> bool:
    try:
        age = _server_time(path) - path.stat().st_mtime
    except FileNotFoundError:
        return False  # it has just ended; whoever comes next finds the place free
    if age > stale:
        return True
    # a process of this machine that was killed need not be waited for
    try:
        owner = read_json(path)
        return owner["host"] == _machine() and not _is_alive(int(owner["pid"]))
    except (ValueError, KeyError, TypeError):
        return False  # being written this moment; or cut off by a full disk, and then age decides


def _machine() -> str:
    """The name of the machine and of the container on it."""
    # process numbers are unique within a namespace, and containers may share the machine's name
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return socket.gethostname()


def _server_time(path: Path) -> float:
    """The time by the clock that dates the lock files."""
    # of a file just written: a file server's clock may differ from this machine's
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with writing(probe):
            probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    # signal 0 asks whether the process exists; on Windows it would end it, so age decides
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _beat(path: Path, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds):
        with suppress(OSError):  # taken over, or a file server that is away for a moment
            os.utime(path)
