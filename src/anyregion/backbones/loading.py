"""From a name to an encoder: the only place that knows torchvision's and timm's."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from anyregion.backbones.checkpoint import find_saved, read_saved, save_encoder
from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.key_maps import family_of
from anyregion.backbones.weights import fit_state, load_weights
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
            folder of ours, in any layout that `reading.load_weights` knows.

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
    library, model = _parted(name)
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
    folder = find_saved(where)
    if folder is None:
        if Path(where).expanduser().is_dir():
            raise CheckpointError(f"{where}: a folder without backbone.json, here or in model/")
        return build_encoder(str(where), size=size or 224, weights=weights)
    if weights is not None:
        raise InputError(f"{where}: a folder has its own weights; give a name with others")
    about, state = read_saved(folder)
    encoder = build_encoder(about.name, size=size or about.size)
    fit_state(encoder, state, str(folder))
    encoder.mean, encoder.std = about.mean, about.std
    return encoder


def _parted(name: str) -> tuple[str, str]:
    """Library and model.

    Raises:
        InputError: unknown; says what is near.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        require("torch", "torch", "torchvision")
        from anyregion.backbones import torchvision as torchvision_encoders

        known = torchvision_encoders.names()
    elif library == "timm":
        require("train", "torch", "timm")
        from anyregion.backbones import timm as timm_encoders

        known = timm_encoders.names()
    else:
        model = name.rpartition("/")[2]
        raise InputError(
            f"{name!r}: a backbone is called LIBRARY/MODEL, torchvision/{model or 'resnet18'} or "
            f"timm/{model or 'resnet18'}, or is a folder that holds backbone.json"
        )
    if (model.split(".")[0] if library == "timm" else model) not in known:
        near = difflib.get_close_matches(model, known, n=4, cutoff=0.5)
        said = f"near are {', '.join(near)}" if near else "nothing there is near"
        raise InputError(f"{name}: {library} has no such model; {said}")
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
        raise _no_download(name, error) from error


def _download_torchvision(encoder: Encoder, model: str) -> None:
    import torchvision

    published: Any = torchvision.models.get_model_weights(model).DEFAULT
    try:
        whole = torchvision.models.get_model(model, weights=published, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, or another hash
        raise _no_download(encoder.name, error) from error
    fit_state(encoder, whole.state_dict(), str(published))
    shown = published.transforms()
    encoder.mean, encoder.std = tuple(shown.mean), tuple(shown.std)


def _no_download(name: str, error: Exception) -> AnyRegionError:
    reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    return AnyRegionError(
        f"{name}: its published weights could not be downloaded ({reason}). With the file at hand, "
        "give its path in place of `pretrained`"
    )


def _freeze_unused(encoder: Encoder) -> None:
    """What the last map does not depend on (a head of its own kind) needs no gradient."""
    with eval_mode(encoder), torch.enable_grad():
        found = encoder(torch.zeros(1, 3, encoder.size, encoder.size)).sum()
    parameters = list(encoder.parameters())
    gradients = torch.autograd.grad(found, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
