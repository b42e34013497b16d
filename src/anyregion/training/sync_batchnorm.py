"""BatchNorm synchronised between processes: its statistics are those of all their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from anyregion.errors import InputError

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


M = TypeVar("M", bound=nn.Module)


def convert_sync_batchnorm(module: M, device_type: str) -> M:
    """`module` with every BatchNorm replaced by one that counts the rows of all processes.

    Parameters and buffers are the same objects under the same names. Use what is returned: a
    `module` that is itself a BatchNorm cannot be changed in place. Each process must run the
    module equally often, forward and backward, be it with zero rows: they wait for each other.

    Args:
        device_type: `cuda` for torch's own SyncBatchNorm; otherwise `SharedBatchNorm`, of which
            torch has none.

    Raises:
        InputError: a BatchNorm of a kind of its own (timm's, with an activation inside), which
            neither could stand in for.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and type(part) not in (
            *_KINDS,
            nn.SyncBatchNorm,
            SharedBatchNorm,
        ):
            raise InputError(
                f"{name or 'the module'}: a {type(part).__name__} cannot be synchronised between "
                "processes; train in one process, or without synchronised BatchNorm"
            )
    if device_type == "cuda":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    else:
        convert = _convert
    return cast("M", convert(module))


class SharedBatchNorm(_BatchNorm):
    """BatchNorm over `(N, C, ...)` of all processes; in one process it is torch's, bit by bit.

    N may differ between processes and may be 0 in some: mean and variance are those of the rows of
    all, and so are the running ones (the variance there with N - 1, as torch's). They are computed
    in fp32, or better, whatever the rows are in. The gradients of weight and bias are those of the
    process's own rows: their sum over processes is that of one process with all rows. Without a
    row anywhere nothing is counted but the batch.

    Raises:
        InputError: in training, one value per channel in all processes together (one row of one
            cell): it would be normalised to 0 and teaches nothing. Also in one process.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, ...)` to the same shape and type."""
        self._check_input_dim(input)
        by_batch = self.training or self.running_mean is None
        if by_batch and _world_size() == 1 and input.numel() == input.shape[1]:
            raise _too_few()
        if not by_batch or _world_size() == 1:
            return super().forward(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        tracking = self.training and self.track_running_stats
        if tracking and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)  # the plain mean of all batches
        # also with no row of its own: the other processes wait for its sums
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if tracking and self.running_mean is not None and self.running_var is not None and count:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            # as torch does: normalised by N, remembered by N - 1
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        normalised: Tensor = output
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise InputError(
                f"BatchNorm of {self.num_features} channels was given {tuple(input.shape)}"
            )


class _Normalise(torch.autograd.Function):
    """Two sums over processes forward (for the mean; for the variance about it), one backward."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        dtype = torch.promote_types(rows.dtype, torch.float32)
        over = [0, *range(2, rows.dim())]  # all but the channels
        x = rows.to(dtype)  # (N, C, ...)
        own_count = x.numel() // x.shape[1]
        # in fp64: fp32 cannot count beyond 16.7 million cells
        totals = _sum_over_processes(  # (C + 1,)
            torch.cat([x.sum(over).double(), x.new_full((1,), own_count, dtype=torch.float64)])
        )
        count = round(float(totals[-1]))
        if count == 1:
            raise _too_few()
        mean = (totals[:-1] / max(count, 1)).to(dtype)  # (C,)
        # about the mean, in a second exchange: E[x^2] - E[x]^2 loses all digits of a small variance
        centred = x - _like_rows(mean, x)
        variance = _sum_over_processes(centred.square().sum(over)) / max(count, 1)  # (C,)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(rows, weight, mean, scale)
        ctx.count = count
        output = torch.empty_like(rows)
        if own_count:
            output = functional.batch_norm(rows, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        rows, weight, mean, scale = ctx.saved_tensors
        over = [0, *range(2, rows.dim())]
        grad = grad_output.to(mean.dtype)  # (N, C, ...)
        normalised = (rows.to(mean.dtype) - _like_rows(mean, rows)) * _like_rows(scale, rows)
        grad_bias, grad_weight = grad.sum(over), (grad * normalised).sum(over)  # (C,) each
        grad_rows = None
        if ctx.needs_input_grad[0]:
            # mean and variance depend on the rows of all processes, and so does their share here
            means = _sum_over_processes(torch.stack([grad_bias, grad_weight])) / max(ctx.count, 1)
            factor = scale if weight is None else scale * weight
            through = grad - _like_rows(means[0], rows) - normalised * _like_rows(means[1], rows)
            grad_rows = (through * _like_rows(factor, rows)).to(rows.dtype)
        if weight is None:
            return grad_rows, None, None, None
        return grad_rows, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _convert(module: nn.Module) -> nn.Module:
    if type(module) not in _KINDS:
        for name, child in module.named_children():
            setattr(module, name, _convert(child))
        return module
    old: Any = module
    new: Any = SharedBatchNorm(
        old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats
    )
    # the same objects: an optimiser that was built before goes on with them
    new.weight, new.bias = old.weight, old.bias
    for name, buffer in old.named_buffers(recurse=False):
        setattr(new, name, buffer)
    new.train(old.training)
    converted: nn.Module = new
    return converted


def _world_size() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def _sum_over_processes(values: Tensor) -> Tensor:
    distributed.all_reduce(values)
    return values


def _like_rows(values: Tensor, rows: Tensor) -> Tensor:
    """`(C,)` to `(1, C, 1, ...)`."""
    return values.view(1, -1, *[1] * (rows.dim() - 2))


def _too_few() -> InputError:
    return InputError(
        "BatchNorm was given one row in all: it needs at least two. Use a larger batch (or a "
        "larger micro_batch), or more regions an image"
    )
