"""Engines: where the shards of an index are computed, by local processes or on a cluster of Ray.

All of them call `ShardBuilder.build`. A shard is claimed by a lock file in the index, so that
several commands, on several machines that share its folder, work on one index, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from anyregion.compact.assets import THREADS
from anyregion.errors import AnyRegionError, InputError
from anyregion.index.build import IndexModel, ShardBuilder, ShardReport
from anyregion.index.shards import ShardLayout

EngineName: TypeAlias = Literal["local", "ray"]
# seconds between looks at how far processes are, and at shards that others compute
LOOK = 0.5
# how often workers may die in a row without that a shard is finished in between
MOST_DEATHS = 3


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
        yield _Processes(model, options.workers)


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
    """Computes shards in processes of this machine, each with a model of its own.

    A process that dies takes the pool with it, as the library has it: a new pool does the rest.
    """

    def __init__(self, model: IndexModel, workers: int) -> None:
        self.model, self.workers = model, workers

    @contextmanager
    def _pool(self, counter: Any) -> Iterator[ProcessPoolExecutor]:
        # spawn: a fork would copy locks that other threads hold
        context = multiprocessing.get_context("spawn")
        with one_thread_each():
            pool = ProcessPoolExecutor(
                self.workers, context, initializer=_start_worker, initargs=(self.model, counter)
            )
            try:
                yield pool
            finally:
                # what is at work ends with it: a shard is whole or absent
                processes = list((pool._processes or {}).values())
                pool.shutdown(wait=False, cancel_futures=True)
                for process in processes:
                    process.terminate()

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        context = multiprocessing.get_context("spawn")
        try:
            with self._pool(context.Value("q", 0)) as pool:
                return pool.submit(_describe).result()
        except BrokenProcessPool:
            raise AnyRegionError("the process that loaded the model died") from None

    def build(
        self, folder: Path, numbers: Sequence[int], count: Callable[[int], None]
    ) -> Iterator[ShardReport]:
        todo, deaths = list(numbers), 0
        while todo:
            counter = multiprocessing.get_context("spawn").Value("q", 0)
            seen = 0
            try:
                with self._pool(counter) as pool:
                    futures: dict[Future[ShardReport | None], int] = {
                        pool.submit(_build, folder, number): number for number in todo
                    }
                    while futures:
                        done, _ = wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED)
                        if counter.value != seen:
                            count(counter.value - seen)
                            seen = counter.value
                        for future in done:
                            number = futures[future]
                            report = future.result()
                            del futures[future]
                            if report is None:  # somebody else's, who may be killed yet
                                time.sleep(LOOK / self.workers)
                                futures[pool.submit(_build, folder, number)] = number
                                continue
                            todo.remove(number)
                            deaths = 0
                            yield report
            except BrokenProcessPool:
                deaths += 1
                if deaths >= MOST_DEATHS:
                    raise AnyRegionError(
                        f"{folder}: worker processes died {deaths} times in a row, killed by the "
                        "system (no memory?) or by an image; what is finished is kept. Fewer "
                        f"--workers may help; not finished are shards {todo[:5]}"
                    ) from None


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Models that are loaded in the block, here or in new processes, use one thread each.

    Unless the caller's environment says another number.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", THREADS)
    missing = [name for name in names if name not in os.environ]
    os.environ |= dict.fromkeys(missing, "1")
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@dataclass
class _Worker:
    """A worker process: how it gets its model, and where it counts images."""

    model: IndexModel
    counter: Any
    loaded: ShardBuilder | None = None

    def builder(self) -> ShardBuilder:
        """The model, loaded by the first task: an error of that is the task's."""
        self.loaded = self.loaded or ShardBuilder(self.model)
        return self.loaded

    def count(self, images: int) -> None:
        with self.counter.get_lock():
            self.counter.value += images


_worker: _Worker | None = None


def _start_worker(model: IndexModel, counter: Any) -> None:
    global _worker
    # the process that began it obeys Ctrl-C, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # one that was killed cannot, and would leave its workers for ever
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(model, counter)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _describe() -> tuple[dict[str, str], ShardLayout]:
    assert _worker is not None  # the initializer ran
    builder = _worker.builder()
    return builder.models(), builder.layout()


def _build(folder: Path, number: int) -> ShardReport | None:
    assert _worker is not None
    return _worker.builder().build(folder, number, _worker.count)
