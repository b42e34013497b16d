"""The graph of `compact`'s image encoder: EfficientNet-Lite0 in 8-bit integers, without data.

What each activation is like is told by the statistics that BatchNorm keeps of ImageNet: they give
the ranges in which activations are quantised, and what rounding the weights adds to each channel on
average, which is taken out of its bias (Nagel et al., ICCV 2019, sections 4.2 and 5). So no
photograph is needed, and the same weights give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf

import numpy as np
from onnx import TensorProto, helper

from onnx_graph import Array, Graph

# EfficientNet-Lite0 (TensorFlow's tpu/models/efficientnet/lite): repeats, kernel, stride of its
# seven stages; widths come with the weights.
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
TAPS = {2: "stride8", 4: "stride16", 6: "stride32"}  # output of which stage is which map
BATCH_NORM_EPS = 1e-3

# Columns of the image that are one cell to the first convolution. Of 2, 4 and 8 the fastest: ORT
# takes 1.1 ms for 768 x 576 pixels; by single pixels 4.0
STEM = 4

# Products of 8-bit activations and 7-bit weights: two of them fit the 16 bits in which processors
# without VNNI instructions add them up; with 8 bits the sum is cut, without a word. Depthwise
# convolutions are computed otherwise.
DENSE_LEVELS, DEPTHWISE_LEVELS = 63, 127
# standard deviations of the ranges; see docs/results/compact.md
REACH = 4.0
# shares of a channel's largest weight that are tried as its range
_CLIPS = np.linspace(0.6, 1.0, 41)


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor of the graph, and what its channels are like: `(channels,)` each.

    Attributes:
        name: in the graph, in float.
        mean, deviation: over the cells of images.
        low, high: the range of most values, of any channel.
    """

    name: str
    mean: Array
    deviation: Array
    low: float
    high: float


