"""SigLIP and SigLIP 2 through `transformers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import config_json
from anyregion.vlms.attention import Dense, LastLayer, from_transformers, run_dense, run_layers
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.options import VlmOptions
from anyregion.vlms.preprocess import HALF, set_grid, square_grid
from anyregion.vlms.pretrained import (
    padded,
    tokenizer_hash,
    unknown_piece,
)
from anyregion.vlms.templates import SIGLIP_TEMPLATES
from anyregion.vlms.text import BatchedTextEncoder


class SiglipTower:
    """The image side: no class token, one learned query that pools the cells.

    A cell's dense embedding is what the pooling head gives when that cell is all it sees: the
    value path of its attention, then its MLP.
    """

    def __init__(self, model: Any, image_size: int | None) -> None:
        config = model.config.vision_config
        self.mean: Sequence[float] = HALF
        self.std: Sequence[float] = HALF
        self.stride: int = config.patch_size
        self._flexible = config.model_type == "siglip2_vision_model"
        # SigLIP 2's flexible models name a number of patches, not a size
        own = round(config.num_patches**0.5) * self.stride if self._flexible else config.image_size
        self.image_size: int = image_size or own
        self.grid = square_grid(self.image_size, self.stride)
        self.feature_width: int = config.hidden_size
        self.embed_width: int = config.hidden_size
        self._vision = model.vision_model
        if not config.vision_use_head:
            raise CheckpointError("this SigLIP has no pooling head, so its images meet no words")
        if not self._flexible:
            set_grid(self._vision.embeddings, self.grid, self.image_size, class_rows=0)

    def tokens(self, pixels: Tensor) -> Tensor:
        return run_layers(self._vision.encoder.layers, self._embedded(pixels))

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._vision.head(self._vision.post_layernorm(self.tokens(pixels)))
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        x = run_layers(self._vision.encoder.layers[:-1], self._embedded(pixels))
        x = self._vision.post_layernorm(run_dense(self._last, x, dense))
        head, width = self._vision.head, self.feature_width
        pool = head.attention
        values = F.linear(x, pool.in_proj_weight[-width:], pool.in_proj_bias[-width:])
        pooled = pool.out_proj(values)
        embedded: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return embedded

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self._vision.state_dict().items()

    def describe(self) -> str:
        return config_json(self._vision.config)

    @cached_property
    def _last(self) -> LastLayer:
        return from_transformers(self._vision.encoder.layers[-1])

    def _embedded(self, pixels: Tensor) -> Tensor:
        if not self._flexible:
            embedded: Tensor = self._vision.embeddings(pixels)
            return embedded
        # the flexible models take patches, each row by row with its channels last
        (h, w), p = self.grid, self.stride
        cut = pixels[:, :, : h * p, : w * p].reshape(len(pixels), 3, h, p, w, p)
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([self.grid]).expand(len(pixels), 2)
        flexible: Tensor = self._vision.embeddings(patches, shapes)
        return flexible


def wrap_siglip(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """SigLIP or SigLIP 2, as `transformers` loaded it; it is taken over.

    Texts are lower-cased and padded to the full context, as they were in training. Images are
    squashed to a square in every case; the flexible SigLIP 2 models (`naflex`) take their square
    grid of patches then. SigLIP 1's tokenizer needs the packages sentencepiece and protobuf.

    Args:
        model: the frozen model, float32.
        tokenizer: the one that belongs to it.
        name: what to call it.
        options: how it runs.

    Raises:
        CheckpointError: a model without pooling head.
    """
    context = model.config.text_config.max_position_embeddings
    vision = SiglipTower(model.requires_grad_(False).eval(), options.image_size)
    model.to(options.device)

    def weights() -> Iterable[tuple[str, Tensor]]:
        yield from model.text_model.state_dict().items()

    def forward(ids: Tensor) -> Tensor:
        embedded: Tensor = model.text_model(input_ids=ids).pooler_output
        return embedded

    text = BatchedTextEncoder(
        tokenize=padded(tokenizer, context, lower=True),
        forward=forward,
        end_of=None,
        weights=weights,
        kind=lambda: f"{tokenizer_hash(tokenizer)} {config_json(model.config.text_config)}",
        templates=SIGLIP_TEMPLATES,
        embed_width=vision.embed_width,
        unknown=unknown_piece(tokenizer),
        options=options,
    )
    return FrozenVLM(
        name=name,
        vision=vision,
        text=text,
        logit_scale=float(model.logit_scale.detach().exp()),
        logit_bias=float(model.logit_bias.detach()),
        options=options,
    )
