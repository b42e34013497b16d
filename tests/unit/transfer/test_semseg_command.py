"""`anyregion transfer semseg` and `evaluate semseg`, from folders to figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "scipy"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.backbones.loading import load_encoder  # noqa: E402
from anyregion.cli.main import main  # noqa: E402
from anyregion.data.semantic.dataset import SemanticSource  # noqa: E402
from anyregion.recipes.loading import read_training  # noqa: E402
from anyregion.recipes.run import transfer_training  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from anyregion.transfer.segmentation_task import SegmentationTask  # noqa: E402
from anyregion.transfer.semantic_evaluation import evaluate_semantic  # noqa: E402
from tests.helpers import semantic_folders as folders  # noqa: E402
from tests.helpers.run_logs import lines  # noqa: E402
from tests.helpers.transfer_runs import BACKBONE, command, kill_after, transfer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("camvid")
    folders.write_camvid(root)
    for seed in (5, 6):
        folders.write_image(root / "train" / f"0001TP_00{seed}.png", seed=seed)
        folders.write_map(root / "trainannot" / f"0001TP_00{seed}.png", (3, 11))
    return root


def test_the_published_recipes() -> None:
    for name, side, steps, milestones in (
        ("semseg-voc", 513, 30_000, (21_000, 27_000)),
        ("semseg-cityscapes", 769, 90_000, (63_000, 81_000)),
    ):
        training = read_training(name)
        loop, own = training.loop, training.settings
        assert (training.task, loop.steps, loop.schedule.milestones) == (
            "semseg",
            steps,
            milestones,
        )
        sgd = loop.optimizer
        assert (sgd.kind, sgd.lr, sgd.momentum, sgd.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
        assert (own.augment.crop, own.batch, own.augment.scale) == ((side, side), 16, (0.5, 2.0))
        assert (own.head, own.dilate, own.freeze, own.sync_norm) == ("fcn", True, False, True)
        assert (own.backbone, own.test.mode) == ("torchvision/resnet50", "whole")
    assert read_training("semseg-voc").settings.data[0].split == "trainaug"


def test_what_a_command_line_says_of_the_data(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    folders.write_voc(root)
    data = {"root": str(tmp_path), "sbd": str(tmp_path / "sbd")}
    own = transfer_training("semseg", None, data=data, config="semseg-voc").settings
    # the recipe's split stays, and the part that is judged on is the data set's own
    assert own.data == (SemanticSource(str(tmp_path), split="trainaug", sbd=data["sbd"]),)
    assert own.validation == SemanticSource(str(tmp_path), split="val")
    own = transfer_training("semseg", None, data={**data, "split": "train"}, config="semseg-voc")
    assert own.settings.data[0].split == "train"
    # of JSON nothing says what to judge on, and a recipe's other data set is not it
    coco = tmp_path / "a.json"
    coco.touch()
    own = transfer_training(
        "semseg", BACKBONE, data={"root": str(coco), "split": None}, probe=True, config="semseg-voc"
    ).settings
    assert own.validation is None
    assert (own.backbone, own.freeze, own.head, own.auxiliary) == (BACKBONE, True, "linear", 0)


def test_train_and_judge(camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transfer("semseg", camvid, tmp_path / "run", best="mean_iou", validate_every=3) == 0
    assert "validation mean_iou" in capsys.readouterr().out
    last = read_log(tmp_path / "run")[-1]["validation"]
    assert main(["evaluate", "semseg", str(tmp_path / "run"), str(camvid), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # the figure of the run's end is that of the folder
    assert report["mean_iou"] == pytest.approx(last["mean_iou"], abs=1e-12)
    assert report["pixel_accuracy"] == pytest.approx(last["pixel_accuracy"], abs=1e-12)
    assert (report["images"], report["layout"]) == (1, "camvid")
    assert sum(report["pixels"].values()) == int((folders.stripes((0, 10, 11)) != 11).sum())
    assert report["iou"]["building"] is None or report["iou"]["building"] == 0
    assert main(["evaluate", "semseg", str(tmp_path / "run"), str(camvid), "--slide"]) == 0
    assert "mean IoU" in capsys.readouterr().out
    # both copies of the weights, and the backbone by itself
    assert (tmp_path / "run" / "best" / "segmenter.json").is_file()
    assert load_encoder(tmp_path / "run" / "model" / "backbone").name == BACKBONE


def test_a_network_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    """Red is one class and blue the other: after some steps all is named rightly."""
    for split in ("train", "val"):
        for number in range(3):
            left = 10 + 4 * number
            pixels = np.zeros((24, 32, 3), dtype=np.uint8)
            pixels[:, :left, 0], pixels[:, left:, 2] = 220, 220
            label_map = np.repeat(np.where(np.arange(32) < left, 0, 8)[None], 24, axis=0)
            for folder, array in ((split, pixels), (f"{split}annot", label_map.astype(np.uint8))):
                (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / "data" / folder / f"{number}.png")
    changes = {"steps": 30, "optimizer__lr": 5e-3, "semseg__augment__scale": "[1.0, 1.0]"}
    assert transfer("semseg", tmp_path / "data", tmp_path / "run", **changes) == 0
    report = evaluate_semantic(tmp_path / "run", SemanticSource(str(tmp_path / "data")))
    assert report.mean_iou > 0.75
    assert report.iou["tree"] is None


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_and_resumed_equals_never_killed(camvid: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    changes = {"optimizer__kind": "sgd", "steps": 7, "ema_decay": 0.9, "validate_every": 3}
    kill_after(3, out, command("semseg", camvid, out, **changes))
    assert transfer("semseg", camvid, whole, **changes) == 0
    assert transfer("semseg", camvid, out, **changes) == 0
    assert lines(out) == lines(whole)
    parts = [last_checkpoint(out).relative_to(out), Path("model/head.safetensors")]
    for part in (*parts, Path("model/backbone/backbone.safetensors")):
        killed, never = load_file(out / part), load_file(whole / part)
        assert killed.keys() == never.keys()
        assert all(torch.equal(killed[name], never[name]) for name in killed), part


def test_a_dry_run_writes_nothing(
    camvid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command("semseg", camvid, tmp_path / "run", "--dry-run")
    assert main(words) == 0
    printed = capsys.readouterr().out
    for text in ("pixels (32, 32, 3)", "6 of 2 images", "0001TP_001, 32 x 24", "(0 set aside)"):
        assert text in printed
    assert list(tmp_path.iterdir()) == []
    missing = [*words, "--semseg.weights", "nowhere.pth"]
    assert main(missing) == 1
    assert "nowhere.pth: there is no such file" in capsys.readouterr().err


def test_what_cannot_be_trained_is_said(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write_ade20k(tmp_path / "ade")
    other = ["--validation", str(tmp_path / "ade")]
    assert transfer("semseg", camvid, tmp_path / "run", *other) == 1
    assert "has other classes than" in capsys.readouterr().err
    assert main(["transfer", "semseg", "--out", str(tmp_path / "run")]) == 1
    assert "give a data set" in capsys.readouterr().err
    assert transfer("semseg", camvid, tmp_path / "run", semseg__freeze="true") == 1
    assert "set it to 0" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read(
    camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write_camvid(tmp_path / "data")
    folders.write_image(tmp_path / "data" / "val" / "broken.png")
    folders.write_map(tmp_path / "data" / "valannot" / "broken.png", (0, 99))
    assert transfer("semseg", camvid, tmp_path / "run", steps=1) == 0
    # judged: the rest goes on, and is counted
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    capsys.readouterr()
    assert main(["evaluate", "semseg", run, data, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 1
    assert "the value 99" in report["set_aside"][0]["reason"]
    # trained with: the figure of a validation is of all images or of none
    assert transfer("semseg", tmp_path / "data", tmp_path / "again", steps=1) == 1
    assert "the value 99" in capsys.readouterr().err


def test_the_images_of_a_step_follow_from_the_seed(camvid: Path) -> None:
    settings = {"semseg.batch": 2, "semseg.augment.crop": [32, 32]}
    tasks = []
    for seed in (1, 1, 2):
        training = transfer_training(
            "semseg", BACKBONE, data={"root": str(camvid)}, config="semseg-small",
            settings={**settings, "seed": seed},
        )  # fmt: skip
        task = training.build()
        assert isinstance(task, SegmentationTask)
        tasks.append(task)
    crops = [[task.load(item).pixels for item in task.plan(3)] for task in tasks]
    assert all(np.array_equal(a, b) for a, b in zip(crops[0], crops[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(crops[0], crops[2], strict=True))
    weights = [torch.cat([p.flatten() for p in task.module.parameters()]) for task in tasks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
