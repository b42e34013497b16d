"""A trained module as a folder: graph, numbers, weights, card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from anyregion.compact.region_features import MEMORY, POOLED
from anyregion.compact.region_head import GRAPH, INPUTS, NUMBERS, Calibration
from anyregion.compact.text_encoder import WIDTH
from anyregion.compact.training.onnx_export import export, rounded
from anyregion.compact.training.region_head_module import RegionHeadConfig, RegionHeadModule
from anyregion.errors import CheckpointError
from anyregion.files import atomic_path, read_json, write_json, writing
from anyregion.torch_utils.weights import compare_shapes, read_state_dict, write_tensors

WEIGHTS = "namer_weights.safetensors"
CONFIG = "namer.json"
FORMAT = "anyregion.compact.namer/1"


def save_region_head(
    module: RegionHeadModule,
    folder: Path,
    numbers: Calibration,
    *,
    licence: str,
    figures: dict[str, float],
) -> None:
    """Write the module, ready for `compact` (graph and numbers), and for going on (weights).

    Raises:
        AnyRegionError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: t.half().contiguous() for name, t in rounded(module).state_dict().items()}
    write_tensors(folder / WEIGHTS, weights, {"format": FORMAT, "licence": licence})
    with writing(folder):
        export_region_head(module, folder / GRAPH)
        with atomic_path(folder / NUMBERS) as temporary:
            temporary.write_bytes(numbers.to_bytes())
        about = {
            "format": FORMAT,
            "module": asdict(module.config),
            "licence": licence,
            "names": list(numbers.names),
            "figures": figures,
        }
        write_json(folder / CONFIG, about, indent=2)


def load_region_head_module(folder: Path) -> RegionHeadModule:
    """The module of a folder that `save_region_head` made, as its graph is (rounded to float16).

    Raises:
        CheckpointError: missing, broken, or not fitting its configuration.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}: not a folder made by training compact")
    about = read_json(folder / CONFIG)
    try:
        module = RegionHeadModule(RegionHeadConfig(**about["module"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: malformed ({error})") from None
    weights = read_state_dict(folder / WEIGHTS)
    if problem := compare_shapes(weights, module.state_dict()):
        raise CheckpointError(f"{folder / WEIGHTS}: {problem}")
    module.load_state_dict({name: t.float() for name, t in weights.items()})
    return module.eval()


def export_region_head(module: RegionHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.region_head.RegionHead` runs.

    How many regions there are, and how many cells, is said when it runs.
    """
    regions, cells = Dim("regions", min=1, max=65536), Dim("cells", min=2, max=65536)
    export(
        _OneImage(rounded(module)),
        (
            torch.rand(3, POOLED),
            torch.rand(3, WIDTH),
            torch.tensor([[0.1, 0.1, 0.5, 0.6]] * 3),
            torch.rand(24, MEMORY),
            torch.rand(24, 2),
            torch.tensor([0.75, 1.0]),
        ),
        names=INPUTS,
        outputs=("embeddings",),
        shapes=({0: regions}, {0: regions}, {0: regions}, {0: cells}, {0: cells}, {}),
        path=path,
    )


class _OneImage(nn.Module):
    def __init__(self, module: RegionHeadModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        pooled: Tensor,
        conse: Tensor,
        boxes: Tensor,
        memory: Tensor,
        cells: Tensor,
        shape: Tensor,
    ) -> Tensor:
        return self.module.embed(pooled, conse, boxes, memory, cells, shape)
