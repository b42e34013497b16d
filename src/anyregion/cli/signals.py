"""Ctrl-C and SIGTERM: both end any command the same way, and within a second."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from anyregion.cli.exit_codes import INTERRUPTED

# SIGTERM is what schedulers, `timeout` and containers send some seconds before they kill
SIGNALS = (signal.SIGINT, signal.SIGTERM)

# seconds for what was begun (a line of the journal, a picture) to come to its end
GRACE = 0.6


@contextmanager
def stop_signals(*, program: bool) -> Iterator[None]:
    """Both signals raise `KeyboardInterrupt` in the block; a second one ends the process at once.

    Python calls a handler between two steps of its own, and a step may be a network's pass over
    hundreds of regions; and it ends only when its threads have, one of which may read a large
    image. So what has not come to its end after `GRACE` is cut off, as by a kill: files are whole
    or absent at any moment. A training has handlers of its own: it ends its step first.

    Outside the main thread nothing changes.

    Args:
        program: the process ends after the block, and what its threads still do is cut off too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # a shell lets what it starts in the background ignore Ctrl-C: that stays
    before: dict[signal.Signals, Any] = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, _interrupt)
    if os.name != "posix":
        # Windows wakes by sockets alone, and its SIGTERM is a kill
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_cut_off, args=(reading, ended), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(writing)  # which ends the thread, if no signal came
        if not program:
            ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of both signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt


def _cut_off(reading: int, ended: threading.Event) -> None:
    """End the process some time after a signal, in a thread that is woken by the system itself."""
    with open(reading, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if signal.getsignal(number[0]) not in (_interrupt, signal.SIG_DFL):
                continue  # somebody else's to obey
            if not ended.wait(GRACE):
                # a bar that was being drawn has hidden the cursor
                cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
                os.write(2, f"{cursor}anyregion: interrupted\n".encode())
                os._exit(INTERRUPTED)
            return
