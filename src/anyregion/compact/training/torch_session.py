"""The heads in torch where inference expects a session of ONNX Runtime; their weights' files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from anyregion.compact.image_encoder import CHANNELS
from anyregion.compact.training.frozen_maps import as_maps
from anyregion.compact.training.mask_head_module import MaskHeadConfig, MaskHeadModule
from anyregion.compact.training.proposal_head_module import ProposalHeadModule
from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import read_state_dict, write_tensors

M = TypeVar("M", bound=nn.Module)
Feed = Mapping[str, NDArray[np.float32]]


class MaskHeadSession:
    """Runs a `MaskHeadModule` as its exported graph would be: validation is inference."""

    def __init__(self, head: MaskHeadModule) -> None:
        self._head = head

    def run(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """See `anyregion.compact.mask_head.MaskHead`."""
        with _answering(self._head) as device:
            maps = {name: cells.to(device) for name, cells in as_maps(feed).items()}
            frame, boxes = (torch.from_numpy(feed[name]).to(device) for name in ("frame", "boxes"))
            logits, quality = self._head([maps], [frame], [boxes])
        margin = np.array(self._head.config.margin, dtype=np.float32)
        found = {"inside": _array(logits), "scores": _array(quality), "margin": margin}
        return [found[name] for name in outputs]


class ProposalHeadSession:
    """Runs a `ProposalHeadModule` as its exported graph would be."""

    def __init__(self, finder: ProposalHeadModule) -> None:
        self._finder = finder

    def run(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """See `anyregion.compact.proposal_head.ProposalHead`."""
        with _answering(self._finder) as device:
            maps = {name: cells.to(device) for name, cells in as_maps(feed).items()}
            boxes, scores, given = self._finder([maps])[0]
        found = {
            "boxes": boxes.float().cpu().numpy(),
            "scores": _array(scores),
            "point_scores": _array(given),
        }
        return [found[name] for name in outputs]


def bare(module: nn.Module, kind: type[M]) -> M:
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


def write_head(head: nn.Module, path: Path, config: Mapping[str, Any]) -> None:
    """Write a head's weights, its configuration in the metadata."""
    about = {
        "head": "MaskHead" if isinstance(head, MaskHeadModule) else "Finder",
        "config": json.dumps(config),
        "maps": json.dumps(CHANNELS),
    }
    write_tensors(path, {k: v.contiguous() for k, v in head.state_dict().items()}, about)


def read_mask_head(path: Path) -> MaskHeadModule:
    """A mask head that was written before.

    Raises:
        CheckpointError: it cannot be read, or is no mask head.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            about = opened.metadata() or {}
        config = MaskHeadConfig(**json.loads(about["config"]))
        head = MaskHeadModule(config)
        head.load_state_dict(read_state_dict(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a mask head ({error})") from None
    return head.eval()


@contextmanager
def _answering(module: nn.Module) -> Iterator[torch.device]:
    """Without gradients and in evaluation, then back as it was."""
    before = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield next(module.parameters()).device
    finally:
        module.train(before)


def _array(logits: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(logits.float().sigmoid().cpu().numpy(), dtype=np.float32)
