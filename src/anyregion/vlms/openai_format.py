"""OpenAI's layout of CLIP's weights, turned into `transformers`' `CLIPModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anyregion.errors import CheckpointError

HEAD_WIDTH = 64
"""OpenAI's CLIP has heads of this width everywhere; the weights themselves do not tell."""

NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Integers that OpenAI's own archives carry beside the weights."""

_ANCHOR = "visual.conv1.weight"
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


def without_prefix(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The CLIP inside a larger state dict, under its own names; all of it where there is none."""
    prefixes = [key.removesuffix(_ANCHOR) for key in state_dict if key.endswith(f".{_ANCHOR}")]
    if len(prefixes) != 1:
        return state_dict
    (prefix,) = prefixes
    return {k.removeprefix(prefix): t for k, t in state_dict.items() if k.startswith(prefix)}


def is_openai_vit(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are OpenAI names and the image tower is a ViT."""
    return "visual.proj" in state_dict and "visual.class_embedding" in state_dict


def is_openai_resnet(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are OpenAI names and the image tower is a ResNet."""
    return "visual.attnpool.positional_embedding" in state_dict


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
        if name in NOT_WEIGHTS:
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


def build(state_dict: Mapping[str, Tensor]) -> Any:
    """A `CLIPModel` with these weights, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: missing, unknown or misshapen tensors.
    """
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
    return model.requires_grad_(False).eval()


def _tower(state_dict: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, Any]:
    pattern = re.compile(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.")
    layers = {int(m[1]) for name in state_dict if (m := pattern.match(name))}
    if not layers:
        raise CheckpointError(f"the checkpoint has no {prefix}.resblocks")
    if width % HEAD_WIDTH:
        raise CheckpointError(f"{prefix}: width {width} is no multiple of {HEAD_WIDTH}")
    hidden, _ = _shape(state_dict, f"{prefix}.resblocks.0.mlp.c_fc.weight", 2)
    return {
        "hidden_size": width,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": width // HEAD_WIDTH,
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
