"""LARS: an optimiser whose step of each tensor is as long as the tensor, times a coefficient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from anyregion.errors import InputError


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888), as BYOL and R2O use it.

    For a tensor `p` with gradient `g`:

        ratio  = eta |p| / (|g| + weight_decay |p|), or 1 where |p| or |g| is 0
        buffer = momentum * buffer + lr * ratio * (g + weight_decay p)
        p      = p - buffer

    The rate stands inside the buffer: after a change of the rate, earlier gradients keep the one
    that they were taken with. In a group with `adapted` False there is neither ratio nor decay.

    The tensors of a group lie on one device.

    Args:
        params: tensors, or groups of them; a group may have any of the settings below.
        lr, momentum, weight_decay, eta: as in the formulas.
        adapted: False for biases and norms.

    Raises:
        InputError: a setting that cannot be.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        adapted: bool = True,
    ) -> None:
        if not 0 <= lr < float("inf"):
            raise InputError(f"lr must not be negative: {lr}")
        if not 0 <= momentum < 1:
            raise InputError(f"momentum must lie in 0 to 1, below 1: {momentum}")
        if not 0 <= weight_decay < float("inf"):
            raise InputError(f"weight_decay must not be negative: {weight_decay}")
        if not 0 < eta < float("inf"):
            raise InputError(f"eta must be above 0, not {eta}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "eta": eta,
            "adapted": adapted,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a tensor without a gradient stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in weights if p.grad is not None]
        if group["adapted"]:
            gradients = _adapt(weights, gradients, group["weight_decay"], group["eta"])
        buffers = [self._buffer(p) for p in weights]
        # all tensors of the group in one kernel each: a network has hundreds of small ones
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients, alpha=group["lr"])
        torch._foreach_sub_(weights, buffers)

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        buffer: Tensor = state["momentum"]
        return buffer


def _adapt(
    weights: list[Tensor], gradients: list[Tensor], decay: float, eta: float
) -> list[Tensor]:
    """`ratio * (g + decay p)` of every tensor; nothing waits for the device."""
    weight_norms = torch.stack(torch._foreach_norm(weights))  # (tensors,)
    grad_norms = torch.stack(torch._foreach_norm(gradients))
    ratios = eta * weight_norms / (grad_norms + decay * weight_norms)
    # as published: a tensor of zeros, or without a gradient, keeps the plain learning rate
    both = (weight_norms > 0) & (grad_norms > 0)
    ratios = torch.where(both, ratios, torch.ones_like(ratios))
    # the decay is part of what the ratio scales, not decoupled as AdamW's
    decayed = torch._foreach_add(gradients, weights, alpha=decay)
    torch._foreach_mul_(decayed, list(ratios.unbind()))
    return list(decayed)
