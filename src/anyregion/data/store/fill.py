"""Filling the shards of a store, by any number of processes and machines that reach its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from anyregion.data.store.locks import try_lock
from anyregion.data.store.shards import Record, ShardError, Shards, ShardSpec, write_shard
from anyregion.files import writing
from anyregion.vocabulary import Progress

# seconds between looks at the shards that other processes compute
WAIT = 0.5


def fill_shards(
    shards: Shards[Any],
    compute: Callable[[int], Iterable[Record | None]],
    *,
    progress: Progress,
    before: int = 0,
) -> tuple[int, dict[int, str]]:
    """Compute every shard that is missing or damaged, and return when all are there.

    Each is computed once, by whichever process locks it first. What is finished stays, whatever
    stops a process (Ctrl-C, `kill -9`, a full disk); its shard is begun anew by the next one.

    Args:
        shards: with the keys of each; the same in all processes that share them.
        compute: a shard's number to its records, in the order of its keys; None for a record that
            cannot be had just now and stays missing.
        progress: called with the records that are finished, and all.
        before: records that were there before; they count as finished.

    Returns:
        How many records this process computed; the keys of all that are set aside, and why.

    Raises:
        AnyRegionError: a shard or a lock file cannot be written.
    """
    sizes = [0 if spec.keys is None else len(spec.keys) for spec in shards.specs]
    computed, done, total = 0, before, before + sum(sizes)
    skipped: dict[int, str] = {}
    for spec in shards.specs[:1]:
        with writing(spec.path.parent):
            spec.path.parent.mkdir(parents=True, exist_ok=True)
    progress(done, total)
    todo = list(range(len(shards)))
    while todo:
        elsewhere: list[int] = []  # other processes compute them, or did when they were killed
        for number in todo:
            reasons = _finished(shards, number)
            if reasons is None:
                spec = shards.specs[number]
                lock = spec.path.with_suffix(".lock")
                with try_lock(lock) as locked:
                    # another process may have finished it since
                    reasons = _finished(shards, number)
                    if locked and reasons is None:
                        records: list[Record | None] = []
                        for record in compute(number):
                            records.append(record)
                            progress(done + len(records), total)
                        reasons = _write(shards, spec, records)
                        computed += len(records)
            if reasons is None:
                elsewhere.append(number)
                continue
            skipped |= reasons
            done += sizes[number]
            progress(done, total)
        if elsewhere:
            time.sleep(WAIT)
        todo = elsewhere
    return computed, skipped


def _finished(shards: Shards[Any], number: int) -> dict[int, str] | None:
    """What a finished shard has set aside; None if it has to be computed. Reads the header only."""
    try:
        return shards.open(number).records.skipped
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
