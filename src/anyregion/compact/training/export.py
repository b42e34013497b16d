"""The heads out of torch: as ONNX graphs with float16 weights, or in place of such a graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.stages import maps_along, pyramid_modules
from anyregion.compact.conse import WIDTH
from anyregion.compact.image_encoder import CHANNELS
from anyregion.compact.proposal_head import OUTPUTS
from anyregion.compact.region_head import INPUTS
from anyregion.compact.training.modules import MaskHeadModule, Projection
from anyregion.compact.training.proposal_module import ProposalHeadModule
from anyregion.compact.training.region_head_module import RegionHeadModule
from anyregion.errors import InputError
from anyregion.torch_utils.onnx import Shapes, trace, write_graph

# smaller weights (biases of few numbers, scalars) stay float32: they take no room
_SMALLEST_HALVED = 64
_EXAMPLE = (4, 6)  # rows and columns at stride 32 of the maps that are traced

MAPS = tuple(str(name) for name in CHANNELS)

M = TypeVar("M", bound=nn.Module)


def rounded(module: M) -> M:
    """A copy with every weight that the graph stores as float16 rounded to it.

    The standardisation of channels is folded into the projections first.
    """
    copied = copy.deepcopy(module).eval()
    with torch.no_grad():
        for part in copied.modules():
            if isinstance(part, Projection):
                weight, bias = part.on_raw_channels()
                part.linear.weight.copy_(weight)
                part.linear.bias.copy_(bias)
                part.shift.zero_()
                part.factor.fill_(1.0)
        for parameter in copied.parameters():
            if parameter.numel() >= _SMALLEST_HALVED:
                parameter.copy_(parameter.half().float())
    return copied


def export_region_head(module: RegionHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.region_head.RegionHead` runs.

    The numbers of regions and of cells are those of its inputs.
    """
    regions, cells = Dim("regions", min=1, max=65536), Dim("cells", min=2, max=65536)
    example = (
        torch.rand(3, module.config.pooled),
        torch.rand(3, WIDTH),
        torch.tensor([[0.1, 0.1, 0.5, 0.6]] * 3),
        torch.rand(24, module.config.memory),
        torch.rand(24, 2),
        torch.tensor([0.75, 1.0]),
    )
    shapes: Shapes = (*({0: regions} for _ in range(3)), *({0: cells} for _ in range(2)), {})
    _export(RegionGraph(rounded(module)), example, shapes, path)


