"""detectron2's ResNet as its documentation gives it: names, shapes, settings, and what it computes.

detectron2 itself can hardly be installed; this is what an export is checked against. A stem `conv1`
of 7 x 7 with stride 2 and a 3 x 3 pooling; stages `res2` to `res5`; a `shortcut` in the first block
where the width changes; below every convolution a `norm` of four tensors. A stage's stride is in
its first block: in `conv1` of a basic block, in `conv2` of a bottleneck (`STRIDE_IN_1X1` False).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anyregion.backbones.key_maps import BASIC_DEPTHS, RESNET_DEPTHS, count_blocks, resnet_depth
from anyregion.errors import InputError

NORM_EPS = 1e-5
Settings = Mapping[str, Any]


def settings_of(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """`MODEL.RESNETS.*` as weights under detectron2's names want them.

    Raises:
        InputError: blocks in numbers that it has no depth for.
    """
    blocks = count_blocks(state, ("res2", "res3", "res4", "res5"))
    bottleneck = "res2.0.conv3.weight" in state
    depth = resnet_depth(blocks, bottleneck=bottleneck)
    if depth is None:
        raise InputError(
            f"{where}: {blocks} blocks; detectron2 has ResNets {', '.join(map(str, RESNET_DEPTHS))}"
        )
    middle = state["res2.0.conv2.weight"]
    groups = middle.shape[0] // middle.shape[1] if bottleneck else 1
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": middle.shape[0] // groups,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if bottleneck else 64,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


def documented_shapes(settings: Settings) -> dict[str, Tensor]:
    """Names and shapes for these settings, as tensors without memory."""
    found: dict[str, Tensor] = {}
    for name, shape, _ in _convolutions(settings):
        found[f"{name}.weight"] = torch.empty(shape, device="meta")
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.norm.{part}"] = torch.empty(shape[0], device="meta")
    return found


def run(state: Mapping[str, Tensor], settings: Settings, images: Tensor) -> Tensor:
    """`(B, 3, H, W)` to the output of `res5`, from weights under detectron2's names alone."""
    strides = {name: stride for name, _, stride in _convolutions(settings)}

    def convolution(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        x = functional.conv2d(
            x,
            weight,
            stride=strides[name],
            padding=weight.shape[-1] // 2,
            groups=x.shape[1] // weight.shape[1],
        )
        mean, variance, gain, bias = (
            state[f"{name}.norm.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, gain, bias, eps=NORM_EPS)

    x = functional.relu(convolution(images, "stem.conv1"))
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    last = 2 if settings["MODEL.RESNETS.DEPTH"] in BASIC_DEPTHS else 3
    for stage, count in enumerate(RESNET_DEPTHS[settings["MODEL.RESNETS.DEPTH"]], start=2):
        for block in range(count):
            name = f"res{stage}.{block}"
            rest = convolution(x, f"{name}.shortcut") if f"{name}.shortcut" in strides else x
            for number in range(1, last):
                x = functional.relu(convolution(x, f"{name}.conv{number}"))
            x = functional.relu(convolution(x, f"{name}.conv{last}") + rest)
    return x


def settings_yaml(settings: Settings) -> str:
    """As a detectron2 configuration file."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return "\n".join(_lines(tree, 0)) + "\n"


def _convolutions(settings: Settings) -> Iterator[tuple[str, tuple[int, int, int, int], int]]:
    """Every convolution: name, shape of its weight, stride."""
    depth, groups = settings["MODEL.RESNETS.DEPTH"], settings["MODEL.RESNETS.NUM_GROUPS"]
    middle = groups * settings["MODEL.RESNETS.WIDTH_PER_GROUP"]
    out = settings["MODEL.RESNETS.RES2_OUT_CHANNELS"]
    yield "stem.conv1", (64, 3, 7, 7), 2
    before = 64
    for stage, count in enumerate(RESNET_DEPTHS[depth]):
        wide, inner = out * 2**stage, middle * 2**stage
        for block in range(count):
            name = f"res{stage + 2}.{block}"
            stride = 2 if stage and not block else 1
            if not block and before != wide:
                yield f"{name}.shortcut", (wide, before, 1, 1), stride
            if depth in BASIC_DEPTHS:
                yield f"{name}.conv1", (wide, before, 3, 3), stride
                yield f"{name}.conv2", (wide, wide, 3, 3), 1
            else:
                yield f"{name}.conv1", (inner, before, 1, 1), 1
                yield f"{name}.conv2", (inner, inner // groups, 3, 3), stride
                yield f"{name}.conv3", (wide, inner, 1, 1), 1
            before = wide


def _lines(tree: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {json.dumps(value)}")
    return lines
