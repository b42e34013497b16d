"""The trainer: parts of a step, special cases, other backbones, and a run made to collapse."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.backbones.loading import load_encoder  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.r2o.label_store.image_list import list_images  # noqa: E402
from anyregion.r2o.label_store.store import LabelStore  # noqa: E402
from anyregion.r2o.model import Networks  # noqa: E402
from anyregion.r2o.superpixels import PriorConfig  # noqa: E402
from anyregion.r2o.training import task as r2o_task  # noqa: E402
from anyregion.r2o.training.task import R2OTask  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from tests.helpers.pretraining import pretrain, write_photos  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK: dict[str, Any] = {
    "r2o__views__size": 32,
    "r2o__prior__kind": "grid",
    "r2o__warmup_epochs": 0,
    "r2o__shown": 0,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 20)


def steps(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(folder) if "loss" in line]


def looks(folder: Path) -> list[dict[str, Any]]:
    return [line["validation"] for line in read_log(folder) if "validation" in line]


def test_parts_of_a_step(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is a batch to BatchNorm and to the loss; the target follows once a step."""
    followed: list[float] = []
    by_hand: list[float] = []
    follow, begin = Networks.update_target, R2OTask.on_step_start

    def counted(self: Networks, momentum: float) -> None:
        followed.append(momentum)
        follow(self, momentum)

    def noted(self: R2OTask, step: int) -> float:
        scale = begin(self, step)
        if not by_hand:
            state = {k: v.clone() for k, v in self.module.state_dict().items()}
            examples = [self.load(item) for item in self.plan(step)]
            parts = [self.losses(self.module, examples[i : i + 2])["loss"] for i in (0, 2)]
            by_hand.append(float(torch.cat([part.detach() for part in parts]).mean()))
            self.module.load_state_dict(state)
            followed.clear()
        return begin(self, step) and scale

    monkeypatch.setattr(Networks, "update_target", counted)
    monkeypatch.setattr(R2OTask, "on_step_start", noted)
    changes = QUICK | {"precision": "fp32", "micro_batch": 2, "r2o__epochs": 0.6}
    assert pretrain(photos, tmp_path / "run", **changes) == 0
    assert len(followed) == len(steps(tmp_path / "run")) == 3
    assert followed == sorted(followed)
    assert followed[0] == pytest.approx(0.98)
    assert steps(tmp_path / "run")[0]["loss"] == pytest.approx(by_hand[0], rel=1e-5)
    counts = {
        int(value)
        for name, value in load_file(last_checkpoint(tmp_path / "run")).items()
        if name.startswith("module.") and name.endswith("num_batches_tracked")
    }
    assert counts == {6}


CONSTANT = {"r2o__curriculum__kind": "constant"}
CASES: dict[str, dict[str, Any]] = {
    "fixed superpixels": CONSTANT | {"r2o__curriculum__values": "[9999]"},
    "one mask, prior": CONSTANT
    | {"r2o__curriculum__values": "[9999]", "r2o__prior__kind": "whole"},
    "one mask, K": CONSTANT | {"r2o__curriculum__values": "[1]"},
    "fixed K": CONSTANT | {"r2o__curriculum__values": "[3]"},
    "reversed": {"r2o__curriculum__values": "[4, 64]"},
    "area": {"r2o__method__weights": "area", "r2o__method__scope": "image"},
    "published": {"r2o__method__published": "true", "r2o__rate_per": 16},
    "LARS": {"optimizer__kind": "lars", "r2o__base_batch": 256, "r2o__keep": "target"},
}


@pytest.mark.parametrize("case", CASES)
def test_special_cases_are_configurations(photos: Path, tmp_path: Path, case: str) -> None:
    changes = QUICK | {"r2o__epochs": 0.4, "r2o__look_epochs": 0.2} | CASES[case]
    assert pretrain(photos, tmp_path / "run", **changes) == 0
    rows, seen = steps(tmp_path / "run"), looks(tmp_path / "run")
    assert len(rows) == len(seen) == 2
    assert all(0 < line["loss"] < 4 and line["grad_norm"] > 0 for line in rows)
    if case.startswith("one mask"):
        assert all(line["shared_masks"] == 1 for line in rows)
    assert [look.get("clusters") for look in seen] == {
        "fixed superpixels": [None, None],
        "one mask, prior": [None, None],
        "one mask, K": [1, 1],
        "fixed K": [3, 3],
        "reversed": [4, 46],  # K goes step by step
        "published": [8, 8],  # and there epoch by epoch
    }.get(case, [8, 6])


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_other_backbones(photos: Path, tmp_path: Path, name: str) -> None:
    changes = QUICK | {
        "r2o__backbone": f"timm/{name}",
        "r2o__views__size": 64,
        "r2o__epochs": 0.4,
        "r2o__checkpoint_epochs": 0.2,
        "precision": "fp32",
    }
    assert pretrain(photos, tmp_path / "run", **changes) == 0
    assert all(0 < line["loss"] < 4 for line in steps(tmp_path / "run"))
    encoder = load_encoder(tmp_path / "run")
    kept = load_file(last_checkpoint(tmp_path / "run"))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, kept[f"module.networks.online.encoder.{key}"])
    moved = [p for k, p in encoder.named_parameters() if _moved(kept, k)]
    assert len(moved) == len(list(encoder.parameters())), "every parameter learns"


