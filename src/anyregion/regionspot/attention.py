"""Maps of the adapter's cross-attention from a region to the image (the paper's figure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from anyregion.errors import InputError
from anyregion.regions import Regions

if TYPE_CHECKING:
    from anyregion.regionspot.encoder import EncodedImage, RegionSpotEncoder


@torch.inference_mode()
def attention_maps(
    encoder: RegionSpotEncoder, encoded: EncodedImage, regions: Regions, *, layer: int = -1
) -> NDArray[np.float32]:
    """Cross-attention of each region over the VLM's grid, `(N, h, w)`, mean of the heads.

    What goes to the class token is left out, so a map adds up to at most 1.

    `regions` fit the image (`Regions.fit`); `layer` is one of the decoder's, by default the last.

    Raises:
        InputError: the adapter does without features, or has no such layer.
    """
    if not encoder.adapter.config.use_features:
        raise InputError("this adapter does not attend to the feature map")
    if not -encoder.adapter.config.layers <= layer < encoder.adapter.config.layers:
        raise InputError(f"the decoder has {encoder.adapter.config.layers} layers, no {layer}")
    result = encoder.localizer.tokens(encoded.localized, regions, source=encoder.source)
    height, width = encoded.grid
    if not len(regions):
        return np.zeros((0, height, width), dtype=np.float32)
    weights: list[torch.Tensor] = []
    encoder.embed_tokens([encoded], [result.tokens], weights)
    # of (1, H, N, T) the grid is the last h * w entries; a class token comes before it, if any
    cells = weights[layer][0].mean(dim=0)[:, -height * width :]  # (N, h w)
    maps: NDArray[np.float32] = cells.reshape(-1, height, width).float().cpu().numpy()
    return maps
