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
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from anyregion.compact.assets import THREADS
from anyregion.errors import AnyRegionError
from anyregion.files import writing

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
        self._loader: Path | None = None
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
        if self._loader is not None:
            self._loader.unlink(missing_ok=True)
        self._stack.close()

    def call(self, function: Callable[[Model], Result]) -> Result:
        """What a function says of a process's model.

        Raises:
            AnyRegionError: the process died.
        """
        try:
            pool = self._open()
            with _undisturbed():
                answer = pool.submit(_call, function)
            return answer.result()
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
                with _undisturbed():
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
                            with _undisturbed():
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
        if self._loader is None:
            self._loader = _write_loader(self._load)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers,
                self._context,
                initializer=_start,
                initargs=(self._loader, self._counter),
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


def _write_loader(load: Callable[[], Any]) -> Path:
    """Write what makes a model into a file, for it may hold a vocabulary of many names.

    A process that starts is sent its arguments through a pipe. More than a pipe holds (64 KiB) is
    waited for until the process reads: one after the other would start, and one that dies before it
    reads would be waited for without end.
    """
    content = pickle.dumps(load)
    number, name = tempfile.mkstemp(prefix="anyregion-model-")
    path = Path(name)
    try:
        with writing(path), os.fdopen(number, "wb") as file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes may be started in the block: signals that come meanwhile are obeyed at its end.

    One that is started by halves is not known, so nobody ends it, and it prints a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # what is no function (ignored, the system's own) stays as it is
    own = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in own:
        signal.signal(number, lambda n, _: came.append(n))
    # the processes are born so: Ctrl-C reaches them too, before they can say that they ignore it
    masked = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masked else set()
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in own.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@dataclass
class _Worker:
    """A worker process: the file of how it gets its model, and where it counts images."""

    loader: Path
    counter: Any
    model: Any = None
    loaded: bool = False

    def get(self) -> Any:
        if not self.loaded:
            # written by the process that began this one, for its owner alone
            self.model, self.loaded = pickle.loads(self.loader.read_bytes())(), True
        return self.model

    def count(self, images: int) -> None:
        with self.counter.get_lock():
            self.counter.value += images


_worker: _Worker | None = None


def _start(loader: Path, counter: Any) -> None:
    global _worker
    # the process that began it obeys Ctrl-C, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # one that was killed cannot, and would leave its workers for ever
    threading.Thread(target=_end_with_parent, args=(loader,), daemon=True).start()
    _worker = _Worker(loader, counter)


def _end_with_parent(loader: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        loader.unlink(missing_ok=True)
        os._exit(1)


def _call(function: Callable[[Any], Result]) -> Result:
    assert _worker is not None  # the initializer ran
    return function(_worker.get())


def _work(function: Callable[[Any, Any, CountDone], Result], item: Any) -> Result:
    assert _worker is not None
    return function(_worker.get(), item, _worker.count)
