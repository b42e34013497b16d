"""Trainings that begin at the built-in region head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

import torch

from anyregion.compact.calibration import Calibration
from anyregion.compact.model import CompactModel
from anyregion.compact.training import checkpoint
from anyregion.compact.training.checkpoint import save_region_head
from anyregion.compact.training.keeping_task import KeepingRegionTask
from anyregion.compact.training.start import (
    built_in_module,
    load_kept_regions,
    starting_module,
)
from anyregion.errors import InputError
from anyregion.model_card import ModelCard
from anyregion.training.config import LoopConfig, OptimizerConfig
from anyregion.training.loop import fit
from tests.unit.compact.training.test_region_task import random_features, task, tensors


@pytest.fixture(autouse=True)
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting a graph takes half a minute, and `test_region_task` has it."""
    monkeypatch.setattr(checkpoint, "export_region_head", lambda module, path: path.touch())


def test_the_weights_are_those_of_the_shipped_graph() -> None:
    module, features = built_in_module(), random_features(5)
    with torch.no_grad():
        embeddings = module([tensors(features)])[0]
    shipped = CompactModel(threads=1).region_head.session
    names = [each.name for each in shipped.get_inputs()]
    feed = {name: getattr(features, name) for name in names}
    assert np.abs(embeddings.numpy() - shipped.run(None, feed)[0]).max() < 1e-4
    large = [p for p in module.parameters() if p.numel() >= 64]
    assert all(torch.equal(p, p.half().float()) for p in large)


def test_stored_regions_are_named_as_the_built_in_head_names() -> None:
    kept = load_kept_regions()
    assert len(kept.pooled) == len(kept.answers) > 500
    assert not set(kept.trained) & set(kept.held_out)
    assert torch.isfinite(kept.pooled).all()
    # of many classes, not of the commonest alone
    assert len(set(kept.best(kept.answers).tolist())) > 40


def test_it_begins_at_the_built_in_answer() -> None:
    module, features = starting_module("shipped", 8, 0.5), random_features(3)
    inputs = [tensors(features)]
    with torch.no_grad():
        # in training too: nothing of the frozen part drops out
        assert torch.equal(module.train()(inputs)[0], built_in_module()(inputs)[0])
    trained = {name.split(".")[0] for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {"adapter"}


def test_it_learns_beside_what_it_keeps(tmp_path: Path) -> None:
    learner = task(start="shipped", novelty=0.1)
    assert isinstance(learner, KeepingRegionTask)
    (before,) = learner.notes()
    assert "100.0% of stored regions" in before
    frozen = {n: p.clone() for n, p in learner.module.named_parameters() if not p.requires_grad}
    config = LoopConfig(steps=12, log_every=4, seed=0, optimizer=OptimizerConfig(lr=1e-3))
    fit(learner, config, tmp_path)
    weights = dict(learner.module.named_parameters())
    assert all(torch.equal(weights[name], p) for name, p in frozen.items())
    assert learner._after["top1"] > learner._before["top1"]
    assert learner._after["kept_stored"] > 0.8
    (after,) = learner.notes(trained=True)
    assert after.startswith("after: ")
    numbers = Calibration.from_bytes((tmp_path / "model" / "namer.safetensors").read_bytes())
    assert len(numbers.names) == 80 + 1  # three of the four are among the 80
    # goes on from what came out, answering as that did
    again = starting_module(str(tmp_path / "model"), 8, 0.0).eval()
    inputs = [tensors(random_features(3))]
    with torch.no_grad():
        first, second = again(inputs)[0], learner.module.eval()(inputs)[0]
    assert torch.nn.functional.cosine_similarity(first, second).min() > 0.999


def test_a_head_of_its_own_is_no_start(tmp_path: Path) -> None:
    trained = Calibration(np.eye(1, 384, dtype=np.float32), ("cat",), 0.1, 1.0, 0.0)
    save_region_head(
        built_in_module(), tmp_path, trained, card=ModelCard(licence="MIT"), metrics={}
    )
    with pytest.raises(InputError, match="was not trained from this version's built-in head"):
        starting_module(str(tmp_path), 8, 0.5)
    with pytest.raises(InputError, match="keep_validation needs"):
        task(keep_validation=object())
