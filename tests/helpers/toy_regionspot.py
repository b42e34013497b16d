"""A toy localizer and vision-language model around a small adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anyregion import Regions
from anyregion.images import Pixels
from anyregion.localizers.protocol import RegionTokens
from anyregion.masks import RLE, encode_mask
from anyregion.regionspot.adapter import Adapter, AdapterConfig
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.vlms.protocol import FeatureMap

SMALL = AdapterConfig(token_width=16, feature_width=32, embed_width=24, heads=4, feedforward=64)


def seeded(config: AdapterConfig = SMALL) -> Adapter:
    torch.manual_seed(3)
    return Adapter(config).eval()


class ToyLocalizer:
    """Tokens that depend on image and box; three candidates whose ranks differ by region."""

    name = "toy-localizer"
    token_width = 16
    fingerprint = "toy-localizer-1"

    def encode(self, images: Sequence[Pixels]) -> list[Any]:
        return [(float(i.mean()) / 255, i.shape[:2]) for i in images]

    def tokens(
        self,
        encoded: Any,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: str = "decoder",
    ) -> RegionTokens:
        boxes = torch.from_numpy(regions.extents()).float() / 20 + encoded[0]
        count = 3 if multimask else 1
        phase = torch.arange(1, 17)[None, None] * (1 + torch.arange(count))[None, :, None] / 7
        tokens = torch.sin(boxes.sum(dim=1)[:, None, None] * phase)
        scores = torch.cos(boxes.sum(dim=1)[:, None] * (1 + torch.arange(count)))
        logits = scores[:, :, None, None].expand(-1, -1, 2, 2).clone()
        return RegionTokens(tokens, scores, logits if masks else None)

    def masks(self, encoded: Any, mask_logits: Any) -> list[list[RLE]]:
        full = np.ones(encoded[1], bool)
        return [[encode_mask(full) for _ in row] for row in mask_logits]


class ToyWords:
    fingerprint = "toy-words"
    templates = ("{}",)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        seeds = [sum(t.encode()) for t in texts]
        return np.stack([np.random.default_rng(s).standard_normal(24) for s in seeds]).astype("f4")

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)


class ToyVlm:
    """A feature map of 2 x 3 cells behind a class token."""

    name, logit_scale, logit_bias = "toy-vlm", 20.0, 0.0
    feature_width, embed_width, image_size = 32, 24, 96
    fingerprint = "toy-vlm-1"
    text = ToyWords()

    def feature_map(self, images: Sequence[Pixels], *, antialias: bool = True) -> FeatureMap:
        means = torch.tensor([[float(i.mean()) / 50] for i in images])
        tokens = torch.sin(means[:, :, None] * torch.arange(1, 7 * 32 + 1).reshape(1, 7, 32) / 9)
        return FeatureMap(tokens, (2, 3))


def toy_encoder(config: AdapterConfig = SMALL, **options: Any) -> RegionSpotEncoder:
    return RegionSpotEncoder(ToyLocalizer(), ToyVlm(), seeded(config), **options)  # type: ignore[arg-type]


WORDS = ["cup", "pen", "key", "bus"]