def image_encoder_graph(state: dict[str, Array], *, quantised: bool = True) -> bytes:
    """EfficientNet-Lite0 without its classifier, BatchNorm folded into the convolutions.

    Input `pixels` (N, H, W, 3) uint8, H and W multiples of 32: then TensorFlow's "same" padding is
    a constant. 127 is 0 to the network, and stands for padding. Outputs `stride8`, `stride16`,
    `stride32` (40, 112, 320 channels) and `last` (1280 channels at stride 32), (N, h, w, channels)
    float32. The sums of the shortcuts are computed in float.

    Args:
        state: the checkpoint's tensors.
        quantised: False for float32 everywhere.
    """
    builder = _Builder(state, quantised=quantised)
    x = builder.stem("_conv_stem", "_bn0")
    number = 0
    maps: dict[str, str] = {}
    for stage, (repeats, _, stage_stride) in enumerate(STAGES):
        for repeat in range(repeats):
            block, entry = f"_blocks.{number}", x
            stride = stage_stride if repeat == 0 else 1
            if f"{block}._expand_conv.weight" in state:
                x = builder.convolution(x, f"{block}._expand_conv", f"{block}._bn0")
            x = builder.convolution(
                x, f"{block}._depthwise_conv", f"{block}._bn1", strides=(stride, stride)
            )
            x = builder.convolution(x, f"{block}._project_conv", f"{block}._bn2", relu6=False)
            if repeat:
                x = builder.sum(x, entry)
            number += 1
        if stage in TAPS:
            maps[TAPS[stage]] = x.name
    for tap, name in maps.items():
        builder.graph.add("Transpose", [name], tap, perm=[0, 2, 3, 1])
    builder.last(x, "_conv_head", "_bn1", output="last")
    value = helper.make_tensor_value_info
    shapes = (("stride8", 40, 8), ("stride16", 112, 16), ("stride32", 320, 32), ("last", 1280, 32))
    return builder.graph.model(
        "eyes",
        [value("pixels", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            value(name, TensorProto.FLOAT, ["batch", f"h{stride}", f"w{stride}", channels])
            for name, channels, stride in shapes
        ],
    )


class _Builder:
    """Writes convolutions, in float or in integers."""

    def __init__(self, state: dict[str, Array], *, quantised: bool) -> None:
        self.state, self.quantised, self.graph = state, quantised, Graph()
        self.graph.weight("zero", np.float32(0))
        self.graph.weight("six", np.float32(6))
        # of an activation its integers, restored to float: several convolutions may read it
        self._restored: dict[str, tuple[str, float]] = {}

    def stem(self, conv: str, norm: str) -> Activation:
        """The first convolution, of pixels as they are, `STEM` columns of a row at once.

        A cell that holds several columns' pixels as channels is the same memory, read otherwise.
        One kernel of 3 x 2 such cells computes the outputs of half as many columns, as channels.
        What a kernel sees has to be collected, which takes more time than the products: here that
        are 6 pieces for several outputs in place of 9 for one.
        """
        graph, state = self.graph, self.state
        weight = state[f"{conv}.weight"]  # (out, 3, 3, 3)
        out, outputs = len(weight), STEM // 2
        wide = np.zeros((outputs, out, 3, 3, 2 * STEM), dtype=weight.dtype)
        for i in range(outputs):
            wide[i, ..., 2 * i : 2 * i + 3] = weight
        # (outputs, out, 3, 3, cells, columns) -> (outputs * out, columns * 3, 3, cells)
        cells = wide.reshape(outputs * out, 3, 3, 2, STEM).transpose(0, 4, 1, 2, 3)
        self.state = state | {f"{conv}.weight": cells.reshape(outputs * out, 3 * STEM, 3, 2)}
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{norm}.{part}"] = np.tile(state[f"{norm}.{part}"], outputs)
        step = np.float32(1 / 128)
        parts = [graph.scalar("pixels.step", step), graph.scalar("pixels.zero", np.uint8(127))]
        name = graph.add("DequantizeLinear", [self._columns("pixels", 3 * STEM), *parts])
        self._restored[name] = (name, float(step))
        mean = np.zeros(3 * STEM)
        x = Activation(name, mean, mean + 0.5, -127 / 128, 1.0)
        x = self.convolution(x, conv, norm, strides=(2, 1), channels=out)
        self.state = state
        return x

    def _columns(self, cells: str, channels: int) -> str:
        """Cells (N, h, w, c) of other columns, `channels` in each: (N, channels, h, w')."""
        shape = self.graph.weight(f"{cells}.columns", np.array([0, 0, -1, channels], np.int64))
        return self.graph.add(
            "Transpose", [self.graph.add("Reshape", [cells, shape])], perm=[0, 3, 1, 2]
        )

    def last(self, x: Activation, conv: str, norm: str, *, output: str) -> None:
        """The last convolution, 1 x 1: a product of cells and weights, whose sums stay float."""
        graph = self.graph
        weight, bias = folded(self.state, conv, norm)
        weight = weight[:, :, 0, 0]  # (out, in)
        if self.quantised:
            integers, scale = quantise(weight, DENSE_LEVELS)
            bias = bias - (integers * scale[:, None] - weight) @ x.mean
            source, _ = self._quantised(x)
            matrix = graph.add(
                "DequantizeLinear",
                [
                    graph.weight(f"{conv}.weight", integers.T.astype(np.int8)),
                    graph.weight(f"{conv}.weight.step", scale.astype(np.float32)),
                    graph.weight(f"{conv}.weight.zero", np.zeros(len(scale), dtype=np.int8)),
                ],
                axis=1,
            )
        else:
            source, matrix = x.name, graph.weight(f"{conv}.weight", weight.T.astype(np.float32))
        cells = graph.add("Transpose", [source], perm=[0, 2, 3, 1])  # (N, h, w, in)
        product = graph.add("MatMul", [cells, matrix])
        shift = graph.weight(f"{conv}.bias", bias.astype(np.float32))
        graph.add("Clip", [graph.add("Add", [product, shift]), "zero", "six"], output)

    def convolution(
        self,
        x: Activation,
        conv: str,
        norm: str,
        *,
        strides: tuple[int, int] = (1, 1),
        relu6: bool = True,
        channels: int | None = None,
    ) -> Activation:
        """A convolution with its BatchNorm, and ReLU6 where there is one.

        With `channels` its outputs are several columns' of so many.
        """
        state, graph = self.state, self.graph
        weight, bias = folded(state, conv, norm)
        kernel, depthwise = weight.shape[2:], weight.shape[1] == 1 and len(x.mean) > 1
        # an even size and stride 2: the odd pixel goes last
        before = [(side - stride) // 2 for side, stride in zip(kernel, strides, strict=True)]
        after = [k - s - b for k, s, b in zip(kernel, strides, before, strict=True)]
        attributes = {
            "kernel_shape": list(kernel),
            "strides": list(strides),
            "pads": [*before, *after],
            "group": len(weight) if depthwise else 1,
        }
        if self.quantised:
            levels = DEPTHWISE_LEVELS if depthwise else DENSE_LEVELS
            integers, scale = quantise(weight, levels)
            excess = (integers * scale[:, None, None, None] - weight).sum((2, 3))
            # what the rounded weights add on average
            bias = bias - (excess[:, 0] * x.mean if depthwise else excess @ x.mean)
            source, step = self._quantised(x)
            inputs = [
                source,
                self._weight(conv, integers, scale),
                self._bias(conv, bias, step * scale),
            ]
        else:
            inputs = [
                x.name,
                graph.weight(f"{conv}.weight", weight.astype(np.float32)),
                graph.weight(f"{conv}.bias", bias.astype(np.float32)),
            ]
        mean = state[f"{norm}.bias"].astype(np.float64)
        deviation = np.abs(state[f"{norm}.weight"].astype(np.float64))
        if not relu6:
            name = graph.add("Conv", inputs, **attributes)
            made = Activation(name, mean, deviation, *spread(mean, deviation))
            return self._restore(made) if self.quantised else made
        _, high = spread(mean, deviation)
        high = min(6.0, high)
        moments = [m[:channels] for m in clipped_normal(mean, deviation)]
        raw = graph.add("Conv", inputs, **attributes)
        if self.quantised:
            # integers reach from 0 to `high`, at most 6: they clip by themselves
            return self._restore(Activation(raw, *moments, 0.0, high), channels)
        name = graph.add("Clip", [raw, "zero", "six"])
        if channels:
            name = self._columns(graph.add("Transpose", [name], perm=[0, 2, 3, 1]), channels)
        return Activation(name, *moments, 0.0, high)

    def sum(self, x: Activation, entry: Activation) -> Activation:
        """A shortcut: in float, so that rounding does not add up."""
        name = self.graph.add("Add", [x.name, entry.name])
        # as if what is added did not depend on what it is added to
        mean, deviation = x.mean + entry.mean, np.hypot(x.deviation, entry.deviation)
        return Activation(name, mean, deviation, *spread(mean, deviation))

    def _restore(self, x: Activation, channels: int | None = None) -> Activation:
        """An activation through integers and back; see `convolution` for `channels`."""
        name, step = self._integers(x, channels)
        restored = Activation(name, x.mean, x.deviation, x.low, x.high)
        self._restored[name] = (name, step)
        return restored

    def _quantised(self, x: Activation) -> tuple[str, float]:
        """Where a convolution reads an activation, and the step of its integers."""
        if x.name not in self._restored:
            self._restored[x.name] = self._integers(x)
        return self._restored[x.name]

    def _integers(self, x: Activation, channels: int | None = None) -> tuple[str, float]:
        low, high = min(x.low, 0.0), max(x.high, 0.0)
        step = np.float32((high - low) / 255)
        zero = np.uint8(np.rint(-low / float(step)))
        graph = self.graph
        parts = [graph.scalar(f"{x.name}.step", step), graph.scalar(f"{x.name}.zero", zero)]
        integers = graph.add("QuantizeLinear", [x.name, *parts])
        if channels:
            rows = graph.add("Transpose", [integers], perm=[0, 2, 3, 1])
            integers = self._columns(rows, channels)
        return graph.add("DequantizeLinear", [integers, *parts]), float(step)

    def _weight(self, conv: str, integers: Array, scale: Array) -> str:
        graph = self.graph
        zero = graph.weight(f"{conv}.weight.zero", np.zeros(len(scale), dtype=np.int8))
        parts = [
            graph.weight(f"{conv}.weight", integers.astype(np.int8)),
            graph.weight(f"{conv}.weight.step", scale.astype(np.float32)),
            zero,
        ]
        return graph.add("DequantizeLinear", parts, axis=0)

    def _bias(self, conv: str, bias: Array, step: Array) -> str:
        graph = self.graph
        step = step.astype(np.float32)
        integers = np.rint(bias / step).clip(-(2**31) + 1, 2**31 - 1).astype(np.int32)
        zero = graph.weight(f"{conv}.bias.zero", np.zeros(len(step), dtype=np.int32))
        parts = [
            graph.weight(f"{conv}.bias", integers), graph.weight(f"{conv}.bias.step", step), zero
        ]  # fmt: skip
        return graph.add("DequantizeLinear", parts, axis=0)


def folded(state: dict[str, Array], conv: str, norm: str) -> tuple[Array, Array]:
    """Weights `(out, in, k, k)` and bias `(out,)` of a convolution with its BatchNorm, float64."""
    variance = state[f"{norm}.running_var"].astype(np.float64)
    gain = state[f"{norm}.weight"] / np.sqrt(variance + BATCH_NORM_EPS)
    bias = state[f"{norm}.bias"] - gain * state[f"{norm}.running_mean"]
    return state[f"{conv}.weight"].astype(np.float64) * gain[:, None, None, None], bias


def quantise(weight: Array, levels: int) -> tuple[Array, Array]:
    """Integers `(out, in, k, k)` from `-levels` to `levels` and a step for each output `(out,)`.

    Of some ranges that cut the largest weights the one with the least squared error.
    """
    rows = weight.reshape(len(weight), -1)
    largest = np.abs(rows).max(axis=1)
    largest[largest == 0] = 1
    steps = largest * _CLIPS[:, None] / levels  # (tries, out)
    rounded = np.rint(rows / steps[:, :, None]).clip(-levels, levels)
    errors = ((rounded * steps[:, :, None] - rows) ** 2).sum(axis=2)
    # a float32 is what the graph holds
    best = np.take_along_axis(steps, errors.argmin(axis=0)[None], axis=0)[0].astype(np.float32)
    integers = np.rint(rows / best[:, None]).clip(-levels, levels)
    return integers.reshape(weight.shape), best.astype(np.float64)


def spread(mean: Array, deviation: Array) -> tuple[float, float]:
    """The range of an activation, from its channels."""
    return float((mean - REACH * deviation).min()), float((mean + REACH * deviation).max())


def clipped_normal(mean: Array, deviation: Array) -> tuple[Array, Array]:
    """Mean and deviation of normal values after ReLU6 (Nagel et al., appendix C)."""
    deviation = np.maximum(deviation, 1e-6)
    low, high = (0 - mean) / deviation, (6 - mean) / deviation

    def density(z: Array) -> Array:
        return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def below(z: Array) -> Array:
        return np.array([(1 + erf(v / np.sqrt(2))) / 2 for v in z])

    inside, above = below(high) - below(low), 1 - below(high)
    first = mean * inside + deviation * (density(low) - density(high)) + 6 * above
    second = (
        (mean**2 + deviation**2) * inside
        + 2 * mean * deviation * (density(low) - density(high))
        + deviation**2 * (low * density(low) - high * density(high))
        + 36 * above
    )
    return first, np.sqrt(np.maximum(second - first**2, 0))
