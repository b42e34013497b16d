"""The loop that every training goes through: read, step, log, validate, save, go on."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

from anyregion.errors import AnyRegionError, CheckpointError
from anyregion.files import atomic_path, writing
from anyregion.training.checkpoint import Record, restore, write_checkpoint
from anyregion.training.config import LoopConfig
from anyregion.training.curves import write_curves
from anyregion.training.distributed import start
from anyregion.training.logs import Log
from anyregion.training.optimizers import build_optimizer, count_trainable, weight_average
from anyregion.training.prefetch import prefetch
from anyregion.training.report import TrainingReport, write_run_card
from anyregion.training.run_folder import RunFolder, Settings, last_checkpoint
from anyregion.training.step import Stepper, StepResult
from anyregion.training.task import RENAMED_METRICS, Task, resolve_best


class TrainingWarning(UserWarning):
    """A training goes wrong by its metrics; it goes on."""


def _warn(text: str) -> None:
    warnings.warn(text, TrainingWarning, stacklevel=4)


def _ignore(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called while a training goes, in the process that writes.

    Attributes:
        prepare: `(done, total)` of what is computed before the first step.
        progress: `(steps done, steps to do)` of this call, after each step.
        log: `(step, group, values)` of each line of the log; the group is `train` or `validation`.
        warn: what goes wrong by the metrics; unless given, it is a `TrainingWarning`.
        note: what is worth knowing of the data.
    """

    prepare: Callable[[int, int], None] = _ignore
    progress: Callable[[int, int], None] = _ignore
    log: Callable[[int, str, Mapping[str, float]], None] = _ignore
    warn: Callable[[str], None] = _warn
    note: Callable[[str], None] = _ignore


@dataclass
class _Window:
    """Sums since the last line of the log; part of the checkpoint, so that lines stay the same."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    grad_norm: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, result: StepResult, images: int, seconds: float) -> None:
        self.steps += 1
        self.images += images
        self.seconds += seconds
        self.grad_norm += result.grad_norm
        for name, value in result.losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value


@dataclass
class _State:
    """Where the training stands, beside weights and moments; plain JSON in the checkpoint."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_metric: str | None = None
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    window: _Window = field(default_factory=_Window)

    @staticmethod
    def from_record(record: Record) -> _State:
        """What a checkpoint says; TypeError, ValueError or LookupError where it is malformed."""
        fields = dict(record["state"])
        state = _State(**{**fields, "window": _Window(**fields["window"])})
        counts = (state.step, state.images, state.window.steps, state.window.images)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"counts {counts}")
        figures = (state.losses, state.validation, state.window.losses)
        if not all(isinstance(f, dict) for f in figures):
            raise TypeError("losses are no objects")
        numbers = [state.seconds, state.window.seconds, state.window.grad_norm]
        numbers += [value for f in figures for value in f.values()]
        numbers += [] if state.best is None else [state.best]
        if not all(type(value) in (int, float) for value in numbers):
            raise TypeError("a figure is no number")
        if not isinstance(state.best_metric, (str, NoneType)):
            raise TypeError(f"best_metric {state.best_metric!r:.60}")
        return state


class _StopRequest:
    """Set by Ctrl-C, and by the signal with which schedulers end a job; read between two steps."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler. Who sends it twice does not want to wait for the step's end."""
        if self.received:
            raise KeyboardInterrupt
        self.received = True


@contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """Yield a request that the signals set; outside the main thread nothing sets it."""
    request = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # SIGTERM: Slurm and Kubernetes send it some seconds before they kill
    handlers: dict[int, Any] = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def fit(
    task: Task,
    config: LoopConfig,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    may_change: Collection[str] = (),
    upgrade: Callable[[Settings], Settings] = dict,
    callbacks: Callbacks | None = None,
) -> TrainingReport:
    """Train, or go on where the same call was ended, by whatever means.

    On the CPU a run that was killed and went on gives the same numbers, bit by bit, as one that
    was not (with as many threads and processes). Ctrl-C and SIGTERM end it after the step, with a
    checkpoint.

    Args:
        task: what learns, from what. In several processes each builds its own.
        out: the run's folder (see `run_folder`).
        settings: what else makes the run what it is, plain values; goes into `config.yaml`. A run
            goes on only with the same, but for those that `may_change`.
        overwrite, may_change, upgrade: see `RunFolder`.

    Raises:
        InputError: settings that cannot be used, or other ones than the run in `out` had.
        CheckpointError: the checkpoint in `out` is broken.
        AnyRegionError: a loss or gradient that is not finite; a full disk.
    """
    out, callbacks = Path(out), callbacks or Callbacks()
    # before the first step: a run whose best is not measured used to be lost at its last one
    config = resolve_best(task.on_fit_start(config), task.metrics)
    fabric, scaler = start(config)
    optimizer = build_optimizer(task.module, config.optimizer, task.rate_scales())
    module, wrapped = fabric.setup(task.module, optimizer)
    ema = None if config.ema_decay is None else weight_average(task.module, config.ema_decay)
    stepper = Stepper(fabric, task, module, wrapped, scaler, ema, config)
    folder = None
    if fabric.is_global_zero:
        folder = RunFolder(
            out,
            {**(settings or {}), **asdict(config)},
            overwrite=overwrite,
            may_change=may_change,
            upgrade=upgrade,
        )
    try:
        fabric.barrier()  # none reads a checkpoint before the first has opened the folder
        state = _State(best_metric=config.best)
        if last_checkpoint(out).is_file():
            record = restore(last_checkpoint(out), task.module, optimizer, ema)
            try:
                state = _State.from_record(record)
                if scaler is not None and record["scaler"]:
                    scaler.load_state_dict(record["scaler"])
            except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
                raise CheckpointError(f"{last_checkpoint(out)}: broken (record: {error})") from None
            if folder is not None and folder.previous is not None:
                _forget_other_best(state, config.best, folder.previous, callbacks.warn)
        fabric.barrier()
        return _Loop(stepper, optimizer, out, state, callbacks).run()
    finally:
        if folder is not None:
            folder.close()


def _forget_other_best(
    state: _State, best: str | None, previous: Settings, warn: Callable[[str], None]
) -> None:
    """Drop the best value so far where it is of another metric than `best`."""
    metric = state.best_metric
    if metric is None:  # a checkpoint of a version that did not keep the name
        metric = RENAMED_METRICS.get(str(previous.get("best")), previous.get("best"))
    if state.best is not None and metric != best:
        warn(
            f"best was {metric} and is {best} now: the best value so far is forgotten; `best` is "
            "written anew at the next validation"
        )
        state.best = None
    state.best_metric = best


