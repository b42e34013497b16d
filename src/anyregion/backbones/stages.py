"""The stages of an encoder: the last one dilated, the maps of several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.errors import InputError

PYRAMID_STRIDES = (4, 8, 16, 32)


def dilate_last_stage(encoder: Encoder) -> None:
    """Take the last stage's stride out, in place: the last map becomes as fine as the intermediate.

    Its strided convolutions get stride 1, and what comes behind them there gets twice the
    dilation, as torchvision's `replace_stride_with_dilation` and every FCN since DeepLab have it.
    Weights stay as they are. A plain ViT has one stride, and nothing changes.

    Raises:
        InputError: a network whose last stage is made coarse by something else, or in several
            steps.
    """
    finer = encoder.grid(encoder.size, intermediate=True).height_width
    if encoder.grid(encoder.size).height_width == finer:
        return
    early = _called_convolutions(encoder, intermediate=True)
    strided = False
    for conv in _called_convolutions(encoder, intermediate=False):
        if any(conv is other for other in early):
            continue
        sides = tuple(conv.kernel_size)
        if max(conv.stride) > 1:
            strided = True
            conv.stride = (1, 1)
            if sides[0] % 2 == 0:  # a patch of 2 x 2: ConvNeXt's
                conv.padding = "same"
        elif strided and max(sides) > 1:
            conv.dilation = (2 * conv.dilation[0], 2 * conv.dilation[1])
            # timm's convolutions of TensorFlow's padding work theirs out from the dilation
            if isinstance(conv.padding, tuple) and max(conv.padding) > 0:
                conv.padding = (2 * conv.padding[0], 2 * conv.padding[1])
    try:
        coarse = encoder.grid(encoder.size).height_width != finer
    except RuntimeError:  # a branch that a pooling makes coarse meets one that is not
        coarse = True
    if coarse:
        raise InputError(
            f"{encoder.name}: its last stage cannot be dilated here: something else than a "
            "strided convolution makes its map coarse. Do without dilation"
        )


def _called_convolutions(encoder: Encoder, *, intermediate: bool) -> list[nn.Conv2d]:
    """The convolutions that are run for a map, in their order."""
    called: list[nn.Conv2d] = []

    def note(module: nn.Module, *_: Any) -> None:
        if isinstance(module, nn.Conv2d):
            called.append(module)

    hooks = [m.register_forward_hook(note) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    try:
        encoder.grid(encoder.size, intermediate=intermediate)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def intermediate_module(encoder: Encoder) -> str | None:
    """The name of the part of the body whose output is the intermediate map; None if none's is."""
    outputs: list[tuple[str, Any]] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: outputs.append((name, output))

    hooks = [m.register_forward_hook(note(name)) for name, m in encoder.body.named_modules()]
    try:
        with eval_mode(encoder):
            image = torch.zeros(1, 3, encoder.size, encoder.size)
            wanted = encoder.intermediate(image)
    finally:
        for hook in hooks:
            hook.remove()
    # the outermost of those that hand it on
    return next((name for name, output in reversed(outputs) if output is wanted and name), None)


def maps_along(
    encoder: Encoder, images: Tensor, modules: Sequence[str]
) -> tuple[Tensor, list[Tensor]]:
    """The last map of `(B, 3, H, W)` images, and the outputs of parts of the body on the way."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = output

        return hook

    # by name, and anew in each call: a copy of the encoder has parts of its own
    hooks = [encoder.body.get_submodule(n).register_forward_hook(keep(n)) for n in modules]
    try:
        last = encoder(images)
    finally:
        for handle in hooks:
            handle.remove()
    return last, [outputs[name] for name in modules]


def pyramid_modules(encoder: Encoder) -> list[str]:
    """The parts of the body whose outputs are its maps of strides 4, 8, 16 and 32.

    Raises:
        InputError: a network without these four, as a plain ViT.
    """
    library, body = encoder.name.partition("/")[0], encoder.body
    strides: dict[int, str] = {}
    if library == "timm":
        info: Any = getattr(body, "feature_info", None) or []
        for stage in info if isinstance(info, list) else info.get_dicts():
            # several stages may share a stride: the deepest counts
            strides[int(stage["reduction"])] = str(stage["module"])
    elif hasattr(body, "layer1"):
        strides = {4 * 2**i: f"layer{i + 1}" for i in range(4)}
    else:
        features: Any = getattr(body, "features", None)
        stages = len(features) if isinstance(features, nn.Sequential) else 0
        names = [f"features.{i}" for i in range(stages)]
        side = 64
        with eval_mode(encoder):
            maps = maps_along(encoder, torch.zeros(1, 3, side, side), names)[1] if names else []
        strides = {side // m.shape[2]: name for name, m in zip(names, maps, strict=True)}
    present = body.state_dict().keys()
    modules = [strides.get(stride, "") for stride in PYRAMID_STRIDES]
    if not all(any(key.startswith(f"{name}.") for key in present) for name in modules if name):
        modules = [""]
    if not all(modules):
        raise InputError(
            f"{encoder.name}: has no maps of strides 4, 8, 16 and 32, as a feature pyramid needs "
            "them; ResNets, ConvNeXts, EfficientNets and most convolutional networks have"
        )
    return modules
