"""SAM ViT-B, L and H (Kirillov et al. 2023), through `transformers`' `SamModel`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.images import Pixels
from anyregion.localizers.frame import Frame, padded_frame, resize_to_frame
from anyregion.localizers.mask_head import mask_maps, upscale
from anyregion.localizers.segmenter import EncodedImage, SegmenterLocalizer

MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)


def sam_localizer(
    model: Any,
    *,
    name: str,
    device: str | torch.device = "cpu",
    chunk: int | None = None,
    batch_size: int | None = None,
    encoder_dtype: torch.dtype = torch.float32,
) -> SegmenterLocalizer:
    """A localizer of a `transformers.SamModel`, which is moved to `device` and frozen.

    For the published numbers its mask decoder's `layer_norm_eps` must be 1e-5, which neither the
    class's default nor the files on the hub have; `load_localizer` sets it.

    Args:
        model: the model, float32.
        name: where it came from.
        device: where it runs.
        chunk, batch_size, encoder_dtype: see `SegmenterLocalizer`.
    """
    model.to(device).eval().requires_grad_(False)
    return SegmenterLocalizer(
        SamFamily(model),
        name=name,
        chunk=chunk,
        batch_size=batch_size,
        encoder_dtype=encoder_dtype,
    )


class SamFamily:
    """SAM as a `Family`: output tokens are the IoU token and four mask tokens."""

    score_row = 0
    mask_row = 1

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

    def mask_features(self, encoded: EncodedImage) -> tuple[Tensor, ...]:
        return ()

    def scores(self, token: Tensor) -> Tensor:
        return self.model.mask_decoder.iou_prediction_head(token)  # type: ignore[no-any-return]

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        wanted = [1, 2, 3] if multimask else [0]
        heads = [decoder.output_hypernetworks_mlps[i] for i in wanted]
        maps = upscale(decoder, image)
        logits = mask_maps(heads, tokens[:, [self.mask_row + i for i in wanted]], maps)
        return logits, self.scores(tokens[:, self.score_row])[:, wanted]


def padded_pixels(image: Pixels, frame: Frame) -> Tensor:
    """Resize, normalise with SAM's mean and std, then pad with zeros: `(3, side, side)`."""
    height, width = frame.inside
    padded = np.zeros((frame.side, frame.side, 3), dtype=np.float32)
    padded[:height, :width] = (resize_to_frame(image, frame).astype(np.float32) - MEAN) / STD
    return torch.from_numpy(padded).permute(2, 0, 1)
