"""The trained module of `compact` on ONNX Runtime, and the numbers that belong to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anyregion.compact.assets import read_asset
from anyregion.compact.onnx_session import start_session
from anyregion.compact.region_features import RegionFeatures
from anyregion.errors import CheckpointError

Floats = NDArray[np.float32]
GRAPH = "namer.onnx"
NUMBERS = "namer.safetensors"
INPUTS = ("pooled", "conse", "boxes", "memory", "cells", "shape")
AT_ONCE = 256
"""Regions that attend to the image together: more take more memory, and no less time."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the module needs beside its graph.

    Attributes:
        trained: `(K, 384)` embeddings of the names it was trained on, of length 1.
        names: those names.
        novelty: see `CalibratedTextEncoder`.
        scale, bias: from a cosine to a logit whose sigmoid is the probability that the best name
            is right, fitted on photographs not trained on.
    """

    trained: Floats
    names: tuple[str, ...]
    novelty: float
    scale: float
    bias: float

    def to_bytes(self) -> bytes:
        """As the content of a safetensors file."""
        about = {
            "names": self.names,
            "novelty": self.novelty,
            "scale": self.scale,
            "bias": self.bias,
        }
        return save({"trained": self.trained.astype(np.float16)}, {"about": json.dumps(about)})

    @staticmethod
    def from_bytes(content: bytes) -> Calibration:
        """Read what `to_bytes` gave.

        Raises:
            CheckpointError: damaged, or another kind of file.
        """
        try:
            trained = load(content)["trained"].astype(np.float32)
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            about = json.loads(header["__metadata__"]["about"])
            return Calibration(
                trained=trained,
                names=tuple(str(name) for name in about["names"]),
                novelty=float(about["novelty"]),
                scale=float(about["scale"]),
                bias=float(about["bias"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{NUMBERS}: damaged ({error})") from None


class RegionHead:
    """The graph: evidence to embeddings.

    Args:
        session: an `onnxruntime.InferenceSession` of what `compact.training` exported.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def embed(self, evidence: RegionFeatures) -> Floats:
        """Embeddings of one image's regions, `(N, 384)`, length 1."""
        count = len(evidence.pooled)
        rows = [np.zeros((0, evidence.conse.shape[1]), dtype=np.float32)]
        for start in range(0, count, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            feed = {name: getattr(evidence, name) for name in INPUTS}
            feed |= {name: feed[name][part] for name in ("pooled", "conse", "boxes")}
            (found,) = self._session.run(["embeddings"], feed)
            rows.append(found)
        out = np.concatenate(rows)
        unit: Floats = out / (np.linalg.norm(out, axis=1, keepdims=True) + np.float32(1e-7))
        return unit


def load_region_head(
    folder: Path | None = None, *, threads: int | None = None, device: str = "cpu"
) -> tuple[RegionHead, Calibration, str]:
    """The graph, its numbers, and a hash of both.

    Args:
        folder: as training made it; None for the built-in module.
        threads, device: see `load_graph`.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: a file is missing, altered or damaged.
    """
    if folder is None:
        graph, numbers = read_asset(GRAPH), read_asset(NUMBERS)
    else:
        graph, numbers = (_read(folder / name) for name in (GRAPH, NUMBERS))
    session = start_session(graph, threads=threads, device=device)
    digest = hashlib.sha256(graph + numbers).hexdigest()
    return RegionHead(session), Calibration.from_bytes(numbers), digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise CheckpointError(f"{path}: missing: not a folder made by training compact") from None