def _moved(kept: dict[str, Any], name: str) -> bool:
    # the target follows with 0.98: what has not moved is the same in both
    online, target = (
        kept[f"module.networks.{branch}.encoder.{name}"] for branch in ("online", "target")
    )
    return not torch.equal(online, target)


def test_no_mask_in_both_views(photos: Path, tmp_path: Path) -> None:
    """A loss of zero, and the run goes on: such a step teaches nothing and breaks nothing."""
    corner = {"r2o__views__scale": "[0.0001, 0.0002]", "r2o__prior__segments": 144}
    changes = QUICK | corner | {"r2o__epochs": 0.6, "optimizer__weight_decay": 0}
    values = {"r2o__curriculum__kind": "constant", "r2o__curriculum__values": "[9999]"}
    assert pretrain(photos, tmp_path / "run", **changes, **values) == 0
    rows = steps(tmp_path / "run")
    empty = [line for line in rows if not line["shared_masks"]]
    assert empty
    assert all(line["loss"] == line["spread"] == line["grad_norm"] == 0 for line in empty)
    kept = load_file(last_checkpoint(tmp_path / "run"))
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_processes_with_different_images_stop(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LabelStore.open_or_fill(
        tmp_path / "priors", list_images(photos), 32, PriorConfig(kind="whole")
    )
    cpu = torch.device("cpu")
    r2o_task.check_same_images(store, cpu)  # one process: nothing to hold it against
    monkeypatch.setattr(r2o_task.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(r2o_task.dist, "get_world_size", lambda: 2)

    def gathered(gathered_counts: list[Any], own: Any, *, fewer: int) -> None:
        gathered_counts[0].copy_(own)
        gathered_counts[1].copy_(own - torch.tensor([fewer, 0]))

    monkeypatch.setattr(r2o_task.dist, "all_gather", partial(gathered, fewer=0))
    r2o_task.check_same_images(store, cpu)
    monkeypatch.setattr(r2o_task.dist, "all_gather", partial(gathered, fewer=1))
    with pytest.raises(InputError, match=r"different images \(20, 19 usable ones\)"):
        r2o_task.check_same_images(store, cpu)


COLLAPSE = QUICK | {
    "precision": "fp32",
    "log_every": 20,
    "r2o__batch": 5,
    "r2o__epochs": 13,
    "r2o__look_epochs": 13,
}


def test_a_collapsing_run_is_warned_of(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in one setting, a weight decay of 30, is told apart from the same run without."""
    slip = {"optimizer__lr": 0.01, "optimizer__weight_decay": 30}
    assert pretrain(photos, tmp_path / "collapsed", **COLLAPSE, **slip) == 0
    output = capsys.readouterr().err
    (line,) = [x for x in output.splitlines() if "projection_spread is" in x]
    assert line.startswith("anyregion: warning: step 52: projection_spread is 0.0")
    assert "the run collapses" in line
    assert "Lower the learning rate" in line
    assert ".py:" not in output, "a source line is no help"
    written = [x for x in read_log(tmp_path / "collapsed") if "warning" in x]
    assert {x["step"] for x in written} == {52}
    assert any("projection_spread" in x["warning"] for x in written)
    losses = [x["loss"] for x in steps(tmp_path / "collapsed")]
    assert losses[-1] < losses[0], "the loss says nothing of it"

    assert pretrain(photos, tmp_path / "healthy", **COLLAPSE) == 0
    assert "warning" not in capsys.readouterr().err
    assert not [x for x in read_log(tmp_path / "healthy") if "warning" in x]
    healthy, collapsed = looks(tmp_path / "healthy")[-1], looks(tmp_path / "collapsed")[-1]
    assert healthy["projection_spread"] > 3 * collapsed["projection_spread"]
    assert np.isfinite(list(healthy.values())).all()
