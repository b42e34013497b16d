"""From a name or a path to a vision-language model."""

from __future__ import annotations

from pathlib import Path

import torch

from anyregion.errors import InputError, require
from anyregion.torch_utils.weights import read_state_dict
from anyregion.vlms.attention import Dense
from anyregion.vlms.clip import build_openai_clip, load_clip
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.open_clip import load_open_clip
from anyregion.vlms.options import VlmOptions
from anyregion.vlms.pretrained import load_config
from anyregion.vlms.siglip import load_siglip

OPEN_CLIP = "open_clip:"

BUILDERS = {
    "clip": load_clip,
    "metaclip_2": load_clip,
    "siglip": load_siglip,
    "siglip2": load_siglip,
}
"""`model_type` of a `transformers` configuration to the function that loads such a model."""


def load_vlm(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    batch_size: int = 16,
    text_batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    dense: Dense = "sclip",
) -> FrozenVLM:
    """Load a vision-language model.

    Args:
        name_or_path: `open_clip:MODEL/TAG_OR_FILE` (`open_clip:ViT-B-16/laion2b_s34b_b88k`); a
            file with CLIP weights under OpenAI's names, `.safetensors` or `.pt` with a state dict;
            a folder or hub name of a `transformers` CLIP, MetaCLIP, SigLIP or SigLIP 2.
        device, image_size, batch_size, text_batch_size, dtype, dense: see `VlmOptions`.

    Raises:
        InputError: nothing there, an unknown kind of model, or the hub cannot be reached.
        CheckpointError: weights that are broken, incomplete or carry code, as OpenAI's own
            downloads do: they are TorchScript archives, and reading one runs what is in it.
        MissingExtraError: a package is missing.
    """
    require("torch", "torch", "transformers", "open_clip")
    options = VlmOptions(
        device=device,
        image_size=image_size,
        batch_size=batch_size,
        text_batch_size=text_batch_size,
        dtype=dtype,
        dense=dense,
    )
    name = str(name_or_path)
    if name.startswith(OPEN_CLIP):
        return load_open_clip(*split_open_clip(name), options)
    path = Path(name).expanduser()
    if path.is_file():
        return build_openai_clip(read_state_dict(path), str(path), options)
    config = load_config(name)
    if config.model_type not in BUILDERS:
        raise InputError(
            f"{name}: a model of type {config.model_type!r}; known are {', '.join(BUILDERS)} of "
            f"transformers, {OPEN_CLIP}MODEL/WEIGHTS, and files of weights under OpenAI's names"
        )
    return BUILDERS[config.model_type](name, config, options)


def split_open_clip(name: str) -> tuple[str, str | None]:
    """`open_clip:MODEL/WEIGHTS` into model and weights; hub names and folders have no weights."""
    model = name.removeprefix(OPEN_CLIP)
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    model, _, weights = model.partition("/")
    return model, weights or None
