"""SAM (Kirillov et al. 2023) and SAM-HQ (Ke et al. 2023), through `transformers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.images import Pixels
from anyregion.localizers.segmenter import LocalizedImage
from anyregion.localizers.square import Frame, padded_frame, resize_to_frame

# of RGB bytes, 0 to 255
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SamBackend:
    """SAM as a `Backend`, of a `SamModel`: output tokens are the IoU token and four mask tokens.

    For the published numbers the mask decoder's `layer_norm_eps` must be 1e-5, which neither the
    class's default nor the files on the hub have; `load_localizer` sets it.
    """

    kind = "SamFamily"
    score_row = 0
    mask_row = 1
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    layer_norm_eps: float | None = 1e-5
    pred_iou_thresh = 0.88

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = model.mask_decoder
        self.output_tokens: Tensor = torch.cat(
            [decoder.iou_token.weight, decoder.mask_tokens.weight]
        ).detach()

    def preprocess(self, image: Pixels) -> tuple[Tensor, Frame]:
        """Resize, normalise, then pad with zeros. See `Backend`."""
        frame = padded_frame(
            (image.shape[0], image.shape[1]), self.model.config.vision_config.image_size
        )
        height, width = frame.inside
        # padding is zero after normalisation, so it is the mean colour
        padded = np.zeros((frame.side, frame.side, 3), dtype=np.float32)
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        padded[:height, :width] = (resize_to_frame(image, frame).astype(np.float32) - mean) / std
        return torch.from_numpy(padded).permute(2, 0, 1), frame

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.model.get_image_embeddings(pixels),)

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        return ()

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        return self._sam_masks(tokens, upscale(self.model.mask_decoder, image), multimask)

    def _sam_masks(self, tokens: Tensor, maps: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits `(P, M, h, w)` and IoU `(P, M)` of output tokens and upscaled maps."""
        decoder = self.model.mask_decoder
        # a mask token and the hypernetwork of the same number belong together
        candidates = [1, 2, 3] if multimask else [0]
        heads = [decoder.output_hypernetworks_mlps[i] for i in candidates]
        logits = mask_maps(heads, tokens[:, [self.mask_row + i for i in candidates]], maps)
        return logits, decoder.iou_prediction_head(tokens[:, self.score_row])[:, candidates]


class SamHQBackend(SamBackend):
    """SAM-HQ as a `Backend`, of a `SamHQModel`: SAM's frozen weights, and a sixth token for masks.

    A region's tokens are SAM's own mask tokens, so that what was trained on SAM's tokens goes on
    working: the HQ token has a space of its own, and there is one of it for three candidates. Masks
    are the sum of SAM's and the HQ token's logits, as published; candidates stay in the decoder's
    order, so that each keeps its token. The image tokens that are upscaled are those after the
    two-way transformer, as published; `SamHQModel`'s own forward pass (transformers 5.23) takes
    those of before it, height and width exchanged, and its masks hardly know the prompt.
    """

    kind = "SamHQFamily"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        hq_token = model.mask_decoder.hq_token.weight.detach()
        self.output_tokens = torch.cat([self.output_tokens, hq_token])

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        embeddings, blocks = self.model.get_image_embeddings(pixels)
        # of the global attention blocks only the first feeds the masks; a tiny model has none
        return (embeddings, *blocks[:1])

    def mask_features(self, encoded: LocalizedImage) -> tuple[Tensor, ...]:
        """The image's part of the HQ features: embedding and early ViT block, upscaled."""
        decoder = self.model.mask_decoder
        features = decoder.activation(
            decoder.encoder_norm(decoder.encoder_conv1(encoded.embedding))
        )
        features = decoder.encoder_conv2(features)  # (1, C / 8, 4 h, 4 w)
        for block in encoded.extras:
            # a ViT block has its channels last: (1, h, w, C) to (1, C, h, w)
            early = decoder.compress_vit_conv1(block.permute(0, 3, 1, 2))
            early = decoder.activation(decoder.compress_vit_norm(early))
            features = features + decoder.compress_vit_conv2(early)
        return (features,)

    def mask_logits(
        self, tokens: Tensor, image: Tensor, features: tuple[Tensor, ...], *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        maps = upscale(decoder, image)
        logits, scores = self._sam_masks(tokens, maps, multimask)
        sharp = decoder.activation(decoder.mask_norm(decoder.mask_conv1(maps)))
        sharp = decoder.mask_conv2(sharp) + features[0]  # (P, C / 8, 4 h, 4 w)
        return logits + mask_maps([decoder.hq_mask_mlp], tokens[:, -1:], sharp), scores


def upscale(
    decoder: Any, image: Tensor, *, half: Tensor | None = None, quarter: Tensor | None = None
) -> Tensor:
    """Image maps `(P, C, h, w)` to `(P, C / 8, 4 h, 4 w)`, the end of every SAM's mask decoder.

    Args:
        image: the image tokens after the two-way transformer.
        half, quarter: SAM 2's features of the image at 2 and 4 times the size, which are added.
    """
    maps = decoder.upscale_conv1(image)  # (P, C / 4, 2 h, 2 w)
    maps = decoder.activation(decoder.upscale_layer_norm(maps if half is None else maps + half))
    maps = decoder.upscale_conv2(maps)  # (P, C / 8, 4 h, 4 w)
    return decoder.activation(maps if quarter is None else maps + quarter)  # type: ignore[no-any-return]


def mask_maps(hypernetworks: list[Any], tokens: Tensor, maps: Tensor) -> Tensor:
    """Mask tokens `(P, M, C)`, each through its hypernetwork, times maps: `(P, M, 4 h, 4 w)`."""
    weights = torch.stack([net(tokens[:, i]) for i, net in enumerate(hypernetworks)], dim=1)
    return torch.bmm(weights, maps.flatten(2)).view(*weights.shape[:2], *maps.shape[2:])
