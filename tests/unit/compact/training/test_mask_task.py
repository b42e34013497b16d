"""The mask head in torch: shapes, independence of regions, its objective, its training."""

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

from anyregion.compact.assets import PROPOSAL_HEAD, read_asset
from anyregion.compact.mask_head import MaskHead
from anyregion.compact.training.checkpoint import read_mask_head, write_head
from anyregion.compact.training.export import MaskGraph, TorchSession, export_mask_head
from anyregion.compact.training.losses import mask_losses
from anyregion.compact.training.mask_task import (
    MaskTask,
    MaskTaskConfig,
    jitter_sides,
    mask_target,
    read_teacher,
    resampled,
    take_over,
)
from anyregion.compact.training.modules import MaskHeadConfig, MaskHeadModule, enlarged
from anyregion.errors import CheckpointError, InputError
from tests.helpers.compact_data import toy_dataset

SMALL = MaskHeadConfig(coarse=16, fine=8, attention=1, side=16)
CONFIG = MaskTaskConfig(head=SMALL, batch=3, max_regions=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def task(tmp_path: Path) -> MaskTask:
    return MaskTask([toy_dataset(tmp_path)], config=CONFIG, seed=3)


def test_crowds_are_left_out_and_every_region_comes_once_an_epoch(task: MaskTask) -> None:
    assert task.sampler.items == 3
    rows = sorted(row for item in task.plan(0) for row in item.rows)
    assert rows == [0, 1, 3, 4, 6, 7]
    mirrored = {item.image: item.flipped for item in task.plan(0)}
    assert {item.image: not item.flipped for item in task.plan(1)} == mirrored
    assert task.describe(task.plan(0)[0]).split()[0].endswith(".png")


def test_plans_and_examples_follow_from_seed_and_step_alone(tmp_path: Path, task: MaskTask) -> None:
    again = MaskTask([toy_dataset(tmp_path)], config=CONFIG, seed=3)
    assert list(again.plan(5)) == list(task.plan(5))
    first, second = task.load(task.plan(5)[1]), again.load(again.plan(5)[1])
    for name in ("frame", "boxes", "targets"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    for a, b in zip(task.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)
    other = MaskTask([toy_dataset(tmp_path)], config=CONFIG, seed=4)
    assert not torch.equal(other.load(other.plan(5)[1]).frame, first.frame)


def test_regions_do_not_depend_on_each_other(task: MaskTask) -> None:
    examples = [task.load(item) for item in task.plan(0)]
    head = task.module.eval()
    with torch.no_grad():
        logits, quality = head(
            [e.maps for e in examples], [e.frame for e in examples], [e.boxes for e in examples]
        )
        e = examples[1]
        alone, its = head([e.maps], [e.frame], [e.boxes[1:]])
    assert logits.shape == (6, 16, 16)
    assert quality.shape == (6,)
    torch.testing.assert_close(logits[3:4], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(quality[3:4], its, rtol=0, atol=1e-5)


def test_losses_are_one_per_image_and_fall(task: MaskTask) -> None:
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    history = []
    for step in range(25):
        losses = task.losses(task.module, [task.load(item) for item in task.plan(step)])
        assert {name: v.shape for name, v in losses.items()} == dict.fromkeys(
            ("loss", "border", "overlap", "quality"), (3,)
        )
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
        history.append(losses["overlap"].mean().item())
    assert np.mean(history[-3:]) < 0.7 * history[0]


def test_mirrored_images_have_mirrored_targets(tmp_path: Path) -> None:
    plain = MaskTaskConfig(head=SMALL, batch=3, max_regions=2, jittered=0.0, brightness=0, tint=0)
    task = MaskTask([toy_dataset(tmp_path)], config=plain)
    items = {(i.image, i.flipped): i for step in (0, 1) for i in task.plan(step)}
    one, other = (task.load(items[0, flipped]) for flipped in (False, True))
    order = np.argsort(items[0, False].rows), np.argsort(items[0, True].rows)
    mirrored = other.targets[order[1]].flip(2)
    torch.testing.assert_close(one.targets[order[0]], mirrored, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.frame, other.frame.flip(3), rtol=0, atol=1e-6)


def test_validation_measures_at_the_image_and_leaves_the_module_training(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    task = MaskTask([dataset], config=CONFIG, validation=dataset)
    task.module.train()
    metrics = task.validate(task.module)
    assert set(metrics) == {"mean_iou", "auroc"}
    assert 0 < metrics["mean_iou"] < 1
    assert task.module.training


def test_several_data_sets_are_one_stream(tmp_path: Path, task: MaskTask) -> None:
    (tmp_path / "other").mkdir()
    other = toy_dataset(tmp_path / "other", seed=1)
    both = MaskTask([task.datasets[0], other], config=replace(CONFIG, batch=6), seed=3)
    assert both.sampler.items == 6
    items = both.plan(0)
    assert sorted(item.image for item in items) == list(range(6))
    names = {both.describe(item).rsplit(" of ")[-1] for item in items}
    assert names == {data.name for data in both.datasets}
    examples = [both.load(item) for item in items]
    assert len(both.losses(both.module, examples)["loss"]) == 6


def test_no_masks_no_training(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    object.__setattr__(dataset.reader.annotations, "segmentations", None)
    with pytest.raises(InputError, match="no image has a region"):
        MaskTask([dataset], config=CONFIG)


def test_targets_are_shares_of_cells() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:20] = True
    target = mask_target(mask, np.array([10.0, 10, 30, 30]), side=4, margin=0.0)
    torch.testing.assert_close(target[:, 0], torch.ones(4), rtol=0, atol=0.11)
    torch.testing.assert_close(target[:, 3], torch.zeros(4), rtol=0, atol=1e-6)


def test_a_right_mask_costs_little_and_a_wrong_one_much() -> None:
    target = torch.zeros(2, 8, 8)
    target[:, 2:6, 2:6] = 1
    logits = torch.stack([target[0] * 20 - 10, 10 - target[1] * 20])
    losses = mask_losses(logits, torch.tensor([5.0, -5.0]), target)
    assert losses["loss"][0] < 0.02
    assert losses["loss"][1] > 5
    assert losses["overlap"][1] > 0.95
    assert losses["quality"].max() < 0.01


def test_jitter_moves_the_stated_share_of_boxes() -> None:
    boxes = np.tile([10.0, 10, 50, 30], (4000, 1))
    moved = jitter_sides(boxes, np.random.default_rng(0), spread=0.05, share=0.5)
    assert 0.45 < (moved != boxes).any(axis=1).mean() < 0.55
    assert (moved[:, :2] < moved[:, 2:]).all()
    assert abs(moved - boxes).max() <= 0.2 * 40


def test_boxes_are_enlarged_about_their_middle() -> None:
    assert enlarged(torch.tensor([[10.0, 10, 30, 20]]), 0.1).tolist() == [[8, 9, 32, 21]]


def test_a_teacher_stands_in_for_missing_masks(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    masks = list(dataset.reader.annotations.segmentations or ())
    masks[1] = masks[4] = None  # the bars of two images
    object.__setattr__(dataset.reader.annotations, "segmentations", tuple(masks))
    with pytest.raises(InputError, match="need a teacher"):
        MaskTask([dataset], config=replace(CONFIG, taught_images=2))
    before = MaskTask([dataset], config=CONFIG)
    write_head(before.module, tmp_path / "head.safetensors")
    export_mask_head(read_mask_head(tmp_path / "head.safetensors"), tmp_path / "head.onnx")
    task = MaskTask(
        [dataset],
        config=replace(CONFIG, taught_images=2),
        teacher=read_teacher(tmp_path / "head.onnx"),
    )
    items = task.plan(0)
    assert sorted(row for item in items[:3] for row in item.rows) == [0, 3, 6, 7]
    assert sorted(row for item in items[3:] for row in item.rows) == [1, 4]
    examples = [task.load(item) for item in items]
    assert len(task.losses(task.module, examples)["loss"]) == 5
    assert torch.equal(examples[3].targets, task.load(items[3]).targets)
    assert 0 < examples[3].targets.mean() < 1


def test_a_teachers_doubt_is_taught_as_doubt_and_says_nothing_of_quality(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    masks = list(dataset.reader.annotations.segmentations or ())
    masks[1] = masks[4] = None
    object.__setattr__(dataset.reader.annotations, "segmentations", tuple(masks))
    teacher = MaskHead(TorchSession(MaskGraph(MaskHeadModule(SMALL))))  # knows nothing
    config = replace(CONFIG, taught_images=2, jittered=0.0)
    task = MaskTask([dataset], config=config, teacher=teacher)
    examples = [task.load(item) for item in task.plan(0)]
    assert [e.annotated for e in examples] == [True] * 3 + [False] * 2
    doubtful = (examples[3].targets > 0.1) & (examples[3].targets < 0.9)
    assert doubtful.float().mean() > 0.5
    losses = task.losses(task.module, examples)
    assert (losses["quality"][:3] > 0).all()
    assert not losses["quality"][3:].any()


def test_the_overlap_is_least_at_the_target_also_where_that_is_in_doubt() -> None:
    target = torch.full((1, 8, 8), 0.6)
    at = [
        mask_losses(torch.full((1, 8, 8), p).logit(), torch.zeros(1), target)["overlap"].item()
        for p in (0.4, 0.6, 0.95)
    ]
    assert at[1] == pytest.approx(0, abs=1e-5)
    assert min(at[0], at[2]) > 0.1


def test_cells_lie_where_they_were_on_the_grid_of_another_box() -> None:
    cells = torch.zeros(8, 8)
    cells[:, :4] = 1  # the left half of a box from 10 to 50
    origin = torch.tensor([10.0, 10, 50, 50])
    torch.testing.assert_close(resampled(cells, origin, origin, side=8), cells, rtol=0, atol=0.26)
    left = resampled(cells, origin, torch.tensor([10.0, 10, 30, 30]), side=8)
    assert left[:, :7].min() == 1
    assert not resampled(cells, origin, torch.tensor([60.0, 10, 90, 30]), side=8).any()


def test_a_head_goes_on_from_a_smaller_one_with_the_same_answers(tmp_path: Path) -> None:
    before = MaskHeadModule(replace(SMALL, depth=1, fine_depth=2)).eval()
    task = MaskTask([toy_dataset(tmp_path)], config=CONFIG, start=before)
    example = task.load(task.plan(0)[0])
    inputs = [example.maps], [example.frame], [example.boxes]
    with torch.no_grad():
        for mine, its in zip(task.module.eval()(*inputs), before(*inputs), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)
    fresh = MaskHeadModule(SMALL)
    take_over(fresh, MaskHeadModule(replace(SMALL, coarse=32)))
    assert fresh.state_dict()["deep.0.conv.weight"].shape[0] == 16


def test_what_is_no_mask_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a mask head"):
        read_mask_head(tmp_path / "head.safetensors")


def test_a_teacher_is_the_graph_of_a_mask_head(tmp_path: Path) -> None:
    (tmp_path / "head.onnx").write_bytes(b"nothing")
    (tmp_path / "other.onnx").write_bytes(read_asset(PROPOSAL_HEAD))
    for name in ("head.onnx", "other.onnx", "missing.onnx"):
        with pytest.raises(CheckpointError, match=f"{name}: not the graph of a mask head"):
            read_teacher(tmp_path / name)
