"""RegionSpot's task: what is drawn, what is descended, what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anyregion.data.region_dataset import region_dataset
from anyregion.errors import InputError
from anyregion.regionspot.adapter import Adapter, AdapterConfig
from anyregion.regionspot.losses import (
    cross_entropy_losses,
    distillation_losses,
    focal_losses,
    repeated_rows,
)
from anyregion.regionspot.pretrained import Pretrained, load_adapter, read_config
from anyregion.regionspot.training.config import ObjectiveConfig, StepConfig
from anyregion.regionspot.training.task import RegionSpotTask, Validation
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.loop import fit
from tests.helpers.small_sets import EMBED, TOKEN, WIDTH, MadeUp, annotated, words

SMALL = AdapterConfig(
    token_width=TOKEN, feature_width=WIDTH, embed_width=EMBED, heads=4, feedforward=64, dropout=0.0
)
ABOUT = Pretrained(adapter=SMALL, localizer="toy-sam", vlm="toy-clip", licence="CC-BY-4.0")


def some_set(name: str = "one", *, classes: int = 4, **options: Any) -> Any:
    draw = np.random.default_rng(len(name))
    labels = [draw.integers(classes, size=draw.integers(1, 7)).tolist() for _ in range(12)]
    annotations = annotated(labels, classes=classes, prefix=name)
    reader = MadeUp(annotations, teacher=options.pop("teacher", False))
    return region_dataset(name, reader, words(annotations.categories.names), **options)


def task(*sets: Any, config: AdapterConfig = SMALL, **options: Any) -> RegionSpotTask:
    torch.manual_seed(4)
    sets = sets or (some_set(),)
    own = {name: options.pop(name) for name in ("max_regions", "fill") if name in options}
    step = StepConfig(batch=options.pop("batch", 4), **own)
    return RegionSpotTask(Adapter(config), sets, scale=20.0, pretrained=ABOUT, step=step, **options)


def test_a_step_is_of_one_data_set_in_the_stated_shares() -> None:
    one = task(some_set("one", ratio=2), some_set("other", classes=9), batch=3)
    numbers = []
    for step in range(30):
        items = one.plan(step)
        assert len({item.dataset for item in items}) == 1
        assert len(items) == 3
        numbers.append(items[0].dataset)
        examples = [one.load(item) for item in items]
        losses = one.losses(one.module, examples)["loss"]
        assert losses.shape == (3,)
        assert bool(losses.isfinite().all())
    assert (numbers.count(0), numbers.count(1)) == (20, 10)


def test_plans_follow_from_seed_and_step_alone() -> None:
    def planned(which: RegionSpotTask, step: int) -> list[Any]:
        return [(i.dataset, i.image, i.flipped, i.rows.tolist()) for i in which.plan(step)]

    one, again = task(max_regions=2), task(max_regions=2)
    later = [planned(one, step) for step in range(9)]
    assert planned(again, 8) == later[8]
    assert planned(task(max_regions=2, seed=1), 8) != later[8]
    assert all(len(rows) <= 2 for step in later for *_, rows in step)
    assert {flipped for step in later for _, _, flipped, _ in step} == {True, False}


def test_token_and_feature_map_are_of_one_geometry() -> None:
    one = task()
    for step in range(6):
        for item in one.plan(step):
            example = one.load(item)
            assert example.features is not None
            mirrored = {float(v) for v in example.tokens[:, 0]} | {
                float(v) for v in example.features[:, 0]
            }
            assert mirrored == {float(item.flipped)}


def test_labels_are_places_in_the_vocabulary_and_other_regions_are_left_out() -> None:
    annotations = annotated([[0, 1, 2], [1], [2, 0]], classes=3, crowd={(0, 0)})
    reader = MadeUp(annotations)
    some = region_dataset("some", reader, words(["Name_2", "something", "NAME 0"]))
    assert some.images.tolist() == [0, 2]
    assert some.labels_of(0).tolist() == [-1, 0]  # row 0 of the tokens is the first no-crowd one
    assert some.labels_of(2).tolist() == [0, 2]
    with pytest.raises(InputError, match="no image has a region with a name"):
        region_dataset("some", reader, words(["zebra"]))


def test_padding_changes_no_loss() -> None:
    one = task()
    items = one.plan(0)
    assert len({len(i.rows) for i in items}) > 1
    examples = [one.load(item) for item in items]
    together = one.losses(one.module.eval(), examples)["loss"]
    alone = torch.cat([one.losses(one.module, [e])["loss"] for e in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_filled_by_repeating_as_published() -> None:
    one = task(fill="repeat")
    items, plain = one.plan(0), task().plan(0)
    most = max(len(i.rows) for i in plain)
    for item, before in zip(items, plain, strict=True):
        expected = before.rows[repeated_rows(len(before.rows), most)]
        assert item.rows.tolist() == expected.tolist()


def test_objectives_against_plain_formulas() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, 4, -1], [2, -1, -1]])
    p = logits.sigmoid()
    t = F.one_hot(labels.clamp(min=0), 5).float()
    cell = t * 0.25 * (1 - p) ** 2 * -p.log() + (1 - t) * 0.75 * p**2 * -(1 - p).log()
    focal = torch.stack([cell[0, :2].sum() / 2, cell[1, :1].sum()])
    torch.testing.assert_close(focal_losses(logits, labels), focal)
    nll = -logits.log_softmax(dim=-1)
    entropy = torch.stack([(nll[0, 0, 0] + nll[0, 1, 4]) / 2, nll[1, 0, 2]])
    torch.testing.assert_close(cross_entropy_losses(logits, labels), entropy)
    teacher = torch.randn(2, 3, 5)
    cosine = (F.normalize(logits, dim=-1) * F.normalize(teacher, dim=-1)).sum(dim=-1)
    pull = torch.stack([(1 - cosine[0, :2]).mean(), 1 - cosine[1, 0]])
    torch.testing.assert_close(distillation_losses(logits, teacher, labels), pull)
    for loss in (focal_losses, cross_entropy_losses):
        with pytest.raises(InputError, match="labels must lie in 0 to 4"):
            loss(logits, labels + 1)


def test_distillation_pulls_towards_the_teacher() -> None:
    objective = ObjectiveConfig(kind="cross_entropy", distillation=3.0)
    one = task(some_set(teacher=True), objective=objective)
    examples = [one.load(item) for item in one.plan(0)]
    losses = one.losses(one.module, examples)
    torch.testing.assert_close(losses["loss"], losses["naming"] + 3 * losses["distillation"])
    optimizer = torch.optim.Adam(one.module.parameters(), lr=1e-3)
    for _ in range(15):
        optimizer.zero_grad()
        one.losses(one.module, examples)["loss"].sum().backward()
        optimizer.step()
    after = one.losses(one.module, examples)["distillation"].mean()
    assert float(after) < 0.5 * float(losses["distillation"].mean())
    with pytest.raises(InputError, match="one: holds no teacher"):
        task(objective=objective)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_width": 8}, "tokens of width 16"),
        ({"feature_width": 64}, "feature map of width 32"),
        ({"embed_width": 8}, "words of width 24"),
    ],
)
def test_widths_that_do_not_fit_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(config=replace(SMALL, **change))


@pytest.mark.parametrize("attention", ["mutual", "independent"])
def test_learns_to_name_and_is_saved_ready_for_use(tmp_path: Path, attention: Any) -> None:
    config = replace(SMALL, attention=attention)
    validation = Validation(some_set("two"), limit=8)
    one = task(config=config, validation=validation)
    before = one.validate(one.module.eval())
    loop = LoopConfig(
        steps=60, tensorboard=False, log_every=30, optimizer=OptimizerConfig(lr=1e-3), readers=0
    )
    report = fit(one, loop, tmp_path)
    assert report.validation["top1"] > max(0.9, before["top1"])
    assert report.validation["top5"] == 1.0
    about = read_config(tmp_path / "model")
    assert (about.localizer, about.vlm, about.licence) == ("toy-sam", "toy-clip", "CC-BY-4.0")
    saved = load_adapter(tmp_path / "model", SMALL)
    assert torch.equal(saved.projector.weight, one.module.projector.weight)  # type: ignore[union-attr]
    card = (tmp_path / "README.md").read_text()
    assert "12 images, 4 names" in card
    assert "terms: not stated" in card


def test_a_module_that_says_nothing_is_never_right() -> None:
    class Silent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, tokens: torch.Tensor, features: Any, **_: Any) -> torch.Tensor:
            return torch.zeros(*tokens.shape[:2], EMBED)

    figures = Validation(some_set()).measure(Silent(), 20.0)
    assert figures == {"top1": 0.0, "top5": 1.0, "mean_class_accuracy": 0.0}
