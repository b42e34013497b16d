"""The folder of a trained adapter: weights, configuration, model card, and where its parts are.

The two frozen models, its parts, are stated by name: a hub name, an absolute path, or a file or
folder inside. Nothing but OWNER/MODEL is ever looked up on a hub (`resolve_part`).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anyregion.errors import CheckpointError, InputError
from anyregion.files import atomic_path, read_json, write_json, writing
from anyregion.localizers.loading import load_localizer
from anyregion.localizers.protocol import TokenSource
from anyregion.regionspot.adapter import Adapter, AdapterConfig, count_parameters
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.hub import WEIGHT_SUFFIXES, is_hub_name
from anyregion.torch_utils.weights import compare_shapes, read_state_dict, write_tensors
from anyregion.vlms.loading import OPEN_CLIP, load_vlm, split_open_clip

WEIGHTS = "adapter.safetensors"
CONFIG = "config.json"
FORMAT = "anyregion.regionspot/1"


@dataclass(frozen=True)
class Pretrained:
    """What `config.json` states.

    Attributes:
        adapter: its configuration.
        localizer, vlm: a hub name, an absolute path, or a file or folder in the same folder.
        vlm_image_size: side of the VLM's input in pixels; None for the model's own.
        source, antialias: as for `RegionSpotEncoder`.
        licence: under which the weights may be used.
        origin: the checkpoint or training run that they come from.
    """

    adapter: AdapterConfig
    localizer: str
    vlm: str
    vlm_image_size: int | None = None
    source: TokenSource = "decoder"
    antialias: bool = True
    licence: str = "unstated"
    origin: str = "unstated"


def save_pretrained(
    encoder: RegionSpotEncoder,
    folder: str | Path,
    *,
    licence: str = "unstated",
    origin: str = "unstated",
    copy_parts: bool = False,
) -> None:
    """Write the adapter of an encoder (weights, configuration, model card).

    The localizer and the VLM are stated by name, local ones by their absolute path.

    Args:
        encoder: what to save.
        folder: where to; made if it is missing.
        licence, origin: see `Pretrained`.
        copy_parts: copy a local localizer and VLM into the folder, which then can be moved to
            another machine. Models of a hub stay on the hub.

    Raises:
        AnyRegionError: the folder cannot be written.
    """
    folder = Path(folder)
    names = {"localizer": encoder.localizer.name, "vlm": encoder.vlm.name}
    if copy_parts:
        names = {part: _copy_part(folder, part, name) for part, name in names.items()}
    about = Pretrained(
        adapter=encoder.adapter.config,
        **names,
        vlm_image_size=encoder.vlm.image_size,
        source=encoder.source,
        antialias=encoder.antialias,
        licence=licence,
        origin=origin,
    )
    write_folder(folder, about, encoder.adapter.state_dict())


def write_folder(folder: Path, about: Pretrained, weights: dict[str, torch.Tensor]) -> None:
    """Write weights, configuration and model card, each atomically; the weights come first.

    Local parts are stated by absolute path, those inside the folder relative to it.

    Raises:
        AnyRegionError: they cannot be written.
    """
    about = replace(
        about,
        localizer=_portable_name(folder, about.localizer),
        vlm=_portable_name(folder, about.vlm),
    )
    metadata = {"format": FORMAT, "licence": about.licence, "origin": about.origin}
    write_tensors(folder / WEIGHTS, weights, metadata)
    with writing(folder):
        write_json(folder / CONFIG, {"format": FORMAT, **asdict(about)}, indent=2)
        with atomic_path(folder / "README.md") as temporary:
            temporary.write_text(_card(about), encoding="utf-8")


def from_pretrained(
    folder: str | Path,
    *,
    localizer: str | None = None,
    vlm: str | None = None,
    antialias: bool | None = None,
    device: str = "cpu",
) -> RegionSpotEncoder:
    """Load the adapter and join it to its localizer and VLM.

    Args:
        localizer, vlm: hub name, folder or file to use in place of the stated ones (the same
            models kept elsewhere; other widths are refused).
        antialias: see `RegionSpotEncoder`; None for what the folder states.
        device: where everything runs.

    Raises:
        CheckpointError: files missing, broken, or not fitting the configuration.
        InputError: the localizer, the VLM or the device cannot be had.
    """
    check_device(device)
    folder = Path(folder)
    about = read_config(folder)
    adapter = load_adapter(folder / WEIGHTS, about.adapter)
    return RegionSpotEncoder(
        load_localizer(localizer or resolve_part(folder, about.localizer), device=device),
        load_vlm(
            vlm or resolve_part(folder, about.vlm), device=device, image_size=about.vlm_image_size
        ),
        adapter.to(device),
        source=about.source,
        antialias=about.antialias if antialias is None else antialias,
    )


def stated_vlm(folder: Path) -> tuple[str, int | None]:
    """The VLM that a folder was trained with, for `load_vlm`, and its input size.

    Raises:
        CheckpointError: not a folder made by `save_pretrained`.
        InputError: a local VLM that is not there any more.
    """
    about = read_config(folder)
    return resolve_part(folder, about.vlm), about.vlm_image_size


def resolve_part(folder: Path, name: str) -> str:
    """What to load for the localizer or VLM that a folder states: a local path or a hub name.

    A relative path is looked for in the folder, from the working directory, and from the folders
    above: what was written before paths were absolute is relative to where the training began.

    Raises:
        InputError: the name of a local file or folder that is in none of these places.
    """
    prefix, path = _split_name(name)
    if not path:
        return name
    if (folder / path).exists():
        return prefix + str(folder / path)
    if Path(path).expanduser().exists():
        return name
    for parent in folder.absolute().parents:
        if (parent / path).exists():
            return prefix + str(parent / path)
    if not prefix and is_hub_name(name):
        return name
    raise InputError(
        f"{folder / CONFIG} names {name}, and there is no such file or folder: give the path of "
        "this model as localizer or vlm"
    )


def read_config(folder: Path) -> Pretrained:
    """Read and check `config.json`."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}: not a folder made by save_pretrained")
    content: Any = read_json(path)
    try:
        fields = dict(content)
        if fields.pop("format") != FORMAT:
            raise CheckpointError(f"{path}: format {content['format']!r}, expected {FORMAT!r}")
        return Pretrained(**{**fields, "adapter": AdapterConfig(**fields["adapter"])})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: malformed ({error})") from None


