"""One optimiser step: the same numbers from one process or several, at once or in parts."""

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
from anyregion.training.optimizers import set_rate
from anyregion.training.prefetch import StepExamples
from anyregion.training.schedules import rate_factor
from anyregion.training.seeds import seed_torch
from anyregion.training.task import Task

DESCENDED = "loss"


@dataclass(frozen=True)
class StepResult:
    """What came of a step.

    Attributes:
        losses: mean (or sum, as configured) over the step's images, of all processes.
        lr: the rate it was taken with.
        grad_norm: of the gradient before it was shortened.
        stop: whether any process was asked to stop.
    """

    losses: dict[str, float]
    lr: float
    grad_norm: float
    stop: bool


@dataclass(eq=False)
class Stepper:
    """Takes steps.

    Attributes:
        module: `task.module` as Fabric wrapped it.
        optimizer: as Fabric wrapped it.
        scaler: of fp16, else None.
        mean: the running mean of the weights, or None.
    """

    fabric: Fabric
    task: Task
    module: Any
    optimizer: Any
    scaler: torch.amp.GradScaler | None
    mean: AveragedModel | None
    config: LoopConfig

    def take(self, read: StepExamples, *, stop: bool = False) -> StepResult:
        """Forward, backward, and one step of the optimiser.

        Raises:
            AnyRegionError: a loss or a gradient is not finite; names the images. The weights are
                then as they were before the step.
        """
        config = self.config
        seed_torch(config.seed, "step", read.step, self.fabric.global_rank)
        scale = self.task.on_step_start(read.step)
        names, table, stopped = self._descend(read, stop)
        broken = ~table.isfinite()
        if bool(broken.any()):
            bad = broken.any(dim=1).nonzero()[:, 0].tolist()
            what = ", ".join(names[i] for i in broken.any(dim=0).nonzero()[:, 0].tolist())
            raise self._not_finite(read, bad, what)
        lr = config.optimizer.lr * rate_factor(config.schedule, read.step, config.steps) * scale
        set_rate(self.optimizer.optimizer, lr)
        norm = self._shortened()
        overflow = not norm < float("inf")
        if overflow and (self.scaler is None or self.scaler.get_scale() < 1):
            raise self._not_finite(read, self._culprits(read), "the gradient")
        self.optimizer.step()  # with a scaler, one that overflowed is skipped and the scale halved
        if self.mean is not None and not overflow:
            self.mean.update_parameters(self.task.module)
        over = table.double().sum(dim=0)
        over = over / len(read.items) if config.over_images == "mean" else over
        return StepResult(dict(zip(names, over.tolist(), strict=True)), lr, norm, stopped)

    def _descend(self, read: StepExamples, stop: bool) -> tuple[list[str], Tensor, bool]:
        """Gradients of the whole step, and `(items, losses)` of all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean of the processes' gradients; theirs need not have as many images
        weight = float(self.fabric.world_size)
        if self.config.over_images == "mean":
            weight /= len(read.items)
        if not read.own:
            weight = 0.0
        size = self.config.micro_batch or len(read.examples)
        names: list[str] = []
        found: list[Tensor] = []
        for start in range(0, len(read.examples), size):
            part = read.examples[start : start + size]
            last = start + size >= len(read.examples)
            with self._without_sync(not last):
                losses = checked(self.task.losses(self.module, part), len(part))
                self.fabric.backward(losses[DESCENDED].sum() * weight)
            names = sorted(losses)
            found.append(torch.stack([losses[name].detach().float() for name in names], dim=1))
        table = torch.zeros(len(read.items) + 1, len(names), device=self.fabric.device)
        if read.own:
            table[read.own.start : read.own.stop] = torch.cat(found)
        table[-1] = float(stop)
        table = self._summed(table).cpu()
        return names, table[:-1], bool(table[-1, 0] > 0)

    def _shortened(self) -> float:
        norm = self.fabric.clip_gradients(
            self.module,
            self.optimizer,
            max_norm=self.config.grad_norm or float("inf"),
            error_if_nonfinite=False,
        )
        return float("nan") if norm is None else float(norm)

    def _culprits(self, read: StepExamples) -> list[int]:
        """The items whose own gradient is not finite; empty where only their sum is not."""
        flags = torch.zeros(len(read.items), device=self.fabric.device)
        for position, example in zip(read.own, read.examples, strict=False):
            self.optimizer.zero_grad(set_to_none=True)
            with self._without_sync(True):
                self.fabric.backward(self.task.losses(self.module, [example])[DESCENDED].sum())
            gradients = [p.grad for p in self.task.module.parameters() if p.grad is not None]
            flags[position] = float(not all(bool(g.isfinite().all()) for g in gradients))
        return [int(i) for i in self._summed(flags).nonzero()[:, 0]]

    def _not_finite(self, read: StepExamples, bad: Sequence[int], what: str) -> AnyRegionError:
        named = [self.task.describe(read.items[i]) for i in bad[:3]]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        whose = f" of {', '.join(named)}{more}" if named else ", though that of each image is"
        return AnyRegionError(
            f"step {read.step}: {what}{whose} is not finite. Stopped before the step: the last "
            "checkpoint is good. A lower learning rate, or precision fp32 or bf16, may help; or "
            "the features of that image are broken"
        )

    def _without_sync(self, off: bool) -> Any:
        if self.fabric.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self.module, enabled=off)

    def _summed(self, values: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return values
        total: Any = self.fabric.all_reduce(values, reduce_op="sum")
        return torch.as_tensor(total)


def checked(losses: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """What a task returned, if it is one value an example.

    Raises:
        InputError: it is not, or the loss that is descended is missing.
    """
    if DESCENDED not in losses:
        raise InputError(f"the task's losses lack {DESCENDED!r}: {', '.join(losses)}")
    for name, values in losses.items():
        if values.shape != (count,):
            raise InputError(f"loss {name!r} is {tuple(values.shape)}, not ({count},)")
    return losses
