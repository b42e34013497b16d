"""SAM 2.1 (Ravi et al. 2024) and SAM 3's promptable tracker, through `transformers`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyregion.images import Pixels, size_of
from anyregion.localizers.sam import mask_maps, upscale
from anyregion.localizers.segmenter import LocalizedImage
from anyregion.localizers.square import Frame, squashed_frame


class Sam2Backend:
    """SAM 2 as a `Backend`, of a `Sam2Model`: output tokens are object score, IoU, four masks.

    A region's token is the output mask token: 0 for the single mask, 1 to 3 for the candidates. The
    published single mask is not always token 0's: where that is unstable (its area changes much
    with the threshold) the candidate with the highest score takes its place, in masks and scores.
    The token stays token 0, as in the published model's own memory.
    """

    kind = "Sam2Family"
    score_row = 1
    mask_row = 2
    # of RGB in 0 to 1
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    layer_norm_eps: float | None = None
    pred_iou_thresh = 0.8

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = model.mask_decoder
        self.output_tokens: Tensor = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        ).detach()

    def preprocess(self, image: Pixels) -> tuple[Tensor, Frame]:
        """Squash to the square as floats, then normalise. See `Backend`."""
        frame = squashed_frame(size_of(image), self.model.prompt_encoder.input_image_size)
        values = torch.tensor(image).permute(2, 0, 1) / 255
        values = F.interpolate(values[None], frame.inside, mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(rgb).view(3, 1, 1) for rgb in (self.mean, self.std))
        return (values - mean) / std, frame

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        # finest first: 4, 2 and 1 times the embedding's size
        quarter, half, embeddings = self.model.get_image_embeddings(pixels)
        return embeddings, half, quarter

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        return encoded.extras

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        half, quarter = features
        maps = upscale(decoder, image, half=half, quarter=quarter)  # (P, C / 8, 4 h, 4 w)
        heads = list(decoder.output_hypernetworks_mlps)
        logits = mask_maps(heads, tokens[:, self.mask_row : self.mask_row + len(heads)], maps)
        scores = decoder.iou_prediction_head(tokens[:, self.score_row])  # (P, 4)
        # the first mask is the single one, the three candidates follow
        if multimask:
            return logits[:, 1:], scores[:, 1:]
        if not decoder.dynamic_multimask_via_stability:
            return logits[:, :1], scores[:, :1]
        # an unstable single mask gives way to the candidate with the highest score
        delta = decoder.dynamic_multimask_stability_delta
        stability = stability_score(logits[:, 0], delta, empty=1.0)
        stable = stability >= decoder.dynamic_multimask_stability_thresh
        best = torch.where(stable, 0, 1 + scores[:, 1:].argmax(1))[:, None]  # (P, 1)
        index = best[..., None, None].expand(-1, -1, *logits.shape[2:])
        return logits.gather(1, index), scores.gather(1, best)


class Sam3Backend(Sam2Backend):
    """SAM 3's tracker, a `Sam3TrackerModel`: SAM 2 with another image encoder and another input."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def stability_score(logits: Tensor, offset: float, *, empty: float = 0.0) -> Tensor:
    """IoU of masks cut above `offset` with the same cut above `-offset`: 1 where all is sharp.

    Of logits `(M, H, W)` to `(M,)`; `empty` where even the lower threshold leaves nothing.
    """
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return torch.where(outer > 0, inner / outer, empty)
