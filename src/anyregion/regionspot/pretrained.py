"""The folder of a trained adapter: weights, configuration, model card, and where its parts are.

The two frozen models, its parts, are stated by name: a hub name, an absolute path, or a file or
folder inside. Nothing but OWNER/MODEL is ever looked up on a hub, and of a folder without a card,
which may have meant a folder by it, only where the owner is known (`resolve_part`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anyregion.errors import CheckpointError, InputError
from anyregion.files import atomic_path, read_json, write_json, writing
from anyregion.localizers.protocol import TokenSource
from anyregion.model_card import ModelCard, read_card, write_card
from anyregion.regionspot.adapter import Adapter, AdapterConfig
from anyregion.regionspot.prompting import split_prompting
from anyregion.torch_utils.hub import WEIGHT_SUFFIXES, is_hub_name, warn_of_fetch
from anyregion.torch_utils.weights import compare_shapes, read_state_dict, write_tensors
from anyregion.vlms.loading import OPEN_CLIP, split_open_clip
from anyregion.vocabulary import Vocabulary

WEIGHTS = "adapter.safetensors"
CONFIG = "config.json"
FORMAT = "anyregion.regionspot/1"
# owners on the hub whose models the recipes and the lists of models name
_HUB_OWNERS = ("facebook", "google", "laion", "openai", "syscv-community")


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
    licence: str = "not stated"
    origin: str = "not stated"


def write_folder(
    folder: Path,
    config: Pretrained,
    weights: Mapping[str, torch.Tensor],
    *,
    terms: str = "not stated",
    vocabulary: Vocabulary | None = None,
) -> None:
    """Write weights, configuration, names and card, each atomically; the weights come first.

    Local parts are stated by absolute path, those inside the folder relative to it, and both with
    the hash of their content.

    Args:
        folder: made if it is missing.
        terms: of the data that it was trained on.
        vocabulary: the names that it was trained on.

    Raises:
        AnyRegionError: they cannot be written.
    """
    config = replace(
        config,
        localizer=_portable_name(folder, config.localizer),
        vlm=_portable_name(folder, config.vlm),
    )
    # in the file too, which may leave the folder
    metadata = {"format": FORMAT, "licence": config.licence, "origin": config.origin}
    write_tensors(folder / WEIGHTS, weights, metadata)
    with writing(folder):
        write_json(folder / CONFIG, {"format": FORMAT, **asdict(config)}, indent=2)
    inner = split_prompting(config.localizer)[1]
    parts = [_split_name(name)[1] for name in (inner, config.vlm)]
    write_card(
        folder,
        ModelCard(licence=config.licence, terms=terms, origin=config.origin),
        weights=[WEIGHTS, *(path for path in parts if path and (folder / path).exists())],
        vocabulary=vocabulary,
        readme=_readme(config),
    )


def resolve_part(folder: Path, name: str) -> str:
    """What to load for the localizer or VLM that a folder states: a local path or a hub name.

    A relative path is looked for in the folder, from the working directory, and from the folders
    above: what was written before paths were absolute is relative to where the training began.
    `models/sam` in such a folder may be a path or OWNER/MODEL: it is a hub's name if the owner is
    known or the model lies in the hub's cache.

    Raises:
        InputError: the name of a local file or folder that is in none of these places.
        CheckpointError: its content is not the one that the folder was saved with.
    """
    prompting, inner = split_prompting(name)
    if prompting:
        return prompting + resolve_part(folder, inner)
    prefix, path = _split_name(name)
    if not path:
        return name
    card = read_card(folder)
    if (folder / path).exists():
        if card is not None:
            card.check(folder, path)
        return prefix + str(folder / path)
    # a path with a hash is absolute, so it is in no other place; folders without are older
    if card is None or path not in card.sha256:
        if Path(path).expanduser().exists():
            return name
        # a run folder lies below the folder that its training was started in
        for parent in folder.absolute().parents:
            if (parent / path).exists():
                return prefix + str(parent / path)
        known = card is not None or name.split("/")[0] in _HUB_OWNERS
        if not prefix and is_hub_name(name):
            if _cached_on_hub(name):
                return name
            if known:
                warn_of_fetch(folder / CONFIG, name)
                return name
    raise InputError(
        f"{folder / CONFIG} names {name}, and there is no such file or folder in {folder}, in "
        f"{Path.cwd()} or above the former; nothing was fetched: give the path of this model, or "
        "its name on a hub, as localizer or vlm"
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


def load_adapter(folder: Path, config: AdapterConfig) -> Adapter:
    """Load `adapter.safetensors` of a folder into an adapter of that configuration.

    Raises:
        CheckpointError: missing, damaged, or of another configuration.
    """
    if card := read_card(folder):
        card.check(folder, WEIGHTS)
    return adapter_from_state(read_state_dict(folder / WEIGHTS), config, str(folder / WEIGHTS))


def adapter_from_state(
    weights: dict[str, torch.Tensor], config: AdapterConfig, where: str
) -> Adapter:
    """An adapter with these weights; `CheckpointError` lists what is missing or of another size."""
    # on the meta device no time goes into random weights that are replaced at once
    with torch.device("meta"):
        adapter = Adapter(config)
    if problem := compare_shapes(weights, adapter.state_dict()):
        raise CheckpointError(f"{where}: {problem}")
    adapter.load_state_dict({n: w.float() for n, w in weights.items()}, assign=True)
    return adapter.eval()


def _portable_name(folder: Path, name: str) -> str:
    """The name to state for a part: local paths absolute, or relative where they lie inside."""
    prompting, inner = split_prompting(name)
    if prompting:
        return prompting + _portable_name(folder, inner)
    prefix, path = _split_name(name)
    local = Path(path).expanduser()
    # a file of this name in the folder goes before one in the working directory
    beside = not local.is_absolute() and (folder / path).exists()
    if not path or beside or not local.exists():
        return name
    if _is_inside(folder, local):
        return prefix + str(local.resolve().relative_to(folder.resolve()))
    return prefix + str(local.absolute())


def copy_part(folder: Path, part: str, name: str) -> str:
    """Copy a localizer or VLM into a folder, and return the name of the copy.

    Args:
        folder: made if it is missing.
        part: `localizer` or `vlm`: what the copy is called.
        name: as `load_localizer` and `load_vlm` take it. Models of the hub are copied from its
            cache on this machine.

    Raises:
        InputError: a model whose files are not known, as the weights that open_clip downloads.
        AnyRegionError: it cannot be written.
    """
    prompting, inner = split_prompting(name)
    if prompting:
        return prompting + copy_part(folder, part, inner)
    prefix, path = _split_name(name)
    local = Path(path).expanduser()
    if path and not local.exists() and not prefix:
        local = _cached_on_hub(name) or local
    if not path or not local.exists():
        raise InputError(
            f"{name}: its files cannot be copied; load it from a file or folder first, or leave "
            "the frozen models outside"
        )
    if _is_inside(folder, local):
        return name
    target = folder / (part + local.suffix if local.is_file() else part)
    with writing(target):
        if local.is_dir():
            shutil.copytree(local, target, dirs_exist_ok=True)
        else:
            with atomic_path(target) as temporary:
                shutil.copyfile(local, temporary)
    return prefix + str(target)


def _cached_on_hub(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json") if is_hub_name(name) else None
    return Path(config).parent if isinstance(config, str) else None


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
    # tags of open_clip have neither slash nor suffix
    if weights is None or not ("/" in weights or weights.endswith(WEIGHT_SUFFIXES)):
        return name, ""
    return f"{OPEN_CLIP}{model}/", weights


def _readme(config: Pretrained) -> str:
    with torch.device("meta"):
        learned = sum(p.numel() for p in Adapter(config.adapter).parameters())
    c = config.adapter
    token = "mask decoder's output" if config.source == "decoder" else "prompt encoder's, averaged"
    size = "its own" if config.vlm_image_size is None else f"{config.vlm_image_size} px"
    return f"""---
library_name: anyregion
license: {config.licence}
tags: [region-recognition, open-vocabulary, regionspot]
---
# RegionSpot adapter

Joins the frozen localizer `{config.localizer}` and the frozen vision-language model `{config.vlm}`
(input {size}). {learned / 1e6:.1f} M parameters, all of them here; the frozen models are not.

| setting | value |
| --- | --- |
| decoder | {c.layers} layers, {c.heads} heads, feed-forward {c.feedforward} |
| attention among regions | {c.attention} |
| token | {token} |
| feature map | {"used" if c.use_features else "left out"} |
| widths | {c.token_width} -> {c.feature_width} -> {c.embed_width} |

Use: `anyregion recognize PHOTO --model FOLDER --vocabulary "cat, dog" --regions regions.json`

Method: Region Spot (arXiv 2311.01373).
"""
