"""The loop in one process: what it computes, writes, refuses, and survives."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anyregion.errors import AnyRegionError, CheckpointError, InputError
from anyregion.torch_utils import weights as weight_files
from anyregion.training.checkpoint import FORMAT
from anyregion.training.logs import read_log
from anyregion.training.loop import Callbacks, fit
from anyregion.training.optimizers import rate_factor
from anyregion.training.run_folder import RunFolder, last_checkpoint
from anyregion.training.task import Metric
from tests.helpers.run_logs import learned, lines
from tests.helpers.toy_task import ToyTask
from tests.helpers.training_worker import config


def test_equals_plain_torch(tmp_path: Path) -> None:
    settings = config(steps=6, ema_decay=None, grad_norm=0.5)
    fit(ToyTask(), settings, tmp_path / "run")
    task = ToyTask()
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2, weight_decay=0.01)
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate_factor(settings.schedule, step, 6)
        optimizer.zero_grad()
        examples = [task.load(item) for item in task.plan(step)]
        task.losses(task.module, examples)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(task.module.parameters(), 0.5)
        optimizer.step()
    checkpoint = learned(tmp_path / "run")
    for name, weight in task.module.state_dict().items():
        torch.testing.assert_close(checkpoint[f"module.{name}"], weight, rtol=0, atol=1e-7)


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    for name, micro in (("whole", None), ("threes", 3), ("ones", 1)):
        fit(ToyTask(), config(steps=8, micro_batch=micro), tmp_path / name)
    whole = learned(tmp_path / "whole")
    for name in ("threes", "ones"):
        for key, weight in learned(tmp_path / name).items():
            if key.startswith(("module.", "mean.")):
                torch.testing.assert_close(weight, whole[key], rtol=1e-5, atol=1e-6)
        for a, b in zip(lines(tmp_path / name), lines(tmp_path / "whole"), strict=True):
            assert a == (b if "validation" in a else pytest.approx(b, abs=1e-5))


def test_sum_over_images_is_the_batch_times_the_mean(tmp_path: Path) -> None:
    for over in ("mean", "sum"):
        fit(ToyTask(), config(steps=1, log_every=1, over_images=over), tmp_path / over)
    mean, total = lines(tmp_path / "mean")[0], lines(tmp_path / "sum")[0]
    assert total["loss"] == pytest.approx(7 * mean["loss"], rel=1e-6)
    assert total["grad_norm"] == pytest.approx(7 * mean["grad_norm"], rel=1e-5)


def test_running_mean_is_what_is_saved(tmp_path: Path) -> None:
    fit(ToyTask(), config(steps=5), tmp_path / "run")
    saved = torch.load(tmp_path / "run/model/weights.pt", weights_only=True)
    checkpoint = learned(tmp_path / "run")
    assert torch.equal(saved["0.weight"], checkpoint["mean.module.0.weight"])
    assert not torch.equal(saved["0.weight"], checkpoint["module.0.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(tmp_path: Path, precision: str) -> None:
    report = fit(ToyTask(), config(steps=40, precision=precision, log_every=10), tmp_path / "run")
    losses = [line["loss"] for line in read_log(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]
    assert report.steps == 40


def test_fp16_overflow_skips_the_step_and_a_resumed_scaler_goes_on(tmp_path: Path) -> None:
    # 2**16 times a gradient of thousands is beyond fp16: the first steps are skipped
    class Steep(ToyTask):
        def losses(self, module: Any, examples: Any) -> dict[str, torch.Tensor]:
            losses = super().losses(module, examples)
            return {"loss": losses["loss"] * 30}

    task = Steep()
    before = {k: v.clone() for k, v in task.module.state_dict().items()}
    fit(task, config(steps=1, precision="fp16"), tmp_path / "one")
    assert all(torch.equal(before[k], v) for k, v in task.module.state_dict().items())
    fit(Steep(), config(steps=12, precision="fp16"), tmp_path / "run")
    record = json.loads(_metadata(last_checkpoint(tmp_path / "run"))["record"])
    assert 1 <= record["scaler"]["scale"] < 2**16
    assert not torch.equal(before["0.weight"], learned(tmp_path / "run")["module.0.weight"])


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_before_the_step_and_names_the_image(tmp_path: Path, what: str) -> None:
    class Broken(ToyTask):
        def losses(self, module: Any, examples: Any) -> dict[str, torch.Tensor]:
            losses = super().losses(module, examples)
            bad = torch.tensor([bool(torch.equal(r, self.poison)) for r, _ in examples])
            if what == "loss":
                return {"loss": torch.where(bad, torch.nan, losses["loss"])}
            # finite itself, but the slope of a root is not at 0
            weight = self.module[0].weight.sum()
            steep = [(weight - weight).sqrt() if b else torch.zeros(()) for b in bad]
            return {"loss": losses["loss"] + torch.stack(steep)}

    task = Broken()
    item = task.plan(3)[2]
    first = min(s for s in range(10) if item in task.plan(s))
    task.poison = torch.from_numpy(task.rows[item])
    with pytest.raises(AnyRegionError, match=rf"step {first}: .*row-{item}\.jpg is not finite"):
        fit(task, config(steps=10, checkpoint_every=1), tmp_path / "run")
    weights = task.module.state_dict()
    assert all(bool(w.isfinite().all()) for w in weights.values())
    if first:
        checkpoint = learned(tmp_path / "run")
        assert all(torch.equal(checkpoint[f"module.{k}"], w) for k, w in weights.items())


def test_best_and_validation(tmp_path: Path) -> None:
    report = fit(ToyTask(), config(validate_every=4, best="top1", ema_decay=None), tmp_path / "run")
    figures = [x["validation"]["top1"] for x in read_log(tmp_path / "run") if "validation" in x]
    assert len(figures) == 6
    assert report.best == max(figures)
    best = ToyTask()
    best.module.load_state_dict(torch.load(tmp_path / "run/best/weights.pt", weights_only=True))
    assert best.validate(best.module.eval())["top1"] == report.best


def test_best_is_checked_before_the_first_step(tmp_path: Path) -> None:
    class Renamed(ToyTask):
        metrics: ClassVar = {"mean_class_accuracy": Metric("by class")}

    class Unmeasured(ToyTask):
        metrics: ClassVar = {}

    for task, best, message in (
        (ToyTask(), "ap", "no metric 'ap': there are top1, error"),
        (Renamed(), "class_averaged", "'class_averaged' is called mean_class_accuracy now"),
        (Unmeasured(), "top1", "top1 is measured on validation data: name that set"),
    ):
        with pytest.raises(InputError, match=message):
            fit(task, config(steps=2, best=best), tmp_path / "run")
        assert not task.loaded
        assert not (tmp_path / "run").exists()


def test_best_follows_the_declared_direction_and_may_change(tmp_path: Path) -> None:
    values = {4: 0.5, 8: 0.2, 12: 0.9, 16: float("nan"), 20: 0.3, 24: 0.1}

    class Scripted(ToyTask):
        def on_step_start(self, step: int) -> float:
            self.step = step + 1
            return 1.0

        def validate(self, module: Any) -> dict[str, float]:
            return {"top1": values[self.step], "error": values[self.step]}

        def save(self, module: Any, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "step").write_text(str(self.step))

    def run(name: str, **changes: Any) -> tuple[float | None, str]:
        settings = config(**{"validate_every": 4, **changes})
        report = fit(Scripted(), settings, tmp_path / name, callbacks=callbacks)
        return report.best, (tmp_path / name / "best/step").read_text()

    warnings: list[str] = []
    callbacks = Callbacks(warn=warnings.append)
    assert run("top1", best="top1") == (0.9, "12")
    assert run("error", best="error") == (0.1, "24")
    assert run("against", best="error", best_is="highest") == (0.9, "12")
    assert not warnings

    class EndedError(Exception):
        pass

    def end(done: int, total: int) -> None:
        if done == 17:
            raise EndedError

    with pytest.raises(EndedError):
        fit(
            Scripted(),
            config(validate_every=4, best="top1"),
            tmp_path / "changed",
            callbacks=Callbacks(progress=end),
        )
    assert run("changed", best="error") == (0.1, "24")
    assert len(warnings) == 1
    assert "best was top1 and is error now" in warnings[0]


def test_a_run_of_before_metrics_were_declared_goes_on_with_its_best(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(
            ToyTask(),
            config(validate_every=4, best="top1"),
            tmp_path / "run",
            callbacks=Callbacks(progress=lambda done, total: 1 // (17 - done) and None),
        )
    path = last_checkpoint(tmp_path / "run")
    metadata = _metadata(path)
    record = json.loads(metadata["record"])
    assert record["state"].pop("best_metric") == "top1"
    record["state"]["best"] = 2.0  # more than can be reached
    save_file(learned(tmp_path / "run"), path, metadata | {"record": json.dumps(record)})
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    settings["best_is"] = "highest"  # what it had to be then
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(settings))
    report = fit(ToyTask(), config(validate_every=4, best="top1"), tmp_path / "run")
    assert (report.resumed_from, report.best) == (16, 2.0)


def test_run_folder_says_what_was_done(tmp_path: Path) -> None:
    fit(ToyTask(), config(steps=3, log_every=1), tmp_path / "run", settings={"task": "toy"})
    stated = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert stated["task"] == "toy"
    assert stated["optimizer"]["lr"] == 1e-2
    assert stated["schedule"]["kind"] == "cosine"
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["threads"] == 1
    line = read_log(tmp_path / "run")[0]
    assert {"step", "loss", "lr", "grad_norm", "images_per_second", "seconds"} <= line.keys()
    card = (tmp_path / "run/README.md").read_text()
    assert "| parameters learned | 195 " in card
    assert "| images seen | 21 |" in card
    # what leaves the run takes its card along
    moved = (tmp_path / "run/model/README.md").read_text()
    assert "| images seen | 21 |" in moved
    assert "config.yaml" not in moved


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fit(ToyTask(), config(steps=3, tensorboard=True), tmp_path / "run")
    assert list((tmp_path / "run/tensorboard").glob("events.*"))


def test_other_settings_are_refused_and_name_the_keys(tmp_path: Path) -> None:
    fit(ToyTask(), config(steps=4), tmp_path / "run", settings={"toy": {"batch": 7}})
    with pytest.raises(InputError, match=r"steps: 4 -> 5; toy\.batch: 7 -> 8"):
        fit(ToyTask(), config(steps=5), tmp_path / "run", settings={"toy": {"batch": 8}})
    again = fit(
        ToyTask(),
        config(steps=4, log_every=1, readers=0, checkpoint_every=2),
        tmp_path / "run",
        settings={"toy": {"batch": 7}},
    )
    assert again.resumed_from == 4
    anew = fit(ToyTask(), config(steps=5), tmp_path / "run", overwrite=True)
    assert anew.resumed_from == 0
    (tmp_path / "else").mkdir()
    (tmp_path / "else/thesis.tex").touch()
    with pytest.raises(InputError, match="something else than a training"):
        fit(ToyTask(), config(), tmp_path / "else", overwrite=True)
    for name in ("config.yaml", "README.md"):  # of another program: no run to begin anew
        (tmp_path / "else" / name).write_text("other: 1")
    with pytest.raises(InputError, match="nothing was removed"):
        fit(ToyTask(), config(), tmp_path / "else", overwrite=True)
    assert (tmp_path / "else/README.md").read_text() == "other: 1"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    running = RunFolder(tmp_path / "run", {})
    with pytest.raises(AnyRegionError, match="another process trains there"):
        RunFolder(tmp_path / "run", {})
    running.close()
    RunFolder(tmp_path / "run", {}).close()


def test_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = weight_files.save_file, 0

    def full(*args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **options)

    monkeypatch.setattr(weight_files, "save_file", full)
    with pytest.raises(AnyRegionError, match="the disk is full"):
        fit(ToyTask(), config(), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["last.safetensors"]
    monkeypatch.undo()
    assert fit(ToyTask(), config(), tmp_path / "run").resumed_from == 8


def test_broken_checkpoint_is_named(tmp_path: Path) -> None:
    fit(ToyTask(), config(steps=4), tmp_path / "run")
    path = last_checkpoint(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"last\.safetensors: broken"):
        fit(ToyTask(), config(steps=4), tmp_path / "run")


@pytest.mark.parametrize(
    "record",
    [
        "{", "[]", "{}", {"step": -1}, {"step": [4]}, {"step": True}, {"images": 1.5},
        {"losses": {"loss": "x"}}, {"losses": None}, {"window": {}, "x": 1}, {"window": {"id": 1}},
        {"window": None}, {"best": "x"}, {"best_metric": []}, {"seconds": None},
    ],
)  # fmt: skip
def test_a_malformed_record_is_named(tmp_path: Path, record: Any) -> None:
    fit(ToyTask(), config(steps=4), tmp_path / "run")
    path = last_checkpoint(tmp_path / "run")
    with safe_open(path, "pt") as file:
        stated = json.loads(file.metadata()["record"])
    if isinstance(record, dict):
        stated["state"] |= record
        record = json.dumps(stated)
    save_file(load_file(path), path, {"format": FORMAT, "record": record})
    with pytest.raises(CheckpointError, match=r"last\.safetensors: broken"):
        fit(ToyTask(), config(steps=4), tmp_path / "run")


@pytest.mark.parametrize("how", ["gone", "size", "infinite", "weight"])
def test_malformed_moments_are_named(tmp_path: Path, how: str) -> None:
    fit(ToyTask(), config(steps=4), tmp_path / "run")
    path = last_checkpoint(tmp_path / "run")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(n for n in sorted(tensors) if n.endswith(".exp_avg") and tensors[n].numel() > 1)
    match how:
        case "gone":
            del tensors[name]
        case "size":
            tensors[name] = tensors[name].flatten()[:1]
        case "infinite":
            tensors[name].view(-1)[0] = float("inf")
        case _:
            weight = name.removeprefix("optimizer.").removesuffix(".exp_avg")
            tensors[f"module.{weight}"].view(-1)[0] = float("nan")
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: broken"):
        fit(ToyTask(), config(steps=4), tmp_path / "run")


def test_a_module_that_is_not_finite_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: torch.optim.Optimizer) -> None:
        torch.nn.init.constant_(self.param_groups[0]["params"][0], float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(AnyRegionError, match="is not finite: the module was not saved"):
        fit(ToyTask(), config(steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("line", ["{", "[]", '{"step": []}', '{"step": 1, "loss": "x"}'])
def test_a_malformed_log_is_named(tmp_path: Path, line: str) -> None:
    fit(ToyTask(), config(steps=4), tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(f"{line}\n{log.read_text()}")
    with pytest.raises(InputError, match="line 1 is malformed"):
        fit(ToyTask(), config(steps=4), tmp_path / "run")


def test_reader_threads_change_nothing_and_their_errors_arrive(tmp_path: Path) -> None:
    for readers in (0, 3):
        fit(ToyTask(), config(readers=readers), tmp_path / str(readers))
    assert lines(tmp_path / "0") == lines(tmp_path / "3")

    class Unreadable(ToyTask):
        def load(self, item: int) -> Any:
            raise InputError(f"{self.describe(item)}: shard is damaged")

    with pytest.raises(InputError, match=r"row-\d+\.jpg: shard is damaged"):
        fit(Unreadable(), config(), tmp_path / "run")


def test_losses_of_another_shape_are_refused(tmp_path: Path) -> None:
    class Scalar(ToyTask):
        def losses(self, module: Any, examples: Any) -> dict[str, torch.Tensor]:
            return {"loss": super().losses(module, examples)["loss"].mean()}

    with pytest.raises(InputError, match=r"loss 'loss' is \(\), not \(7,\)"):
        fit(Scalar(), config(), tmp_path / "run")


def test_pictures_are_written(tmp_path: Path) -> None:
    import numpy as np

    class Drawing(ToyTask):
        def pictures(self, module: Any) -> dict[str, Any]:
            return {"one": np.full((8, 9, 3), 200, np.uint8)}

    fit(Drawing(), config(steps=4, samples_every=2), tmp_path / "run")
    written = sorted(p.parent.name for p in (tmp_path / "run/samples").rglob("one.jpg"))
    assert written == ["0000002", "0000004"]
