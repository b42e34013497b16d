"""Filling the shards of a store, by any number of processes and machines that reach its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from anyregion.data.store.locks import HEARTBEAT, STALE, try_lock
from anyregion.data.store.shards import Record, Shard, ShardError, Shards, ShardSpec, write_shard
from anyregion.files import writing
from anyregion.vocabulary import Progress

WAIT = 0.5
"""Seconds between looks at the shards that other processes compute."""


@dataclass(eq=False)
class Filled:
    """What a call of `fill_shards` did.

    Attributes:
        computed: records that this process computed; the others were there or came from elsewhere.
        skipped: keys of all records that are set aside, and why.
    """

    computed: int = 0
    skipped: dict[int, str] = field(default_factory=dict)


def fill_shards(
    shards: Shards[Any],
    compute: Callable[[int], Iterable[Record | None]],
    *,
    progress: Progress,
    before: int = 0,
    heartbeat: float = HEARTBEAT,
    stale: float = STALE,
) -> Filled:
    """Compute every shard that is missing or damaged, and return when all are there.

    Each is computed once, by whichever process locks it first. What is finished stays, whatever
    stops a process (Ctrl-C, `kill -9`, a full disk); its shard is begun anew by the next one.

    Args:
        shards: with the keys of each; the same in all processes that share them.
        compute: a shard's number to its records, in the order of its keys; None for a record that
            cannot be had just now and stays missing.
        progress: called with the records that are finished, and all.
        before: records that were there before; they count as finished.
        heartbeat, stale: see `locks.STALE`.

    Raises:
        AnyRegionError: a shard or a lock file cannot be written.
    """
    filled, done = Filled(), before
    sizes = [0 if spec.keys is None else len(spec.keys) for spec in shards.specs]
    total = before + sum(sizes)
    for spec in shards.specs[:1]:
        with writing(spec.path.parent):
            spec.path.parent.mkdir(parents=True, exist_ok=True)
    progress(done, total)
    todo = list(range(len(shards)))
    while todo:
        elsewhere: list[int] = []  # other processes are at them, or were
        for number in todo:
            spec = shards.specs[number]
            skipped = _finished(shards, number)
            if skipped is None:
                with try_lock(spec.lock, heartbeat=heartbeat, stale=stale) as locked:
                    # another process may have finished it between the two looks
                    skipped = _finished(shards, number)
                    if locked and skipped is None:
                        records: list[Record | None] = []
                        for record in compute(number):
                            records.append(record)
                            progress(done + len(records), total)
                        skipped = _write(shards, spec, records)
                        filled.computed += len(records)
            if skipped is None:
                elsewhere.append(number)
                continue
            filled.skipped |= skipped
            done += sizes[number]
            progress(done, total)
        if elsewhere:
            time.sleep(WAIT)
        todo = elsewhere
    return filled


def _finished(shards: Shards[Any], number: int) -> dict[int, str] | None:
    """What a finished shard has set aside; None if it has to be computed. Reads the header only."""
    try:
        return Shard(shards.specs[number], shards.codec).records.skipped
    except ShardError:
        return None


def _write(shards: Shards[Any], spec: ShardSpec, records: list[Record | None]) -> dict[int, str]:
    """Write the records that could be had; returns those set aside."""
    # of a killed process, see `atomic_path`: who has the lock is the only writer
    for leftover in spec.path.parent.glob(f".{spec.path.stem}-*{spec.path.suffix}"):
        leftover.unlink(missing_ok=True)
    rows = [row for row, record in enumerate(records) if record is not None]
    present = [record for record in records if record is not None]
    if spec.keys is None or not present:
        return {}
    keys = spec.keys[rows]
    write_shard(replace(spec, keys=keys), shards.codec, present)
    pairs = zip(keys.tolist(), present, strict=True)
    return {key: record.reason for key, record in pairs if record.reason is not None}
