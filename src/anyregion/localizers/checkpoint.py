"""Checkpoints of SAM in segment-anything's layout, converted to `transformers`' `SamModel`.

Every size is read from the tensors, except the eight heads of the mask decoder, which no tensor
tells and all published SAMs share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import compare_shapes

_PATCH_EMBED = "image_encoder.patch_embed.proj.weight"
_POSITION_MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
# segment-anything's prefixes to those of transformers; the first that fits counts
_PREFIXES = {
    "image_encoder.blocks.": "vision_encoder.layers.",
    "image_encoder.patch_embed.proj.": "vision_encoder.patch_embed.projection.",
    "image_encoder.neck.0.": "vision_encoder.neck.conv1.",
    "image_encoder.neck.1.": "vision_encoder.neck.layer_norm1.",
    "image_encoder.neck.2.": "vision_encoder.neck.conv2.",
    "image_encoder.neck.3.": "vision_encoder.neck.layer_norm2.",
    "image_encoder.": "vision_encoder.",
    "prompt_encoder.point_embeddings.": "prompt_encoder.point_embed.",
    "prompt_encoder.mask_downscaling.0.": "prompt_encoder.mask_embed.conv1.",
    "prompt_encoder.mask_downscaling.1.": "prompt_encoder.mask_embed.layer_norm1.",
    "prompt_encoder.mask_downscaling.3.": "prompt_encoder.mask_embed.conv2.",
    "prompt_encoder.mask_downscaling.4.": "prompt_encoder.mask_embed.layer_norm2.",
    "prompt_encoder.mask_downscaling.6.": "prompt_encoder.mask_embed.conv3.",
    "mask_decoder.output_upscaling.0.": "mask_decoder.upscale_conv1.",
    "mask_decoder.output_upscaling.1.": "mask_decoder.upscale_layer_norm.",
    "mask_decoder.output_upscaling.3.": "mask_decoder.upscale_conv2.",
}
# segment-anything numbers the layers of its small MLPs; transformers names the first and the last
_MLP_LAYER = re.compile(r"^(mask_decoder\..*)\.layers\.(\d+)\.(weight|bias)$")


def sam_model_from_state(state: Mapping[str, Tensor], *, name: str = "state dict") -> Any:
    """A `transformers.SamModel` (float32, CPU, evaluation mode) from segment-anything's names.

    The names may have a common prefix; tensors without it are left alone.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors.
    """
    from transformers import SamModel

    sam = _without_prefix(state, name)
    try:
        config = _config(sam)
    except KeyError as error:
        raise CheckpointError(f"{name}: not segment-anything's SAM: missing {error}") from None
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name}: not segment-anything's SAM: {error}") from None
    # on the meta device no time goes into random weights that are replaced at once
    with torch.device("meta"):
        model = SamModel(config)
    renamed = _rename(sam)
    if problems := compare_shapes(renamed, model.state_dict()):
        raise CheckpointError(f"{name}: not segment-anything's SAM: {problems}")
    model.load_state_dict(renamed, assign=True)
    model.train(False)
    return model.requires_grad_(False)


def _without_prefix(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefixes = [key.removesuffix(_PATCH_EMBED) for key in state if key.endswith(_PATCH_EMBED)]
    if len(prefixes) != 1:
        few = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{name}: not segment-anything's SAM: no {_PATCH_EMBED} among {few} ..."
        )
    (prefix,) = prefixes
    inner = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    # without a prefix everything belongs to it, and what does not is reported
    return {k: t for k, t in inner.items() if not prefix or k.startswith(_PARTS)}


def _rename(sam: Mapping[str, Tensor]) -> dict[str, Tensor]:
    depths: dict[str, int] = {}
    for key in sam:
        if match := _MLP_LAYER.match(key):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]))
    renamed = {}
    for key, tensor in sam.items():
        tensor = tensor.float()
        if key == _POSITION_MATRIX:
            renamed["shared_image_embedding.positional_embedding"] = tensor
            renamed["prompt_encoder.shared_embedding.positional_embedding"] = tensor
            continue
        new = key
        if match := _MLP_LAYER.match(key):
            index, last = int(match[2]), depths[match[1]]
            layer = {0: "proj_in", last: "proj_out"}.get(index, f"layers.{index - 1}")
            new = f"{match[1]}.{layer}.{match[3]}"
        for old, replacement in _PREFIXES.items():
            if new.startswith(old):
                new = replacement + new.removeprefix(old)
                break
        new = re.sub(r"\.norm(\d)\.", r".layer_norm\1.", new)
        renamed[new.replace(".norm_final_attn.", ".layer_norm_final_attn.")] = tensor
    return renamed


def _config(sam: Mapping[str, Tensor]) -> Any:
    from transformers import SamConfig

    vision, grid = _vision_config(sam)
    decoder = "mask_decoder."
    width = sam[f"{decoder}iou_token.weight"].shape[1]
    cross = sam[f"{decoder}transformer.layers.0.cross_attn_token_to_image.q_proj.weight"]
    side = vision["image_size"]
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": side,
            "patch_size": side // grid,
            "mask_input_channels": sam["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            "num_point_embeddings": _count(sam, "prompt_encoder.point_embeddings."),
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": sam[f"{decoder}transformer.layers.0.mlp.lin1.weight"].shape[0],
            "num_hidden_layers": _count(sam, f"{decoder}transformer.layers."),
            "attention_downsample_rate": width // cross.shape[0],
            "num_multimask_outputs": sam[f"{decoder}mask_tokens.weight"].shape[0] - 1,
            "iou_head_depth": _count(sam, f"{decoder}iou_prediction_head.layers."),
            "iou_head_hidden_dim": sam[f"{decoder}iou_prediction_head.layers.0.weight"].shape[0],
            # torch's default, which segment-anything's decoder has; SamConfig's is 1e-6
            "layer_norm_eps": 1e-5,
        },
    )


def _vision_config(sam: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    encoder = "image_encoder."
    weight = sam[_PATCH_EMBED]
    grid, depth = sam[f"{encoder}pos_embed"].shape[1], _count(sam, f"{encoder}blocks.")
    tables = [sam[f"{encoder}blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    # the relative positions tell windows from global attention:
    # a table has an entry for every distance along one side: 2 x side - 1
    global_blocks = [i for i, (length, _) in enumerate(tables) if length == 2 * grid - 1]
    windows = {(length + 1) // 2 for length, _ in tables} - {grid}
    if len(windows) > 1:
        raise ValueError(f"attention windows of several sizes: {sorted(windows)}")
    return {
        "hidden_size": weight.shape[0],
        "num_channels": weight.shape[1],
        "patch_size": weight.shape[-1],
        "image_size": grid * weight.shape[-1],
        "num_hidden_layers": depth,
        "num_attention_heads": weight.shape[0] // tables[0][1],
        "mlp_dim": sam[f"{encoder}blocks.0.mlp.lin1.weight"].shape[0],
        "window_size": windows.pop() if windows else grid,
        "global_attn_indexes": global_blocks,
        "output_channels": sam[f"{encoder}neck.0.weight"].shape[0],
        "num_pos_feats": sam[_POSITION_MATRIX].shape[1],
    }, grid


def _count(sam: Mapping[str, Tensor], prefix: str) -> int:
    indices = {key.removeprefix(prefix).split(".")[0] for key in sam if key.startswith(prefix)}
    return len(indices)
