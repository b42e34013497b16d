"""`tools/text_encoder_graph.py`: the graph of the text encoder, and how its weights are rounded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from anyregion.compact.assets import TEXT_ENCODER, read_asset

TOOLS = Path(__file__).parents[3] / "tools"
onnx = pytest.importorskip("onnx")
sys.path.append(str(TOOLS))
import text_encoder_graph as graphs  # noqa: E402


def excess(weight: np.ndarray) -> int:
    """By how much two neighbours of an output's weights `(out, in)` exceed what 16 bits hold."""
    pairs = weight.astype(int).reshape(len(weight), -1, 2)
    return int(np.abs(pairs.sum(axis=2)).max()) * 255 - 2**15


def test_rounding_takes_back_what_it_adds() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(2000, 16)) @ random.normal(size=(16, 64))
    inputs += random.normal(size=inputs.shape) / 4
    weight = random.standard_t(3, size=(32, 64))
    integers, scale = graphs.rounded(weight, inputs.T @ inputs / len(inputs))
    assert integers.dtype == np.int8
    assert excess(integers) < 0
    nearest = np.rint(weight / scale[:, None]).clip(-127, 127)
    errors = [((inputs @ (w * scale[:, None] - weight).T) ** 2).mean() for w in (integers, nearest)]
    assert errors[0] < errors[1] / 2


def test_pairs_fit_16_bits() -> None:
    # neighbours of one sign, as large as an int8 allows
    weight = np.full((4, 64), 0.5)
    weight[:, ::7] *= -1
    weight[1, :2] = 3
    integers, _ = graphs.rounded(weight, np.eye(64))
    assert excess(integers) < 0


def test_no_product_of_the_shipped_graph_overflows() -> None:
    graph = onnx.load_from_string(read_asset(TEXT_ENCODER)).graph
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
    matrices = [
        weights[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    ]
    assert len(matrices) == 6 * 6 - len(graphs.FLOAT)
    assert all(excess(matrix.T) < 0 for matrix in matrices)


def test_float_graph_is_the_original() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512, layer_norm_eps=1e-12,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    for name, values in model.named_parameters():
        if name.endswith("bias"):  # zero until trained
            torch.nn.init.normal_(values, std=0.5)
    state = {name: values.numpy() for name, values in model.state_dict().items()}
    pieces = np.random.default_rng(0).integers(0, 50, (3, 7))
    with torch.inference_mode():
        expected = model(torch.tensor(pieces)).last_hidden_state.mean(1).numpy()
    exact = graphs.text_encoder_graph(state, range(50))
    run = onnxruntime.InferenceSession(exact, providers=["CPUExecutionProvider"]).run
    assert np.allclose(run(["embedding"], {"pieces": pieces})[0], expected, atol=1e-4)
    inputs = graphs.measure_inputs(exact, [[1, 2, 3], [4, 5]])
    integers = graphs.text_encoder_graph(state, range(50), inputs)
    run = onnxruntime.InferenceSession(integers, providers=["CPUExecutionProvider"]).run
    assert np.corrcoef(run(None, {"pieces": pieces})[0].ravel(), expected.ravel())[0, 1] > 0.9
