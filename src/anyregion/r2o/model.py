"""The networks of R2O: the online branch, the predictor and the target, its momentum copy."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder


class Head(nn.Module):
    """Linear, BatchNorm over all rows, ReLU, Linear (BYOL's projector and predictor)."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.output = nn.Linear(hidden, out)

    def forward(self, rows: Tensor) -> Tensor:
        """`(R, width)` to `(R, out)`."""
        embedding: Tensor = self.output(torch.relu(self.norm(self.hidden(rows))))
        return embedding


class Branch(nn.Module):
    """Encoder and projector."""

    def __init__(self, encoder: Encoder, projector: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector


class Networks(nn.Module):
    """All networks of R2O: `online` and `predictor` learn, `target` is a running mean of `online`.

    Args:
        width: channels of the encoder's output.
        hidden, out: of both heads.
        anchored: keep a copy of the encoder as it is now, `start`, which never changes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        width: int,
        hidden: int = 4096,
        out: int = 256,
        anchored: bool = False,
    ) -> None:
        super().__init__()
        self.online = Branch(encoder, Head(width, hidden, out))
        self.predictor = Head(out, hidden, out)
        self.target = copy.deepcopy(self.online)
        self.target.requires_grad_(False)
        # among the weights, so in checkpoints: a run goes on though the start's file is gone
        self.start: Encoder | None = None
        if anchored:
            self.start = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target's weights towards the online ones: `t = m t + (1 - m) o`.

        Buffers stay: each network's BatchNorms count what went through it.
        """
        target: list[Tensor] = list(self.target.parameters())
        online: list[Tensor] = list(self.online.parameters())
        torch._foreach_mul_(target, momentum)
        torch._foreach_add_(target, online, alpha=1 - momentum)
