"""Where a region head's training begins: the built-in one, rebuilt, and what it has to keep."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load
from torch import Tensor
from torch.nn import functional as F

from anyregion.compact.assets import CALIBRATION, KEPT_REGIONS, REGION_HEAD, read_asset
from anyregion.compact.calibration import Calibration
from anyregion.compact.region_head import CONFIG, WEIGHTS
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.errors import CheckpointError, InputError
from anyregion.files import read_json
from anyregion.torch_utils.weights import read_state_dict

HELD_OUT = 6  # of so many stored regions one is never trained on: `kept` is measured on it too


@dataclass(frozen=True, eq=False)
class KeptRegions:
    """Stored features of regions that the built-in region head was trained on: no photographs.

    Attributes:
        pooled: `(K, 3168)`, as in `RegionFeatures`.
        answers: `(K, 384)`, the built-in head's embeddings, not normalised.
        names: `(C, 384)` text embeddings of the names it was trained on, of length 1.
        calibration: the built-in head's.
    """

    pooled: Tensor
    answers: Tensor
    names: Tensor
    calibration: Calibration

    @property
    def trained(self) -> list[int]:
        """Rows to train on."""
        return [row for row in range(len(self.pooled)) if row % HELD_OUT]

    @property
    def held_out(self) -> list[int]:
        """Rows to measure on."""
        return list(range(0, len(self.pooled), HELD_OUT))

    def best(self, embeddings: Tensor) -> Tensor:
        """Which of the trained names each embedding is nearest to, `(N,)`."""
        return (F.normalize(embeddings.float(), dim=-1) @ self.names.T.to(embeddings)).argmax(1)


def load_kept_regions() -> KeptRegions:
    """The stored regions of the built-in model."""
    arrays = load(read_asset(KEPT_REGIONS))
    calibration = Calibration.from_bytes(read_asset(CALIBRATION))
    return KeptRegions(
        torch.from_numpy(arrays["pooled"].astype(np.float32)),
        torch.from_numpy(arrays["answers"].astype(np.float32)),
        torch.from_numpy(calibration.trained),
        calibration,
    )


def built_in_module() -> RegionHeadModule:
    """The built-in region head in torch, its weights exactly those of the shipped graph.

    Raises:
        CheckpointError: the graph is not one of a `RegionHeadModule`.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(read_asset(REGION_HEAD)).graph
    # the graph stores large weights as float16, cast back where they are read
    stored = {
        tensor.name.removesuffix("_half"): torch.from_numpy(
            numpy_helper.to_array(tensor).astype(np.float32)
        )
        for tensor in graph.initializer
    }
    makers = {name: node for node in graph.node for name in node.output}
    module = RegionHeadModule(RegionHeadConfig())
    state: dict[str, Tensor] = {}
    try:
        for name in module.state_dict():
            if f"module.{name}" in stored:
                state[name] = stored[f"module.{name}"]
                continue
            # the exporter folds the transposition of a few matrices: found by the bias added next
            bias = f"module.{name.removesuffix('weight')}bias"
            (add,) = (node for node in graph.node if bias in node.input)
            (product,) = (makers[i] for i in add.input if i != bias)
            state[name] = stored[product.input[1]].T.contiguous()
        module.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{REGION_HEAD}: not the graph of a region head ({error})") from None
    return module.eval()


def starting_module(start: str, adapter: int, dropout: float) -> RegionHeadModule:
    """The built-in head, frozen, with an adapter that is trained; at first it answers as before.

    Args:
        start: `shipped`, or the folder of a head that was trained from it, to go on from.
        adapter: hidden width of a new adapter.
        dropout: in the adapter.

    Raises:
        InputError: a folder of another kind of head.
    """
    base = built_in_module()
    if start == "shipped":
        module = RegionHeadModule(replace(base.config, adapter=adapter, adapter_dropout=dropout))
        module.load_state_dict(base.state_dict(), strict=False)
        return module
    folder = Path(start)
    try:
        config = RegionHeadConfig(**read_json(folder / CONFIG)["module"])
        weights = {k: v.float() for k, v in read_state_dict(folder / WEIGHTS).items()}
        module = RegionHeadModule(replace(config, adapter_dropout=dropout))
        module.load_state_dict(weights)
        # saved as float16, also the few that the graph has in float32
        same = all(torch.equal(weights[k], v.half().float()) for k, v in base.state_dict().items())
    except (KeyError, TypeError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise InputError(
            f"compact.start: {folder} holds no region head to go on from ({error})"
        ) from None
    if not config.adapter or not same:
        raise InputError(
            f"compact.start: {folder} was not trained from this version's built-in head, so that "
            "what it has to keep is not known; give shipped, or none"
        )
    module.load_state_dict(base.state_dict(), strict=False)
    return module


def starting_calibration(start: str) -> Calibration:
    """The calibration of the head where training begins.

    Args:
        start: see `starting_module`.

    Raises:
        InputError: a folder without one.
        CheckpointError: it is damaged.
    """
    if start == "shipped":
        return Calibration.from_bytes(read_asset(CALIBRATION))
    path = Path(start) / CALIBRATION
    try:
        return Calibration.from_bytes(path.read_bytes())
    except OSError as error:
        raise InputError(f"compact.start: {path} cannot be read ({error})") from None
