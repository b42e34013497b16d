"""From a name or a path to a vision-language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyregion.errors import InputError, require
from anyregion.semantics.protocol import VisionLanguageModel

OPEN_CLIP = "open_clip:"

BUILDERS: dict[str, tuple[str, str]] = {
    "clip": ("anyregion.semantics.clip", "load_clip"),
    "metaclip_2": ("anyregion.semantics.clip", "load_clip"),
    "siglip": ("anyregion.semantics.siglip", "load_siglip"),
    "siglip2": ("anyregion.semantics.siglip", "load_siglip"),
}
"""`model_type` of a `transformers` configuration to the function that loads such a model."""


def load_vlm(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    image_size: int | None = None,
    **options: Any,
) -> VisionLanguageModel:
    """Load a vision-language model.

    Args:
        name_or_path: `open_clip:MODEL/TAG_OR_FILE` (`open_clip:ViT-B-16/laion2b_s34b_b88k`); a
            file with CLIP weights under OpenAI's names; a folder or hub name of a `transformers`
            CLIP, MetaCLIP, SigLIP or SigLIP 2.
        device: `cpu`, `cuda`, ...
        image_size: side of the square input; None for the model's own.
        options: `batch_size`, `text_batch_size`, `dtype`, `dense`, as for `load_clip`.

    Raises:
        InputError: nothing there, an unknown kind of model, or the hub cannot be reached.
        CheckpointError: weights that are broken, incomplete or carry code.
        MissingExtraError: a package is missing.
    """
    require("torch", "torch", "transformers", "open_clip")
    chosen: dict[str, Any] = {"device": device, "image_size": image_size, **options}
    name = str(name_or_path)
    if name.startswith(OPEN_CLIP):
        from anyregion.semantics.open_clip import load_open_clip

        return load_open_clip(*split_open_clip(name), **chosen)
    if Path(name).expanduser().is_file():
        from anyregion.semantics.clip import load_openai_checkpoint

        return load_openai_checkpoint(Path(name).expanduser(), **chosen)
    from anyregion.semantics.pretrained import load_config

    kind = load_config(name_or_path).model_type
    if kind not in BUILDERS:
        raise InputError(
            f"{name}: a model of type {kind!r}; known are {', '.join(BUILDERS)} of transformers, "
            f"{OPEN_CLIP}MODEL/WEIGHTS, and files of weights under OpenAI's names"
        )
    return _builder(kind)(name, **chosen)


def split_open_clip(name: str) -> tuple[str, str | None]:
    """`open_clip:MODEL/WEIGHTS` into model and weights; hub names and folders have no weights."""
    model = name.removeprefix(OPEN_CLIP)
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    model, _, weights = model.partition("/")
    return model, weights or None


def _builder(kind: str) -> Callable[..., VisionLanguageModel]:
    from importlib import import_module

    module, function = BUILDERS[kind]
    builder: Callable[..., VisionLanguageModel] = getattr(import_module(module), function)
    return builder
