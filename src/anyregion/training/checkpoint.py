"""Checkpoints: one safetensors file with weights, moments and running mean, and a record as JSON.

There is nothing in it that could run. The file is replaced whole, so that a process killed while
it writes leaves the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from anyregion.errors import CheckpointError
from anyregion.torch_utils.weights import compare_shapes, write_tensors

FORMAT = "anyregion.training/1"
Record = dict[str, Any]


def write_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: nn.Module | None,
    record: Mapping[str, Any],
) -> None:
    """Write everything that a run needs to go on.

    Args:
        mean: the running mean of the weights, or None.
        record: plain JSON.

    Raises:
        AnyRegionError: it cannot be written (a full disk); the old file stays.
    """
    tensors = {f"module.{name}": t for name, t in module.state_dict().items()}
    if mean is not None:
        tensors |= {f"mean.{name}": t for name, t in mean.state_dict().items()}
    names = _names(module, optimizer)
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{key}": t for key, t in state.items()}
    write_tensors(path, tensors, {"format": FORMAT, "record": json.dumps(record)})


def read_record(path: Path) -> Record:
    """The record of a checkpoint; its tensors are not read.

    Raises:
        CheckpointError: broken, or no checkpoint of a training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: broken or no checkpoint ({error})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: no checkpoint of a training, or of another version")
    record: Record = json.loads(metadata["record"])
    return record


def restore(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, mean: nn.Module | None
) -> Record:
    """Bring module, optimiser and running mean to where they were, and return the record.

    Raises:
        CheckpointError: broken, or of another module.
    """
    record = read_record(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _load(path, module, _below(tensors, "module."))
    if mean is not None:
        _load(path, mean, _below(tensors, "mean."))
    states = _below(tensors, "optimizer.")
    ours = optimizer.state_dict()
    ours["state"] = {
        index: found
        for index, name in _names(module, optimizer).items()
        if (found := {k: t for k, t in _below(states, f"{name}.").items() if "." not in k})
    }
    optimizer.load_state_dict(ours)
    return record


def _load(path: Path, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    if problem := compare_shapes(tensors, module.state_dict()):
        raise CheckpointError(f"{path}: of another module: {problem}")
    module.load_state_dict(tensors)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _names(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The optimiser numbers its parameters; a name outlives a change of order."""
    names = {id(p): name for name, p in module.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: names[id(p)] for index, p in enumerate(parameters)}