class _Loop:
    """The steps of one call of `fit`, and what is due between them."""

    def __init__(
        self,
        stepper: Stepper,
        optimizer: torch.optim.Optimizer,
        out: Path,
        state: _State,
        callbacks: Callbacks,
    ) -> None:
        self.stepper, self.optimizer, self.out, self.state = stepper, optimizer, out, state
        self.task, self.config, self.fabric = stepper.task, stepper.config, stepper.fabric
        # only the first process speaks, logs, validates and saves
        self.callbacks = Callbacks()
        self.log: Log | None = None
        if self.fabric.is_global_zero:
            self.callbacks = callbacks
            self.log = Log(out, step=state.step, tensorboard=self.config.tensorboard)

    def run(self) -> TrainingReport:
        """Make the steps that are left."""
        config, first_step = self.config, self.state.step
        steps = range(first_step, config.steps)
        interrupted = False
        reading = prefetch(
            self.task,
            steps,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            readers=config.readers,
            ahead=config.ahead,
        )
        try:
            self.task.module.train()
            with _stop_signals() as request:
                self.callbacks.progress(0, len(steps))
                clock = time.perf_counter()
                for batch in reading:
                    result = self.stepper.step(batch, stop=request.received)
                    now = time.perf_counter()
                    self.callbacks.progress(batch.step + 1 - first_step, len(steps))
                    self._count(result, len(batch.items), now - clock)
                    clock = now
                    interrupted = result.stop and self.state.step < config.steps
                    if self._between_steps(interrupted):
                        clock = time.perf_counter()  # these seconds are not the step's
                    if interrupted:
                        break
            report = self._report(first_step, interrupted)
            if self.log is not None:
                if not interrupted:
                    self._save("model")
                write_curves(self.out, best=config.best, best_is=config.best_is)
                processes = self.fabric.world_size
                write_run_card(report, self.task.card(), device=config.device, processes=processes)
            self.fabric.barrier()
            return report
        finally:
            reading.close()
            if self.log is not None:
                self.log.close()

    def _count(self, result: StepResult, images: int, seconds: float) -> None:
        state, window = self.state, self.state.window
        state.step += 1
        state.images += images
        state.seconds += seconds
        window.add(result, images, seconds)
        if state.step % self.config.log_every and state.step < self.config.steps:
            return
        state.losses = {name: total / window.steps for name, total in window.losses.items()}
        # the mean of the steps since the last line, also over a run that was ended between them
        values = {
            **state.losses,
            "lr": result.lr,
            "grad_norm": window.grad_norm / window.steps,
            "images_per_second": window.images / max(window.seconds, 1e-9),
            "seconds": state.seconds,
        }
        if self.log is not None:
            self.log.write(state.step, values)
            self.callbacks.log(state.step, "train", values)
        state.window = _Window()

    def _between_steps(self, interrupted: bool) -> bool:
        """Validate, draw and save what is due after this step; whether anything was."""
        state, config = self.state, self.config
        last = state.step == config.steps
        validating = last or bool(config.validate_every and not state.step % config.validate_every)
        drawing = bool(config.samples_every) and (last or not state.step % config.samples_every)
        saving = last or interrupted or not state.step % config.checkpoint_every
        if not (validating or drawing or saving):
            return False
        if self.log is not None:
            # the checkpoint comes last: killed before it, the same is done once more
            if validating:
                self._validate(self.log)
            if drawing:
                self._draw(self.log)
            if saving:
                scaler = self.stepper.scaler
                record = {
                    "state": asdict(state),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                }
                path, ema = last_checkpoint(self.out), self.stepper.ema
                write_checkpoint(path, self.task.module, self.optimizer, ema, record)
        self.task.module.train()
        self.fabric.barrier()
        return True

    def _save(self, name: str) -> None:
        """Save the module as a folder of the run; AnyRegionError where it holds no numbers."""
        module = self._module_to_save()
        for weight, values in module.named_parameters():
            if not torch.isfinite(values).all():
                raise AnyRegionError(
                    f"step {self.state.step}: {weight} is not finite: the module was not saved"
                )
        self.task.save(module, self.out / name)

    def _module_to_save(self) -> nn.Module:
        """The running mean where there is one, else the module; in evaluation."""
        # the module itself, not what DDP wrapped: other processes take no part in a validation
        ema = self.stepper.ema
        module: nn.Module = ema.module if isinstance(ema, AveragedModel) else self.task.module
        return module.eval()

    @torch.no_grad()
    def _validate(self, log: Log) -> None:
        state = self.state
        state.validation = self.task.validate(self._module_to_save())
        if state.validation:
            log.write(state.step, state.validation, group="validation")
            self.callbacks.log(state.step, "validation", state.validation)
            write_curves(self.out, best=self.config.best, best_is=self.config.best_is)
        for text in self.task.advise(state.validation):
            self.callbacks.warn(f"step {state.step}: {text}")
            log.warn(state.step, text)
        if self.config.best is None:
            return
        value, best = state.validation.get(self.config.best, float("nan")), state.best
        if not math.isfinite(value):  # a metric that these images leave undefined is no best
            return
        if best is None or (value < best if self.config.best_is == "lowest" else value > best):
            state.best = value
            self._save("best")

    @torch.no_grad()
    def _draw(self, log: Log) -> None:
        step = self.state.step
        for name, picture in self.task.pictures(self._module_to_save()).items():
            path = self.out / "samples" / f"{step:07d}" / f"{name}.jpg"
            with writing(path), atomic_path(path) as temporary:
                Image.fromarray(picture).save(temporary, quality=90)
            log.picture(step, name, picture)

    def _report(self, resumed_from: int, interrupted: bool) -> TrainingReport:
        state = self.state
        return TrainingReport(
            folder=self.out,
            steps=state.step,
            total_steps=self.config.steps,
            resumed_from=resumed_from,
            parameters=count_trainable(self.task.module),
            images=state.images,
            seconds=state.seconds,
            losses=state.losses,
            validation=state.validation,
            best=state.best,
            interrupted=interrupted,
            set_aside=tuple(self.task.set_aside),
        )
