"""SigLIP and SigLIP 2 as `transformers` has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import config_json
from anyregion.vlms.dense import Dense, LastLayer, from_transformers, run_dense
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.preprocess import HALF, set_grid, square_grid
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.text import SIGLIP_TEMPLATES, BatchedTextEncoder, pad_to_context


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
        side = round(config.num_patches**0.5) * self.stride if self._flexible else config.image_size
        self.image_size: int = image_size or side
        self.grid = square_grid(self.image_size, self.stride)
        self.feature_width: int = config.hidden_size
        self.embed_width: int = config.hidden_size
        self.module = model.vision_model
        # some versions of transformers leave the setting out where it is the usual one
        if not getattr(config, "vision_use_head", True):
            raise CheckpointError("this SigLIP has no pooling head, so its images meet no words")
        if not self._flexible:
            set_grid(self.module.embeddings, self.grid, self.image_size, class_rows=0)

    def tokens(self, pixels: Tensor, *, skip: int = 0) -> Tensor:
        """See `VisionTower`; `skip` leaves out the last layers."""
        if self._flexible:
            # the flexible models take patches, each row by row with its channels last
            (h, w), p = self.grid, self.stride
            cut = pixels[:, :, : h * p, : w * p].reshape(len(pixels), 3, h, p, w, p)
            patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h w, 3 p p)
            shapes = torch.tensor([self.grid]).expand(len(pixels), 2)
            x = self.module.embeddings(patches, shapes)
        else:
            x = self.module.embeddings(pixels)  # (B, h w, D)
        layers = self.module.encoder.layers
        for layer in layers[: len(layers) - skip]:
            x = layer(x, None)
        return x  # type: ignore[no-any-return]

    def embed(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.module.head(self.module.post_layernorm(self.tokens(pixels)))
        return embeddings

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        x = run_dense(self._last, self.tokens(pixels, skip=1), dense)
        x = self.module.post_layernorm(x)  # (B, h w, D)
        head, width = self.module.head, self.feature_width
        attention = head.attention
        # the last third of the stacked projections is that of the values
        values = F.linear(x, attention.in_proj_weight[-width:], attention.in_proj_bias[-width:])
        pooled = attention.out_proj(values)
        embeddings: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return embeddings

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.module.state_dict().items()

    def describe(self) -> str:
        return config_json(self.module.config)

    @cached_property
    def _last(self) -> LastLayer:
        return from_transformers(self.module.encoder.layers[-1])


def wrap_siglip(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """SigLIP or SigLIP 2 as `transformers` loaded it; it is taken over and frozen.

    Texts are lower-cased and padded to the full context, as they were in training. Images are
    squashed to a square in every case; the flexible SigLIP 2 models (`naflex`) take their square
    grid of patches then. SigLIP 1's tokenizer needs the packages sentencepiece and protobuf.

    Raises:
        CheckpointError: a model without pooling head.
    """
    vision = SiglipTower(model.requires_grad_(False).eval(), options.image_size)
    model.to(options.device)
    config = model.config.text_config
    encode = pad_to_context(tokenizer, config.max_position_embeddings, lower=True)

    def forward(ids: Tensor) -> Tensor:
        embeddings: Tensor = model.text_model(input_ids=ids).pooler_output
        return embeddings

    text = BatchedTextEncoder(
        tokenizer=encode,
        forward=forward,
        end_of=None,
        weights=lambda: model.text_model.state_dict().items(),
        describe=lambda: f"{encode.describe()} {config_json(config)}",
        templates=SIGLIP_TEMPLATES,
        embed_width=vision.embed_width,
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
