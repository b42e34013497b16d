"""`tools/image_encoder_graph.py`: the graph of the image encoder, in float and in integers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[3] / "tools"
pytest.importorskip("onnx")
sys.path.append(str(TOOLS))
import image_encoder_graph as graphs  # noqa: E402


@pytest.fixture(scope="module")
def network() -> Any:
    """EfficientNet-Lite0 with random weights, and statistics of its own activations."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.5, 0.5)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(6):
            made(pixels(torch, 4))
    return made.eval()


def pixels(torch: Any, images: int) -> Any:
    coarse = torch.rand((images, 3, 12, 16))
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return ((smooth * 255).round() - 127) / 128


def tensors(network: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Its weights under TensorFlow's names."""
    from anyregion.backbones.key_maps import FAMILIES

    family = next(f for f in FAMILIES if f.name == "efficientnet_lite0")
    renamed = {}
    for name, tensor in network.state_dict().items():
        for row in family.rows:
            if name.startswith(row["timm"]):
                renamed[row["tensorflow"] + name[len(row["timm"]) :]] = tensor.numpy()
    return renamed


def maps_of(network: Any, images: Any) -> list[np.ndarray[Any, Any]]:
    x, maps = network.bn1(network.conv_stem(images)), []
    for stage, block in enumerate(network.blocks):
        x = block(x)
        if stage in graphs.TAPS:
            maps.append(x.numpy())
    return [*maps, network.bn2(network.conv_head(x)).numpy()]


def run(graph: bytes, images: Any) -> list[np.ndarray[Any, Any]]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    frames = (images * 128 + 127).byte().permute(0, 2, 3, 1).numpy()
    arrays = session.run([*graphs.TAPS.values(), "last"], {"pixels": frames})
    return [array.transpose(0, 3, 1, 2) for array in arrays]


def test_in_float_it_equals_torch_and_in_integers_it_is_close(network: Any) -> None:
    import torch

    state = tensors(network)
    images = pixels(torch, 1)
    with torch.inference_mode():
        expected = maps_of(network, images)
    # with random weights rounding does more harm (0.01, 0.04, 0.08, 0.10) than with trained ones
    for quantised, most in ((False, 1e-9), (True, 0.2)):
        graph = graphs.image_encoder_graph(state, quantised=quantised)
        assert graph == graphs.image_encoder_graph(state, quantised=quantised)
        for array, reference in zip(run(graph, images), expected, strict=True):
            assert ((array - reference) ** 2).mean() < most * reference.var()


def test_statistics_of_clipped_values() -> None:
    random = np.random.default_rng(0)
    mean, deviation = np.array([-1.0, 0.5, 3.0, 7.0]), np.array([1.0, 2.0, 3.0, 0.5])
    values = np.clip(random.normal(mean, deviation, size=(400_000, 4)), 0, 6)
    expected_mean, expected_deviation = graphs.clipped_normal(mean, deviation)
    assert np.allclose(expected_mean, values.mean(axis=0), atol=0.01)
    assert np.allclose(expected_deviation, values.std(axis=0), atol=0.01)


def test_rounded_weights_use_the_best_range() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_t(4, size=(8, 16, 3, 3))
    weight[3] = 0
    integers, steps = graphs.quantise(weight, 63)
    assert np.abs(integers).max() <= 63
    assert np.isfinite(steps).all()
    plain = np.abs(weight).reshape(8, -1).max(axis=1)[:, None, None, None] / 63
    plain[3] = 1
    error = ((integers * steps[:, None, None, None] - weight) ** 2).sum()
    assert error < ((np.rint(weight / plain) * plain - weight) ** 2).sum()
