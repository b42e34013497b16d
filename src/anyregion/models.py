"""Names to ready recognisers: with the two loaders, the only place that knows models by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from anyregion.errors import InputError, require
from anyregion.recognizer import Recognizer, RegionEncoder
from anyregion.training_free.crop import CropEncoder
from anyregion.training_free.dense import DenseEncoder
from anyregion.training_free.embedder import ImageEmbedder

Method: TypeAlias = Literal["regionspot", "crop", "masked-crop", "dense"]
METHODS: tuple[Method, ...] = ("regionspot", "crop", "masked-crop", "dense")


@dataclass(frozen=True)
class ModelInfo:
    """One line of `anyregion models`.

    Attributes:
        name: for the `model`, `localizer` or `vlm` argument.
        role: `built-in`, `localizer` or `vlm`.
        millions: parameters, in millions.
        licence: of the weights.
        extra: what has to be installed; empty for the core.
        here: whether the weights are on this machine.
    """

    name: str
    role: str
    millions: float
    licence: str
    extra: str
    here: bool


# well-known weights, as (millions of parameters, licence); any other hub name or folder works too
_LOCALIZERS = {
    "facebook/sam-vit-base": (94, "Apache-2.0"),
    "facebook/sam-vit-large": (312, "Apache-2.0"),
    "facebook/sam-vit-huge": (641, "Apache-2.0"),
    "syscv-community/sam-hq-vit-base": (95, "Apache-2.0"),
    "syscv-community/sam-hq-vit-large": (314, "Apache-2.0"),
    "syscv-community/sam-hq-vit-huge": (643, "Apache-2.0"),
    "facebook/sam2.1-hiera-tiny": (39, "Apache-2.0"),
    "facebook/sam2.1-hiera-small": (46, "Apache-2.0"),
    "facebook/sam2.1-hiera-base-plus": (81, "Apache-2.0"),
    "facebook/sam2.1-hiera-large": (224, "Apache-2.0"),
    "facebook/sam3": (840, "SAM License"),
}
_VLMS = {
    "openai/clip-vit-base-patch32": (151, "MIT"),
    "openai/clip-vit-base-patch16": (150, "MIT"),
    "openai/clip-vit-large-patch14": (428, "MIT"),
    "openai/clip-vit-large-patch14-336": (428, "MIT"),
    "open_clip:RN50/openai": (102, "MIT"),
    "open_clip:ViT-B-16/laion2b_s34b_b88k": (150, "MIT"),
    "facebook/metaclip-b16-400m": (150, "CC-BY-NC-4.0"),
    "google/siglip-base-patch16-224": (203, "Apache-2.0"),
    "google/siglip2-base-patch16-224": (375, "Apache-2.0"),
    "google/siglip2-so400m-patch14-384": (1136, "Apache-2.0"),
}


def load_recognizer(
    model: str | Path = "compact",
    *,
    recognizer: Method | None = None,
    localizer: str | None = None,
    vlm: str | None = None,
    antialias: bool | None = None,
    device: str = "cpu",
    cache: Path | Literal["default"] | None = "default",
) -> Recognizer:
    """Build a recogniser.

    Args:
        model: `compact`, the built-in one; a folder that `save_pretrained` or `anyregion convert`
            made; a full published RegionSpot checkpoint (`.pth`); or a vision-language model, by
            hub name, folder, file of OpenAI's layout, or `open_clip:ARCHITECTURE/TAG`.
        recognizer: the method. For RegionSpot's folders and checkpoints `regionspot`, for all
            else `dense` (pooled features), unless another is chosen.
        localizer, vlm: for RegionSpot, where these two are taken from, if not as it states.
        antialias: for RegionSpot, whether images are squashed for the VLM with antialiasing; None
            for what the model states (True); False is the published predictor's way.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; for `compact` whatever ONNX Runtime here offers.
        cache: folder of encoded vocabularies; None for no cache.

    Raises:
        InputError: unknown method, or a method that the model cannot serve.
        MissingExtraError: the model needs torch, which is not installed.
        CheckpointError: weights that cannot be used.
    """
    if recognizer is not None and recognizer not in METHODS:
        raise InputError(f"no recogniser {recognizer!r}: there are {', '.join(METHODS)}")
    trained = _is_regionspot(model)
    method = recognizer or ("regionspot" if trained else "dense")
    if method == "regionspot":
        if not trained:
            raise InputError(
                f"{model} is no RegionSpot model: give a folder made by `anyregion convert` or "
                "save_pretrained, or a published checkpoint (.pth)"
            )
        return Recognizer(_regionspot(Path(model), localizer, vlm, antialias, device), cache=cache)
    if antialias is not None:
        raise InputError(f"the recogniser {method} has no choice of antialiasing")
    if localizer is not None:
        raise InputError(f"the recogniser {method} uses no localizer")
    embedder = _embedder(model, trained, vlm, device)
    if method == "dense":
        return Recognizer(DenseEncoder(embedder), cache=cache)
    return Recognizer(CropEncoder(embedder, masked=method == "masked-crop"), cache=cache)


def list_models() -> list[ModelInfo]:
    """The built-in model and the well-known weights that the package can use."""
    rows = [ModelInfo("compact", "built-in", 27.4, "Apache-2.0", "", True)]
    for role, table in (("localizer", _LOCALIZERS), ("vlm", _VLMS)):
        rows += [
            ModelInfo(name, role, millions, licence, "torch", _is_cached(name))
            for name, (millions, licence) in table.items()
        ]
    return rows


def _is_regionspot(model: str | Path) -> bool:
    path = Path(model)
    return (path / "adapter.safetensors").is_file() or (path.is_file() and path.suffix == ".pth")


def _regionspot(
    path: Path, localizer: str | None, vlm: str | None, antialias: bool | None, device: str
) -> RegionEncoder:
    require("torch", "torch", "torchvision", "transformers")
    if path.is_dir():
        from anyregion.regionspot.pretrained import from_pretrained

        return from_pretrained(
            path, localizer=localizer, vlm=vlm, antialias=antialias, device=device
        )
    from anyregion.regionspot.checkpoint import load_published

    if localizer or vlm:
        raise InputError(f"{path} carries its own SAM and CLIP; convert it to use others")
    return load_published(path, device=device, antialias=antialias is not False)


def _embedder(model: str | Path, trained: bool, vlm: str | None, device: str) -> ImageEmbedder:
    if str(model) == "compact":
        if vlm is not None:
            raise InputError("compact has its own words: name the vlm as the model instead")
        from anyregion.compact.embedder import CompactEmbedder

        return CompactEmbedder(device=device)
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.semantics.loading import load_vlm

    if not trained:
        return load_vlm(vlm or str(model), device=device)
    from anyregion.regionspot.pretrained import stated_vlm

    if Path(model).is_file():
        raise InputError(f"{model} is a RegionSpot checkpoint: convert it, then use its folder")
    stated, image_size = stated_vlm(Path(model))
    return load_vlm(vlm or stated, device=device, image_size=image_size)


def _is_cached(name: str) -> bool:
    """Whether the hub's cache on this machine holds the model's weights."""
    if name.startswith("open_clip:") or find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
