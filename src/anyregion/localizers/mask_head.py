"""The end of SAM's mask decoder: image tokens upscaled, and each mask token's product with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def upscale(
    decoder: Any, image: Tensor, *, half: Tensor | None = None, quarter: Tensor | None = None
) -> Tensor:
    """Image maps `(P, C, h, w)` to `(P, C / 8, 4 h, 4 w)`.

    Args:
        decoder: the mask decoder of any of the families.
        image: the image tokens after the two-way transformer.
        half, quarter: SAM 2's features of the image at 2 and 4 times the size, which are added.
    """
    maps = decoder.upscale_conv1(image)
    maps = decoder.activation(decoder.upscale_layer_norm(maps if half is None else maps + half))
    maps = decoder.upscale_conv2(maps)
    return decoder.activation(maps if quarter is None else maps + quarter)  # type: ignore[no-any-return]


def mask_maps(hypernetworks: list[Any], tokens: Tensor, maps: Tensor) -> Tensor:
    """Mask tokens `(P, M, C)`, each through its hypernetwork, times maps: `(P, M, 4 h, 4 w)`."""
    weights = torch.stack([net(tokens[:, i]) for i, net in enumerate(hypernetworks)], dim=1)
    return torch.bmm(weights, maps.flatten(2)).view(*weights.shape[:2], *maps.shape[2:])
