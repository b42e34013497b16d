"""OpenAI CLIP and MetaCLIP: ViTs through `transformers`, ResNets through `open_clip`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.errors import CheckpointError, InputError, require
from anyregion.semantics import openai_format
from anyregion.semantics.attention import Dense, LastLayer, from_transformers, run_dense
from anyregion.semantics.model import FrozenVLM
from anyregion.semantics.preprocess import CLIP_MEAN, CLIP_STD, resize_positions
from anyregion.semantics.pretrained import (
    load_config,
    load_model,
    load_tokenizer,
    padded,
    unknown_piece,
)
from anyregion.semantics.templates import CLIP_TEMPLATES
from anyregion.semantics.text import BatchedTextEncoder, first_of, largest
from anyregion.weight_files import read_state_dict

_OLD_END = 2
"""Older CLIP configurations claim this end-of-text id; the models read the largest id."""


class ClipTower:
    """The image side of a `transformers` CLIP; takes the model over and fits it to `image_size`."""

    def __init__(self, model: Any, *, image_size: int | None = None) -> None:
        config = model.config.vision_config
        self.mean: Sequence[float] = CLIP_MEAN
        self.std: Sequence[float] = CLIP_STD
        self.image_size = image_size or config.image_size
        self.stride: int = config.patch_size
        side = cells(self.image_size, self.stride)
        self.grid = (side, side)
        self.feature_width: int = config.hidden_size
        self.embed_width: int = model.config.projection_dim
        self._vision = model.vision_model
        self._projection = model.visual_projection
        set_grid(self._vision.embeddings, self.grid, self.image_size, class_rows=1)

    def tokens(self, pixels: Tensor) -> Tensor:
        x = self._embedded(pixels)
        for layer in self._vision.encoder.layers:
            x = layer(x, None)
        return x

    def embed(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._finish(self.tokens(pixels)[:, 0])
        return embedded

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        x = self._embedded(pixels)
        for layer in self._vision.encoder.layers[:-1]:
            x = layer(x, None)
        return self._finish(run_dense(self._last, x, dense)[:, 1:])

    @cached_property
    def _last(self) -> LastLayer:
        return from_transformers(self._vision.encoder.layers[-1])

    def _embedded(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self._vision.pre_layrnorm(self._vision.embeddings(pixels))
        return embedded

    def _finish(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self._projection(self._vision.post_layernorm(tokens))
        return projected


def load_clip(
    name_or_folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    batch_size: int = 16,
    text_batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    dense: Dense = "sclip",
) -> FrozenVLM:
    """CLIP, MetaCLIP or MetaCLIP 2 from a hub name or a folder in `transformers`' layout.

    Args:
        name_or_folder: `openai/clip-vit-base-patch16`, say, or a folder with config, weights,
            tokenizer.
        device: `cpu`, `cuda`, ...
        image_size: side of the square input; None for the model's own. Positions are resized.
        batch_size, text_batch_size: images and texts encoded at a time.
        dtype: bfloat16 or float16 run under autocast; weights stay float32.
        dense: see `semantics.attention`.

    Raises:
        InputError: not there, the hub cannot be reached, or a model of another kind.
        CheckpointError: broken or incomplete weights.
    """
    require("torch", "torch", "transformers")
    from transformers import CLIPModel, MetaClip2Model

    config = load_config(name_or_folder)
    kind = config.model_type
    builders = {"clip": CLIPModel, "metaclip_2": MetaClip2Model}
    if kind not in builders:
        raise InputError(f"{name_or_folder}: a model of type {kind}, not one of {list(builders)}")
    model = load_model(builders[kind], name_or_folder)
    tokenizer = load_tokenizer(name_or_folder)
    text = config.text_config
    legacy = kind == "clip" and text.eos_token_id == _OLD_END
    context = text.max_position_embeddings
    return _assemble(
        model,
        tokenize=padded(tokenizer, context),
        end_of=largest if legacy else first_of(text.eos_token_id),
        kind=f"{kind} {type(tokenizer).__name__} {context}",
        unknown=unknown_piece(tokenizer),
        name=str(name_or_folder),
        device=device,
        image_size=image_size,
        batch_size=batch_size,
        text_batch_size=text_batch_size,
        dtype=dtype,
        dense=dense,
    )


def clip_from_openai_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    name: str = "CLIP",
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    batch_size: int = 16,
    text_batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    dense: Dense = "sclip",
) -> FrozenVLM:
    """CLIP from weights under OpenAI's names (`visual.*`, `transformer.*`, `text_projection`, ...).

    All sizes are read from the tensors; heads are 64 wide and the activation is QuickGELU, as in
    every CLIP of OpenAI. (Weights trained by `open_clip` have the same names but may use GELU,
    which no tensor tells: load those with `load_open_clip`.) Texts are read by OpenAI's tokenizer;
    those of more than the context's tokens are cut, the end-of-text token kept.

    Args:
        state_dict: a ViT or a ResNet (RN50, ...), in any precision; it is not changed.
        name: what to call the model.
        device, image_size, batch_size, text_batch_size, dtype, dense: as for `load_clip`.

    Raises:
        CheckpointError: tensors are missing, unknown or of sizes that do not fit together.
    """
    require("torch", "torch", "transformers", "open_clip")
    if openai_format.is_openai_resnet(state_dict):
        from anyregion.semantics.open_clip import resnet_from_openai_state_dict

        return resnet_from_openai_state_dict(
            state_dict,
            name=name,
            device=device,
            image_size=image_size,
            batch_size=batch_size,
            text_batch_size=text_batch_size,
            dtype=dtype,
            dense=dense,
        )
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
        kind=f"openai bpe {text.max_position_embeddings}",
        unknown=None,
        name=name,
        device=device,
        image_size=image_size,
        batch_size=batch_size,
        text_batch_size=text_batch_size,
        dtype=dtype,
        dense=dense,
    )


def load_openai_checkpoint(path: str | Path, **options: Any) -> FrozenVLM:
    """`clip_from_openai_state_dict` of a file: `.safetensors`, or `.pt` with a state dict.

    Raises:
        InputError: no such file.
        CheckpointError: truncated or foreign data, pickled code, a TorchScript archive (as
            OpenAI's own downloads are: reading one runs the code in it), other sizes.
    """
    return clip_from_openai_state_dict(read_state_dict(path), **{"name": str(path), **options})


def _assemble(
    model: Any,
    *,
    tokenize: Any,
    end_of: Any,
    kind: str,
    unknown: int | None,
    name: str,
    device: str | torch.device,
    image_size: int | None,
    batch_size: int,
    text_batch_size: int,
    dtype: torch.dtype,
    dense: Dense,
) -> FrozenVLM:
    vision = ClipTower(model, image_size=image_size)
    model.to(device)

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
        kind=kind,
        templates=CLIP_TEMPLATES,
        embed_width=model.config.projection_dim,
        unknown=unknown,
        device=device,
        batch_size=text_batch_size,
        dtype=dtype,
    )
    return FrozenVLM(
        name=name,
        vision=vision,
        text=text,
        logit_scale=float(model.logit_scale.detach().exp()),
        device=device,
        batch_size=batch_size,
        dtype=dtype,
        dense=dense,
    )


def cells(image_size: int, patch: int) -> int:
    """Patches along a side.

    Raises:
        InputError: the image is smaller than one patch.
    """
    if image_size < patch:
        raise InputError(f"image_size must be at least one patch of {patch}, not {image_size}")
    return image_size // patch


def set_grid(embeddings: Any, grid: tuple[int, int], image_size: int, *, class_rows: int) -> None:
    """Fit the patch embeddings of a `transformers` ViT to another grid, once and for all."""
    positions = resize_positions(
        embeddings.position_embedding.weight.detach(), grid, class_rows=class_rows
    )
    embeddings.position_embedding = nn.Embedding(
        len(positions), positions.shape[1], _weight=positions, _freeze=True
    )
    embeddings.position_ids = torch.arange(len(positions), device=positions.device)[None]
    embeddings.num_patches = len(positions) - class_rows
    embeddings.num_positions = len(positions)
    embeddings.image_size = image_size
