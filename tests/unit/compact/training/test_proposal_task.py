"""The proposal head in torch: its cells, what each is trained on, its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import torch

from anyregion.compact.proposal_head import level_sizes
from anyregion.compact.training.checkpoint import write_head
from anyregion.compact.training.proposal_losses import (
    AssignmentConfig,
    assign,
    distance_losses,
    paired_iou,
    proposal_losses,
    smallest_around,
)
from anyregion.compact.training.proposal_module import (
    CellPredictions,
    ProposalHeadConfig,
    centres,
)
from anyregion.compact.training.proposal_task import ProposalTask, ProposalTaskConfig, objects_at
from anyregion.errors import CheckpointError
from tests.helpers.compact_data import toy_dataset

CONFIG = ProposalTaskConfig(head=ProposalHeadConfig(width=16), batch=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def task(tmp_path: Path) -> ProposalTask:
    dataset = toy_dataset(tmp_path)
    return ProposalTask([dataset], config=CONFIG, validation=dataset)


def cell_centres(rows: int, columns: int) -> torch.Tensor:
    return torch.cat([centres(*size) for size in level_sizes(rows, columns)])


def answer(boxes: torch.Tensor, logits: torch.Tensor) -> CellPredictions:
    """The same boxes and scores at points."""
    return CellPredictions(boxes, logits, boxes, logits.detach(), torch.zeros(len(boxes), 4, 16))


def test_one_box_and_score_a_cell(task: ProposalTask) -> None:
    examples = [task.load(item) for item in task.plan(0)]
    task.module.eval()
    with torch.no_grad():
        together = task.module([example.maps for example in examples])
        (alone,) = task.module([examples[0].maps])
    at = cell_centres(3, 4)
    for name, shape in (("boxes", (len(at), 4)), ("scores", (len(at),))):
        for kind in (name, f"point_{name}"):
            assert getattr(alone, kind).shape == shape
            torch.testing.assert_close(getattr(together[0], kind), getattr(alone, kind))
    for boxes in (alone.boxes, alone.point_boxes):
        assert (boxes[:, :2] < at).all()
        assert (at < boxes[:, 2:]).all()


def test_cells_that_box_an_object_best_answer_for_it() -> None:
    objects = torch.tensor([[0.0, 0, 60, 60], [20, 20, 44, 44], [100, 100, 102, 102]])
    at = cell_centres(4, 4)
    boxes = torch.cat([at - 12, at + 12], dim=1)
    # 16 x 16 cells of stride 8: two that box the first object well, one that is also in the second
    boxes[2 * 16 + 2] = torch.tensor([0.0, 0, 60, 50])
    boxes[4 * 16 + 4] = torch.tensor([0.0, 0, 60, 60])
    scores = torch.full((len(at),), 0.5)
    owner, target = assign(boxes, scores, objects, at, AssignmentConfig(cells=2))
    fine = owner[: 16 * 16].reshape(16, 16)
    assert fine[2, 2] == 0
    assert fine[4, 4] == 0, "to the object that it boxes better"
    assert 1 in fine[3:5, 3:5]
    assert fine[12, 12] == 2, "an object smaller than a cell has one all the same"
    assert (fine[8:12, 8:12] == -1).all()
    assert target[4 * 16 + 4] == pytest.approx(1), "the best has its intersection over union"
    assert target[2 * 16 + 2] == pytest.approx((5 / 6) ** 4, rel=1e-3), "others less, in proportion"
    assert (target[owner < 0] == 0).all()
    assert torch.bincount(owner[owner >= 0]).max() <= 2


def test_an_image_without_objects_teaches_low_scores() -> None:
    logits = torch.zeros(len(cell_centres(2, 2)), requires_grad=True)
    boxes = torch.rand(len(logits), 4, requires_grad=True)
    losses = proposal_losses(answer(boxes, logits), torch.zeros(0, 4), 2, 2)
    sum(losses.values()).backward()
    assert losses["box"] == losses["point_box"] == losses["point_score"] == losses["weight"] == 0
    assert (logits.grad > 0).all()


def test_perfect_answers_cost_nothing() -> None:
    objects = torch.tensor([[8.0, 8, 40, 40]])
    at = cell_centres(4, 4)
    inside = smallest_around(objects, at) >= 0
    boxes = torch.where(inside[:, None], objects, torch.tensor([[0.0, 0, 1, 1]]))
    logits = torch.where(inside, 12.0, -12.0)
    every = AssignmentConfig(cells=len(at))
    losses = proposal_losses(answer(boxes, logits), objects, 4, 4, assignment=every)
    assert losses["weight"] == inside.sum()
    assert max(losses[n] for n in ("box", "score", "point_box", "point_score")) < 1e-3


def test_distances_are_told_by_the_two_bins_beside_them() -> None:
    logits = torch.full((3, 4), -30.0)
    logits[0, 2] = logits[1, 1] = logits[1, 2] = logits[2, 3] = 30.0
    lengths = torch.tensor([2.0, 1.5, 99.0])
    expected = torch.tensor([0.0, float(np.log(2)), 0.06])
    torch.testing.assert_close(distance_losses(logits, lengths), expected, atol=0.01, rtol=0)


def test_a_point_means_the_smallest_object_around_it() -> None:
    objects = torch.tensor([[0.0, 0, 120, 120], [20, 20, 44, 44]])
    around = smallest_around(objects, cell_centres(4, 4))
    fine, coarse = around[: 16 * 16].reshape(16, 16), around[-4:]
    assert 1 in fine[3:5, 3:5]
    assert fine[10, 10] == 0
    assert fine[15, 15] == -1
    assert coarse.tolist() == [1, 0, 0, 0]


def test_masks_say_which_object_lies_at_a_point() -> None:
    boxes = np.array([[0.0, 0, 8, 8], [2, 2, 6, 6], [0, 4, 8, 8]])
    ring = np.ones((8, 8), dtype=bool)
    ring[2:6, 2:6] = False
    corner = np.zeros((8, 8), dtype=bool)
    corner[2:4, 2:4] = True
    places = np.array([[1.0, 1], [3, 3], [5, 3], [5, 5], [20, 20]])
    size = (8, 8)
    assert objects_at(places, boxes[:2], [ring, corner], size).tolist() == [0, 1, -1, -1, -1]
    # a box stands in for a mask that is missing
    assert objects_at(places, boxes, [ring, corner, None], size).tolist() == [0, 1, -1, 2, -1]
    assert objects_at(places, boxes[:0], [], size).tolist() == [-1] * 5


def test_images_without_mirror_images_are_seen_as_they_are(tmp_path: Path) -> None:
    dataset = replace(toy_dataset(tmp_path), mirrored=False)
    task = ProposalTask([dataset], config=CONFIG)
    items = [item for step in range(4) for item in task.plan(step)]
    assert len({item.image for item in items}) == 3
    assert not any(item.flipped for item in items)


def test_a_training_begins_at_the_weights_of_another(tmp_path: Path, task: ProposalTask) -> None:
    with torch.no_grad():
        task.module.levels.add_(0.5)
    write_head(task.module, tmp_path / "finder.safetensors")
    config = replace(CONFIG, start=str(tmp_path / "finder.safetensors"), head=ProposalHeadConfig())
    again = ProposalTask([toy_dataset(tmp_path)], config=config)
    assert again.module.config == task.module.config, "the sizes are those of the weights"
    torch.testing.assert_close(again.module.state_dict(), task.module.state_dict())
    with pytest.raises(CheckpointError, match="not a proposal head"):
        ProposalTask([toy_dataset(tmp_path)], config=replace(CONFIG, start=str(tmp_path / "no")))


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
            again.module.train(task.module.training)
            torch.testing.assert_close(losses, again.losses(again.module, examples))
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
        history.append(losses["box"].mean().item())
    assert np.mean(history[-3:]) < 0.6 * history[0]
    metrics = task.validate(task.module)
    assert metrics["recall50_100"] > 0.5
    assert metrics["point_box_iou"] > 0.4


def test_iou_of_pairs() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([1 / 3, 0.0]))
