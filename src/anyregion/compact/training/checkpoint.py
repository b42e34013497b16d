"""Trained heads as files: a folder that `compact` opens, and weights to go on from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import nn

from anyregion.compact.assets import CALIBRATION, IMAGE_ENCODER, REGION_HEAD
from anyregion.compact.calibration import Calibration
from anyregion.compact.image_encoder import CHANNELS
from anyregion.compact.region_head import CONFIG, README, WEIGHTS
from anyregion.compact.training.export import export_region_head, rounded
from anyregion.compact.training.modules import MaskHeadConfig, MaskHeadModule
from anyregion.compact.training.proposal_module import ProposalHeadConfig, ProposalHeadModule
from anyregion.compact.training.region_head_module import RegionHeadModule
from anyregion.errors import CheckpointError
from anyregion.files import atomic_path, write_json, writing
from anyregion.model_card import ModelCard, write_card
from anyregion.torch_utils.weights import read_state_dict, write_tensors
from anyregion.vocabulary import Vocabulary

FORMAT = "anyregion.compact.namer/1"

M = TypeVar("M", bound=nn.Module)

_LIMITS = (
    "These images may have chosen the best step: others judge the head better. What the frozen "
    "encoders cannot tell apart it does not either (anyregion's docs/reference/model_cards.md)."
)


def save_region_head(
    module: RegionHeadModule,
    folder: Path,
    calibration: Calibration,
    *,
    card: ModelCard,
    metrics: Mapping[str, float],
    vocabulary: Vocabulary | None = None,
    encoder: Path | None = None,
) -> None:
    """Write the module, ready for `compact` (graph, numbers, the names that it gives where none are
    asked for, the graph of its image encoder unless that is the built-in one), and for going on
    (weights).

    Raises:
        AnyRegionError: they cannot be written.
    """
    # there is no calibration error where no region of the validation has a trained name
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    folder.mkdir(parents=True, exist_ok=True)
    # as the graph stores them: who goes on begins at what was measured
    weights = {name: t.half().contiguous() for name, t in rounded(module).state_dict().items()}
    write_tensors(folder / WEIGHTS, weights, {"format": FORMAT, "licence": card.licence})
    with writing(folder):
        export_region_head(module, folder / REGION_HEAD)
        with atomic_path(folder / CALIBRATION) as temporary:
            temporary.write_bytes(calibration.to_bytes())
        if encoder is not None:
            with atomic_path(folder / IMAGE_ENCODER) as temporary:
                temporary.write_bytes(encoder.read_bytes())
        content = {
            "format": FORMAT,
            "module": asdict(module.config),
            "licence": card.licence,
            "names": list(calibration.names),
            "figures": dict(metrics),
        }
        write_json(folder / CONFIG, content, indent=2)
    write_card(
        folder,
        card,
        weights=[REGION_HEAD, CALIBRATION, WEIGHTS, *([IMAGE_ENCODER] if encoder else [])],
        vocabulary=vocabulary,
        readme=f"{README}\n{_figures(metrics)}" if metrics else README,
    )


def _figures(metrics: Mapping[str, float]) -> str:
    """A table of what the head reaches, for its card."""
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return "\n".join(
        ["| on the images that validated it | |", "| --- | --- |", *rows, "", _LIMITS, ""]
    )


def write_head(head: MaskHeadModule | ProposalHeadModule, path: Path) -> None:
    """Write the weights of a mask head or proposal head, its configuration in the metadata."""
    metadata = {
        "head": "MaskHead" if isinstance(head, MaskHeadModule) else "Finder",  # the format's names
        "config": json.dumps(asdict(head.config)),
        "maps": json.dumps(CHANNELS),
    }
    write_tensors(path, {k: v.contiguous() for k, v in head.state_dict().items()}, metadata)


def read_mask_head(path: Path) -> MaskHeadModule:
    """A mask head that `write_head` wrote.

    Raises:
        CheckpointError: it cannot be read, or is no mask head.
    """
    return _read_head(path, MaskHeadModule, MaskHeadConfig, "mask head")


def read_proposal_head(path: Path) -> ProposalHeadModule:
    """A proposal head that `write_head` wrote.

    Raises:
        CheckpointError: it cannot be read, or is no proposal head.
    """
    return _read_head(path, ProposalHeadModule, ProposalHeadConfig, "proposal head")


def _read_head(path: Path, kind: Callable[[Any], M], config: Callable[..., Any], title: str) -> M:
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        head = kind(config(**json.loads(metadata["config"])))
        head.load_state_dict(read_state_dict(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a {title} ({error})") from None
    return head.eval()


def unwrapped(module: nn.Module, kind: type[M]) -> M:
    """The module itself, out of what a running mean or several processes wrapped around it.

    Raises:
        TypeError: there is no such module inside.
    """
    while not isinstance(module, kind):
        inner = getattr(module, "module", None)
        if not isinstance(inner, nn.Module):
            raise TypeError(f"{type(module).__name__} holds no {kind.__name__}")
        module = inner
    return module
