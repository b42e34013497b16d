"""A running mean of the weights, which often does better than the last of them."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def running_mean(module: nn.Module, decay: float) -> AveragedModel:
    """Starts at the first update's weights; buffers (a BatchNorm's) are copied, not averaged."""
    rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=rule)
