"""What `compact`'s region head looked at, and what its answers are the sum of.

The graph gives embeddings alone. Here it is run with further outputs: the softmax of each layer,
and the training-free answer as it enters the sum. The numbers are those of the very graph that
names regions; nothing is computed a second time in another way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from anyregion.baselines.pooling import DecodedMasks
from anyregion.compact.assets import (
    CLASSES,
    REGION_HEAD,
    read_asset,
    runtime_errors,
    start_session,
)
from anyregion.compact.calibration import (
    ANCHOR,
    GAIN_COLUMN,
    NAME_LENGTH,
    NEWNESS,
    NEWNESS_COLUMN,
)
from anyregion.compact.conse import WIDTH
from anyregion.compact.image_encoder import FeaturePyramid
from anyregion.compact.region_head import INPUTS, Floats, RegionFeatures, extract_region_features
from anyregion.errors import CheckpointError, InputError
from anyregion.explanation import AnswerParts, Attention, ClassPart
from anyregion.regions import Boxes, Regions

if TYPE_CHECKING:
    from anyregion.compact.model import CompactEncoder, CompactModel

# field numbers of ONNX' protocol buffers (onnx/onnx.proto)
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_OUTPUT, _VALUE_NAME = 7, 1, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR = 1, 2, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, eq=False)
class HeadTrace:
    """What the region head computed of one image's `N` regions on its way.

    Attributes:
        embeddings: `(N, 384)`, not normalised.
        conse: `(N, 384)`, the part of them that is the training-free answer.
        attention: by layer `(heads, N, T)`; each region's weights add up to 1.
    """

    embeddings: Floats
    conse: Floats
    attention: tuple[Floats, ...]


def trace_region_head(model: CompactModel, features: RegionFeatures) -> HeadTrace:
    """Run the region head and keep its attention.

    Raises:
        CheckpointError: a graph that is none of a region head.
    """
    graph = read_asset(REGION_HEAD, model.folder)
    softmaxes, residuals = [], []
    for operator, inputs, outputs in _nodes(graph):
        if operator == "Softmax":
            softmaxes += outputs
        # of the two products of `conse` the other one scales what enters the token
        elif operator == "Mul" and "conse" in inputs and any(i.endswith("gain") for i in inputs):
            residuals += outputs
    names = ["embeddings", *residuals, *softmaxes]
    session = start_session(
        _with_outputs(graph, names[1:]), threads=model.threads, device=model.device
    )
    try:
        values = session.run(names, {name: getattr(features, name) for name in INPUTS})
    except runtime_errors() as error:
        raise CheckpointError(f"{REGION_HEAD}: its graph cannot be run ({error})") from None
    # a head that was trained without the residual answers by what it learnt alone
    conse = values[1] if residuals else np.zeros_like(values[0])
    return HeadTrace(values[0], conse, tuple(values[1 + len(residuals) :]))


def explain_region(
    encoder: CompactEncoder,
    pyramid: FeaturePyramid,
    region: Regions,
    box: Boxes,
    matrix: Floats,
    *,
    layer: int,
) -> tuple[Attention, AnswerParts]:
    """See `explanation.Explainer`.

    Args:
        encoder: the method.
        pyramid: the image.
        region: one region.
        box: `(1, 4)`, where it is; of points the box that was grown.
        matrix: `(C, 388)`, the names.
        layer: of the attention.

    Raises:
        InputError: no such layer.
    """
    masks = DecodedMasks(region.masks) if region.masks[0] is not None else None
    features = extract_region_features(pyramid, box, encoder.conse, masks)
    trace = trace_region_head(encoder.model, features)
    layers = len(trace.attention)
    if not layers:
        raise InputError("this region head has no layers: it does not look at the image around")
    if not -layers <= layer < layers:
        # people count layers from 1
        place = layer + 1 if layer >= 0 else layer
        raise InputError(f"the region head has {layers} layers, no layer {place}")
    rows, columns = pyramid.maps["last"].shape[:2]
    weights = trace.attention[layer][:, 0].mean(axis=0)  # (T,)
    # padding: cells whose centre lies beyond the image
    beyond = (features.cells > 1).any(axis=1)
    attention = Attention(
        weights=np.where(beyond, 0, weights).reshape(rows, columns).astype(np.float32),
        extent=np.array([0, 0, pyramid.span[1], pyramid.span[0]], dtype=np.float64),
        elsewhere=float(weights[beyond].sum()),
        layer=layer % layers + 1,
        layers=layers,
        heads=len(trace.attention[layer]),
    )
    return attention, _parts(encoder, trace, features, matrix)


def _parts(
    encoder: CompactEncoder, trace: HeadTrace, features: RegionFeatures, matrix: Floats
) -> AnswerParts:
    conse = encoder.conse
    length = np.linalg.norm(trace.embeddings[0]) + np.float32(1e-7)
    residual, answer = trace.conse[0] / length, trace.embeddings[0] / length  # (384,)
    # what a region is compared with, as `scoring.logits` does once `STACKED_LENGTH` is in the scale
    names = matrix * np.float32(NAME_LENGTH)  # (C, 388)
    stacked = encoder.calibration.stack_regions(answer[None])[0]  # (388,)
    doubt = float(stacked[GAIN_COLUMN] / ANCHOR)
    parts = {
        "conse": names[:, :WIDTH] @ residual,
        "trained head": names[:, :WIDTH] @ (answer - residual),
        "calibrated stacking": names[:, WIDTH:] @ stacked[WIDTH:],
    }
    classes: list[ClassPart] = []
    if conse is not None and residual.any():
        pooled = features.pooled[:, -conse.weight.shape[1] :]  # (1, 1280)
        best, probabilities = (values[0] for values in conse.best_classes(pooled))
        # `features.conse` is their mean, brought to length 1, and the residual is that times a gain
        mean = probabilities @ conse.classes[best]  # (384,)
        factor = np.linalg.norm(residual) / (np.linalg.norm(mean) + np.float32(1e-12))
        sign = np.sign(residual @ features.conse[0])
        cosines = conse.classes[best] @ names[:, :WIDTH].T  # (30, C)
        for row, probability, row_cosines in zip(best, probabilities, cosines, strict=True):
            name, wordnet = class_names()[row]
            shares = (sign * factor * probability * row_cosines).astype(np.float32)
            classes.append(ClassPart(name, wordnet, float(probability), shares))
        classes.sort(key=lambda part: -part.probability)
    return AnswerParts(
        cosines=parts,
        classes=classes,
        doubt=doubt,
        newness=names[:, NEWNESS_COLUMN] / np.float32(NEWNESS),
        gains=names[:, GAIN_COLUMN] * np.float32(ANCHOR),
    )


@cache
def class_names() -> tuple[tuple[str, str], ...]:
    """Of each class of the classifier its first name and its WordNet number."""
    entries = json.loads(read_asset(CLASSES))
    return tuple((str(entry["words"][0]), str(entry["wordnet"])) for entry in entries)


def _nodes(graph: bytes) -> Iterator[tuple[str, list[str], list[str]]]:
    """Of each node of an ONNX model its operator, inputs and outputs.

    Raises:
        CheckpointError: not the bytes of a protocol buffer.
    """
    try:
        for number, model_field in _fields(graph):
            for kind, node in _fields(model_field) if number == _MODEL_GRAPH else ():
                if kind == _GRAPH_NODE:
                    fields = [(key, value.decode()) for key, value in _fields(node) if key <= 4]
                    operators = [value for key, value in fields if key == _NODE_OPERATOR]
                    inputs = [value for key, value in fields if key == _NODE_INPUT]
                    outputs = [value for key, value in fields if key == _NODE_OUTPUT]
                    yield "".join(operators), inputs, outputs
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{REGION_HEAD}: not an ONNX graph ({error})") from None


def _with_outputs(graph: bytes, names: Sequence[str]) -> bytes:
    """An ONNX model that gives further values of its graph.

    A message that is written twice is merged, lists being joined: so says the encoding of protocol
    buffers. A second graph behind the first, with these outputs alone, therefore adds them.
    """
    values = (_field(_GRAPH_OUTPUT, _field(_VALUE_NAME, name.encode())) for name in names)
    return graph + _field(_MODEL_GRAPH, b"".join(values))


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that hold bytes, by their numbers; numbers are passed over."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            length, at = _varint(content, at)
            yield key >> 3, content[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next field begins."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _field(number: int, content: bytes) -> bytes:
    def varint(value: int) -> bytes:
        low = value & 127
        return bytes([low]) if value < 128 else bytes([low | 128]) + varint(value >> 7)

    return varint(number << 3 | _BYTES) + varint(len(content)) + content
