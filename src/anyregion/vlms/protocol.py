"""The protocol of vision-language models, and the options that they run with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from torch import Tensor

from anyregion.baselines.embedder import ImageEmbedder
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.torch_utils.devices import check_device
from anyregion.vlms.dense import Dense


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Feature maps of a batch of images, each squashed to the model's square input.

    Attributes:
        tokens: `(B, T, D)`: class token first where the model has one (ViTs of CLIP; not SigLIP,
            not ResNets, whose grid is the last stage's), then the grid row by row.
        grid: `(h, w)`; `T` is `h * w`, or one more.
    """

    tokens: Tensor
    grid: tuple[int, int]


class VisionLanguageModel(ImageEmbedder, Protocol):
    """A frozen model that embeds images and texts in one space; its text side is `text`.

    Attributes:
        feature_width: `D` of the feature map.
        embed_width: `E` of the words.
        image_size: side of the square input, in pixels.
    """

    image_size: int
    feature_width: int
    embed_width: int

    def feature_map(self, images: Sequence[Pixels], *, antialias: bool = True) -> FeatureMap:
        """The last layer's output before the final norm and projection (RegionSpot, section 3.2).

        Args:
            images: of any sizes; each is squashed, not cropped.
            antialias: False is the published interactive predictor's resize.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class VlmOptions:
    """How a vision-language model runs: where, how large, how many at a time, how exactly.

    Attributes:
        device: `cpu`, `cuda`, ...
        image_size: side of the square input; None for the model's own. Positions are resized.
        batch_size, text_batch_size: images and texts encoded at a time.
        dtype: bfloat16 or float16 run under autocast; weights stay float32.
        dense: how `dense_features` changes the last layer (see `vlms.dense`); None for `plain` with
            TIPSv2 and `sclip` with all others: without training SCLIP's cells are named better than
            MaskCLIP's (Wang et al. 2024).

    Raises:
        InputError: a device that is not here, an unknown `dense`, or a batch of less than one.
    """

    device: str | torch.device = "cpu"
    image_size: int | None = None
    batch_size: int = 16
    text_batch_size: int = 64
    dtype: torch.dtype = torch.float32
    dense: Dense | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.dense is not None and self.dense not in get_args(Dense):
            choices = ", ".join(get_args(Dense))
            raise InputError(f"dense must be one of {choices}, not {self.dense!r}")
        for name in ("batch_size", "text_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")

    def autocast(self) -> torch.autocast:
        """The context that models run in; it does nothing for float32."""
        # weights stay float32: autocast lowers the products alone
        low = self.dtype != torch.float32
        return torch.autocast(torch.device(self.device).type, dtype=self.dtype, enabled=low)
