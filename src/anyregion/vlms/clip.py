"""CLIP, MetaCLIP and MetaCLIP 2 as `transformers` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from anyregion.torch_utils.weights import config_json
from anyregion.vlms.dense import Dense, LastLayer, from_transformers, run_dense
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.preprocess import CLIP_MEAN, CLIP_STD, set_grid, square_grid
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.text import (
    CLIP_TEMPLATES,
    BatchedTextEncoder,
    Tokenizer,
    first_of,
    largest,
    pad_to_context,
)

# older configurations claim this end-of-text id; their models read the largest id
_OLD_END = 2


class ClipTower:
    """The image side of a `transformers` CLIP; takes the model over and fits it to `image_size`."""

    def __init__(self, model: Any, image_size: int | None) -> None:
        config = model.config.vision_config
        self.mean: Sequence[float] = CLIP_MEAN
        self.std: Sequence[float] = CLIP_STD
        self.image_size = image_size or config.image_size
        self.stride: int = config.patch_size
        self.grid = square_grid(self.image_size, self.stride)
        self.feature_width: int = config.hidden_size
        self.embed_width: int = model.config.projection_dim
        self.module = model.vision_model
        self._projection = model.visual_projection
        set_grid(self.module.embeddings, self.grid, self.image_size, class_rows=1)

    def tokens(self, pixels: Tensor, *, skip: int = 0) -> Tensor:
        """See `VisionTower`; `skip` leaves out the last layers."""
        # before the final norm: RegionSpot's adapter was trained on these
        layers = self.module.encoder.layers
        x = self.module.pre_layrnorm(self.module.embeddings(pixels))  # (B, 1 + h w, D)
        for layer in layers[: len(layers) - skip]:
            x = layer(x, None)
        return x  # type: ignore[no-any-return]

    def embed(self, pixels: Tensor) -> Tensor:
        return self._project(self.tokens(pixels)[:, 0])

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        return self._project(run_dense(self._last, self.tokens(pixels, skip=1), dense)[:, 1:])

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.module.state_dict(prefix="vision.").items()
        yield from self._projection.state_dict(prefix="projection.").items()

    def describe(self) -> str:
        return config_json(self.module.config)

    @cached_property
    def _last(self) -> LastLayer:
        return from_transformers(self.module.encoder.layers[-1])

    def _project(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self._projection(self.module.post_layernorm(tokens))
        return embeddings


class ClipText(nn.Module):
    """The text side of a `transformers` CLIP: ids `(b, l)` to embeddings `(b, E)`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.text_model
        self.projection = model.text_projection

    def forward(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self.projection(self.model(input_ids=ids).pooler_output)
        return embeddings


def wrap_clip(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """CLIP, MetaCLIP or MetaCLIP 2 of `transformers`, in float32; it is taken over and frozen."""
    text = model.config.text_config
    legacy = model.config.model_type == "clip" and text.eos_token_id == _OLD_END
    return assemble_clip(
        model,
        pad_to_context(tokenizer, text.max_position_embeddings),
        largest if legacy else first_of(text.eos_token_id),
        name,
        options,
    )


def assemble_clip(
    model: Any,
    tokenizer: Tokenizer,
    end_of: Callable[[Tensor], Tensor],
    name: str,
    options: VlmOptions,
) -> FrozenVLM:
    """A `CLIPModel` of `transformers` and any tokenizer; the model is taken over and frozen.

    `end_of` takes ids to the position of the end-of-text token that the model reads.
    """
    vision = ClipTower(model.requires_grad_(False).eval(), options.image_size)
    model.to(options.device)

    def weights() -> Iterable[tuple[str, Tensor]]:
        yield from model.text_model.state_dict(prefix="text_model.").items()
        yield from model.text_projection.state_dict(prefix="text_projection.").items()

    text = BatchedTextEncoder(
        tokenizer=tokenizer,
        forward=ClipText(model),
        end_of=end_of,
        weights=weights,
        describe=lambda: f"{tokenizer.describe()} {config_json(model.config.text_config)}",
        templates=CLIP_TEMPLATES,
        embed_width=vision.embed_width,
        options=options,
    )
    return FrozenVLM(
        name=name,
        vision=vision,
        text=text,
        logit_scale=float(model.logit_scale.detach().exp()),
        options=options,
    )
