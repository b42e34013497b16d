"""The proposal head in torch: its cells, what each is trained on, its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import torch

from anyregion.compact.proposal_head import level_sizes
from anyregion.compact.training.losses import (
    assign,
    paired_iou,
    proposal_losses,
    smallest_around,
)
from anyregion.compact.training.modules import ProposalHeadConfig, centres
from anyregion.compact.training.proposal_task import ProposalTask, ProposalTaskConfig
from anyregion.evaluation.metrics.overlap import count_matched
from tests.helpers.compact_data import toy_dataset

CONFIG = ProposalTaskConfig(head=ProposalHeadConfig(width=16), batch=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def task(tmp_path: Path) -> ProposalTask:
    dataset = toy_dataset(tmp_path)
    return ProposalTask([dataset], config=CONFIG, validation=dataset)


def test_one_box_and_score_a_cell(task: ProposalTask) -> None:
    example = task.load(task.plan(0)[0])
    with torch.no_grad():
        ((boxes, scores, point_scores),) = task.module([example.maps])
    count = sum(rows * columns for rows, columns, _ in level_sizes(3, 4))
    assert boxes.shape == (count, 4)
    assert scores.shape == point_scores.shape == (count,)
    at = torch.cat([centres(*size) for size in level_sizes(3, 4)])
    assert (boxes[:, :2] < at).all()
    assert (at < boxes[:, 2:]).all()


def test_cells_answer_for_the_smallest_object_of_their_size() -> None:
    objects = torch.tensor([[0.0, 0, 60, 60], [20, 20, 44, 44], [100, 100, 102, 102]])
    owner, share = assign(objects, 4, 4)
    fine = owner[: 16 * 16].reshape(16, 16)
    assert fine[3, 3] == 1
    assert fine[0, 0] == 0
    assert fine[15, 0] == -1
    assert fine[12, 12] == 2, "an object smaller than a cell has one all the same"
    assert (owner[-4:] == -1).all(), "no cell of stride 64 answers for an object of 60 pixels"
    for row in range(3):
        assert share[owner == row].sum() == pytest.approx(1, abs=1e-5)
    assert (share[owner < 0] == 0).all()


def test_an_image_without_objects_teaches_low_scores() -> None:
    logits = torch.zeros(sum(r * c for r, c, _ in level_sizes(2, 2)), requires_grad=True)
    boxes = torch.rand(len(logits), 4, requires_grad=True)
    losses = proposal_losses((boxes, logits, logits.detach()), torch.zeros(0, 4), 2, 2)
    losses["loss"].backward()
    assert losses["box"] == losses["point"] == 0
    assert (logits.grad > 0).all()


def test_perfect_answers_cost_nothing() -> None:
    objects = torch.tensor([[8.0, 8, 40, 40]])
    owner, _ = assign(objects, 4, 4)
    boxes = torch.where((owner == 0)[:, None], objects, torch.tensor([[0.0, 0, 1, 1]]))
    logits = torch.where(owner == 0, 12.0, -12.0)
    around = smallest_around(objects, 4, 4)
    exact = torch.zeros(len(owner))
    exact[around >= 0] = paired_iou(boxes[around >= 0], objects)
    point_logits = exact.clamp(1e-6, 1 - 1e-6).logit()
    losses = proposal_losses((boxes, logits, point_logits), objects, 4, 4)
    assert losses["box"] < 1e-6
    assert losses["score"] < 1e-4
    # cells of other levels lie in the object too: there the second score says how wrong they are
    assert losses["point"] < 0.3


def test_a_point_means_the_smallest_object_around_it() -> None:
    objects = torch.tensor([[0.0, 0, 120, 120], [20, 20, 44, 44]])
    around = smallest_around(objects, 4, 4)
    fine, coarse = around[: 16 * 16].reshape(16, 16), around[-4:]
    assert fine[3, 3] == 1
    assert fine[10, 10] == 0
    assert fine[15, 15] == -1
    assert coarse.tolist() == [1, 0, 0, 0]


def test_losses_fall_and_the_task_repeats_itself(tmp_path: Path, task: ProposalTask) -> None:
    again = ProposalTask([toy_dataset(tmp_path)], config=CONFIG)
    assert list(again.plan(7)) == list(task.plan(7))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=5e-3)
    history = []
    for step in range(40):
        examples = [task.load(item) for item in task.plan(step)]
        losses = task.losses(task.module, examples)
        assert {v.shape for v in losses.values()} == {(3,)}
        if not step:
            torch.testing.assert_close(losses, again.losses(again.module, examples))
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
        history.append(losses["box"].mean().item())
    assert np.mean(history[-3:]) < 0.6 * history[0]
    metrics = task.validate(task.module)
    assert metrics["recall50_100"] > 0.5
    assert metrics["point_box_iou"] > 0.4


def test_recall_takes_every_box_once() -> None:
    true_boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 12]])
    assert count_matched(true_boxes[:1], true_boxes, 0.5) == 1
    assert count_matched(np.repeat(true_boxes[:1], 3, axis=0), true_boxes, 0.5) == 2
    assert count_matched(np.zeros((0, 4)), true_boxes, 0.5) == 0
    assert count_matched(true_boxes, true_boxes, 0.99) == 2


def test_iou_of_pairs() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([1 / 3, 0.0]))
