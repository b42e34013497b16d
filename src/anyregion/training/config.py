"""The settings that every training has: schema, command line and documentation in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from anyregion.errors import InputError

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Direction: TypeAlias = Literal["highest", "lowest"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, LARS or SGD with momentum. The defaults are RegionSpot's.

    Attributes:
        lr: learning rate, where the schedule's factor is 1.
        weight_decay: decoupled, per step times the rate; LARS and SGD add it to the gradient.
        betas: AdamW's, of the two moments.
        eps: AdamW's, added to the root of the second moment.
        decay_all: False spares biases, norms and every other parameter of fewer than two
            dimensions the decay, and LARS's trust ratio too; True is RegionSpot's published way.
        kind: `adamw`, `lars` or `sgd`.
        momentum: LARS's and SGD's.
        eta: LARS's trust coefficient.
        decay_also: names of parameters, or what they end in behind a dot, that are not spared
            though they have fewer than two dimensions (published R2O: the weight of the stem's
            BatchNorm).
    """

    lr: float = 2.5e-5
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_all: bool = True
    kind: Literal["adamw", "lars", "sgd"] = "adamw"
    momentum: float = 0.9
    eta: float = 0.001
    decay_also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "lars", "sgd"):
            raise InputError(f"optimizer.kind: {self.kind!r} is not adamw, lars or sgd")
        for name in ("lr", "eps", "eta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"optimizer.{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"optimizer.weight_decay must not be negative: {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optimizer.betas must lie in 0 to 1, below 1: {self.betas}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"optimizer.momentum must lie in 0 to 1, below 1: {self.momentum}")
        # a list that nothing reads is a misunderstanding
        if self.decay_also and self.decay_all:
            raise InputError("optimizer.decay_also says nothing where decay_all is true")


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate goes: a warm-up, times a curve.

    Attributes:
        kind: `constant`; `step`, times `gamma` at each milestone; `cosine`, from 1 after the
            warm-up to `final` behind the last step.
        warmup_steps: length of the linear warm-up; 0 for none.
        warmup_from: factor at step 0; 0.0 to begin from nothing (published R2O).
        milestones: for `step`, the first steps of each lower rate.
        gamma: for `step`.
        final: for `cosine`.
    """

    kind: Literal["constant", "step", "cosine"] = "cosine"
    warmup_steps: int = 0
    warmup_from: float = 0.01
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "step", "cosine"):
            raise InputError(f"schedule.kind: {self.kind!r} is not constant, step or cosine")
        if self.warmup_steps < 0:
            raise InputError(f"schedule.warmup_steps must not be negative: {self.warmup_steps}")
        if not 0 <= self.warmup_from < float("inf"):
            raise InputError(f"schedule.warmup_from must not be negative: {self.warmup_from}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(f"schedule.milestones must rise: {self.milestones}")
        if self.milestones and self.kind != "step":
            raise InputError(f"schedule.milestones belong to kind step, not {self.kind}")


@dataclass(frozen=True)
class LoopConfig:
    """How a task is trained.

    Attributes:
        steps: optimiser steps in all.
        seed: of everything random.
        device: `cpu`, `cuda`, `cuda:1`, `mps`. Under torchrun each process takes its own card.
        precision: `fp32`, or mixed: `bf16`, `fp16` (with a gradient scaler).
        micro_batch: images that go through the module at once, in each process; None for all of a
            step. Fewer need less memory and give the same gradient (accumulation).
        grad_norm: the gradient is clipped to this norm; None for no limit.
        over_images: the step's loss is the mean over its images, or their sum (published).
        ema_decay: also keep a running mean of the weights, which is what is validated and saved;
            None for none.
        validate_every: steps between validations; 0 for one at the end. One always comes last.
        best: the metric of validation by which the best weights are kept; None for no such copy.
        best_is: whether more of it is better; None for what is usual for the metric.
        checkpoint_every: steps between checkpoints; one is always written last.
        log_every: steps between lines of the log, each the mean of the steps since the last.
        samples_every: steps between pictures, where the task draws any; 0 for none.
        readers: threads that read examples ahead; 0 reads them when they are needed.
        ahead: steps that are read ahead.
        tensorboard: also write TensorBoard's events, where it is installed.
        optimizer, schedule: see there.
    """

    steps: int = 1000
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    micro_batch: int | None = None
    grad_norm: float | None = 1.0
    over_images: Literal["mean", "sum"] = "mean"
    ema_decay: float | None = None
    validate_every: int = 0
    best: str | None = None
    best_is: Direction | None = None
    checkpoint_every: int = 1000
    log_every: int = 20
    samples_every: int = 0
    readers: int = 2
    ahead: int = 4
    tensorboard: bool = True
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "log_every", "ahead"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "validate_every", "samples_every", "readers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative: {getattr(self, name)}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise InputError(f"precision: {self.precision!r} is not fp32, bf16 or fp16")
        if self.over_images not in ("mean", "sum"):
            raise InputError(f"over_images: {self.over_images!r} is not mean or sum")
        if self.best_is not in (None, "highest", "lowest"):
            raise InputError(f"best_is: {self.best_is!r} is not highest or lowest")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"micro_batch must be at least 1, not {self.micro_batch}")
        if self.grad_norm is not None and not self.grad_norm > 0:
            raise InputError(f"grad_norm must be above 0, not {self.grad_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"ema_decay must lie between 0 and 1, not {self.ema_decay}")


# what may differ when a run goes on: none of it changes a number that is learned
MAY_CHANGE = frozenset(
    (
        *("checkpoint_every", "log_every", "samples_every", "tensorboard"),
        *("readers", "ahead", "best", "best_is"),
    )
)
