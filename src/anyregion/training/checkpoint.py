"""Checkpoints: one safetensors file with weights, moments and running mean, and a record as JSON.

Nothing in it can run. The file is replaced whole, so that a process killed while
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
    ema: nn.Module | None,
    record: Mapping[str, Any],
) -> None:
    """Write everything that a run needs to go on; `record` is plain JSON.

    Raises:
        AnyRegionError: it cannot be written (a full disk); the old file stays.
    """
    tensors = {f"module.{name}": t for name, t in module.state_dict().items()}
    if ema is not None:
        tensors |= {f"mean.{name}": t for name, t in ema.state_dict().items()}
    # by the parameters' names, not the optimiser's numbers: a name outlives a new order
    names = _parameter_names(module, optimizer)
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
    try:
        record = json.loads(metadata["record"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: broken (record: {error})") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: broken (its record is no JSON object)")
    return record


def restore(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> Record:
    """Bring module, optimiser and running mean to where they were, and return the record.

    Raises:
        CheckpointError: broken, or of another module.
    """
    record = read_record(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _load(path, module, _with_prefix(tensors, "module."))
    if ema is not None:
        _load(path, ema, _with_prefix(tensors, "mean."))
    moments = _with_prefix(tensors, "optimizer.")
    state = optimizer.state_dict()
    state["state"] = {}
    for index, name in _parameter_names(module, optimizer).items():
        of_parameter = _with_prefix(moments, f"{name}.")
        # `layer.weight.x` begins as `layer.` does, and is of another parameter than `layer`
        if of_parameter := {key: t for key, t in of_parameter.items() if "." not in key}:
            _check_moments(path, name, module.get_parameter(name), of_parameter)
            state["state"][index] = of_parameter
    # an optimiser would take a moment that is missing for one that it never had, or fall over it
    kept = {frozenset(of_parameter) for of_parameter in state["state"].values()}
    if len(kept) > 1:
        lost = sorted(frozenset.union(*kept) - frozenset.intersection(*kept))
        raise CheckpointError(f"{path}: broken (not all parameters have their {', '.join(lost)})")
    optimizer.load_state_dict(state)
    return record


def _check_moments(path: Path, name: str, parameter: Tensor, moments: Mapping[str, Tensor]) -> None:
    """Refuse a weight and moments that are not finite, and moments of another size."""
    for key, values in (("weight", parameter), *moments.items()):
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{path}: broken ({name}: its {key} is not finite)")
        # a count of steps is one number
        if values.ndim and values.shape != parameter.shape:
            raise CheckpointError(f"{path}: broken ({name}: its {key} is of another size)")


def _load(path: Path, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    if problem := compare_shapes(tensors, module.state_dict()):
        raise CheckpointError(f"{path}: of another module: {problem}")
    module.load_state_dict(tensors)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _parameter_names(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The names of the optimiser's parameters by its numbers."""
    names = {id(p): name for name, p in module.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: names[id(p)] for index, p in enumerate(parameters)}
