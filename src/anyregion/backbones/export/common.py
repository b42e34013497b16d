"""What every export shares: weights renamed, the file written, features compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.key_maps import key_maps
from anyregion.errors import AnyRegionError, CheckpointError, InputError
from anyregion.files import atomic_path, writing

TOLERANCE = 2e-5
"""Of the features, as a share of the largest."""
# 0 where both run the same kernels (measured for all four formats on one thread of an x86 CPU);
# other kernels sum in other orders, and a wrong stride or activation differs by far more
SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: a file, or a folder.
        format: `torchvision`, `timm`, `huggingface` or `detectron2`.
        architecture: what the other library calls it.
        usage: the line of Python (of a configuration, for detectron2) that reads it.
        difference: largest difference of the features here and there, as a share of the largest
            feature.
        settings: further settings that go with it.
    """

    path: Path
    format: str
    architecture: str
    usage: str
    difference: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)


def rename_state(encoder: Encoder, layout: str) -> dict[str, Tensor]:
    """The weights in float32 on the CPU, under the keys of a layout that their family has.

    Raises:
        InputError: it has none.
    """
    state = {
        key: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.cpu().clone()
        for key, tensor in encoder.body.state_dict().items()
    }
    keys = key_maps(encoder.name.partition("/")[0], state).get(layout)
    if keys is None:
        raise InputError(f"{encoder.name}: its weights have no names in {layout}")
    renamed = {}
    for key, target in keys.items():
        kind, tensor = target.rpartition(".")[2], state[key]
        # a ConvNeXt's scales of its layers: torchvision's have two axes of length 1 more
        if kind == "layer_scale":
            tensor = tensor.reshape(-1, 1, 1)
        elif kind in ("gamma", "layer_scale_parameter"):
            tensor = tensor.reshape(-1)
        renamed[target] = tensor
    return renamed


def noise_image(encoder: Encoder) -> Tensor:
    """Noise `(1, 3, size, size)`, always the same; no generator of the caller's is touched."""
    noise = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, encoder.size, encoder.size, generator=noise)


def cpu_features(encoder: Encoder, images: Tensor) -> Tensor:
    """The encoder's last map of images, in float32 on the CPU, where the other libraries run."""
    parameter = next(encoder.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        # a copy: the caller may be training this encoder on another device
        encoder = copy.deepcopy(encoder).cpu().float()
    with eval_mode(encoder):
        features: Tensor = encoder(images)
    return features


def compare_features(expected: Tensor, actual: Tensor, what: str) -> float:
    """The largest difference, as a share of the largest feature expected.

    Raises:
        CheckpointError: above `TOLERANCE`, or of another shape.
    """
    if expected.shape != actual.shape:
        raise CheckpointError(
            f"{what}: gives features {tuple(actual.shape)}, not {tuple(expected.shape)}; nothing "
            "was written"
        )
    difference = (expected - actual).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not difference <= TOLERANCE:  # also NaN
        raise CheckpointError(
            f"{what}: its features differ by {float(difference):.2g} of the largest; nothing was "
            "written"
        )
    return float(difference)


@contextmanager
def write_checked(out: Path, content: Mapping[str, Any], *, safetensors: bool) -> Iterator[Path]:
    """Write to a temporary sibling, yield it to be checked, then move it to `out`.

    Args:
        content: named tensors; or for `torch.save` also what stands around them.
        safetensors: whether `.safetensors`, which holds tensors alone, is possible.

    Raises:
        InputError: another suffix, or a folder in the way.
        AnyRegionError: it cannot be written.
    """
    suffixes = SUFFIXES if safetensors else SUFFIXES[:2]
    if out.suffix not in suffixes:
        raise InputError(f"{out}: give a file that ends in {' or '.join(suffixes)}")
    if out.is_dir():
        raise InputError(f"{out}: a folder, not a file")
    with writing(out), atomic_path(out) as temporary:
        try:
            # safetensors refuses what is not contiguous
            if out.suffix == ".safetensors":
                plain = {name: tensor.contiguous() for name, tensor in content.items()}
                save_file(plain, temporary, metadata={"format": "pt"})
            else:
                torch.save(dict(content), temporary)
        except (SafetensorError, RuntimeError) as error:  # what they make of an `OSError`
            raise AnyRegionError(f"{out}: cannot be written ({error})") from None
        yield temporary
