"""`anyregion pretrain`: what it prints, and what it says of folders and settings that fail."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.cli.main import main  # noqa: E402
from anyregion.r2o.training.task import R2OTask  # noqa: E402
from anyregion.recipes.loading import read_recipe  # noqa: E402
from anyregion.recipes.run import pretrain as pretrain_function  # noqa: E402
from anyregion.torch_utils import weights as weight_files  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.loop import Callbacks  # noqa: E402
from tests.helpers.pretraining import SMALL, command, pretrain, write_photos  # noqa: E402
from tests.helpers.run_logs import lines  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK: dict[str, Any] = {
    "r2o__views__size": 32,
    "r2o__prior__kind": "grid",
    "r2o__warmup_epochs": 0,
    "r2o__shown": 0,
}
ONE = QUICK | {"r2o__epochs": 0.5}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def refused(capsys: Capture, *patterns: str) -> None:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    for pattern in patterns:
        assert re.search(pattern, text), text


def test_folders_without_an_image(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.csv"):
        (tmp_path / "texts" / name).write_text("no image")
    (tmp_path / "one.png").write_bytes(b"")
    run = tmp_path / "run"
    for name, pattern in {
        "empty": r"empty: no image there .* 0 other files",
        "texts": r"texts: no image there .* 2 other files",
        "nowhere": r"nowhere: no such folder",
        "one.png": r"one\.png: a file; give the folder",
    }.items():
        assert pretrain(tmp_path / name, run) == 1
        refused(capsys, pattern)
    assert main(["pretrain", "--out", str(run)]) == 1
    refused(capsys, "give a folder of images")
    assert main(["pretrain", str(tmp_path)]) == 1
    refused(capsys, "--out DIR")
    assert not run.exists()


def test_one_image(tmp_path: Path, capsys: Capture) -> None:
    """One image is enough, one at a time too, unless a BatchNorm sees one value a channel."""
    photos = write_photos(tmp_path / "photos", 1)
    assert pretrain(photos, tmp_path / "run", **ONE, r2o__batch=4) == 0
    assert pretrain(photos, tmp_path / "one", **QUICK, r2o__epochs=2, r2o__batch=1) == 0
    assert len([x for x in read_log(tmp_path / "one") if "loss" in x]) == 2
    capsys.readouterr()
    small = ONE | {"r2o__views__size": 16, "r2o__batch": 1, "r2o__epochs": 1}
    assert pretrain(photos, tmp_path / "small", **small) == 1
    refused(capsys, r"r2o\.batch: one image at a time, of 16 pixels")


def test_images_smaller_than_a_view(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(300):
        height, width = draw.integers(1, 9, size=2)
        pixels = draw.integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    settings = QUICK | {"r2o__prior__kind": "slic", "r2o__batch": 8, "r2o__epochs": 0.08}
    assert pretrain(tmp_path / "photos", tmp_path / "run", **settings) == 0
    values = [x["loss"] for x in read_log(tmp_path / "run") if "loss" in x]
    assert len(values) == 3
    assert all(0 < loss < 4 for loss in values)


def huge(path: Path) -> None:
    """A PNG of a few bytes whose header states 400 million pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_unusable_images_are_set_aside_up_to_a_share(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    huge(photos / "huge.png")
    whole = (photos / "photo0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert pretrain(photos, tmp_path / "run", **ONE) == 1
    refused(capsys, r"2 of 10 images are unusable \(20\.0%\)", r"cut\.png", r"huge\.png.*pixels")
    assert not (tmp_path / "run").exists()
    assert pretrain(photos, tmp_path / "run", **ONE, r2o__max_broken=0.2) == 3
    refused(capsys, r"2 of 10 images are set aside", r"images set aside \(2\)", r"  huge\.png: ")
    assert "8 of " in (tmp_path / "run/README.md").read_text()


def test_images_of_every_kind(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    image = Image.open(photos / "photo0.png")
    image.convert("L").save(photos / "grey.png")
    image.convert("CMYK").save(photos / "cmyk.jpg")
    image.convert("P").save(photos / "palette.gif")
    image.convert("RGBA").save(photos / "clear.png")
    image.convert("1").save(photos / "bits.tif")
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(photos / "deep.png")
    frames = [image.rotate(turn) for turn in (90, 180)]
    image.save(photos / "moving.webp", save_all=True, append_images=frames)
    assert pretrain(photos, tmp_path / "run", **ONE, r2o__batch=8) == 0


@pytest.mark.parametrize(
    ("changes", "patterns"),
    [
        ({"r2o__backbone": "torchvision/resnet19"}, ["no such model; near are .*resnet18"]),
        ({"r2o__backbone": "resnet18"}, ["LIBRARY/MODEL"]),
        (
            {"r2o__backbone": "timm/vit_tiny_patch16_224", "r2o__views__size": 60},
            ["60"],
        ),
        ({"r2o__start": "nowhere.pth"}, [r"nowhere\.pth"]),
        ({"micro_batch": 3}, ["micro_batch: 4 images .* 3 at a time"]),
        ({"ema_decay": 0.9}, ["ema_decay: R2O has a running mean of its own"]),
        ({"best": "top1"}, ["best: "]),
        ({"device": "nonsense"}, ["nonsense"]),
        ({"r2o__batch": 0}, ["r2o.batch must be above 0"]),
        ({"r2o__colour": 1}, ["colour"]),
        ({"r2o__curriculum__values": "[1, 2, 3]"}, ["cosine needs 2 values"]),
    ],
)
def test_settings_that_will_not_do(
    photos: Path, tmp_path: Path, capsys: Capture, changes: dict[str, Any], patterns: list[str]
) -> None:
    assert pretrain(photos, tmp_path / "run", **ONE | changes) == 1
    refused(capsys, *patterns)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "priors").exists(), "before anything is computed"


def test_a_gradient_that_is_not_finite_where_no_image_can_be_run_alone(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = R2OTask.losses

    def steep(self: R2OTask, module: Any, examples: Any) -> dict[str, Any]:
        result = losses(self, module, examples)
        weight = self.r2o.networks.predictor.output.weight.sum()
        return {"loss": result["loss"] + (weight - weight).sqrt()}

    monkeypatch.setattr(R2OTask, "losses", steep)
    settings = ONE | {"precision": "fp32"}
    assert pretrain(photos, tmp_path / "run", **settings) == 1
    refused(capsys, r"step 0: the gradient of photo\d\.png.* is not finite")
    assert pretrain(photos, tmp_path / "tiny", **settings | {"r2o__views__size": 8}) == 1
    refused(capsys, "step 0: the gradient is not finite, and of which image cannot be told")


def test_a_batch_that_processes_cannot_share(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert pretrain(photos, tmp_path / "run", **ONE) == 1
    refused(capsys, "r2o.batch: 4 images cannot be shared evenly by 3 processes")


def test_a_cache_that_the_recipe_names(photos: Path, tmp_path: Path) -> None:
    mine = read_recipe("r2o-small").replace("r2o:\n", f"r2o:\n  cache: {tmp_path / 'kept'}\n")
    (tmp_path / "mine.yaml").write_text(mine)
    config = ["--config", str(tmp_path / "mine.yaml")]
    assert main([*command(photos, tmp_path / "runs/a", **ONE), *config]) == 0
    assert list((tmp_path / "kept").glob("*/prior.json"))
    assert not (tmp_path / "runs/priors").exists()
    assert pretrain(photos, tmp_path / "runs/b", **ONE) == 0
    assert list((tmp_path / "runs/priors").glob("*/prior.json")), "beside the run otherwise"


def test_a_larger_batch_than_the_folder_and_more_clusters_than_segments(
    tmp_path: Path, capsys: Capture
) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    settings = QUICK | {"r2o__batch": 8, "r2o__epochs": 6, "r2o__curriculum__values": "[100, 90]"}
    # less than the encoder's stride, too; torch's bf16 gives convolutions of one cell on the CPU
    # gradients of memory that nothing was written to
    settings |= {"r2o__views__size": 8, "precision": "fp32"}
    assert pretrain(photos, tmp_path / "run", **settings, r2o__method__scope="image") == 0
    assert [x["step"] for x in read_log(tmp_path / "run") if "loss" in x] == [1, 2]
    refused(capsys, "a step takes 8 images and there are 3: 6 epochs of them are 2 steps")


def test_an_image_that_is_lost_on_the_way(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begin = tmp_path / "run", R2OTask.on_step_start
    settings = QUICK | {"r2o__epochs": 3, "r2o__checkpoint_epochs": 0.5, "ahead": 1}

    def lose(self: R2OTask, step: int) -> float:
        if step == 1:
            (photos / "photo3.png").unlink(missing_ok=True)
        return begin(self, step)

    monkeypatch.setattr(R2OTask, "on_step_start", lose)
    assert pretrain(photos, run, **settings) == 1
    refused(capsys, r"photo3\.png: .*label maps were made.*goes on from the last checkpoint")
    assert pretrain(photos, run, **settings) == 0
    refused(capsys, "an epoch counts 8 images, as when the run began, of 7")
    steps = [x["step"] for x in read_log(run) if "loss" in x]
    assert steps == list(range(1, 7)), "as many as it was to be"
    assert yaml.safe_load((run / "config.yaml").read_text())["r2o"]["epoch_images"] == 8


def test_a_full_disk_during_a_checkpoint(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QUICK | {"r2o__epochs": 2, "r2o__checkpoint_epochs": 0.5}
    settings |= {"r2o__cache": tmp_path / "priors"}
    assert pretrain(photos, tmp_path / "whole", **settings) == 0
    save, count = weight_files.save_file, 0

    def full(*args: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **more)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(weight_files, "save_file", full)
        assert pretrain(photos, tmp_path / "run", **settings) == 1
    refused(capsys, r"last\.safetensors: the disk is full.*run the same command again")
    assert pretrain(photos, tmp_path / "run", **settings) == 0
    assert "went on from 1" in capsys.readouterr().out
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    saved = [tmp_path / name / "model/backbone.safetensors" for name in ("run", "whole")]
    first, second = (load_file(path) for path in saved)  # the header's order is the library's
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted_refused_with_other_settings_and_begun_anew(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begin = tmp_path / "run", R2OTask.on_step_start
    settings = QUICK | {"r2o__epochs": 2}

    def interrupt(self: R2OTask, step: int) -> float:
        if not step:
            os.kill(os.getpid(), signal.SIGINT)
        return begin(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(R2OTask, "on_step_start", interrupt)
        assert pretrain(photos, run, **settings) == 130
    refused(capsys, "interrupted after 2 of 4 steps.*The same command goes on")

    with monkeypatch.context() as patch:
        patch.setattr(R2OTask, "__init__", None)  # said before anything is made
        assert pretrain(photos, run, **settings, r2o__momentum=0.5) == 1
    refused(capsys, r"other settings \(r2o\.momentum: 0\.98 -> 0\.5\).*--overwrite")
    assert pretrain(photos, run, **settings) == 0
    assert "went on from 2" in capsys.readouterr().out
    again = settings | {"r2o__momentum": 0.5, "r2o__epochs": 0.5}
    assert main([*command(photos, run, **again), "--overwrite"]) == 0
    assert "went on" not in capsys.readouterr().out
    assert [x["step"] for x in read_log(run) if "loss" in x] == [1]


def test_run_folders_that_will_not_do(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    for out, pattern in {
        tmp_path / "other": "holds something else than a training",
        tmp_path / "other" / "letter.txt": "a file, not a folder",
        tmp_path / "other" / "letter.txt" / "run": "cannot be written",
    }.items():
        assert pretrain(photos, out, **ONE) == 1
        refused(capsys, pattern)
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


def test_odd_names_and_the_output_at_the_end(tmp_path: Path, capsys: Capture) -> None:
    odd = 'it\'s "a" [b], {c: d} # \u00fc \u65e5\u672c \U0001f600'
    one = write_photos(tmp_path / odd / "deep", 2)
    two = write_photos(tmp_path / "true", 2, seed=1)
    one.joinpath("photo0.png").rename(one / "it's \u65e5\u672c.png")
    run = tmp_path / odd / "my run"
    words = command(one, run, **ONE)
    assert main([*words[:2], str(two), *words[2:]]) == 0
    output = capsys.readouterr()
    assert f"{run / 'model'}" in output.out
    assert "anyregion evaluate knn CLASS_FOLDERS --backbone" in output.err
    assert (run / "model/backbone.json").is_file()
    settings = yaml.safe_load((run / "config.yaml").read_text())["r2o"]
    assert [data["images"] for data in settings["data"]] == [str(one), str(two)]
    assert settings["cache"] == str(tmp_path / odd / "priors")
    assert settings["epoch_images"] == 4
    assert main([*words[:2], str(two), *words[2:]]) == 0, "the same command goes on"
    assert "went on from 1" in capsys.readouterr().out


def test_the_function_does_what_the_command_does(photos: Path, tmp_path: Path) -> None:
    assert main(command(photos, tmp_path / "command", **ONE)) == 0
    settings = {name.replace("__", "."): value for name, value in (SMALL | ONE).items()}
    prepared: list[tuple[int, int]] = []
    report = pretrain_function(
        photos,
        tmp_path / "function",
        settings=settings,
        callbacks=Callbacks(prepare=lambda done, total: prepared.append((done, total))),
    )
    assert lines(tmp_path / "function") == lines(tmp_path / "command")
    assert (report.steps, report.set_aside) == (1, ())
    again = pretrain_function([photos], tmp_path / "function", settings=settings)
    assert again.resumed_from == 1


def test_help_and_recipes(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--help"])
    assert stopped.value.code == 0
    assert "torchrun" in capsys.readouterr().out
    assert main(["pretrain", "--print-recipe", "r2o-small"]) == 0
    assert "task: r2o" in capsys.readouterr().out
    assert main(["pretrain", "--list-recipes"]) == 0
    assert "r2o-resnet50-imagenet300" in capsys.readouterr().out.split()
    for words in (["photos", "--config", "r2o-resnet50-imagenet300.yaml", "--help"], ["p", "-h"]):
        assert main(["pretrain", *words]) == 0
        output = capsys.readouterr().out
        assert "--r2o.curriculum.values" in output
        assert "how many regions, by epoch" in output
    assert main(["pretrain", "p", "--out", "run", "--config", "regionspot_b16_stage1"]) == 1
    assert "is of the task regionspot, not r2o" in capsys.readouterr().err
