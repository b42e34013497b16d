"""The loop that every training goes through: read, step, log, validate, save, go on."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

from anyregion.files import atomic_path, writing
from anyregion.training.card import write_card
from anyregion.training.checkpoint import Record, restore, write_checkpoint
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import start
from anyregion.training.ema import running_mean
from anyregion.training.logs import Log
from anyregion.training.optimizers import build_optimizer, count_learned
from anyregion.training.prefetch import read_ahead
from anyregion.training.report import TrainingReport
from anyregion.training.run_folder import RunFolder, last_checkpoint
from anyregion.training.signals import listening
from anyregion.training.step import Stepper, StepResult
from anyregion.training.task import RENAMED_METRICS, Task, check_best
from anyregion.vocabulary import Progress


class TrainingWarning(UserWarning):
    """A training goes wrong by its figures; it goes on."""


def _warn(text: str) -> None:
    warnings.warn(text, TrainingWarning, stacklevel=3)


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

    def means(self) -> dict[str, float]:
        return {name: total / self.steps for name, total in self.losses.items()}


@dataclass
class _State:
    """Where the training stands, beside weights and moments; plain JSON."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_metric: str | None = None
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    window: _Window = field(default_factory=_Window)

    @staticmethod
    def of(record: Record) -> _State:
        fields = dict(record["state"])
        return _State(**{**fields, "window": _Window(**fields["window"])})