def export_mask_head(head: MaskHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.mask_head.MaskHead` runs."""
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    tall, wide = _EXAMPLE[0] * 32, _EXAMPLE[1] * 32
    shapes: Shapes = (
        *(
            {0: Dim(f"rows_{s}", min=2, max=2048), 1: Dim(f"columns_{s}", min=2, max=2048)}
            for s in (8, 16)
        ),
        *({0: rows, 1: columns} for _ in range(2)),
        {2: Dim("frame_rows", min=32, max=16384), 3: Dim("frame_columns", min=32, max=16384)},
        {0: Dim("boxes", min=1, max=65536)},
    )
    boxes = torch.tensor([[8.0, 8, 72, 40]] * 3)
    example = (*_example_maps(), torch.zeros(1, 3, tall, wide), boxes)
    _export(MaskGraph(rounded(head)), example, shapes, path)


def export_proposal_head(head: ProposalHeadModule, path: Path) -> None:
    """Write the graph that `anyregion.compact.proposal_head.ProposalHead` runs."""
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    shapes = tuple({0: f * rows, 1: f * columns} for f in (4, 2, 1, 1))
    _export(ProposalGraph(rounded(head)), _example_maps(), shapes, path)


def export_image_encoder(encoder: Encoder, path: Path) -> tuple[int, ...]:
    """Write the graph that `anyregion.compact.image_encoder.ImageEncoder` runs; float32.

    Returns:
        The channels of its four maps.

    Raises:
        InputError: the backbone has no maps at strides 8, 16 and 32.
    """
    graph = MapsGraph(encoder).eval()
    tall, wide = _EXAMPLE[0] * 32, _EXAMPLE[1] * 32
    with torch.no_grad():
        maps = graph(torch.zeros(1, 3, tall, wide))
    for stride, cells in zip((8, 16, 32, 32), maps, strict=True):
        if cells.shape[2:] != (tall // stride, wide // stride):
            raise InputError(
                f"{encoder.name}: a map of {cells.shape[2:]} is not of stride {stride}"
            )
    sides = {2: 32 * Dim("rows", min=1, max=512), 3: 32 * Dim("columns", min=1, max=512)}
    _export(graph, (torch.rand(1, 3, tall, wide),), (sides,), path)
    return tuple(cells.shape[1] for cells in maps)


class MapsGraph(nn.Module):
    """A backbone with the signature of the image encoder's graph.

    Pixels come as `network_input` gives them, `(x - 127) / 128`, and are normalised as the backbone
    is used to.

    Raises:
        InputError: a backbone without maps at strides 8, 16 and 32.
    """

    inputs = ("pixels",)
    outputs = MAPS
    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = _with_fixed_padding(encoder)
        self.parts = pyramid_modules(encoder)[1:]  # that of stride 4 has no use
        self.register_buffer("mean", torch.tensor(encoder.mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(encoder.std)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """`(1, 3, H, W)` to four maps `(1, channels, h, w)`."""
        images = ((pixels * 128 + 127) / 255 - self.mean) / self.deviation
        last, maps = maps_along(self.encoder, images, self.parts)
        return (*maps, last)


class FixedPadding(nn.Module):
    """A convolution of TensorFlow's "same" padding, of maps whose sides its stride divides.

    There the padding depends on the convolution alone. timm works it out from the sides: where
    these vary, tracing the stages one after another does not end in minutes.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        sizes = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        tall, wide = (
            max(dilation * (side - 1) + 1 - stride, 0) for side, stride, dilation in sizes
        )
        self.padding = (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)

    def forward(self, cells: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, channels, H / stride, W / stride)`."""
        conv = self.conv
        padded = F.pad(cells, self.padding)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _with_fixed_padding(encoder: Encoder) -> Encoder:
    """The encoder, or a copy with `FixedPadding`: for images whose sides are multiples of 32."""
    if encoder.name.partition("/")[0] != "timm":
        return encoder
    from timm.layers.conv2d_same import Conv2dSame

    copied = copy.deepcopy(encoder)
    for parent in list(copied.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, Conv2dSame):
                setattr(parent, name, FixedPadding(part))
    return copied


class RegionGraph(nn.Module):
    """The region head with the signature of its graph: the regions of one image."""

    inputs = INPUTS
    outputs = ("embeddings",)

    def __init__(self, module: RegionHeadModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        pooled: Tensor, conse: Tensor, boxes: Tensor, memory: Tensor, cells: Tensor, shape: Tensor,
    ) -> Tensor:  # fmt: skip
        embeddings: Tensor = self.module([(pooled, conse, boxes, memory, cells, shape)])[0]
        return embeddings


class MaskGraph(nn.Module):
    """The mask head with the signature of its graph: see `anyregion.compact.mask_head.MaskHead`."""

    inputs = (*MAPS, "frame", "boxes")
    outputs = ("inside", "scores", "margin")

    def __init__(self, head: MaskHeadModule) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, stride8: Tensor, stride16: Tensor, stride32: Tensor, last: Tensor,
        frame: Tensor, boxes: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        maps = {"stride8": stride8, "stride16": stride16, "stride32": stride32, "last": last}
        logits, quality = self.head([maps], [frame], [boxes])
        return logits.sigmoid(), quality.sigmoid(), torch.tensor(self.head.config.margin)


class ProposalGraph(nn.Module):
    """The proposal head with the signature of its graph: see `compact.proposal_head`."""

    inputs = MAPS
    outputs = OUTPUTS

    def __init__(self, head: ProposalHeadModule) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, stride8: Tensor, stride16: Tensor, stride32: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = {"stride8": stride8, "stride16": stride16, "stride32": stride32, "last": last}
        batch = {name: cells[None] for name, cells in maps.items()}
        boxes, scores, point_boxes, point_scores = (p[0] for p in self.head.predict(batch)[:4])
        return boxes, scores.sigmoid(), point_boxes, point_scores.sigmoid()


class TorchSession:
    """Runs a graph in torch as a session of the exported one would: validation is inference."""

    def __init__(self, graph: MaskGraph | ProposalGraph) -> None:
        self._graph = graph

    def run(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """See `onnxruntime.InferenceSession.run`; the head is left training if it was."""
        head = self._graph.head
        was_training, device = head.training, next(head.parameters()).device
        tensors = [
            torch.from_numpy(np.asarray(feed[name], dtype=np.float32)).to(device)
            for name in self._graph.inputs
        ]
        head.eval()
        try:
            with torch.no_grad():
                values = self._graph(*tensors)
        finally:
            head.train(was_training)
        arrays = dict(zip(self._graph.outputs, values, strict=True))
        return [arrays[name].float().cpu().numpy() for name in outputs]


def _example_maps() -> tuple[Tensor, ...]:
    rows, columns = _EXAMPLE
    return tuple(
        torch.rand(rows * f, columns * f, width)
        for f, width in zip((4, 2, 1, 1), CHANNELS.values(), strict=True)
    )


def _export(
    graph: RegionGraph | MaskGraph | ProposalGraph | MapsGraph,
    example: tuple[Tensor, ...],
    shapes: Shapes,
    path: Path,
) -> None:
    """Write a graph, large weights as float16 where they are `rounded`; all of it or nothing."""
    import onnx

    model = trace(graph, example, shapes)
    _halve(model)
    onnx.checker.check_model(model)
    write_graph(model, path)


def _halve(model: Any) -> None:
    """Store large weights as the float16 they are, cast back where the graph reads them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _SMALLEST_HALVED:
            continue
        if not np.array_equal(values.astype(np.float16), values):
            continue  # a constant, not a weight: those are rounded already
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    # types that were inferred before the weights became float16
    inferred = [info for info in model.graph.value_info if not info.name.endswith("_half")]
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred)
