"""Small random models of each family, built from the classes of transformers."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from anyregion.localizers.sam import SamBackend, SamHQBackend
from anyregion.localizers.sam2 import Sam2Backend, Sam3Backend
from anyregion.localizers.segmenter import LocalizerOptions, PromptableSegmenter


def spread(model: Any) -> Any:
    """Random weights large enough that attention, masks and positions all matter."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        if "embed" in name or "token" in name or "rel_pos" in name:
            scale = 0.5
        noise = torch.randn(parameter.shape, generator=generator) * scale
        base = 1.0 if name.endswith("weight") and parameter.dim() == 1 else 0.0
        parameter.data = base + noise
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def sam_config(kind: str = "Sam", *, side: int = 64, window: int = 3) -> Any:
    return getattr(transformers, f"{kind}Config")(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": 8,
            "window_size": window,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 48,
            "num_attention_heads": 8,
            "iou_head_hidden_dim": 40,
            "layer_norm_eps": 1e-5,
            **({"vit_dim": 24} if kind == "SamHQ" else {}),
        },
    )


SMALL_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 32,
}


def sam2_config() -> Any:
    return transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [4, 2, 2, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config=SMALL_DECODER,
    )


def sam3_config() -> Any:
    return transformers.Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 56,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": 28,
            },
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 56, "patch_size": 14},
        mask_decoder_config=SMALL_DECODER,
    )


def build(family: str, **settings: Any) -> PromptableSegmenter:
    options = LocalizerOptions(**settings)
    if family == "sam":
        model = spread(transformers.SamModel(sam_config()))
        return PromptableSegmenter(SamBackend, model, name=family, options=options)
    if family == "sam_hq":
        model = spread(transformers.SamHQModel(sam_config("SamHQ")))
        return PromptableSegmenter(SamHQBackend, model, name=family, options=options)
    if family == "sam2":
        model = spread(transformers.Sam2Model(sam2_config()))
        return PromptableSegmenter(Sam2Backend, model, name=family, options=options)
    model = spread(transformers.Sam3TrackerModel(sam3_config()))
    return PromptableSegmenter(Sam3Backend, model, name=family, options=options)


FAMILIES = ["sam", "sam_hq", "sam2", "sam3"]