def load_adapter(path: Path, config: AdapterConfig) -> Adapter:
    """Load `adapter.safetensors` into an adapter of that configuration."""
    return adapter_from_state(read_state_dict(path), config, str(path))


def adapter_from_state(
    weights: dict[str, torch.Tensor], config: AdapterConfig, where: str
) -> Adapter:
    """An adapter with these weights; `CheckpointError` lists what is missing or of another size."""
    with torch.device("meta"):
        adapter = Adapter(config)
    if problem := compare_shapes(weights, adapter.state_dict()):
        raise CheckpointError(f"{where}: {problem}")
    adapter.load_state_dict({n: w.float() for n, w in weights.items()}, assign=True)
    return adapter.eval()


def _portable_name(folder: Path, name: str) -> str:
    """The name to state for a part: local paths absolute, or relative where they lie inside."""
    prefix, path = _split_name(name)
    local = Path(path).expanduser()
    beside = not local.is_absolute() and (folder / path).exists()
    if not path or beside or not local.exists():
        return name
    if _is_inside(folder, local):
        return prefix + str(local.resolve().relative_to(folder.resolve()))
    return prefix + str(local.absolute())


def _copy_part(folder: Path, part: str, name: str) -> str:
    """Copy a local part into the folder; its name there, or the name as it is of one on a hub."""
    prefix, path = _split_name(name)
    local = Path(path).expanduser()
    if not path or not local.exists() or _is_inside(folder, local):
        return name
    target = folder / (part + local.suffix if local.is_file() else part)
    with writing(target):
        if local.is_dir():
            shutil.copytree(local, target, dirs_exist_ok=True)
        else:
            with atomic_path(target) as temporary:
                shutil.copyfile(local, temporary)
    return prefix + str(target)


def _is_inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _split_name(name: str) -> tuple[str, str]:
    """`open_clip:MODEL/` and the like, and what may be a local path behind it, else empty."""
    if not name.startswith(OPEN_CLIP):
        return "", name
    local_dir = f"{OPEN_CLIP}local-dir:"
    if name.startswith(local_dir):
        return local_dir, name.removeprefix(local_dir)
    model, weights = split_open_clip(name)
    if weights is None or not ("/" in weights or weights.endswith(WEIGHT_SUFFIXES)):
        return name, ""  # a tag
    return f"{OPEN_CLIP}{model}/", weights


def _card(about: Pretrained) -> str:
    with torch.device("meta"):
        learned = count_parameters(Adapter(about.adapter))
    c = about.adapter
    token = "mask decoder's output" if about.source == "decoder" else "prompt encoder's, averaged"
    size = "its own" if about.vlm_image_size is None else f"{about.vlm_image_size} px"
    return f"""---
library_name: anyregion
license: {about.licence}
tags: [region-recognition, open-vocabulary, regionspot]
---
# RegionSpot adapter

Joins the frozen localizer `{about.localizer}` and the frozen vision-language model `{about.vlm}`
(input {size}). {learned / 1e6:.1f} M parameters, all of them here; the frozen models are not.

| setting | value |
| --- | --- |
| decoder | {c.layers} layers, {c.heads} heads, feed-forward {c.feedforward} |
| attention among regions | {c.attention} |
| token | {token} |
| feature map | {"used" if c.use_features else "left out"} |
| widths | {c.token_width} -> {c.feature_width} -> {c.embed_width} |

Origin: {about.origin}. Licence of the weights: {about.licence}.

Use: `anyregion recognize PHOTO --model FOLDER --vocabulary "cat, dog" --regions regions.json`

Method: Region Spot (arXiv 2311.01373).
"""
