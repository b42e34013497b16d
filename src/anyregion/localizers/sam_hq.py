"""SAM-HQ (Ke et al. 2023): SAM's frozen weights, and one more token that sharpens masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anyregion.images import Pixels
from anyregion.localizers.frame import Frame, padded_frame
from anyregion.localizers.mask_head import mask_maps, upscale
from anyregion.localizers.sam import MASK_ROW, MEAN, SCORE_ROW, STD, masks_and_scores, padded_pixels
from anyregion.localizers.segmenter import (
    DEFAULTS,
    LocalizedImage,
    LocalizerOptions,
    PromptableSegmenter,
    frozen,
)


def sam_hq_localizer(
    model: Any, *, name: str, options: LocalizerOptions = DEFAULTS
) -> PromptableSegmenter:
    """A localizer of a `transformers.SamHQModel`, which is moved to its device and frozen.

    A region's tokens are SAM's own mask tokens, so that what was trained on SAM's tokens goes on
    working: the HQ token has a space of its own, and there is one of it for three candidates. Masks
    are the sum of SAM's and the HQ token's logits, as published; candidates stay in the decoder's
    order, so that each keeps its token. The image tokens that are upscaled are those after the
    two-way transformer, as published; `SamHQModel`'s own forward pass (transformers 5.23) takes
    those of before it, height and width exchanged, and its masks hardly know the prompt.

    Args:
        model: the model, float32, its mask decoder's `layer_norm_eps` 1e-5 (see `sam_localizer`).
        name: where it came from.
        options: how it runs.
    """
    backend = SamHQBackend(frozen(model, options))
    return PromptableSegmenter(backend, name=name, options=options)


class SamHQBackend:
    """SAM-HQ as a `Backend`: output tokens are IoU, four mask tokens, and the HQ token."""

    kind = "SamHQFamily"
    score_row = SCORE_ROW
    mask_row = MASK_ROW
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = model.mask_decoder
        self.output_tokens: Tensor = torch.cat(
            [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight]
        ).detach()

    def frame(self, size: tuple[int, int]) -> Frame:
        return padded_frame(size, self.model.config.vision_config.image_size)

    def pixels(self, image: Pixels, frame: Frame) -> Tensor:
        return padded_pixels(image, frame)

    def encode(self, pixels: Tensor) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        embeddings, blocks = self.model.get_image_embeddings(pixels)
        # of the global attention blocks only the first feeds the masks; a tiny model has none
        early = blocks[0].split(1) if len(blocks) else [None] * len(embeddings)
        return [
            (embedding, () if block is None else (block,))
            for embedding, block in zip(embeddings.split(1), early, strict=True)
        ]

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        """The image's part of the HQ features: embedding and early ViT block, upscaled."""
        decoder = self.model.mask_decoder
        features = decoder.activation(
            decoder.encoder_norm(decoder.encoder_conv1(encoded.embedding))
        )
        features = decoder.encoder_conv2(features)
        for block in encoded.extras:
            early = decoder.compress_vit_conv1(block.permute(0, 3, 1, 2))
            early = decoder.activation(decoder.compress_vit_norm(early))
            features = features + decoder.compress_vit_conv2(early)
        return (features,)

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        maps = upscale(decoder, image)
        logits, scores = masks_and_scores(decoder, tokens, maps, multimask=multimask)
        sharp = decoder.activation(decoder.mask_norm(decoder.mask_conv1(maps)))
        sharp = decoder.mask_conv2(sharp) + features[0]
        hq = mask_maps([decoder.hq_mask_mlp], tokens[:, -1:], sharp)
        return logits + hq, scores
