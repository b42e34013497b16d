"""`ProcessPool`: processes of this machine, each with a model of its own, that share out work.

    with ProcessPool(load, workers=2) as pool:
        for item, result in pool.map(function, items):
            ...

`load`, `function` and the items are sent to the processes: they must be importable, or partials of
what is. Results come as they are ready, in no order.
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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from anyregion.compact.assets import THREADS
from anyregion.errors import AnyRegionError

Model = TypeVar("Model")
Item = TypeVar("Item")
Result = TypeVar("Result")
CountDone: TypeAlias = Callable[[int], None]
"""Called with each few images that are done."""

LOOK = 0.5
"""Seconds between looks at how far processes are, and at what others do."""
MOST_DEATHS = 3
"""How often processes may die in a row without that anything is finished in between."""

# what a process that is told to end is given
_SECONDS_TO_END = 5.0


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


class ProcessPool(AbstractContextManager["ProcessPool[Model]"], Generic[Model]):
    """Processes that keep a model each; started with the first work, ended with the block.

    A process that dies takes the others with it, as the library has it: new ones do the rest. They
    end with the process that made the pool, too, however that ends.

    Args:
        load: makes a model; each process calls it once, with its first work, so that what it raises
            is raised here.
        workers: processes at once.
    """

    def __init__(self, load: Callable[[], Model], workers: int) -> None:
        self._load, self._workers = load, workers
        self._executor: ProcessPoolExecutor | None = None
        # spawn: a fork would copy locks that other threads hold
        self._context = multiprocessing.get_context("spawn")
        self._counter = self._context.Value("q", 0)
        self._seen = 0
        self._stack = ExitStack()

    def __enter__(self) -> ProcessPool[Model]:
        self._stack.enter_context(one_thread_each())
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        self._stack.close()

    def call(self, function: Callable[[Model], Result]) -> Result:
        """What a function says of a process's model.

        Raises:
            AnyRegionError: the process died.
        """
        try:
            return self._open().submit(_call, function).result()
        except BrokenProcessPool:
            self._end()
            raise AnyRegionError("the process that loaded the model died") from None

    def map(
        self,
        function: Callable[[Model, Item, CountDone], Result | None],
        items: Sequence[Item],
        count: CountDone = lambda images: None,
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with what the function says of it.

        Args:
            function: called with a process's model, an item, and what counts images as they are
                done; None: another command is at the item, to be asked again later.
            items: begun in this order.
            count: called here with how many were counted in all processes since the last call. What
                a process that died has counted is counted again.

        Raises:
            AnyRegionError: processes died again and again.
        """
        todo, deaths = dict(enumerate(items)), 0
        while todo:
            try:
                pool = self._open()
                futures: dict[Future[Result | None], int] = {
                    pool.submit(_work, function, item): i for i, item in todo.items()
                }
                while futures:
                    done, _ = wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED)
                    if (counted := self._counter.value) != self._seen:
                        count(counted - self._seen)
                        self._seen = counted
                    for future in done:
                        i = futures[future]
                        result = future.result()
                        del futures[future]
                        if result is None:  # who is at it may be killed yet
                            time.sleep(LOOK / self._workers)
                            futures[pool.submit(_work, function, todo[i])] = i
                            continue
                        deaths = 0
                        yield todo.pop(i), result
            except BrokenProcessPool:
                self._end()
                deaths += 1
                if deaths >= MOST_DEATHS:
                    rest = ", ".join(map(str, list(todo.values())[:5]))
                    raise AnyRegionError(
                        f"worker processes died {deaths} times in a row, killed by the system (no "
                        "memory?) or by an image; what is finished is kept. Fewer --workers may "
                        f"help; not finished: {rest:.300}"
                    ) from None

    def _open(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers,
                self._context,
                initializer=_start,
                initargs=(self._load, self._counter),
            )
        return self._executor

    def _end(self) -> None:
        """End the processes, whatever they are at."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_SECONDS_TO_END)


@dataclass
class _Worker:
    """A worker process: how it gets its model, and where it counts images."""

    load: Callable[[], Any]
    counter: Any
    model: Any = None
    loaded: bool = False

    def get(self) -> Any:
        if not self.loaded:
            self.model, self.loaded = self.load(), True
        return self.model

    def count(self, images: int) -> None:
        with self.counter.get_lock():
            self.counter.value += images


_worker: _Worker | None = None


def _start(load: Callable[[], Any], counter: Any) -> None:
    global _worker
    # the process that began it obeys Ctrl-C, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # one that was killed cannot, and would leave its workers for ever
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(load, counter)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Any], Result]) -> Result:
    assert _worker is not None  # the initializer ran
    return function(_worker.get())


def _work(function: Callable[[Any, Any, CountDone], Result], item: Any) -> Result:
    assert _worker is not None
    return function(_worker.get(), item, _worker.count)
