"""Modules as ONNX graphs with float16 weights, for inference without torch."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from anyregion.files import atomic_path

OPSET = 18
_SMALLEST_HALVED = 64

M = TypeVar("M", bound=nn.Module)


def rounded(module: M) -> M:
    """A copy with every weight that the graph stores as float16 rounded to it."""
    copied = copy.deepcopy(module).eval()
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.numel() >= _SMALLEST_HALVED:
                parameter.copy_(parameter.half().float())
    return copied


def export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    names: Sequence[str],
    outputs: Sequence[str],
    shapes: tuple[dict[int, Any], ...],
    path: Path,
) -> None:
    """Write a module whose weights are `rounded` as a graph.

    Args:
        module: called with the tensors of `example`.
        example: arguments to trace with.
        names, outputs: of the graph.
        shapes: per argument its run-time dimensions, as `torch.export.Dim`.
        path: the file, written whole or not at all.
    """
    import onnx

    noisy = logging.getLogger("torch.onnx")
    before = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(names),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    finally:
        noisy.setLevel(before)
    model = program.model_proto  # type: ignore[union-attr]
    _halve(model)
    onnx.checker.check_model(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _halve(model: Any) -> None:
    """Store large weights as the float16 they are, cast back where the graph reads them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _SMALLEST_HALVED:
            continue
        if not np.array_equal(values.astype(np.float16), values):
            continue  # a constant, not a weight: those are rounded already
        read = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{read}_half"))
        casts.append(helper.make_node("Cast", [f"{read}_half"], [read], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    known = [info for info in model.graph.value_info if not info.name.endswith("_half")]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    for node in model.graph.node:
        del node.metadata_props[:]  # where in this machine's files each node came from
        node.doc_string = ""
