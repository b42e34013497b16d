"""Building and loading encoders: a name or a folder to an `Encoder`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from anyregion.backbones.checkpoint import find_backbone_folder, read_backbone, save_encoder
from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.key_maps import family_of
from anyregion.backbones.weights import load_state, load_weights
from anyregion.errors import AnyRegionError, CheckpointError, InputError, require

__all__ = ["build_encoder", "load_encoder", "save_encoder"]


def build_encoder(name: str, *, size: int = 224, weights: str | Path | None = None) -> Encoder:
    """Build a backbone without its classifier.

    Args:
        name: `torchvision/resnet18`, `torchvision/vit_b_16`, `timm/convnext_tiny`, ...: ResNets
            (ResNeXt, Wide ResNet), ConvNeXts and plain ViTs of both libraries, and what else of
            theirs can be read at two depths.
        size: side of its images in pixels. Convolutional ones take any other size too; a ViT's
            position embeddings are made for this one and resized for others.
        weights: None or `random` for random ones, from torch's global seed (`torch.manual_seed`);
            `pretrained` for those that the library publishes (a download); else a file, or a
            folder of ours, in any layout that `weights.load_weights` knows.

    Returns:
        the encoder, on the CPU, in training mode. Every parameter that requires a gradient gets
        one from `encoder(images)`.

    Raises:
        InputError: an unknown name (near ones are named), a size that does not fit, a family that
            cannot be read at two depths, or no published weights.
        CheckpointError: the file is broken or does not fit (names what is missing, unexpected or
            of another shape).
        AnyRegionError: the download failed.
        MissingExtraError: torch, torchvision or timm is missing.
    """
    library, model = _split_name(name)
    if size < 1:
        raise InputError(f"images of {size} pixels: a side is 1 or more")
    pretrained = weights == "pretrained"
    if library == "torchvision":
        from anyregion.backbones import torchvision as torchvision_encoders

        encoder = torchvision_encoders.build(model, size)
        if pretrained:
            _download_torchvision(encoder, model)
    else:
        encoder = _build_timm(name, model, size, pretrained)
    if family_of(library, encoder.body.state_dict()) is None:
        _freeze_unused(encoder)  # known families have nothing unused
    if weights not in (None, "random", "pretrained"):
        load_weights(encoder, Path(str(weights)).expanduser())
    return encoder


def load_encoder(
    where: str | Path, *, size: int | None = None, weights: str | Path | None = None
) -> Encoder:
    """A backbone by name, or as `save_encoder` wrote it.

    Args:
        where: a name, as `build_encoder` takes it; or a folder with `backbone.json`, or a run that
            holds one as `model/`.
        size: side of its images in pixels; None for what the folder states, or 224.
        weights: for a name only, as `build_encoder` takes them.

    Raises:
        InputError: as `build_encoder`; or `weights` for a folder, which has its own.
        CheckpointError: files of the folder are missing, malformed, or not of one another.
    """
    folder = find_backbone_folder(where)
    if folder is None:
        if Path(where).expanduser().is_dir():
            raise CheckpointError(f"{where}: a folder without backbone.json, here or in model/")
        return build_encoder(str(where), size=size or 224, weights=weights)
    if weights is not None:
        raise InputError(f"{where}: a folder has its own weights; give a name with others")
    # built with random weights first: the architecture comes from the library, never from the file
    info, state = read_backbone(folder)
    encoder = build_encoder(info.name, size=size or info.size)
    load_state(encoder, state, str(folder))
    encoder.mean, encoder.std = info.mean, info.std
    return encoder


def _split_name(name: str) -> tuple[str, str]:
    """Library and model of a name; `InputError` if there is none, with the nearest names."""
    library, _, model = name.partition("/")
    if library == "torchvision":
        require("torch", "torch", "torchvision")
        from anyregion.backbones import torchvision as torchvision_encoders

        models = torchvision_encoders.names()
    elif library == "timm":
        require("train", "torch", "timm")
        from anyregion.backbones import timm as timm_encoders

        models = timm_encoders.names()
    else:
        model = name.rpartition("/")[2]
        raise InputError(
            f"{name!r}: a backbone is called LIBRARY/MODEL, torchvision/{model or 'resnet18'} or "
            f"timm/{model or 'resnet18'}, or is a folder that holds backbone.json"
        )
    # timm's names may carry a tag of weights: resnet50.a1_in1k
    if (model.split(".")[0] if library == "timm" else model) not in models:
        similar = difflib.get_close_matches(model, models, n=4, cutoff=0.5)
        hint = f"near are {', '.join(similar)}" if similar else "nothing there is near"
        raise InputError(f"{name}: {library} has no such model; {hint}")
    return library, model


def _build_timm(name: str, model: str, size: int, pretrained: bool) -> Encoder:
    from anyregion.backbones import timm as timm_encoders

    if not pretrained:
        return timm_encoders.build(model, size)
    import timm

    if not timm.get_pretrained_cfg(model) or not timm.is_model_pretrained(model):
        raise InputError(f"{name}: timm publishes no weights of it")
    try:
        return timm_encoders.build(model, size, pretrained=True)
    except AnyRegionError:
        raise
    except Exception as error:  # hub clients raise what their HTTP library raises
        raise _download_error(name, error) from error


def _download_torchvision(encoder: Encoder, model: str) -> None:
    import torchvision

    published: Any = torchvision.models.get_model_weights(model).DEFAULT
    try:
        classifier = torchvision.models.get_model(model, weights=published, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, or another hash
        raise _download_error(encoder.name, error) from error
    # through the same checks as a file's: what belongs to the classifier is left out
    load_state(encoder, classifier.state_dict(), str(published))
    transforms = published.transforms()
    encoder.mean, encoder.std = tuple(transforms.mean), tuple(transforms.std)


def _download_error(name: str, error: Exception) -> AnyRegionError:
    reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return AnyRegionError(
        f"{name}: its published weights could not be downloaded ({reason}). With the file at hand, "
        "give its path in place of `pretrained`"
    )


def _freeze_unused(encoder: Encoder) -> None:
    """Freeze the parameters that the last map does not depend on, such as a head's."""
    # in evaluation mode, so that a BatchNorm of one image's 1 x 1 map does not refuse
    with eval_mode(encoder), torch.enable_grad():
        total = encoder(torch.zeros(1, 3, encoder.size, encoder.size)).sum()
    parameters = list(encoder.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
