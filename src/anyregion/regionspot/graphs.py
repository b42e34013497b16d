"""RegionSpot's parts as modules with the signatures of the ONNX graphs that are made of them.

In the shapes P is prompts, n points of a prompt, C the localizer's width, R regions, T tokens of
the VLM's feature map, D its width, E the width of the words, W names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anyregion.localizers.sam import SamBackend, mask_maps, upscale
from anyregion.localizers.segmenter import PromptableSegmenter
from anyregion.localizers.two_way import image_tokens, two_way
from anyregion.regionspot.adapter import Adapter
from anyregion.vlms.clip import ClipTower

NOT_A_POINT = -1  # label of the point that stands beside points where there is no box


class LocalizerImageGraph(nn.Module):
    """SAM's image encoder: `(1, 3, side, side)` to the embedding `(1, C, h, w)`."""

    inputs = ("pixels",)
    outputs = ("embedding",)

    def __init__(self, segmenter: PromptableSegmenter) -> None:
        super().__init__()
        self.encoder: Any = segmenter.backend.model.vision_encoder

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.encoder(pixels)[0]
        return embedding


class PromptGraph(nn.Module):
    """SAM's prompt encoder and mask decoder: points of prompts to output tokens.

    A box is two points, its corners, with labels 2 and 3; so one graph serves points, boxes, and
    both together.

    """

    inputs = ("embedding", "points", "labels")
    outputs = ("tokens", "scores", "masks")
    output_tokens: Tensor
    positions: Tensor

    def __init__(self, segmenter: PromptableSegmenter) -> None:
        super().__init__()
        model, backend = segmenter.backend.model, segmenter.backend
        self.prompt_encoder: Any = model.prompt_encoder
        self.decoder: Any = model.mask_decoder
        self.score_row, self.mask_row = backend.score_row, backend.mask_row
        self.grid: tuple[int, int] = model.prompt_encoder.image_embedding_size
        self.register_buffer("output_tokens", backend.output_tokens)
        with torch.no_grad():
            self.register_buffer("positions", model.get_image_wide_positional_embeddings())

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoder, decoder = self.prompt_encoder, self.decoder
        # to the middle of the pixel, then in units of the square
        places = (points + 0.5) / encoder.input_image_size
        sparse = encoder.shared_embedding(places[None], None)[0]  # (P, n, C)
        kinds = labels[..., None]
        sparse = torch.where(kinds == NOT_A_POINT, encoder.not_a_point_embed.weight[0], sparse)
        for kind, learned in enumerate(encoder.point_embed):
            sparse = sparse + torch.where(kinds == kind, learned.weight[0], 0.0)
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        output = self.output_tokens
        tokens, maps = two_way(
            decoder.transformer,
            torch.cat([output.expand(sparse.shape[0], -1, -1), sparse], dim=1),
            image_tokens(decoder.transformer, embedding + dense, self.positions),
            rows=list(range(len(output))),
            keep_image=True,
        )
        scores = decoder.iou_prediction_head(tokens[:, self.score_row])  # (P, 4)
        candidates = tokens[:, self.mask_row : self.mask_row + 4]  # (P, 4, C)
        assert maps is not None  # which `keep_image` is about
        maps = maps.transpose(1, 2).reshape(tokens.shape[0], -1, *self.grid)  # (P, C, h, w)
        heads = list(decoder.output_hypernetworks_mlps)
        return candidates, scores, mask_maps(heads, candidates, upscale(decoder, maps))


class VlmImageGraph(nn.Module):
    """CLIP's image side: `(1, 3, S, S)` to the feature map `(T, D)` that the adapter reads."""

    inputs = ("pixels",)
    outputs = ("features",)

    def __init__(self, tower: ClipTower) -> None:
        super().__init__()
        self.tower = tower
        self.vision = tower.module  # registers the weights that the tower computes with

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower.tokens(pixels)[0]


class HeadGraph(nn.Module):
    """The adapter and the scores: tokens `(R, C)` of one image's regions and names `(W, E)`.

    Args:
        adapter: trained.
        scale, bias: turn a cosine into a logit.
    """

    inputs = ("tokens", "features", "names")
    outputs = ("embeddings", "logits")

    def __init__(self, adapter: Adapter, *, scale: float, bias: float) -> None:
        super().__init__()
        self.adapter, self.scale, self.bias = adapter, scale, bias

    def forward(self, tokens: Tensor, features: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        # A row of zeros in a group of its own, to which no region attends: of no regions at all
        # there is a row to compute with.
        padding = torch.zeros(1, tokens.shape[1])
        padded = torch.cat([tokens, padding])[None]  # (1, R + 1, C)
        groups = torch.cat([torch.zeros_like(tokens[:, 0]), torch.ones(1)])[None]  # (1, R + 1)
        rows = self.adapter(padded, features[None], groups=groups)[0]  # (R + 1, E)
        unit = rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + 1e-7)
        logits = self.scale * unit @ names.T + self.bias  # (R + 1, W)
        return rows[:-1], logits[:-1]


class TextGraph(nn.Module):
    """CLIP's text side: ids `(B, L)` to embeddings `(B, E)`, not normalised."""

    inputs = ("ids",)
    outputs = ("embeddings",)

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self.text(ids)
        return embeddings


def is_sam(segmenter: object) -> bool:
    """Whether it is SAM itself; other versions have other decoders."""
    return isinstance(segmenter, PromptableSegmenter) and type(segmenter.backend) is SamBackend
