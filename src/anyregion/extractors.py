"""Names to ready extractors of frozen features, for the store and for training on the fly."""

from __future__ import annotations

from pathlib import Path

from anyregion.data.features import DescribedExtractor
from anyregion.errors import InputError, require

IMAGES_AT_ONCE = 8
"""On a GPU; a CPU gains nothing from more than one."""


def load_extractor(
    model: str | Path | None = None,
    *,
    localizer: str | None = None,
    vlm: str | None = None,
    features: bool = False,
    image_size: int | None = None,
    antialias: bool | None = None,
    device: str = "cpu",
) -> DescribedExtractor:
    """Build an extractor.

    Args:
        model: `compact`, which is the default where neither of the two below is given; or a
            RegionSpot folder or checkpoint, whose own localizer and VLM are taken.
        localizer: SAM's hub name, folder or file, for tokens.
        vlm: CLIP's, for feature maps.
        features: also the VLM's feature map; `compact` has nothing else.
        image_size: side of the VLM's input in pixels; None for its own.
        antialias: how images are squashed for the VLM; None for what the model states (True).
        device: `cpu`, `cuda`, ...; for `compact` whatever ONNX Runtime here offers.

    Raises:
        InputError: a choice that makes no sense, or models that cannot be had.
        MissingExtraError: torch is not installed.
        CheckpointError: weights that cannot be used.
    """
    if str(model) == "compact" or (model is None and localizer is None and vlm is None):
        if localizer or vlm or image_size or antialias is not None:
            raise InputError("compact sees with its own eyes: it has no localizer and no VLM")
        from anyregion.compact.extractor import CompactExtractor

        return CompactExtractor(device=device)
    require("torch", "torch", "torchvision", "transformers")
    from anyregion.localizers.loading import load_localizer
    from anyregion.regionspot.extractor import RegionSpotExtractor
    from anyregion.vlms.loading import load_vlm

    at_once = 1 if device == "cpu" else IMAGES_AT_ONCE
    if model is not None:
        from anyregion.factory import load_recognizer
        from anyregion.regionspot.encoder import RegionSpotEncoder

        if image_size:
            raise InputError(f"{model} states the size of its images itself")
        made = load_recognizer(
            model,
            recognizer="regionspot",
            localizer=localizer,
            vlm=vlm,
            antialias=antialias,
            device=device,
        ).encoder
        if not isinstance(made, RegionSpotEncoder):
            raise InputError(f"{model} is no RegionSpot model")
        return RegionSpotExtractor(
            made.localizer,
            made.vlm if features else None,
            source=made.source,
            antialias=made.antialias,
            images_at_once=at_once,
        )
    if features != (vlm is not None):
        raise InputError(
            "tokens need no VLM: leave it out, or ask for the feature map too (--features)"
            if vlm
            else "the feature map needs a VLM: name one"
        )
    return RegionSpotExtractor(
        None if localizer is None else load_localizer(localizer, device=device),
        None if vlm is None else load_vlm(vlm, device=device, image_size=image_size),
        antialias=antialias is not False,
        images_at_once=at_once,
    )
