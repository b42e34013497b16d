"""ONNX Runtime sessions: imported only when a graph is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyregion.compact.assets import read_asset
from anyregion.errors import CheckpointError, InputError

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}


def load_graph(name: str, *, threads: int | None, device: str) -> Any:
    """An `onnxruntime.InferenceSession` of one of the assets.

    Args:
        name: file among the assets.
        threads: for one operator; None leaves it to ONNX Runtime (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for (`cuda`, `cuda:1`, `mps`).

    Raises:
        InputError: this ONNX Runtime cannot use the device.
        CheckpointError: the asset is missing or altered.
    """
    return start_session(read_asset(name), threads=threads, device=device)


def start_session(graph: bytes, *, threads: int | None, device: str) -> Any:
    """An `onnxruntime.InferenceSession` of a graph's bytes; the rest as for `load_graph`.

    Raises:
        InputError: this ONNX Runtime cannot use the device.
        CheckpointError: no graph that ONNX Runtime can run.
    """
    # here and not above: importing it takes 45 ms, and not every command needs it
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    kind, _, number = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider not in ort.get_available_providers() or not (number or "0").isdigit():
        raise InputError(
            f"compact cannot run on {device!r}: the ONNX Runtime installed here offers "
            f"{', '.join(k for k, p in _PROVIDERS.items() if p in ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    settings = {"device_id": number} if number else {}
    # the CPU takes the operators that another provider does not have
    providers: Sequence[Any] = [(provider, settings), (_PROVIDERS["cpu"], {})]
    try:
        return ort.InferenceSession(
            graph, options, providers=providers[: 1 if kind == "cpu" else 2]
        )
    except (states.InvalidProtobuf, states.InvalidGraph, states.Fail) as error:
        raise CheckpointError(f"not a graph that ONNX Runtime can run ({error})") from None
