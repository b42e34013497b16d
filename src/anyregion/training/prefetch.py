"""Examples that threads read a few steps ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from anyregion.errors import InputError
from anyregion.training.task import Task


@dataclass(frozen=True, eq=False)
class StepExamples:
    """What one process needs for one step.

    Attributes:
        step: from 0.
        items: of all processes together.
        own: positions in `items` of those that this process has read.
        examples: what they hold. Where `own` is empty there is one all the same, of the first
            item, since every process has to run the module in a step.
    """

    step: int
    items: Sequence[Any]
    own: range
    examples: list[Any]


def share(count: int, rank: int, world: int) -> range:
    """The positions of `count` items that fall to one of `world` processes: as even as it goes."""
    return range(count * rank // world, count * (rank + 1) // world)


def prefetch(
    task: Task, steps: range, *, rank: int, world: int, readers: int, ahead: int
) -> Generator[StepExamples, None, None]:
    """Yield the examples of each step, in order.

    Raises:
        InputError: a step without items; and what `task.load` raises.
    """

    def plan(step: int) -> tuple[Sequence[Any], range, Sequence[Any]]:
        items = task.plan(step)
        if not len(items):
            raise InputError(f"step {step} has no images: there is nothing to train on")
        own = share(len(items), rank, world)
        return items, own, [items[i] for i in own] or items[:1]

    if not readers:  # in this thread: for debugging, and where threads cost more than they save
        for step in steps:
            items, own, to_load = plan(step)
            yield StepExamples(step, items, own, [task.load(item) for item in to_load])
        return
    queue: deque[tuple[int, Sequence[Any], range, list[Future[Any]]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        upcoming = iter(steps)
        while True:
            while len(queue) <= ahead and (later := next(upcoming, None)) is not None:
                items, own, to_load = plan(later)
                queue.append((later, items, own, [pool.submit(task.load, i) for i in to_load]))
            if not queue:
                return
            # in the order of the steps, whichever example is read first: nothing depends on speed
            step, items, own, futures = queue.popleft()
            yield StepExamples(step, items, own, [future.result() for future in futures])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
