"""`Engine`: the one thread that runs the model, on several of the requests that wait together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from anyregion.errors import AnyRegionError
from anyregion.images import Pixels
from anyregion.predictions import Predictions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.scoring import Score
from anyregion.serve.metrics import Metrics
from anyregion.vocabulary import EncodedVocabulary


class OverloadError(AnyRegionError):
    """More requests wait for the model than may."""


@dataclass(frozen=True)
class NamingOptions:
    """How regions are named, as `Recognizer.predict` takes it."""

    top_k: int = 5
    score: Score | None = None
    masks: bool = False


@dataclass(eq=False)
class _Job:
    """One request's work. Jobs of one `kind` and equal `key` may be run together."""

    kind: str
    key: tuple[Any, ...]
    argument: Any
    future: Future[Any] = field(default_factory=Future)


class Engine:
    """Runs a recogniser for many callers.

    Neither a recogniser nor its proposer is made for several threads, and one image at a time
    leaves time on the table: so all work goes through one thread, which takes of what waits the
    oldest job and, with it, those of its kind that can share a pass.

    Args:
        recognizer: the model.
        queue: jobs that may wait.
        batch: jobs of one pass.
        metrics: where passes are counted.
    """

    def __init__(
        self, recognizer: Recognizer, *, queue: int, batch: int, metrics: Metrics | None = None
    ) -> None:
        self.recognizer = recognizer
        self._limit, self._batch = queue, batch
        self._metrics = metrics or Metrics()
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="anyregion-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def encode(self, pixels: Pixels) -> Future[Any]:
        """Encode an image, for `name` and `call`."""
        # by its shape: images of one size are what a batch of an image encoder is made of
        return self._submit(_Job("encode", (pixels.shape,), pixels))

    def name(
        self,
        encoded: Any,
        regions: Regions,
        size: tuple[int, int],
        vocabulary: EncodedVocabulary,
        options: NamingOptions,
    ) -> Future[Predictions]:
        """Name regions that fit their image."""
        # by identity: an encoded vocabulary is kept, and two of them are rarely equal
        key = (id(vocabulary), options)
        return self._submit(_Job("name", key, (encoded, regions, size, vocabulary, options)))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function while nothing else uses the model."""
        return self._submit(_Job("call", (object(),), function))

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, job: _Job) -> Future[Any]:
        with self._changed:
            if self._closing:
                raise OverloadError("the service is ending")
            if len(self._waiting) >= self._limit:
                raise OverloadError(f"{len(self._waiting)} requests wait already: try again later")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _work(self) -> None:
        while jobs := self._next():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not running:
                continue
            self._metrics.batch(running[0].kind, len(running))
            try:
                results = self._run(running)
            except BaseException as error:
                # one of several may be what is wrong: each by itself, so that the others go on
                for job in running:
                    if len(running) == 1:
                        job.future.set_exception(error)
                    else:
                        self._run_alone(job)
                continue
            for job, result in zip(running, results, strict=True):
                job.future.set_result(result)

    def _run_alone(self, job: _Job) -> None:
        try:
            job.future.set_result(self._run([job])[0])
        except BaseException as error:
            job.future.set_exception(error)

    def _next(self) -> list[_Job]:
        """The oldest job and those that can be run with it; nothing once the engine has ended."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
            first = self._waiting[0]
            jobs = [j for j in self._waiting if (j.kind, j.key) == (first.kind, first.key)]
            jobs = jobs[: self._batch]
            for job in jobs:
                self._waiting.remove(job)
            return jobs

    def _run(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        if jobs[0].kind == "encode":
            return self.recognizer.encoder.encode_images([job.argument for job in jobs])
        if jobs[0].kind == "call":
            return [jobs[0].argument()]
        encoded, regions, sizes, vocabularies, options = zip(
            *(job.argument for job in jobs), strict=True
        )
        return self.recognizer.predict_encoded(
            encoded,
            regions,
            sizes,
            vocabularies[0],
            top_k=options[0].top_k,
            score=options[0].score,
            masks=options[0].masks,
        )
