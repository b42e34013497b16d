"""A trained adapter as a folder: weights, configuration, model card. Frozen parts stay outside."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anyregion.errors import CheckpointError
from anyregion.files import atomic_path, read_json, write_json, writing
from anyregion.localizers.loading import load_localizer
from anyregion.localizers.protocol import TokenSource
from anyregion.regionspot.adapter import Adapter, AdapterConfig, count_parameters
from anyregion.regionspot.encoder import RegionSpotEncoder
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import compare_shapes, read_state_dict, write_tensors
from anyregion.vlms.loading import load_vlm

WEIGHTS = "adapter.safetensors"
CONFIG = "config.json"
FORMAT = "anyregion.regionspot/1"


@dataclass(frozen=True)
class Pretrained:
    """What `config.json` states.

    Attributes:
        adapter: its configuration.
        localizer, vlm: a hub name, or the name of a file in the same folder.
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
) -> None:
    """Write the adapter of an encoder (weights, configuration, model card).

    What it was joined to is written by name, with the VLM's input size.

    Raises:
        AnyRegionError: the folder cannot be written.
    """
    about = Pretrained(
        adapter=encoder.adapter.config,
        localizer=encoder.localizer.name,
        vlm=encoder.vlm.name,
        vlm_image_size=encoder.vlm.image_size,
        source=encoder.source,
        antialias=encoder.antialias,
        licence=licence,
        origin=origin,
    )
    write_folder(Path(folder), about, encoder.adapter.state_dict())


def write_folder(folder: Path, about: Pretrained, weights: dict[str, torch.Tensor]) -> None:
    """Write weights, configuration and model card, each atomically; the weights come first.

    Raises:
        AnyRegionError: they cannot be written.
    """
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
        load_localizer(localizer or _beside(folder, about.localizer), device=device),
        load_vlm(vlm or _beside(folder, about.vlm), device=device, image_size=about.vlm_image_size),
        adapter.to(device),
        source=about.source,
        antialias=about.antialias if antialias is None else antialias,
    )


def stated_vlm(folder: Path) -> tuple[str, int | None]:
    """The VLM that a folder was trained with (hub name, or a file in the folder), its input size.

    Raises:
        CheckpointError: not a folder made by `save_pretrained`.
    """
    about = read_config(folder)
    return _beside(folder, about.vlm), about.vlm_image_size


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


def _beside(folder: Path, name: str) -> str:
    inside = folder / name
    return str(inside) if inside.is_file() else name


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