def fit(
    task: Task,
    config: LoopConfig,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    may_change: Collection[str] = (),
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> TrainingReport:
    """Train, or go on where the same call was ended, by whatever means.

    On the CPU a run that was killed and went on gives the same numbers, bit by bit, as one that
    was not (with as many threads and processes). Ctrl-C and SIGTERM end it after the step, with a
    checkpoint.

    Args:
        task: what learns, from what. In several processes each builds its own.
        config: how.
        out: the run's folder (see `run_folder`).
        settings: what else makes the run what it is, plain values; goes into `config.yaml`. A run
            goes on only with the same.
        overwrite: begin anew where a run lies.
        may_change: those of `settings` that change nothing that is learned, as `task.name`: a run
            goes on with others.
        progress: told `(steps done, steps to do)` of this call.
        warn: told what goes wrong by the figures; without it, it is a `TrainingWarning`.

    Raises:
        InputError: settings that cannot be used, or other ones than the run in `out` had.
        CheckpointError: the checkpoint in `out` is broken.
        AnyRegionError: a loss or gradient that is not finite; a full disk.
    """
    out = Path(out)
    config = task.on_fit_start(config)
    check_best(config, task.metrics)
    fabric, scaler = start(config)
    optimizer = build_optimizer(task.module, config.optimizer)
    module, wrapped = fabric.setup(task.module, optimizer)
    mean = None if config.ema_decay is None else running_mean(task.module, config.ema_decay)
    stepper = Stepper(fabric, task, module, wrapped, scaler, mean, config)
    folder = None
    if fabric.is_global_zero:
        everything = {**(settings or {}), **asdict(config)}
        folder = RunFolder(out, everything, overwrite=overwrite, may_change=may_change)
    try:
        fabric.barrier()
        state = _State(best_metric=config.best)
        if last_checkpoint(out).is_file():
            record = restore(last_checkpoint(out), task.module, optimizer, mean)
            state = _State.of(record)
            if folder is not None:
                _forget_other_best(state, config, folder.previous, warn or _warn)
            if scaler is not None and record["scaler"]:
                scaler.load_state_dict(record["scaler"])
        fabric.barrier()
        return _Run(stepper, optimizer, out, state, warn or _warn).go(progress)
    finally:
        if folder is not None:
            folder.close()


def _forget_other_best(
    state: _State,
    config: LoopConfig,
    previous: Mapping[str, Any] | None,
    warn: Callable[[str], None],
) -> None:
    """Drop the best value so far where it is of another metric than the one that is asked for."""
    before = state.best_metric
    if before is None and previous is not None:  # a checkpoint of before the metric was kept in it
        before = previous.get("best")
        before = RENAMED_METRICS.get(str(before), before)
    if state.best is not None and before != config.best:
        warn(
            f"best was {before} and is {config.best} now: the best value so far is forgotten; "
            "`best` is written anew at the next validation"
        )
        state.best = None
    state.best_metric = config.best


class _Run:
    def __init__(
        self,
        stepper: Stepper,
        optimizer: torch.optim.Optimizer,
        out: Path,
        state: _State,
        warn: Callable[[str], None],
    ) -> None:
        self.stepper, self.optimizer, self.out, self.state = stepper, optimizer, out, state
        self.task, self.config, self.fabric = stepper.task, stepper.config, stepper.fabric
        self.warn = warn
        self.first = self.fabric.is_global_zero
        self.log: Log | None = None

    def go(self, progress: Progress | None) -> TrainingReport:
        config, begun = self.config, self.state.step
        left = range(begun, config.steps)
        interrupted = False
        if self.first:
            self.log = Log(self.out, step=begun, tensorboard=config.tensorboard)
        reading = read_ahead(
            self.task,
            left,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            readers=config.readers,
            ahead=config.ahead,
        )
        try:
            self.task.module.train()
            with listening() as stop:
                if progress is not None:
                    progress(0, len(left))
                clock = time.perf_counter()
                for read in reading:
                    result = self.stepper.take(read, stop=stop.asked)
                    now = time.perf_counter()
                    self._count(result, len(read.items), now - clock)
                    clock = now
                    if progress is not None:
                        progress(self.state.step - begun, len(left))
                    interrupted = result.stop and self.state.step < config.steps
                    if self._between(interrupted):
                        clock = time.perf_counter()
                    if interrupted:
                        break
            report = self._report(begun, interrupted)
            if self.first:
                if not interrupted:
                    self.task.save(self._learned(), self.out / "model")
                card = self.task.card()
                write_card(report, card, device=config.device, processes=self.fabric.world_size)
            self.fabric.barrier()
            return report
        finally:
            reading.close()
            if self.log is not None:
                self.log.__exit__(None, None, None)

    def _count(self, result: StepResult, images: int, seconds: float) -> None:
        state, window = self.state, self.state.window
        state.step += 1
        state.images += images
        state.seconds += seconds
        window.add(result, images, seconds)
        if state.step % self.config.log_every and state.step < self.config.steps:
            return
        state.losses = window.means()
        if self.log is not None:
            self.log.write(
                state.step,
                {
                    **state.losses,
                    "lr": result.lr,
                    "grad_norm": window.grad_norm / window.steps,
                    "images_per_second": window.images / max(window.seconds, 1e-9),
                    "seconds": state.seconds,
                },
            )
        state.window = _Window()

    def _between(self, interrupted: bool) -> bool:
        """What is due after this step; whether anything was."""
        state, config = self.state, self.config
        last = state.step == config.steps
        validating = last or bool(config.validate_every and not state.step % config.validate_every)
        drawing = bool(config.samples_every) and (last or not state.step % config.samples_every)
        saving = last or interrupted or not state.step % config.checkpoint_every
        if self.first:
            # the checkpoint comes last: killed before it, the same is done once more
            if validating:
                self._validate()
            if drawing:
                self._draw()
            if saving:
                self._save()
        if validating or drawing or saving:
            self.task.module.train()
            self.fabric.barrier()
            return True
        return False

    def _learned(self) -> nn.Module:
        mean = self.stepper.mean
        learned: nn.Module = mean.module if isinstance(mean, AveragedModel) else self.task.module
        return learned.eval()

    @torch.no_grad()
    def _validate(self) -> None:
        config, state = self.config, self.state
        figures = self.task.validate(self._learned())
        state.validation = figures
        if figures and self.log is not None:
            self.log.write(state.step, figures, group="validation")
        for text in self.task.advise(figures):
            self.warn(f"step {state.step}: {text}")
            if self.log is not None:
                self.log.warn(state.step, text)
        if config.best is None:
            return
        value = figures.get(config.best, float("nan"))
        if not math.isfinite(value):  # a metric that these images leave undefined is no best
            return
        higher = self.task.metrics[config.best].higher_is_better
        if config.best_is is not None:
            higher = config.best_is == "highest"
        if state.best is None or (value > state.best if higher else value < state.best):
            state.best = value
            self.task.save(self._learned(), self.out / "best")

    @torch.no_grad()
    def _draw(self) -> None:
        for name, picture in self.task.pictures(self._learned()).items():
            step = self.state.step
            path = self.out / "samples" / f"{step:07d}" / f"{name}.jpg"
            with writing(path), atomic_path(path) as temporary:
                Image.fromarray(picture).save(temporary, quality=90)
            if self.log is not None:
                self.log.picture(step, name, picture)

    def _save(self) -> None:
        scaler = self.stepper.scaler
        record = {
            "state": asdict(self.state),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        write_checkpoint(
            last_checkpoint(self.out), self.task.module, self.optimizer, self.stepper.mean, record
        )

    def _report(self, begun: int, interrupted: bool) -> TrainingReport:
        state = self.state
        return TrainingReport(
            folder=self.out,
            steps=state.step,
            steps_wanted=self.config.steps,
            resumed_from=begun,
            parameters=count_learned(self.task.module),
            images=state.images,
            seconds=state.seconds,
            losses=state.losses,
            validation=state.validation,
            best=state.best,
            interrupted=interrupted,
        )
