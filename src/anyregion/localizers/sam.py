"""SAM ViT-B, L and H (Kirillov et al. 2023), through `transformers`' `SamModel`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.images import Pixels
from anyregion.localizers.frame import Frame, padded_frame, resize_to_frame
from anyregion.localizers.mask_head import mask_maps, upscale
from anyregion.localizers.segmenter import (
    DEFAULTS,
    LocalizedImage,
    LocalizerOptions,
    PromptableSegmenter,
    frozen,
)

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

SCORE_ROW, MASK_ROW = 0, 1
"""Where SAM and SAM-HQ have the IoU token and the first mask token among the output tokens."""


def sam_localizer(
    model: Any, *, name: str, options: LocalizerOptions = DEFAULTS
) -> PromptableSegmenter:
    """A localizer of a `transformers.SamModel`, which is moved to its device and frozen.

    For the published numbers its mask decoder's `layer_norm_eps` must be 1e-5, which neither the
    class's default nor the files on the hub have; `load_localizer` sets it.

    Args:
        model: the model, float32.
        name: where it came from.
        options: how it runs.
    """
    backend = SamBackend(frozen(model, options))
    return PromptableSegmenter(backend, name=name, options=options)


class SamBackend:
    """SAM as a `Backend`: output tokens are the IoU token and four mask tokens."""

    kind = "SamFamily"
    score_row = SCORE_ROW
    mask_row = MASK_ROW
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = model.mask_decoder
        self.output_tokens: Tensor = torch.cat(
            [decoder.iou_token.weight, decoder.mask_tokens.weight]
        ).detach()

    def frame(self, size: tuple[int, int]) -> Frame:
        return padded_frame(size, self.model.config.vision_config.image_size)

    def pixels(self, image: Pixels, frame: Frame) -> Tensor:
        return padded_pixels(image, frame)

    def encode(self, pixels: Tensor) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        embeddings = self.model.get_image_embeddings(pixels)
        return [(embedding, ()) for embedding in embeddings.split(1)]

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        return ()

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        return masks_and_scores(decoder, tokens, upscale(decoder, image), multimask=multimask)


def padded_pixels(image: Pixels, frame: Frame) -> Tensor:
    """Resize, normalise with SAM's mean and std, then pad with zeros: `(3, side, side)`."""
    height, width = frame.inside
    padded = np.zeros((frame.side, frame.side, 3), dtype=np.float32)
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    padded[:height, :width] = (resize_to_frame(image, frame).astype(np.float32) - mean) / std
    return torch.from_numpy(padded).permute(2, 0, 1)


def masks_and_scores(
    decoder: Any, tokens: Tensor, maps: Tensor, *, multimask: bool
) -> tuple[Tensor, Tensor]:
    """Output tokens `(P, R, C)` and upscaled maps to SAM's logits `(P, M, h, w)` and IoU `(P, M)`.

    One mask, or the three candidates with `multimask`.
    """
    wanted = [1, 2, 3] if multimask else [0]
    heads = [decoder.output_hypernetworks_mlps[i] for i in wanted]
    logits = mask_maps(heads, tokens[:, [MASK_ROW + i for i in wanted]], maps)
    return logits, decoder.iou_prediction_head(tokens[:, SCORE_ROW])[:, wanted]
