"""Export for detectron2's ResNet backbones, checked against its documented names and shapes.

detectron2 loads a dict `{"model", "__author__", "matching_heuristics"}`: with the last, names are
matched to the model's by their ends, so that `res2.0.conv1.weight` finds
`backbone.bottom_up.res2.0.conv1.weight`.

detectron2 itself can hardly be installed; `res5_features` is what an export is checked against. A
stem `conv1` of 7 x 7 with stride 2 and a 3 x 3 pooling; stages `res2` to `res5`; a `shortcut` in
the first block where the width changes; below every convolution a `norm` of four tensors. A stage's
stride is in its first block: in `conv1` of a basic block, in `conv2` of a bottleneck
(`STRIDE_IN_1X1` False).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.export.common import (
    Export,
    compare_features,
    cpu_features,
    noise_image,
    rename_state,
    write_checked,
)
from anyregion.backbones.key_maps import (
    BASIC_DEPTHS,
    RESNET_DEPTHS,
    count_blocks,
    family_of,
    resnet_depth,
)
from anyregion.errors import CheckpointError, InputError
from anyregion.files import write_text, writing
from anyregion.torch_utils.weights import compare_shapes, read_state_dict

NORM_EPS = 1e-5
Settings = Mapping[str, Any]
_FIRST = b"MODEL:\n"  # of settings as they are written here; a training recipe begins otherwise


def export_detectron2(encoder: Encoder, out: Path) -> Export:
    """For detectron2's `build_resnet_backbone`; its settings lie beside it, as `.yaml`.

    Raises as `export_encoder`.
    """
    family = family_of(encoder.name.partition("/")[0], encoder.body.state_dict())
    if family is None or family.name != "resnet":
        raise InputError(
            f"{encoder.name}: detectron2 has plain ResNets 18 to 152, ResNeXts and wide ResNets"
        )
    # detectron2's FrozenBatchNorm2d counts no batches
    state = {
        name: tensor
        for name, tensor in rename_state(encoder, "detectron2").items()
        if not name.endswith("num_batches_tracked")
    }
    settings = {
        "MODEL.WEIGHTS": out.name,
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        **settings_of(state, encoder.name),
        # detectron2 reads BGR by default, and values of 0 to 255
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [round(255 * value, 4) for value in encoder.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 4) for value in encoder.std],
    }
    if problem := compare_shapes(state, documented_shapes(settings)):
        raise InputError(f"{encoder.name}: not a ResNet as detectron2 has it: {problem}")
    config = out.with_suffix(".yaml")
    if config.is_file() and not config.read_bytes().startswith(_FIRST):
        raise InputError(
            f"{config}: would be written beside {out.name}, but holds something else; give "
            "another name"
        )
    content = {"model": state, "__author__": "anyregion", "matching_heuristics": True}
    # its checkpointer unpickles .pth and knows no safetensors
    with write_checked(out, content, safetensors=False) as temporary:
        back = read_state_dict(temporary)
        if problem := compare_shapes(back, documented_shapes(settings)):
            raise CheckpointError(f"{out}: {problem}")
        image = noise_image(encoder)
        with torch.no_grad():
            actual = res5_features(back, settings, image)
        expected = cpu_features(encoder, image)
        difference = compare_features(expected, actual, f"{out}: detectron2's ResNet")
    with writing(config):
        write_text(config, settings_yaml(settings))
    return Export(
        path=out,
        format="detectron2",
        architecture=f"build_resnet_backbone, depth {settings['MODEL.RESNETS.DEPTH']}",
        usage=f"--config-file {config.name} (or these settings in your own)",
        difference=difference,
        settings=settings,
    )


def settings_of(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """`MODEL.RESNETS.*` as weights under detectron2's names want them.

    Raises:
        InputError: blocks in numbers that it has no depth for.
    """
    blocks = count_blocks(state, ("res2", "res3", "res4", "res5"))
    bottleneck = "res2.0.conv3.weight" in state
    depth = resnet_depth(blocks, bottleneck=bottleneck)
    if depth is None:
        raise InputError(
            f"{name}: {blocks} blocks; detectron2 has ResNets {', '.join(map(str, RESNET_DEPTHS))}"
        )
    # (width, width / groups, 3, 3): a ResNeXt differs from a ResNet here alone
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
    shapes: dict[str, Tensor] = {}
    for name, shape, _ in _convolutions(settings):
        shapes[f"{name}.weight"] = torch.empty(shape, device="meta")
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = torch.empty(shape[0], device="meta")
    return shapes


def res5_features(state: Mapping[str, Tensor], settings: Settings, images: Tensor) -> Tensor:
    """`(B, 3, H, W)` to the output of `res5`, from weights under detectron2's names alone."""
    strides = {name: stride for name, _, stride in _convolutions(settings)}

    def convolution(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        # groups are not in the weights' names, but in their shapes: (out, in / groups, k, k)
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
            # res2 stands behind the pooling and keeps its size
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
