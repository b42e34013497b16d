"""One optimiser step: the same numbers from one process or several, at once or in micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from anyregion.errors import AnyRegionError, InputError
from anyregion.training.config import LoopConfig
from anyregion.training.optimizers import rate_factor
from anyregion.training.prefetch import StepExamples
from anyregion.training.seeds import seed_torch
from anyregion.training.task import Task

# of a task's losses the one that is minimised; the others are logged
LOSS = "loss"


@dataclass(frozen=True)
class StepResult:
    """The figures of one step.

    Attributes:
        losses: mean (or sum, as configured) over the step's images, of all processes.
        lr: the learning rate that the step was made with.
        grad_norm: of the gradient before it was clipped.
        stop: whether any process was told to stop.
    """

    losses: dict[str, float]
    lr: float
    grad_norm: float
    stop: bool


@dataclass(eq=False)
class Stepper:
    """Makes optimiser steps.

    Attributes:
        module, optimizer: as Fabric wrapped them.
        scaler: of fp16, else None.
        ema: the running mean of the weights, or None.
    """

    fabric: Fabric
    task: Task
    module: Any
    optimizer: Any
    scaler: torch.amp.GradScaler | None
    ema: AveragedModel | None
    config: LoopConfig

    def step(self, batch: StepExamples, *, stop: bool = False) -> StepResult:
        """Forward, backward, and one step of the optimiser.

        Raises:
            AnyRegionError: a loss or a gradient is not finite; names the images. The weights are
                then as they were before the step.
        """
        config = self.config
        # dropout of each step and process of its own, whatever came before: runs go on bit by bit
        seed_torch(config.seed, "step", batch.step, self.fabric.global_rank)
        task_factor = self.task.on_step_start(batch.step)
        names, losses, stop = self._backward(batch, stop)  # losses: (items, names)
        # before the optimiser's step: the weights of the last checkpoint and of memory stay good
        infinite = ~losses.isfinite()
        if bool(infinite.any()):
            items = infinite.any(dim=1).nonzero()[:, 0].tolist()
            columns = infinite.any(dim=0).nonzero()[:, 0].tolist()
            raise self._error(batch, items, ", ".join(names[i] for i in columns))
        lr = (
            config.optimizer.lr
            * rate_factor(config.schedule, batch.step, config.steps)
            * task_factor
        )
        for group in self.optimizer.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        norm = self.fabric.clip_gradients(  # the gradient's before it is clipped
            self.module,
            self.optimizer,
            max_norm=config.grad_norm or float("inf"),
            error_if_nonfinite=False,
        )
        grad_norm = float("nan") if norm is None else float(norm)
        overflow = not grad_norm < float("inf")
        # fp16: a scale below 1 means that it is not the scale that makes the gradient overflow
        if overflow and (self.scaler is None or self.scaler.get_scale() < 1):
            raise self._error(batch, self._nonfinite(batch), "the gradient")
        self.optimizer.step()  # with a scaler, one that overflowed is skipped and the scale halved
        if self.ema is not None and not overflow:
            self.ema.update_parameters(self.task.module)
        # in fp64, so that several processes log what one does
        totals = losses.double().sum(dim=0)  # (names,)
        if config.over_images == "mean":
            totals = totals / len(batch.items)
        return StepResult(dict(zip(names, totals.tolist(), strict=True)), lr, grad_norm, stop)

    def _backward(self, batch: StepExamples, stop: bool) -> tuple[list[str], Tensor, bool]:
        """Gradients of the whole step: names of the losses, `(items, names)` of all processes, and
        whether any process is to stop."""
        fabric = self.fabric
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages the processes' gradients, and they need not have equally many images
        weight = float(fabric.world_size)
        if self.config.over_images == "mean":
            weight /= len(batch.items)
        # a process without an image runs one all the same: the others wait for its gradient
        if not batch.own:
            weight = 0.0
        size = self.config.micro_batch or len(batch.examples)
        names: list[str] = []
        rows: list[Tensor] = []
        for start in range(0, len(batch.examples), size):
            examples = batch.examples[start : start + size]
            last = start + size >= len(batch.examples)
            single = last or fabric.world_size == 1
            # gradients are exchanged once a step, in the backward pass of its last micro-batch
            with nullcontext() if single else fabric.no_backward_sync(self.module):
                losses = self.task.losses(self.module, examples)
                if LOSS not in losses:
                    raise InputError(f"the task's losses lack {LOSS!r}: {', '.join(losses)}")
                for name, values in losses.items():
                    if values.shape != (len(examples),):
                        shape = tuple(values.shape)
                        raise InputError(f"loss {name!r} is {shape}, not ({len(examples)},)")
                fabric.backward(losses[LOSS].sum() * weight)
            names = sorted(losses)
            rows.append(torch.stack([losses[name].detach().float() for name in names], dim=1))
        # one exchange for both: each process fills in its own rows, and the last row says stop
        table = torch.zeros(len(batch.items) + 1, len(names), device=fabric.device)
        if batch.own:
            table[batch.own.start : batch.own.stop] = torch.cat(rows)
        table[-1] = float(stop)
        if fabric.world_size > 1:
            table = torch.as_tensor(fabric.all_reduce(table, reduce_op="sum"))
        table = table.cpu()
        return names, table[:-1], bool(table[-1, 0] > 0)

    def _nonfinite(self, batch: StepExamples) -> list[int]:
        """Positions of the items whose own gradient is not finite; none where only the sum is."""
        fabric = self.fabric
        # one image at a time, after the fact: it costs nothing while all goes well
        flags = torch.zeros(len(batch.items), device=fabric.device)
        for position, example in zip(batch.own, batch.examples, strict=False):
            self.optimizer.zero_grad(set_to_none=True)
            single = fabric.world_size == 1
            with nullcontext() if single else fabric.no_backward_sync(self.module):
                fabric.backward(self.task.losses(self.module, [example])[LOSS].sum())
            gradients = [p.grad for p in self.task.module.parameters() if p.grad is not None]
            flags[position] = float(not all(bool(g.isfinite().all()) for g in gradients))
        if fabric.world_size > 1:
            flags = torch.as_tensor(fabric.all_reduce(flags, reduce_op="sum"))
        return [int(i) for i in flags.nonzero()[:, 0]]

    def _error(self, batch: StepExamples, positions: Sequence[int], what: str) -> AnyRegionError:
        names = [self.task.describe(batch.items[i]) for i in positions[:3]]
        others = f" and {len(positions) - 3} more" if len(positions) > 3 else ""
        whose = f" of {', '.join(names)}{others}" if names else ", though that of each image is"
        return AnyRegionError(
            f"step {batch.step}: {what}{whose} is not finite. Stopped before the step: the last "
            "checkpoint is good. A lower learning rate, or precision fp32 or bf16, may help; or "
            "the features of that image are broken"
        )
