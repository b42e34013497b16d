"""Loading of vision-language models by hub name, folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anyregion.errors import InputError, MissingExtraError, require
from anyregion.torch_utils.hub import first_line, load_config, load_model
from anyregion.torch_utils.weights import read_state_dict
from anyregion.vlms.clip import wrap_clip
from anyregion.vlms.dense import Dense
from anyregion.vlms.model import FrozenVLM
from anyregion.vlms.open_clip import load_open_clip
from anyregion.vlms.openai_clip import clip_from_openai_state_dict
from anyregion.vlms.protocol import VlmOptions
from anyregion.vlms.siglip import wrap_siglip
from anyregion.vlms.tipsv2 import wrap_tipsv2

OPEN_CLIP = "open_clip:"

# `model_type` of a `transformers` configuration -> the function that wraps such a model
BUILDERS = {
    "clip": wrap_clip,
    "metaclip_2": wrap_clip,
    "siglip": wrap_siglip,
    "siglip2": wrap_siglip,
    "tipsv2": wrap_tipsv2,
}


def load_vlm(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    image_size: int | None = None,
    batch_size: int = 16,
    text_batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    dense: Dense | None = None,
) -> FrozenVLM:
    """Load a vision-language model.

    Args:
        name_or_path: `open_clip:MODEL/TAG_OR_FILE` (`open_clip:ViT-B-16/laion2b_s34b_b88k`); a
            file with CLIP weights under OpenAI's names, `.safetensors` or `.pt` with a state dict
            (a full RegionSpot checkpoint, which holds a CLIP, works too);
            a folder or hub name of a `transformers` CLIP, MetaCLIP, SigLIP, SigLIP 2 or (from
            transformers 5.14 on) TIPSv2.
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
        return clip_from_openai_state_dict(read_state_dict(path), str(path), options)
    from transformers import AutoModel

    source = str(path) if path.is_dir() else name
    config = load_config(source, role="vision-language model", kinds=BUILDERS)
    # sdpa whatever the file states: the parity with published numbers was measured with it
    model = load_model(AutoModel, source, attn_implementation="sdpa")
    return BUILDERS[config.model_type](model, load_tokenizer(source), name, options)


def load_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        InputError: its files are not there.
        MissingExtraError: it needs a package that is not installed.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except ImportError as error:
        raise MissingExtraError(f"{name}: its tokenizer needs more: {first_line(error)}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{name}: no usable tokenizer ({first_line(error)}). Give a folder that holds it"
        ) from None


def split_open_clip(name: str) -> tuple[str, str | None]:
    """`open_clip:MODEL/WEIGHTS` into model and weights; hub names and folders have no weights."""
    model = name.removeprefix(OPEN_CLIP)
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    model, _, weights = model.partition("/")
    return model, weights or None
