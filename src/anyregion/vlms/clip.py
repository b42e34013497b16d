"""OpenAI CLIP and MetaCLIP: ViTs through `transformers`, ResNets through `open_clip`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anyregion.errors import CheckpointError, require
from anyregion.torch_utils.weights import config_json
from anyregion.vlms import openai_format
from anyregion.vlms.attention import Dense, LastLayer, from_transformers, run_dense, run_layers
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.open_clip import build_openai_resnet
from anyregion.vlms.options import VlmOptions
from anyregion.vlms.preprocess import CLIP_MEAN, CLIP_STD, set_grid, square_grid
from anyregion.vlms.pretrained import (
    padded,
    tokenizer_hash,
    unknown_piece,
)
from anyregion.vlms.templates import CLIP_TEMPLATES
from anyregion.vlms.text import BatchedTextEncoder, first_of, largest

_OLD_END = 2
"""Older CLIP configurations claim this end-of-text id; the models read the largest id."""


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
        self._vision = model.vision_model
        self._projection = model.visual_projection
        set_grid(self._vision.embeddings, self.grid, self.image_size, class_rows=1)

    def tokens(self, pixels: Tensor) -> Tensor:
        return run_layers(self._vision.encoder.layers, self._embedded(pixels))

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._finish(self.tokens(pixels)[:, 0])
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        x = run_layers(self._vision.encoder.layers[:-1], self._embedded(pixels))
        return self._finish(run_dense(self._last, x, dense)[:, 1:])

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        yield from self._vision.state_dict(prefix="vision.").items()
        yield from self._projection.state_dict(prefix="projection.").items()

    def describe(self) -> str:
        return config_json(self._vision.config)

    @cached_property
    def _last(self) -> LastLayer:
        return from_transformers(self._vision.encoder.layers[-1])

    def _embedded(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._vision.pre_layrnorm(self._vision.embeddings(pixels))
        return embedded

    def _finish(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self._projection(self._vision.post_layernorm(tokens))
        return projected


def wrap_clip(model: Any, tokenizer: Any, name: str, options: VlmOptions) -> FrozenVLM:
    """CLIP, MetaCLIP or MetaCLIP 2, as `transformers` loaded it; it is taken over.

    Args:
        model: the frozen model, float32.
        tokenizer: the one that belongs to it.
        name: what to call it.
        options: how it runs.
    """
    text = model.config.text_config
    legacy = model.config.model_type == "clip" and text.eos_token_id == _OLD_END
    return _assemble(
        model,
        tokenize=padded(tokenizer, text.max_position_embeddings),
        end_of=largest if legacy else first_of(text.eos_token_id),
        reads=lambda: tokenizer_hash(tokenizer),
        unknown=unknown_piece(tokenizer),
        name=name,
        options=options,
    )


def clip_from_openai_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    name: str = "CLIP",
    device: str | torch.device = "cpu",
    image_size: int | None = None,
) -> FrozenVLM:
    """`build_openai_clip`, which see, with the usual options but for device and image size."""
    return build_openai_clip(state_dict, name, VlmOptions(device=device, image_size=image_size))


def build_openai_clip(
    state_dict: Mapping[str, Tensor], name: str, options: VlmOptions
) -> FrozenVLM:
    """CLIP from weights under OpenAI's names (`visual.*`, `transformer.*`, `text_projection`, ...).

    All sizes are read from the tensors; heads are 64 wide and the activation is QuickGELU, as in
    every CLIP of OpenAI. (Weights trained by `open_clip` have the same names but may use GELU,
    which no tensor tells: load those with `load_open_clip`.) Texts are read by OpenAI's tokenizer;
    those of more than the context's tokens are cut, the end-of-text token kept.

    Args:
        state_dict: a ViT or a ResNet (RN50, ...), in any precision; it is not changed. The names
            may have a common prefix (a RegionSpot checkpoint holds a CLIP); the rest is left alone.
        name: what to call the model.
        options: how it runs.

    Raises:
        CheckpointError: tensors are missing, unknown or of sizes that do not fit together.
        MissingExtraError: a package is missing.
    """
    require("torch", "torch", "transformers", "open_clip")
    state_dict = openai_format.without_prefix(state_dict)
    if openai_format.is_openai_resnet(state_dict):
        return build_openai_resnet(state_dict, name, options)
    if not openai_format.is_openai_vit(state_dict):
        first = next(iter(state_dict), "nothing")
        raise CheckpointError(f"{name}: no weights under OpenAI's names, but {first}, ...")
    from open_clip import SimpleTokenizer

    model = openai_format.build(state_dict)
    text = model.config.text_config
    tokenizer = SimpleTokenizer(context_length=text.max_position_embeddings)
    if text.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{name}: an embedding of {text.vocab_size} tokens; OpenAI's tokenizer has "
            f"{tokenizer.vocab_size}"
        )
    return _assemble(
        model,
        tokenize=tokenizer,
        end_of=largest,
        reads=lambda: "OpenAI's tokenizer",
        unknown=None,
        name=name,
        options=options,
    )


def _assemble(
    model: Any,
    *,
    tokenize: Callable[[list[str]], Tensor],
    end_of: Callable[[Tensor], Tensor],
    reads: Callable[[], str],
    unknown: int | None,
    name: str,
    options: VlmOptions,
) -> FrozenVLM:
    vision = ClipTower(model.requires_grad_(False).eval(), options.image_size)
    model.to(options.device)

    def weights() -> Iterable[tuple[str, Tensor]]:
        yield from model.text_model.state_dict(prefix="text_model.").items()
        yield from model.text_projection.state_dict(prefix="text_projection.").items()

    def forward(ids: Tensor) -> Tensor:
        embedded: Tensor = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        return embedded

    text = BatchedTextEncoder(
        tokenize=tokenize,
        forward=forward,
        end_of=end_of,
        weights=weights,
        kind=lambda: f"{reads()} {config_json(model.config.text_config)}",
        templates=CLIP_TEMPLATES,
        embed_width=vision.embed_width,
        unknown=unknown,
        options=options,
    )
    return FrozenVLM(
        name=name,
        vision=vision,
        text=text,
        logit_scale=float(model.logit_scale.detach().exp()),
        options=options,
    )
