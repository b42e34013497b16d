"""The engine that computes shards on a cluster of Ray: actors with a model each, watched from here.

Ray replaces no worker by itself here: what is lost with an actor, how long it may be silent, and
how often a shard is tried, is decided in one place. All nodes have to reach the folder of the index
and the images by the same paths.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyregion.compact.assets import THREADS
from anyregion.errors import AnyRegionError, require
from anyregion.index.build import IndexModel, ShardBuilder, ShardReport
from anyregion.index.engines import EngineOptions
from anyregion.index.shards import ShardLayout
from anyregion.runs.processes import LOOK, MOST_DEATHS

# how long none of the workers may be there, before the cluster is said to have no room for one
_SECONDS_TO_START = 180.0


@contextmanager
def open_ray(model: IndexModel, options: EngineOptions) -> Iterator[RayEngine]:
    """Join a cluster, or start one on this machine; leave it, or end it, with the block.

    Raises:
        MissingExtraError: Ray is not installed.
        AnyRegionError: there is no cluster at the address.
    """
    require("ray", "ray")
    # before the library is imported, which reads it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    joined = ray.is_initialized()
    if not joined:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if options.address is None:
            settings |= {"include_dashboard": False}
        try:
            ray.init(options.address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise AnyRegionError(f"no cluster of Ray at {options.address}: {error}") from None
    engine = RayEngine(ray, model, options)
    try:
        yield engine
    finally:
        engine.close()
        if not joined:
            ray.shutdown()


class _RayWorker:
    """What lives in an actor: a model, loaded by its first task."""

    def __init__(self, model: IndexModel) -> None:
        # Ray says the same of OpenMP
        os.environ.setdefault(THREADS, "1")
        self._model = model
        self._loaded: ShardBuilder | None = None

    def ping(self) -> None:
        """Answered once the actor has its place."""

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        builder = self._builder()
        return builder.models(), builder.layout()

    def build(self, folder: Path, number: int) -> ShardReport | None:
        return self._builder().build(folder, number)

    def _builder(self) -> ShardBuilder:
        self._loaded = self._loaded or ShardBuilder(self._model)
        return self._loaded


@dataclass(eq=False)
class _Actor:
    """An actor as it is seen from here.

    Attributes:
        handle: Ray's.
        task: what it is at.
        since: when that was given to it.
        shard: what the task computes; None of a ping.
        ready: whether it ever answered.
    """

    handle: Any
    task: Any
    since: float
    shard: int | None = None
    ready: bool = False


class RayEngine:
    """An `Engine` of Ray's actors.

    Args:
        ray: the module, connected to a cluster.
        model: what each actor loads.
        options: how many, and what each takes of a node.
    """

    def __init__(self, ray: Any, model: IndexModel, options: EngineOptions) -> None:
        self.ray, self.options = ray, options
        # a fraction of a CPU: as many actors as CPUs leave Ray none for anything else, and it hangs
        self._remote = ray.remote(_RayWorker).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_restarts=0,
        )
        # sent to the cluster once, not with every actor
        self._model = ray.put(model)
        self._actors: list[_Actor] = []

    def describe(self) -> tuple[dict[str, str], ShardLayout]:
        """See `Engine`."""
        for _ in range(MOST_DEATHS):
            actor = self._start()
            try:
                self._wait_for(actor)
                described: tuple[dict[str, str], ShardLayout] = self._result(
                    actor.handle.describe.remote(), timeout=self.options.minutes * 60
                )
                return described
            except self._lost():
                continue
            finally:
                self._stop(actor)
        raise AnyRegionError("the workers of Ray that loaded the model died")

    def build(
        self, folder: Path, numbers: Sequence[int], count: Callable[[int], None]
    ) -> Iterator[ShardReport]:
        """See `Engine`. Images count once their shard is whole."""
        # each with the time from which on it may be tried: another command may be at it
        todo = deque((number, 0.0) for number in numbers)
        lost: Counter[int] = Counter()
        folder = folder.resolve()
        last_ready = time.monotonic()
        while todo or any(actor.shard is not None for actor in self._actors):
            busy = sum(actor.shard is not None for actor in self._actors)
            while len(self._actors) < min(self.options.workers, len(todo) + busy):
                self._start()
            if not busy:
                time.sleep(LOOK / 10)  # all of them are to look again later
            done, _ = self.ray.wait(
                [actor.task for actor in self._actors],
                num_returns=len(self._actors),
                timeout=LOOK,
            )
            now = time.monotonic()
            for actor in list(self._actors):
                shard = actor.shard
                if actor.task in done:
                    try:
                        report = self._result(actor.task)
                    except self._lost() as error:
                        self._stop(actor)
                        self._try_again(shard, todo, lost, str(error).strip().split("\n")[0])
                        continue
                    actor.ready, last_ready = True, now
                    if report is not None:
                        count(report.images)
                        yield report
                    elif shard is not None:
                        todo.append((shard, now + LOOK))
                    self._give(actor, folder, todo)
                elif shard is not None and now - actor.since > self.options.minutes * 60:
                    self._stop(actor)
                    self._try_again(shard, todo, lost, f"silent for {self.options.minutes:g} min")
            if any(actor.ready for actor in self._actors):
                last_ready = now
            elif now - last_ready > _SECONDS_TO_START:
                raise AnyRegionError(self._no_room())

    def close(self) -> None:
        """End all actors; what they are at is begun anew by the next call."""
        for actor in list(self._actors):
            self._stop(actor)

    def _start(self) -> _Actor:
        handle = self._remote.remote(self._model)
        actor = _Actor(handle, handle.ping.remote(), time.monotonic())
        self._actors.append(actor)
        return actor

    def _stop(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self.ray.kill(actor.handle)

    def _give(self, actor: _Actor, folder: Path, todo: deque[tuple[int, float]]) -> None:
        """Give an actor the next shard; where there is none, it ends or looks again later."""
        now = time.monotonic()
        for _ in range(len(todo)):
            number, earliest = todo.popleft()
            if earliest <= now:
                actor.shard, actor.since = number, now
                actor.task = actor.handle.build.remote(folder, number)
                return
            todo.append((number, earliest))
        if todo:
            actor.shard, actor.task = None, actor.handle.ping.remote()
        else:
            self._stop(actor)

    def _try_again(
        self, shard: int | None, todo: deque[tuple[int, float]], lost: Counter[int], reason: str
    ) -> None:
        """Put a shard whose worker was lost back, unless it has cost too many."""
        if shard is None:
            return
        lost[shard] += 1
        if lost[shard] >= MOST_DEATHS:
            raise AnyRegionError(
                f"shard {shard} has cost {MOST_DEATHS} workers of Ray ({reason}): no memory, or an "
                "image that ends the process; what is finished is kept"
            )
        todo.appendleft((shard, 0.0))

    def _wait_for(self, actor: _Actor) -> None:
        done, _ = self.ray.wait([actor.task], timeout=_SECONDS_TO_START)
        if not done:
            raise AnyRegionError(self._no_room())
        self._result(actor.task)

    def _result(self, task: Any, timeout: float | None = None) -> Any:
        """What a task returned; an error of ours as it was raised."""
        try:
            return self.ray.get(task, timeout=timeout)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def _lost(self) -> tuple[type[Exception], ...]:
        """What tells that an actor, or its node, is gone."""
        errors = self.ray.exceptions
        return (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError,
                errors.ObjectLostError, errors.GetTimeoutError)  # fmt: skip

    def _no_room(self) -> str:
        has = self.ray.cluster_resources()
        return (
            f"no worker of Ray could be started within {_SECONDS_TO_START:.0f} s: each takes "
            f"{self.options.cpus:g} CPUs and {self.options.gpus:g} GPUs, the cluster has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}"
        )
