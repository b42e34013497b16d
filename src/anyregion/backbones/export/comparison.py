"""What every export shares: the features compared, the file written, what came of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.errors import AnyRegionError, CheckpointError, InputError
from anyregion.files import atomic_path, writing

TOLERANCE = 2e-5
"""Of the features, as a share of the largest: other kernels, other orders of summing."""
SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: a file, or a folder.
        format: `torchvision`, `timm`, `huggingface` or `detectron2`.
        architecture: what the other library calls it.
        opened: the line of Python (of a configuration, for detectron2) that reads it.
        difference: largest difference of the features here and there, as a share of the largest
            feature.
        settings: further settings that go with it.
    """

    path: Path
    format: str
    architecture: str
    opened: str
    difference: float
    settings: Mapping[str, Any]


def noise(encoder: Encoder) -> Tensor:
    """Noise `(1, 3, size, size)`, always the same; no generator of the caller's is touched."""
    chance = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, encoder.size, encoder.size, generator=chance)


def plain_copy(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's weights in float32 on the CPU, under its library's names."""
    return {
        name: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.cpu().clone()
        for name, tensor in encoder.body.state_dict().items()
    }


def features(encoder: Encoder, images: Tensor) -> Tensor:
    """The encoder's last map of images, at rest, in float32 on the CPU (where the others run)."""
    parameter = next(encoder.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        encoder = copy.deepcopy(encoder).cpu().float()
    with eval_mode(encoder):
        found: Tensor = encoder(images)
    return found


def difference(ours: Tensor, theirs: Tensor, what: str) -> float:
    """The largest difference, as a share of our largest feature.

    Raises:
        CheckpointError: above `TOLERANCE`, or of another shape.
    """
    if ours.shape != theirs.shape:
        raise CheckpointError(
            f"{what}: gives features {tuple(theirs.shape)}, not {tuple(ours.shape)}; nothing was "
            "written"
        )
    share = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12))
    if not share <= TOLERANCE:  # also NaN
        raise CheckpointError(
            f"{what}: its features differ by {share:.2g} of the largest; nothing was written"
        )
    return share


@contextmanager
def written_file(out: Path, content: Mapping[str, Any], tensors_alone: bool) -> Iterator[Path]:
    """Write to a temporary sibling, yield it to be checked, then move it to `out`.

    Args:
        content: named tensors; or for `torch.save` also what stands around them.
        tensors_alone: whether `.safetensors` is possible.

    Raises:
        InputError: another suffix, or a folder in the way.
        AnyRegionError: it cannot be written.
    """
    suffixes = SUFFIXES if tensors_alone else SUFFIXES[:2]
    if out.suffix not in suffixes:
        raise InputError(f"{out}: give a file that ends in {' or '.join(suffixes)}")
    if out.is_dir():
        raise InputError(f"{out}: a folder, not a file")
    with writing(out), atomic_path(out) as temporary:
        try:
            if out.suffix == ".safetensors":
                plain = {name: tensor.contiguous() for name, tensor in content.items()}
                save_file(plain, temporary, metadata={"format": "pt"})
            else:
                torch.save(dict(content), temporary)
        except (SafetensorError, RuntimeError) as error:  # what they make of an `OSError`
            raise AnyRegionError(f"{out}: cannot be written ({error})") from None
        yield temporary
