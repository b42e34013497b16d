"""Torch modules traced to ONNX graphs, and graphs written to files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from anyregion.errors import InputError
from anyregion.files import atomic_path

OPSET = 18  # what torch's exporter writes natively: others it has to convert

Shapes: TypeAlias = tuple[dict[int, Any], ...]
"""Per input the `torch.export.Dim` of each axis that varies."""


class Graph(Protocol):
    """A module with the signature of its graph.

    Attributes:
        inputs, outputs: their names, in the order of `forward`.
    """

    @property
    def inputs(self) -> Sequence[str]:
        """See the class."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """See the class."""
        ...

    def eval(self) -> Any:
        """See `torch.nn.Module`."""
        ...


def trace(graph: Graph, example: tuple[Tensor, ...], shapes: Shapes) -> Any:
    """A module as an `onnx.ModelProto`, without the places in files that its nodes came from."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every input that is not used
    try:
        with warnings.catch_warnings():
            # of two inputs whose axes are alike, it says that one name serves both
            warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
            program = torch.onnx.export(
                graph.eval(),
                example,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                opset_version=OPSET,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    model = program.model_proto  # type: ignore[union-attr]
    for node in model.graph.node:
        del node.metadata_props[:]  # where in this machine's files each node came from
        node.doc_string = ""
    return model


def write_graph(model: Any, path: Path) -> None:
    """Write an `onnx.ModelProto`; the file is written all or not at all.

    Raises:
        InputError: more than the 2 GiB that one file of ONNX may hold.
    """
    size = model.ByteSize()
    if size >= 2**31:
        raise InputError(f"{path.name}: {size / 2**30:.1f} GiB, and a file of ONNX holds 2")
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def with_outputs(model: Any, outputs: Sequence[str]) -> Any:
    """The part of an `onnx.ModelProto` that some of its outputs need, with all of its inputs."""
    from onnx.utils import Extractor

    inputs = [value.name for value in model.graph.input]
    return Extractor(model).extract_model(inputs, list(outputs))
