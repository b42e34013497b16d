"""Engines: where the shards of an index are computed, by local processes or on a cluster of Ray.

All of them call `ShardBuilder.build`. A shard is claimed by a lock file in the index, so that
several commands, on several machines that share its folder, work on one index, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from anyregion.errors import InputError
from anyregion.index.build import IndexModel, ShardBuilder, ShardReport
from anyregion.index.shards import ShardLayout
from anyregion.runs.processes import LOOK, CountDone, ProcessPool, one_thread_each

EngineName: TypeAlias = Literal["local", "ray"]


@dataclass(frozen=True)
class EngineOptions:
    """Where shards are computed.

    Attributes:
        name: `local`, processes of this machine; `ray`, workers of a cluster (the extra `[ray]`).
        workers: how many at once.
        address: of Ray's cluster, as `ray.init` takes it; None starts one on this machine.
        cpus: of each of Ray's workers, as it counts them; fractions leave room for Ray itself.
        gpus: of each of Ray's workers.
        minutes: how long one of Ray's workers may take for a shard, before another is asked.

    Raises:
        InputError: numbers that make no sense.
    """

    name: EngineName = "local"
    workers: int = 1
    address: str | None = None
    cpus: float = 0.5
    gpus: float = 0.0
    minutes: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError("at least one worker")
        if self.cpus <= 0 or self.gpus < 0 or self.minutes <= 0:
            raise InputError("CPUs and minutes of a worker must be above 0, GPUs from 0")


class Engine(Protocol):
    """What computes shards; open while it is used."""

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        """Fingerprints of the models as workers load them, and the columns that they fill."""
        ...

    def build(
        self, folder: Path, numbers: Sequence[int], count: Callable[[int], None]
    ) -> Iterator[ShardReport]:
        """Compute shards, in any order; ends when all are whole.

        Args:
            folder: of the index.
            numbers: of the shards.
            count: called with how many images are done since the last call.

        Raises:
            AnyRegionError: workers died again and again.
        """
        ...


@contextmanager
def open_engine(model: IndexModel, options: EngineOptions) -> Iterator[Engine]:
    """The engine that the options name.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if options.name == "ray":
        from anyregion.index.ray_engine import open_ray

        with open_ray(model, options) as engine:
            yield engine
    elif options.workers == 1:
        # as in several: shards are not to depend on how many there are
        with one_thread_each():
            yield _OneProcess(ShardBuilder(model))
    else:
        with ProcessPool(partial(ShardBuilder, model), options.workers) as pool:
            yield _Processes(pool)


class _OneProcess:
    """Computes shards in this process."""

    def __init__(self, builder: ShardBuilder) -> None:
        self.builder = builder

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        return self.builder.models(), self.builder.layout()

    def build(
        self, folder: Path, numbers: Sequence[int], count: Callable[[int], None]
    ) -> Iterator[ShardReport]:
        todo = list(numbers)
        while todo:
            elsewhere = []
            for number in todo:
                report = self.builder.build(folder, number, count)
                if report is None:
                    elsewhere.append(number)
                else:
                    yield report
            if todo == elsewhere:
                time.sleep(LOOK)
            todo = elsewhere


class _Processes:
    """Computes shards in processes of this machine, each with a model of its own."""

    def __init__(self, pool: ProcessPool[ShardBuilder]) -> None:
        self.pool = pool

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        return self.pool.call(_describe)

    def build(
        self, folder: Path, numbers: Sequence[int], count: Callable[[int], None]
    ) -> Iterator[ShardReport]:
        for _, report in self.pool.map(partial(_build, folder), numbers, count):
            yield report


def _describe(builder: ShardBuilder) -> tuple[dict[str, str], ShardLayout]:
    return builder.models(), builder.layout()


def _build(
    folder: Path, builder: ShardBuilder, number: int, count: CountDone
) -> ShardReport | None:
    return builder.build(folder, number, count)
