"""Packaged recipes state the published numbers; what a file gets wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anyregion.compact.training.dataset import StoreConfig
from anyregion.errors import InputError
from anyregion.r2o.training.config import ImagesConfig
from anyregion.recipes.loading import (
    as_words,
    explain,
    list_recipes,
    read_training,
    settings_of_run,
    upgrade_settings,
)
from anyregion.training.optimizers import rate_factor
from anyregion.training.run_folder import changed_settings, plain

REGIONSPOT = {
    "b16": ("openai/clip-vit-base-patch16", None, 768, 512),
    "l14": ("openai/clip-vit-large-patch14", None, 1024, 768),
    "l14_336": ("openai/clip-vit-large-patch14-336", 336, 1024, 768),
}


def test_every_packaged_recipe_parses() -> None:
    for name in list_recipes():
        task = name.removesuffix("_teacher")
        task = next(
            (t for t in ("regionspot", "r2o", "semseg", "detection") if name.startswith(t)), task
        )
        assert read_training(name).task == task
        assert read_training(f"{name}.yaml").task == task


def test_the_published_recipe_of_r2o() -> None:
    training = read_training("r2o-resnet50-imagenet300.yaml")
    loop, own = training.loop, training.settings
    assert (own.backbone, own.epochs, own.warmup_epochs, own.batch) == (
        "torchvision/resnet50", 300, 3, 4096,
    )  # fmt: skip
    assert (own.curriculum.kind, own.curriculum.values) == ("cosine", (128, 4))
    assert (own.views.size, own.prior.kind, own.prior.segments) == (224, "slic", 100)
    assert (own.heads.hidden, own.heads.out, own.momentum, own.rate_per) == (4096, 256, 0.99, None)
    assert (own.method.scope, own.method.published) == ("batch", False)
    lars = loop.optimizer
    assert (lars.kind, lars.lr, own.base_batch, lars.weight_decay) == ("lars", 0.3, 256, 1e-6)
    assert (lars.momentum, lars.eta, lars.decay_all) == (0.9, 0.001, False)


def test_the_recipe_of_the_built_in_model() -> None:
    training = read_training("compact", ["--compact.unseen", "every:4:1"])
    assert (training.loop.steps, training.loop.ema_decay) == (1000, 0.99)
    assert not training.loop.optimizer.decay_all
    own = training.settings
    assert (own.module.layers, own.module.dropout, own.module.width) == (2, 0.15, 192)
    assert (own.objective.class_power, own.objective.distillation) == (0.3, 1.0)
    assert (own.novelty, own.unseen, own.licence) == (0.2, "every:4:1", "not stated")


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("size", REGIONSPOT)
def test_published_recipes(size: str, stage: int) -> None:
    training = read_training(f"regionspot_{size}_stage{stage}")
    loop, own = training.loop, training.settings
    assert (loop.steps, loop.precision, loop.grad_norm) == (450_000, "fp16", 1.0)
    assert (loop.optimizer.lr, loop.optimizer.weight_decay) == (2.5e-5, 1e-4)
    assert loop.optimizer.decay_all
    factors = {s: rate_factor(loop.schedule, s, loop.steps) for s in (0, 1000, 350_000, 420_000)}
    assert factors == pytest.approx({0: 0.01, 1000: 1.0, 350_000: 0.1, 420_000: 0.01})
    assert own.batch == 16
    vlm, side, width, embed = REGIONSPOT[size]
    assert (own.vlm, own.vlm_image_size) == (vlm, side)
    assert (own.adapter.feature_width, own.adapter.embed_width) == (width, embed)
    assert (own.adapter.layers, own.adapter.heads, own.adapter.feedforward) == (3, 8, 2048)
    assert (own.adapter.dropout, own.adapter.token_width) == (0.1, 256)
    assert (own.objective.kind, own.objective.alpha, own.objective.gamma) == ("focal", 0.25, 2.0)
    assert [d.ratio for d in own.data] == ([1] if stage == 1 else [1, 1, 1])
    assert (own.init_from is None) == (stage == 1)


def test_file_overridden_by_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: regionspot\nsteps: 7\noptimizer: {lr: 0.5}\n"
        "regionspot: {data: [{store: here, repeat_threshold: 0.001}], flip: 0}\n"
    )
    training = read_training(
        path, ["--optimizer.lr", "1e-4", "--regionspot.objective.distillation", "2"]
    )
    assert training.loop.steps == 7
    assert training.loop.optimizer.lr == 1e-4
    assert training.settings.data[0].repeat_threshold == 0.001
    assert training.settings.objective.distillation == 2
    assert training.settings.flip == 0
    stated = training.task_settings()
    assert stated["task"] == "regionspot"
    assert stated["regionspot"]["data"][0]["store"] == "here"


MASKS = {
    "task": "compact_masks",
    "compact_masks": {
        "store": "a",
        "images": "photos",
        "validation": "b",
        "terms": "CC0",
        "task": {"images": 5, "taught_images": 3, "regions": 4, "head": {"side": 24}},
    },
}
EARLIER = [
    (
        {"task": "compact", "compact": {"stores": ["a", "b"], "validation": "c", "terms": "CC0"}},
        {
            "data": [{"store": "a", "terms": "CC0"}, {"store": "b", "terms": "CC0"}],
            "validation": {"store": "c"},
        },
    ),
    (
        MASKS,
        {
            "data": [{"store": "a", "images": "photos", "terms": "CC0"}],
            "validation": {"store": "b"},
            "batch": 5,
            "taught_images": 3,
            "max_regions": 4,
            "head": {"side": 24},
        },
    ),
    (
        {
            "task": "compact_finder",
            "compact_finder": {"store": "a", "validation": "b", "task": {"images": 3}},
        },
        {"data": [{"store": "a"}], "validation": {"store": "b"}, "batch": 3},
    ),
    (
        {"task": "r2o", "r2o": {"images": ["a", "b"], "terms": "CC0"}},
        {"data": [{"images": "a", "terms": "CC0"}, {"images": "b", "terms": "CC0"}]},
    ),
]


@pytest.mark.parametrize(("before", "now"), EARLIER, ids=[b["task"] for b, _ in EARLIER])
def test_settings_by_their_earlier_names(before: dict[str, Any], now: dict[str, Any]) -> None:
    name = before["task"]
    assert upgrade_settings(before) == {"task": name, name: now}
    assert upgrade_settings({"task": name, name: now}) == {"task": name, name: now}
    earlier, today = read_training(before), read_training({"task": name, name: now})
    assert earlier == today
    assert today.task_settings() == earlier.task_settings()


def test_a_run_without_settings_that_came_later() -> None:
    before = read_training("regionspot_b16_stage2").task_settings()
    older = plain(before)
    del older["regionspot"]["unseen"]
    for data in older["regionspot"]["data"]:
        del data["share"]
    assert changed_settings(before, older), "unset is not the default"
    assert changed_settings(before, settings_of_run(older)) == []


def test_earlier_names_on_the_command_line() -> None:
    words = ["--compact.stores", "[a]", "--steps=7", "--compact.validation", "2017"]
    words += ["--compact.flip", "0"]
    own = read_training("compact", words).settings
    assert own.data == (StoreConfig("a"),), "the recipe's terms are of its own data"
    assert (own.validation, own.flip) == (StoreConfig("2017"), 0)
    words = ["--compact.data", '[{"store": "a", "terms": "CC0"}, b]', "--compact.validation=c"]
    own = read_training("compact", words).settings
    assert own.data == (StoreConfig("a", "CC0"), StoreConfig("b"))
    words = ["--compact_masks.images", "photos", "--compact_masks.task.images", "2"]
    words += ["--compact_masks.task.head.side", "24", "--compact_masks.validation.store", "c"]
    own = read_training("compact_masks", words).settings
    assert [(data.store, data.images) for data in own.data] == [("stores/coco_train", "photos")]
    assert (own.validation.store, own.batch, own.head.side) == ("c", 2, 24)
    own = read_training("r2o-small", ["--r2o.images=[a, b]", "--r2o.terms", "CC BY 4.0"]).settings
    assert own.data == (ImagesConfig("a", "CC BY 4.0"), ImagesConfig("b", "CC BY 4.0"))
    words = ["--regionspot.terms", "CC0: none", "--regionspot.validation", "v"]
    own = read_training("regionspot_b16_stage2", words).settings
    assert [data.terms for data in own.data] == ["CC0: none"] * 3
    assert own.validation.store == "v"
    with pytest.raises(InputError, match=r"--compact\.stores: not a value that YAML can read"):
        read_training("compact", ["--compact.stores", "[a"])


def test_settings_of_a_function_call_are_those_of_a_command_line() -> None:
    settings = {"optimizer": {"lr": 1e-5}, "compact.data": ["a"], "compact.unseen": "yes: no"}
    training = read_training("compact", as_words(settings))
    assert training.loop.optimizer.lr == 1e-5
    assert training.settings.data == (StoreConfig("a"),)
    assert training.settings.unseen == "yes: no"
    assert as_words(["--steps", "3"]) == ["--steps", "3"]


GOOD = "task: regionspot\nregionspot: {data: [{store: here}]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "stepz: 3\n", "stepz"),
        (GOOD + "optimizer: {learning_rate: 3}\n", "learning_rate"),
        (GOOD + "steps: many\n", "steps"),
        (GOOD + "steps: 0\n", "steps must be at least 1"),
        (GOOD + "precision: fp8\n", "precision"),
        (GOOD + "compact: {}\n", "settings of compact, but the task is regionspot"),
        ("task: regionspot\n", "name at least one data set"),
        ("task: regionspot\nregionspot: {data: [{ratio: 2}]}\n", "a data set needs a store"),
        ("task: regionspot\nregionspot: {data: [{store: a, size: 2}]}\n", "size"),
        ("task: horoscope\n", "task must be one of regionspot, r2o, compact"),
        ("steps: 3\n", "task must be one of"),
        ("task: [\n", r"line 2, column 1: expected the node content"),
        ("- 3\n", "not a list of settings"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_training(path)


def test_mistakes_on_the_command_line_are_named() -> None:
    with pytest.raises(InputError, match=r"optimizer\.lrr"):
        read_training("regionspot_b16_stage1", ["--optimizer.lrr", "1"])
    with pytest.raises(InputError, match="no recipe 'regionspot_xl'"):
        read_training("regionspot_xl")
    with pytest.raises(InputError, match="there is no such file"):
        read_training("nowhere/mine.yaml")


def test_settings_explain_themselves() -> None:
    text = explain("regionspot_b16_stage1")
    for words in ("--optimizer.weight_decay", "decoupled", "--regionspot.fill", "share of images"):
        assert words in text


@pytest.mark.parametrize("name", list_recipes())
def test_no_recipe_states_terms_or_a_licence(name: str) -> None:
    # whose data they are, only the user knows
    settings = read_training(name).settings
    assert {data.terms for data in settings.data} <= {"not stated"}
    assert getattr(settings, "licence", "not stated") == "not stated"
