"""How a vision-language model runs: one value that `load_vlm` hands to every builder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from anyregion.errors import InputError
from anyregion.torch_utils.devices import check_device
from anyregion.vlms.attention import Dense


@dataclass(frozen=True, kw_only=True)
class VlmOptions:
    """Where, how large, how many at a time, how exactly.

    Attributes:
        device: `cpu`, `cuda`, ...
        image_size: side of the square input; None for the model's own. Positions are resized.
        batch_size, text_batch_size: images and texts encoded at a time.
        dtype: bfloat16 or float16 run under autocast; weights stay float32.
        dense: how `dense_features` changes the last layer (see `attention`); without training
            SCLIP's cells are named better than MaskCLIP's (Wang et al. 2024).

    Raises:
        InputError: a device that is not here, an unknown `dense`, or a batch of less than one.
    """

    device: str | torch.device = "cpu"
    image_size: int | None = None
    batch_size: int = 16
    text_batch_size: int = 64
    dtype: torch.dtype = torch.float32
    dense: Dense = "sclip"

    def __post_init__(self) -> None:
        check_device(self.device)
        ways = get_args(Dense)
        if self.dense not in ways:
            raise InputError(f"dense must be one of {', '.join(ways)}, not {self.dense!r}")
        for name in ("batch_size", "text_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")

    def autocast(self) -> torch.autocast:
        """The context that models run in; it does nothing for float32."""
        low = self.dtype != torch.float32
        return torch.autocast(torch.device(self.device).type, dtype=self.dtype, enabled=low)
