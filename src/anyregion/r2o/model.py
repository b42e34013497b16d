"""The networks of R2O: an online branch that learns, and a target that follows it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder


class Head(nn.Module):
    """Linear, BatchNorm over all rows, ReLU, Linear (BYOL's projector and predictor).

    Args:
        width: of its input.
        hidden: between the two.
        out: of its output.
    """

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.output = nn.Linear(hidden, out)

    def forward(self, rows: Tensor) -> Tensor:
        """`(R, width)` to `(R, out)`."""
        found: Tensor = self.output(torch.relu(self.norm(self.hidden(rows))))
        return found


class Branch(nn.Module):
    """Encoder and projector."""

    def __init__(self, encoder: Encoder, projector: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector


class Networks(nn.Module):
    """What R2O trains: `online` and `predictor` learn, `target` is their running mean.

    Args:
        encoder: where training starts.
        width: of the encoder's output.
        hidden, out: of projector and predictor.
    """

    def __init__(self, encoder: Encoder, *, width: int, hidden: int = 4096, out: int = 256) -> None:
        super().__init__()
        self.online = Branch(encoder, Head(width, hidden, out))
        self.predictor = Head(out, hidden, out)
        self.target = copy.deepcopy(self.online)
        self.target.requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Bring the target's weights a step nearer to the online ones: `t = m t + (1 - m) o`.

        Buffers stay: each network's BatchNorms count what went through it.
        """
        target: list[Tensor] = list(self.target.parameters())
        online: list[Tensor] = list(self.online.parameters())
        torch._foreach_mul_(target, momentum)
        torch._foreach_add_(target, online, alpha=1 - momentum)
