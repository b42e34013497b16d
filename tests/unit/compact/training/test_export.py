"""The heads as ONNX graphs: they equal torch, and inference runs on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnxscript")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import onnxruntime as ort
import torch

from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.mask_head import AT_ONCE, MaskHead
from anyregion.compact.proposal_head import OUTPUTS, ProposalHead, ProposalOptions
from anyregion.compact.training.export import (
    MaskGraph,
    ProposalGraph,
    TorchSession,
    rounded,
)
from anyregion.compact.training.mask_task import MaskTask, MaskTaskConfig
from anyregion.compact.training.modules import MaskHeadConfig
from anyregion.compact.training.proposal_module import ProposalHeadConfig
from anyregion.compact.training.proposal_task import ProposalTask, ProposalTaskConfig
from anyregion.masks import mask_area, mask_box
from anyregion.torch_utils.weights import read_state_dict
from tests.helpers.compact_data import toy_dataset, toy_maps

SIZES = [(5, 6, 4), (2, 3, 1), (1, 1, 9)]


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def some_maps(rows: int, columns: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(rows)
    return {
        name: draw.normal(size=(rows * f, columns * f, width)).astype(np.float32)
        for (name, width), f in zip(CHANNELS.items(), (4, 2, 1, 1), strict=True)
    }


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskTask, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("masks")
    head = MaskHeadConfig(coarse=16, fine=8, attention=1, side=16)
    task = MaskTask([toy_dataset(folder)], config=MaskTaskConfig(head=head))
    task.save(task.module, folder)
    return task, folder


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProposalTask, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finder")
    config = ProposalTaskConfig(head=ProposalHeadConfig(width=16))
    task = ProposalTask([toy_dataset(folder)], config=config)
    task.save(task.module, folder)
    return task, folder


def test_the_mask_graph_equals_torch(masks: tuple[MaskTask, Path]) -> None:
    task, folder = masks
    graph, head = session(folder / "mask_head.onnx"), TorchSession(MaskGraph(rounded(task.module)))
    for rows, columns, count in SIZES:
        draw = np.random.default_rng(count)
        corners = draw.uniform(-0.1, 0.6, (count, 2))
        boxes = np.concatenate([corners, corners + draw.uniform(0.02, 0.5, (count, 2))], axis=1)
        frame = draw.normal(size=(1, 3, rows * 32, columns * 32)).astype(np.float32)
        framed = (boxes * np.tile([columns * 32, rows * 32], 2)).astype(np.float32)
        feed = {**some_maps(rows, columns), "frame": frame, "boxes": framed}
        names = ["inside", "scores", "margin"]
        for array, expected in zip(graph.run(names, feed), head.run(names, feed), strict=True):
            assert array.shape == expected.shape
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-4)


def test_the_proposal_graph_equals_torch(proposals: tuple[ProposalTask, Path]) -> None:
    task, folder = proposals
    graph, head = session(folder / "finder.onnx"), TorchSession(ProposalGraph(rounded(task.module)))
    for rows, columns, _ in SIZES:
        feed = some_maps(rows, columns)
        arrays, expected = graph.run(list(OUTPUTS), feed), head.run(list(OUTPUTS), feed)
        for name, array, values in zip(OUTPUTS, arrays, expected, strict=True):
            assert array.shape == values.shape
            # a pixel of the network's input, or a score
            tolerance = 1e-3 if "boxes" in name else 1e-4
            np.testing.assert_allclose(array, values, rtol=1e-5, atol=tolerance)


def test_graphs_hold_half_precision_and_no_trace_of_where_they_were_made(
    masks: tuple[MaskTask, Path], proposals: tuple[ProposalTask, Path]
) -> None:
    for task, path in (
        (masks[0], masks[1] / "mask_head.onnx"),
        (proposals[0], proposals[1] / "finder.onnx"),
    ):
        weights = sum(p.numel() for p in task.module.parameters())
        assert path.stat().st_size < 2 * weights + 130_000  # nodes and places
        assert b".py" not in path.read_bytes()
    stored = read_state_dict(masks[1] / "mask_head.safetensors")
    assert set(stored) == set(masks[0].module.state_dict())


def test_masks_do_not_depend_on_how_many_are_decoded(masks: tuple[MaskTask, Path]) -> None:
    head = MaskHead(session(masks[1] / "mask_head.onnx"))
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    features = toy_maps(pixels)
    maps = {n: features[n].astype(np.float32) for n in CHANNELS}
    pyramid = FeaturePyramid(maps, (96.0, 128.0), (96, 128))
    frame = pyramid.letterbox(pixels)
    x, y = np.meshgrid(np.arange(0, 100, 10.0), np.arange(0, 70, 10.0))
    boxes = np.stack([x, y, x + 25.5, y + 20.25], axis=2).reshape(-1, 4)
    assert len(boxes) > AT_ONCE
    decoded, scores = head.masks_from_boxes(pyramid, frame, boxes)
    assert len(decoded) == len(boxes) == len(scores)
    assert ((scores > 0) & (scores < 1)).all()
    for i in (0, len(boxes) - 1):
        alone, score = head.masks_from_boxes(pyramid, frame, boxes[i : i + 1])
        assert score[0] == pytest.approx(scores[i], abs=1e-5)
        assert abs(mask_area(alone[0]) - mask_area(decoded[i])) <= 2
        tight = mask_box(decoded[i])
        assert (tight[:2] >= boxes[i, :2] - 1).all()
        assert (tight[2:] <= boxes[i, 2:] + 1).all()
    assert head.masks_from_boxes(pyramid, frame, np.zeros((0, 4)))[0] == ()


def test_the_proposal_head_proposes_and_boxes_points(proposals: tuple[ProposalTask, Path]) -> None:
    head = ProposalHead(session(proposals[1] / "finder.onnx"))
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    features = toy_maps(pixels)  # the frame has twice its size
    maps = {n: features[n].astype(np.float32) for n in CHANNELS}
    pyramid = FeaturePyramid(maps, (48.0, 64.0), (48, 64))
    boxes, scores = head.propose(pyramid, ProposalOptions(limit=7, min_score=0.0))
    assert len(boxes) == len(scores) <= 7
    assert (np.diff(scores) <= 0).all()
    assert (boxes >= 0).all()
    assert (boxes <= [64, 48, 64, 48]).all()
    points = [np.array([[10.0, 10.0]]), np.array([[60.0, 40.0], [5.0, 5.0]])]
    labels = [np.array([1]), np.array([1, 0])]
    boxes, scores = head.boxes_from_points(pyramid, points, labels)
    assert boxes.shape == (2, 4)
    assert ((scores > 0) & (scores < 1)).all()
    for box, where in zip(boxes, points, strict=True):
        assert (box[:2] <= where[0] + 0.5).all()
        assert (where[0] + 0.5 <= box[2:]).all()
    assert head.boxes_from_points(pyramid, [], [])[0].shape == (0, 4)
