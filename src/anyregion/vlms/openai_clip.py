"""Checkpoints of CLIP in OpenAI's layout, converted to models of `transformers` or `open_clip`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anyregion.errors import CheckpointError, require
from anyregion.vlms.clip import assemble_clip
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.open_clip import wrap_open_clip
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.text import Tokenizer, largest

# the width of every attention head in OpenAI's CLIPs; the weights themselves do not tell
_HEAD_WIDTH = 64
# integers that OpenAI's own archives carry beside the weights
_NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
_PATCH_EMBED = "visual.conv1.weight"
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def clip_from_openai_state_dict(
    state_dict: Mapping[str, Tensor], name: str = "CLIP", options: VlmOptions | None = None
) -> FrozenVLM:
    """CLIP from weights under OpenAI's names (`visual.*`, `transformer.*`, `text_projection`, ...).

    All sizes are read from the tensors; heads are 64 wide and the activation is QuickGELU, as in
    every CLIP of OpenAI. Weights trained by `open_clip` have the same names but may use GELU,
    which no tensor tells: load those with `load_open_clip`. Texts are read by OpenAI's tokenizer;
    those of more than the context's tokens are cut, the end-of-text token kept.

    Args:
        state_dict: a ViT or a ResNet (RN50, ...), in any precision; it is not changed. The names
            may have a common prefix (a RegionSpot checkpoint holds a CLIP); the rest is left alone.

    Raises:
        CheckpointError: tensors are missing, unknown or of sizes that do not fit together.
        MissingExtraError: a package is missing.
    """
    require("torch", "torch", "transformers", "open_clip")
    state_dict, options = _without_prefix(state_dict), options or VlmOptions()
    if "visual.attnpool.positional_embedding" in state_dict:
        return _build_resnet(state_dict, name, options)
    if "visual.proj" not in state_dict or "visual.class_embedding" not in state_dict:
        first = next(iter(state_dict), "nothing")
        raise CheckpointError(f"{name}: no weights under OpenAI's names, but {first}, ...")
    from open_clip import SimpleTokenizer

    model = _build_vit(state_dict)
    text = model.config.text_config
    tokenizer = SimpleTokenizer(context_length=text.max_position_embeddings)
    if text.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{name}: an embedding of {text.vocab_size} tokens; OpenAI's tokenizer has "
            f"{tokenizer.vocab_size}"
        )
    # the byte-level tokenizer spells everything: no piece is unknown
    encode = Tokenizer(tokenizer, lambda: "OpenAI's tokenizer")
    return assemble_clip(model, encode, largest, name, options)


def _without_prefix(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The CLIP inside a larger state dict, under its own names; all of it where there is none."""
    inner = f".{_PATCH_EMBED}"
    prefixes = [key.removesuffix(_PATCH_EMBED) for key in state_dict if key.endswith(inner)]
    if len(prefixes) != 1:
        return state_dict
    (prefix,) = prefixes
    return {k.removeprefix(prefix): t for k, t in state_dict.items() if k.startswith(prefix)}


def _build_resnet(state_dict: Mapping[str, Tensor], name: str, options: VlmOptions) -> FrozenVLM:
    from open_clip import SimpleTokenizer
    from open_clip.model import build_model_from_openai_state_dict

    weights = {k: v for k, v in state_dict.items() if k not in _NOT_WEIGHTS}
    try:
        model = build_model_from_openai_state_dict(dict(weights), cast_dtype=torch.float32)
        # the builder goes through half precision
        model.float().load_state_dict(weights)
    except (RuntimeError, KeyError, IndexError, AssertionError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name}: not the weights of OpenAI's CLIP: {error}") from None
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    return wrap_open_clip(model, tokenizer, name, options)


def config_of(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `CLIPConfig`; every size is read from the tensors.

    Raises:
        CheckpointError: a tensor that is needed is missing or of an impossible shape.
    """
    width, channels, patch, _ = _shape(state_dict, "visual.conv1.weight", 4)
    positions, _ = _shape(state_dict, "visual.positional_embedding", 2)
    context, text_width = _shape(state_dict, "positional_embedding", 2)
    words, _ = _shape(state_dict, "token_embedding.weight", 2)
    _, embed = _shape(state_dict, "visual.proj", 2)
    side = round((positions - 1) ** 0.5)
    if side * side != positions - 1:
        raise CheckpointError(f"{positions} image positions are those of no square grid")
    return {
        "projection_dim": embed,
        "vision_config": {
            **_tower(state_dict, "visual.transformer", width),
            "num_channels": channels,
            "patch_size": patch,
            "image_size": side * patch,
        },
        "text_config": {
            **_tower(state_dict, "transformer", text_width),
            "vocab_size": words,
            "max_position_embeddings": context,
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": 0,
        },
    }


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to `CLIPModel`'s names, as float32; `proj` and `text_projection` are transposed.

    Raises:
        CheckpointError: a name that OpenAI's CLIP does not have.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if name in _NOT_WEIGHTS:
            continue
        value = tensor.detach().float()
        if name in _OUTSIDE:
            renamed[_OUTSIDE[name]] = value
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = value.t().contiguous()
        elif block := _BLOCK.fullmatch(name):
            tower = "vision_model" if block[1] else "text_model"
            prefix = f"{tower}.encoder.layers.{block[2]}"
            stem, _, last = block[3].rpartition(".")
            if block[3].startswith("attn.in_proj_"):
                kind = block[3].removeprefix("attn.in_proj_")
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    renamed[f"{prefix}.self_attn.{letter}_proj.{kind}"] = part
            elif stem in _IN_BLOCK:
                renamed[f"{prefix}.{_IN_BLOCK[stem]}.{last}"] = value
            else:
                raise CheckpointError(f"OpenAI's CLIP has no weight named {name}")
        else:
            raise CheckpointError(f"OpenAI's CLIP has no weight named {name}")
    return renamed


def _build_vit(state_dict: Mapping[str, Tensor]) -> Any:
    """A `CLIPModel` with these weights, in evaluation mode, on the CPU."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(**config_of(state_dict))
    config._attn_implementation = "sdpa"
    # on meta: no time goes into random weights that would be overwritten at once
    with torch.device("meta"):
        model: Any = CLIPModel(config)
    try:
        model.load_state_dict(to_transformers(state_dict), strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"not the weights of OpenAI's CLIP: {error}") from None
    for tower in (model.text_model, model.vision_model):
        rows = tower.embeddings.position_embedding.weight.shape[0]
        tower.embeddings.position_ids = torch.arange(rows)[None]
    return model


def _tower(state_dict: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, Any]:
    pattern = re.compile(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.")
    layers = {int(m[1]) for name in state_dict if (m := pattern.match(name))}
    if not layers:
        raise CheckpointError(f"the checkpoint has no {prefix}.resblocks")
    if width % _HEAD_WIDTH:
        raise CheckpointError(f"{prefix}: width {width} is no multiple of {_HEAD_WIDTH}")
    hidden, _ = _shape(state_dict, f"{prefix}.resblocks.0.mlp.c_fc.weight", 2)
    return {
        "hidden_size": width,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": hidden,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def _shape(state_dict: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    if name not in state_dict:
        raise CheckpointError(f"not OpenAI's CLIP: {name} is missing")
    shape = tuple(state_dict[name].shape)
    if len(shape) != dims:
        raise CheckpointError(f"not OpenAI's CLIP: {name} has shape {shape}")
    return shape
