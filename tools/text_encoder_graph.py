"""The ONNX graph of the text encoder: all-MiniLM-L6-v2, most of its products in integers.

ONNX Runtime on a processor with dot products of int8 takes a third of the time for a product of
integers. What makes them exact enough (see `docs/design/compact.md`):

- The range of an activation is a constant, measured on texts, so that a text's embedding does not
  depend on the others of its batch.
- A few channels are tens of times wider than the rest. Every channel is divided by a power of its
  range, and the weights are multiplied by it (SmoothQuant, Xiao et al., ICML 2023).
- What rounding a weight adds is taken back by the weights that are not yet rounded (GPTQ, Frantar
  et al., ICLR 2023).
- Two neighbours of a row of weights add up to no more than `PAIR`: instructions before VNNI add
  two products in 16 bits, which would overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from onnx_graph import Array, Graph

LAYERS, HEADS, WIDTH, PIECES = 6, 12, 384, 256  # MiniLM; it was tuned on 256 pieces at most
LAYER_NORM_EPS = 1e-12
BLOCK = 128  # inputs that share a scale where products are float: the worst cosine is 0.9993
# the last products of the first layers: they make the channels that are widest, and in integers err
# most (with 3, 4, 6 of them float the worst of 1,122 bare names has a cosine of 0.9955, 0.9970,
# 0.9976; each costs 6 % of the time)
FLOAT = tuple(f"encoder.layer.{number}.outer" for number in range(4))
# of a channel's range, the rest to its weights; of 0.6 to 1 this errs least
SMOOTHING = 0.9
PAIR = 128  # 255 * 128 fits 16 bits
ROWS = 7000  # inputs of a product that its weights are rounded for
DAMPING = 0.01  # of the mean square of the inputs, as GPTQ has it


@dataclass(frozen=True)
class Inputs:
    """What a product was given: the range of each channel, `(in,)`, and some rows `(n, in)`."""

    low: Array
    high: Array
    rows: Array


def int8_rows(values: Array) -> tuple[Array, Array]:
    """Symmetric int8 with one scale a row: `values` is close to `quantised * scale[:, None]`.

    The scales are float32 but hold what float16 can, so that either may be stored.
    """
    scale = (np.abs(values).max(axis=1) / 127).astype(np.float16).astype(np.float32)
    scale[scale == 0] = 1
    return np.rint(values / scale[:, None]).clip(-127, 127).astype(np.int8), scale


def text_encoder_graph(
    state: Mapping[str, Array], kept: Sequence[int], inputs: Mapping[str, Inputs] | None = None
) -> bytes:
    """all-MiniLM-L6-v2; `kept` are the pieces' old ids.

    Input `pieces` (N, L): rows of equal length, so neither mask nor padding; output `embedding`
    (N, 384): the mean over all pieces, not normalised.

    Args:
        state: the checkpoint's tensors.
        kept: see above.
        inputs: of products, by `measure_inputs`; those that have none stay float, of int8 weights.
            With None weights are float too, and what the products are given is output.
    """
    builder = _Builder(state, inputs)
    graph = builder.graph
    x = builder.embeddings(kept)
    for number in range(LAYERS):
        x = builder.layer(x, number)
    graph.add("ReduceMean", [x, "first"], "embedding", keepdims=0)
    value = helper.make_tensor_value_info
    outputs = [value("embedding", TensorProto.FLOAT, ["batch", WIDTH])]
    outputs += [value(name, TensorProto.FLOAT, ["length", "batch", n]) for name, n in builder.given]
    pieces = value("pieces", TensorProto.INT64, ["batch", "length"])
    return graph.model("words", [pieces], outputs)


def measure_inputs(exact: bytes, texts: Sequence[Sequence[int]]) -> dict[str, Inputs]:
    """What every product of the float graph is given for texts, each the ids of its pieces."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # sums in one order, so that a second run gives the same
    session = onnxruntime.InferenceSession(exact, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()][1:]
    # of so many in turn, rows are kept
    step = max(1, sum(map(len, texts)) // ROWS)
    low: dict[str, Array] = {}
    high: dict[str, Array] = {}
    rows: dict[str, list[Array]] = {name: [] for name in names}
    for pieces in texts:
        given = session.run(names, {"pieces": np.array([pieces], dtype=np.int64)})
        for name, values in zip(names, given, strict=True):
            values = values[:, 0]  # (L, in)
            low[name] = np.minimum(low.get(name, np.inf), values.min(axis=0))
            high[name] = np.maximum(high.get(name, -np.inf), values.max(axis=0))
            rows[name].append(values)
    return {
        name: Inputs(low[name], high[name], np.concatenate(rows[name])[::step])
        for name in names
        if name not in FLOAT
    }


class _Builder:
    """Writes the layers. Tensors are length first, (L, N, channels).

    So the heads of all texts lie beside each other, and products read them without a copy.
    """

    def __init__(self, state: Mapping[str, Array], inputs: Mapping[str, Inputs] | None) -> None:
        self.state = {name: values.astype(np.float64) for name, values in state.items()}
        self.inputs, self.graph = inputs, Graph()
        self.given: list[tuple[str, int]] = []
        self.graph.weight("first", np.array([0], dtype=np.int64))
        self.graph.weight("split", np.array([0, -1, WIDTH // HEADS], dtype=np.int64))
        self.graph.weight("join", np.array([0, -1, WIDTH], dtype=np.int64))

    def embeddings(self, kept: Sequence[int]) -> str:
        graph, state = self.graph, self.state
        pieces = graph.add("Transpose", ["pieces"], perm=[1, 0])
        table = state["embeddings.word_embeddings.weight"][list(kept)].astype(np.float32)
        if self.inputs is None:
            rows = graph.add("Gather", [graph.weight("pieces.table", table), pieces])
        else:
            integers, scale = int8_rows(table)
            rows = graph.add("Gather", [graph.weight("pieces.table", integers), pieces])
            scales = graph.add("Gather", [graph.weight("pieces.scale", scale[:, None]), pieces])
            rows = graph.add("Mul", [graph.add("Cast", [rows], to=TensorProto.FLOAT), scales])
        places = state["embeddings.position_embeddings.weight"][:PIECES]
        places = places + state["embeddings.token_type_embeddings.weight"][0]
        length = graph.add("Shape", [pieces], start=0, end=1)
        all_places = self._float("places", places[:, None])
        here = graph.add("Slice", [all_places, "first", length, "first"])
        return self._layer_norm(rows, here, "embeddings.LayerNorm")

    def layer(self, x: str, number: int) -> str:
        graph, layer = self.graph, f"encoder.layer.{number}"
        mix, mix_bias = self._linear(f"{layer}.attention.output.dense")
        value, value_bias = self._linear(f"{layer}.attention.self.value")
        query, query_bias = self._linear(f"{layer}.attention.self.query")
        key, _ = self._linear(f"{layer}.attention.self.key")
        # a bias of the keys adds the same to all scores of a query: nothing to their softmax,
        # whose weights add up to 1: a bias of the values reaches the output as it is
        mix_bias = mix_bias + mix @ value_bias
        root = math.sqrt(WIDTH // HEADS)
        mixed = f"{layer}.mixed"
        smooth = self._smoothing(mixed, mix)
        queries, keys, values = self._products(
            x,
            f"{layer}.attention",
            {"query": query / root, "key": key, "value": value / smooth[:, None]},
        )
        if self.inputs is None:
            self.given.append((graph.add("Identity", [values], f"{layer}.values"), WIDTH))
        queries = graph.add("Add", [queries, self._float(f"{layer}.query.bias", query_bias / root)])
        queries, keys, values = (
            graph.add("Transpose", [graph.add("Reshape", [part, "split"])], perm=order)
            for part, order in ((queries, [1, 0, 2]), (keys, [1, 2, 0]), (values, [1, 0, 2]))
        )
        scores = graph.add("MatMul", [queries, keys])  # (N * heads, L, L)
        sums = graph.add("MatMul", [graph.add("Softmax", [scores], axis=-1), values])
        sums = graph.add("Reshape", [graph.add("Transpose", [sums], perm=[1, 0, 2]), "join"])
        (attended,) = self._products(sums, mixed, {"out": mix}, smoothed=True)
        attended = graph.add("Add", [attended, self._float(f"{layer}.out.bias", mix_bias)])
        x = self._layer_norm(attended, x, f"{layer}.attention.output.LayerNorm")

        weight, bias = self._linear(f"{layer}.intermediate.dense")
        (inner,) = self._products(x, f"{layer}.inner", {"in": weight})
        inner = graph.add("Add", [inner, self._float(f"{layer}.in.bias", bias)])
        inner = graph.add("Gelu", [inner])
        weight, bias = self._linear(f"{layer}.output.dense")
        (outer,) = self._products(inner, f"{layer}.outer", {"out": weight})
        outer = graph.add("Add", [outer, self._float(f"{layer}.outer.bias", bias)])
        return self._layer_norm(outer, x, f"{layer}.output.LayerNorm")

    def _linear(self, name: str) -> tuple[Array, Array]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def _float(self, name: str, values: Array) -> str:
        return self.graph.weight(name, values.astype(np.float32))

    def _layer_norm(self, x: str, y: str, name: str) -> str:
        """Of a sum. ONNX Runtime's one node for both is ten times slower (1.31)."""
        weights = [
            self._float(f"{name}.{p}", self.state[f"{name}.{p}"]) for p in ("weight", "bias")
        ]
        total = self.graph.add("Add", [x, y])
        return self.graph.add("LayerNormalization", [total, *weights], epsilon=LAYER_NORM_EPS)

    def _range(self, site: str) -> tuple[Array, Array]:
        """Of each channel. Means of values reach as far as values, where a word is repeated."""
        given = (self.inputs or {})[site.replace(".mixed", ".values")]
        return given.low, given.high

    def _smoothing(self, site: str, weight: Array) -> Array:
        """What the channels of an input are divided by, `(in,)`, for weights `(out, in)`."""
        if not self.inputs or site not in self.inputs:
            return np.ones(weight.shape[1])
        low, high = self._range(site)
        reach = np.maximum(high, -low).astype(np.float64) + 1e-6
        smooth = reach**SMOOTHING / np.abs(weight).max(axis=0) ** (1 - SMOOTHING)
        smooth = smooth / np.exp(np.log(smooth).mean())
        rounded_once: Array = smooth.astype(np.float32).astype(np.float64)
        return rounded_once

    def _products(
        self, x: str, site: str, weights: Mapping[str, Array], *, smoothed: bool = False
    ) -> list[str]:
        """An activation times matrices `(out, in)`; `smoothed` where it comes divided already."""
        graph = self.graph
        if self.inputs is None:
            self.given.append(
                (graph.add("Identity", [x], site), len(next(iter(weights.values())).T))
            )
            return [
                graph.add("MatMul", [x, self._float(f"{site}.{name}", weight.T)])
                for name, weight in weights.items()
            ]
        if site not in self.inputs:
            return [
                self._float_product(x, f"{site}.{name}", weight.astype(np.float32))
                for name, weight in weights.items()
            ]
        given, joined = self.inputs[site], np.concatenate(list(weights.values()))
        smooth = self._smoothing(site, joined)
        if not smoothed:
            x = graph.add("Mul", [x, self._float(f"{site}.smooth", 1 / smooth)])
        lows, highs = self._range(site)
        low, high = float((lows / smooth).min()), float((highs / smooth).max())
        step, zero = np.float32((high - low) / 255), np.uint8(np.rint(-low * 255 / (high - low)))
        parts = [graph.scalar(f"{site}.step", step), graph.scalar(f"{site}.zero", zero)]
        x = graph.add("DequantizeLinear", [graph.add("QuantizeLinear", [x, *parts]), *parts])
        offset = float(zero)
        rows = np.rint(given.rows / smooth / step) + offset
        rows = (rows.clip(0, 255) - offset) * np.float64(step)
        integers, scale = rounded(joined * smooth, rows.T @ rows / len(rows))
        made, start = [], 0
        for name, weight in weights.items():
            part = slice(start, start + len(weight))
            start += len(weight)
            matrix = [
                graph.weight(f"{site}.{name}", integers[part].T),
                graph.weight(f"{site}.{name}.scale", scale[part]),
                graph.weight(f"{site}.{name}.zero", np.zeros(len(weight), dtype=np.int8)),
            ]
            made.append(graph.add("MatMul", [x, graph.add("DequantizeLinear", matrix, axis=1)]))
        return made

    def _float_product(self, x: str, site: str, weight: Array) -> str:
        """A product in float of int8 weights, with a scale for every `BLOCK` inputs."""
        graph, (wide, deep) = self.graph, weight.shape
        quantised, scale = int8_rows(weight.reshape(-1, BLOCK))
        blocks = quantised.reshape(wide, deep // BLOCK, BLOCK).transpose(1, 2, 0)
        gains = scale.reshape(wide, deep // BLOCK, 1).transpose(1, 2, 0).astype(np.float16)
        # all of this hangs on constants: ONNX Runtime does it once, when it loads the graph
        restored = graph.add(
            "Mul",
            [
                graph.add("Cast", [graph.weight(f"{site}.weight", blocks)], to=TensorProto.FLOAT),
                graph.add("Cast", [graph.weight(f"{site}.scale", gains)], to=TensorProto.FLOAT),
            ],
        )
        shape = graph.weight(f"{site}.shape", np.array([deep, wide], dtype=np.int64))
        return graph.add("MatMul", [x, graph.add("Reshape", [restored, shape])])


def rounded(weight: Array, second_moments: Array) -> tuple[Array, Array]:
    """Integers `(out, in)` int8 and a scale for each output `(out,)` float32.

    Column by column, the channels of the most power first; what rounding a column adds to the
    outputs is subtracted by the columns that follow (GPTQ).

    Args:
        weight: `(out, in)` float64.
        second_moments: `(in, in)`, of the inputs.
    """
    pairs = weight.reshape(len(weight), -1, 2)
    sums = np.maximum(pairs.clip(0).sum(axis=2), -pairs.clip(None, 0).sum(axis=2)).max(axis=1)
    # two less, for what the other columns' rounding adds
    scale = np.maximum(np.abs(weight).max(axis=1) / 127, sums / (PAIR - 2)).astype(np.float32)
    steps = scale.astype(np.float64)
    power = np.diag(second_moments)
    order = np.argsort(-power, kind="stable")
    damped = second_moments[np.ix_(order, order)] + np.eye(len(order)) * DAMPING * power.mean()
    inverse = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper triangular
    left = weight[:, order]
    integers = np.zeros_like(left)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.zeros((len(left), stop - start))
        for i in range(start, stop):
            integers[:, i] = np.rint(left[:, i] / steps).clip(-127, 127)
            error = (left[:, i] - integers[:, i] * steps) / inverse[i, i]
            left[:, i + 1 : stop] -= error[:, None] * inverse[i, i + 1 : stop]
            errors[:, i - start] = error
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    integers = np.ascontiguousarray(integers[:, np.argsort(order, kind="stable")])
    pairs = integers.reshape(len(integers), -1, 2)
    excess = np.abs(pairs.sum(axis=2)) - PAIR
    rows, places = np.nonzero((excess > 0) & (pairs.prod(axis=2) > 0))
    larger = np.abs(pairs[rows, places]).argmax(axis=1)
    pairs[rows, places, larger] -= np.sign(pairs[rows, places, larger]) * excess[rows, places]
    return integers.astype(np.int8), scale
