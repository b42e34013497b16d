"""`anyregion train`, from photographs to a folder that recognises, with small random models."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from anyregion import Regions, load_recognizer
from anyregion.cli.main import main
from anyregion.cli.training_command import show_training
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.store.build_store import fill_store
from anyregion.data.store.store import create_store
from anyregion.errors import InputError
from anyregion.localizers.loading import load_localizer
from anyregion.recipes.loading import read_training
from anyregion.recipes.run import train
from anyregion.regionspot.extractor import RegionSpotExtractor
from anyregion.training.distributed import own_device
from anyregion.training.logs import read_log
from anyregion.training.loop import Callbacks
from anyregion.vlms.loading import load_vlm
from anyregion.vocabulary import EncodedVocabulary, Vocabulary
from tests.helpers.run_logs import lines
from tests.helpers.small_localizers import sam_config
from tests.helpers.small_vlms import write_folder

STEPS = ["--steps", "4", "--log_every", "1", "--tensorboard", "false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, images, annotations, a store, and a configuration."""
    root = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    transformers.SamModel(sam_config()).save_pretrained(root / "sam")
    write_folder(root / "clip", "clip")
    draw = np.random.default_rng(0)
    (root / "images").mkdir()
    images, annotations = [], []
    for i in range(6):
        name = f"photo{i}.png"
        pixels = draw.integers(255, size=(48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
        images.append({"id": i + 1, "file_name": name, "width": 64, "height": 48})
        for j in range(i % 3 + 1):
            box = [5 * j + 2, 4 * j + 1, 20 + i, 15]
            fields = {"category_id": 1 + (i + j) % 3, "bbox": box, "area": 300, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **fields})
    categories = [{"id": c + 1, "name": n} for c, n in enumerate(("cup", "pen", "key"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "regions.json").write_text(json.dumps(content))
    extractor = RegionSpotExtractor(load_localizer(str(root / "sam")), load_vlm(str(root / "clip")))
    store = create_store(root / "store", read_annotations(root / "regions.json"), extractor)
    fill_store(store, extractor, root / "images", workers=1)
    settings: dict[str, Any] = {
        "task": "regionspot",
        "optimizer": {"lr": 0.001},
        "regionspot": {
            "localizer": str(root / "sam"),
            "vlm": str(root / "clip"),
            "batch": 3,
            "adapter": {"token_width": 32, "feature_width": 48, "embed_width": 40, "layers": 1},
            "templates": ["a {}."],
            "data": [{"store": str(root / "store"), "terms": "made for a test"}],
            "licence": "CC0-1.0",
        },
    }
    (root / "stored.yaml").write_text(yaml.safe_dump(settings))
    both = {"annotations": str(root / "regions.json"), "images": str(root / "images")}
    settings["regionspot"]["data"] = [both]
    (root / "computed.yaml").write_text(yaml.safe_dump(settings))
    settings["regionspot"] |= {
        "data": [{"store": str(root / "store"), "images": str(root / "images")}, both],
        "validation": {"store": str(root / "store"), "images": str(root / "images")},
        "objective": {"distillation": 0.5},
    }
    (root / "rich.yaml").write_text(yaml.safe_dump(settings))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))


def test_from_a_store_or_computed_the_numbers_are_the_same(place: Path, tmp_path: Path) -> None:
    for name in ("stored", "computed"):
        out = str(tmp_path / name)
        assert main(["train", str(place / f"{name}.yaml"), *STEPS, "--out", out]) == 0
    assert len(lines(tmp_path / "stored")) == 4
    assert lines(tmp_path / "stored") == lines(tmp_path / "computed")


def test_trained_goes_on_and_recognises(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", str(place / "rich.yaml"), *STEPS, "--out", str(run)]
    command += ["--samples_every", "4", "--best", "top1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "validation top5" in printed
    line = read_log(run)[0]
    assert line["loss"] == pytest.approx(line["naming"] + 0.5 * line["distillation"], rel=1e-5)
    assert len(list((run / "samples").rglob("*.jpg"))) == 4
    card = (run / "README.md").read_text()
    assert "made for a test" not in card
    assert "CC0-1.0" in card

    assert main(command) == 0
    assert "went on from 4" in capsys.readouterr().out
    assert main([*command, "--optimizer.lr", "0.1"]) == 1
    assert "optimizer.lr: 0.001 -> 0.1" in capsys.readouterr().err

    recognizer = load_recognizer(run / "model", cache=None)
    photo = np.array(Image.open(place / "images/photo1.png"))
    regions = Regions.from_boxes([[2, 1, 20, 16]])
    (answer,) = recognizer.recognize([photo], [regions], ["cup", "pen", "key"])
    assert answer.labels[0] in ("cup", "pen", "key")

    # stage 2 starts where stage 1 ended
    again = read_training(place / "stored.yaml", ["--regionspot.init_from", str(run / "model")])
    started = again.build().module.state_dict()
    stage1 = load_file(run / "model/adapter.safetensors")
    assert all(torch.equal(started[name], stage1[name]) for name in stage1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--regionspot.vlm", "openai/clip-vit-large-patch14"], "made with vlm"),
        (["--regionspot.adapter.embed_width", "48"], "words of width 40; regionspot.adapter says"),
        (["--regionspot.objective.distillation", "1"], "the store holds no teacher"),
        (["--device", "tpu"], "device 'tpu' cannot be used"),
        (["--regionspot.init_from", "nowhere"], r"no config\.json"),
        (
            ["--regionspot.vlm_image_size", "48"],
            r"feature maps are of width 48, image 32 px.*48 px",
        ),
        (["--regionspot.antialias", "false"], "image 32 px, antialiased.*not antialiased"),
        (["--regionspot.source", "prompt"], "its tokens are decoder, .*source is prompt"),
        (["--best", "top1"], "name that set"),
        (["--regionspot.logit_scale", "0"], "logit_scale must be above 0"),
    ],
)
def test_mistakes_end_with_one_line(
    place: Path,
    tmp_path: Path,
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", str(place / "stored.yaml"), *STEPS, *change, *out]) == 1
    message_shown = capsys.readouterr().err
    assert re.search(message, message_shown)
    assert "Traceback" not in message_shown


def test_a_figure_that_is_not_measured_is_refused_before_any_step(place: Path) -> None:
    with pytest.raises(InputError, match="no metric 'ap': there are top1, top5"):
        read_training(place / "rich.yaml", ["--best", "ap"]).build()


def test_a_setting_without_a_value_is_one_line(place: Path, tmp_path: Path) -> None:
    text = (place / "stored.yaml").read_text()
    (tmp_path / "empty.yaml").write_text(f"{text}\nsteps:\n")
    with pytest.raises(InputError, match=r"empty\.yaml: a setting is empty"):
        read_training(tmp_path / "empty.yaml")


def test_words_of_another_text_model_are_refused(place: Path, tmp_path: Path) -> None:
    names = Vocabulary.from_names(["cup", "pen", "key"])
    other = EncodedVocabulary(names, np.eye(3, 40, dtype=np.float32), "another text model")
    other.save(tmp_path / "words.safetensors")
    data = [{"store": str(place / "store"), "vocabulary": str(tmp_path / "words.safetensors")}]
    training = read_training(place / "stored.yaml", ["--regionspot.data", json.dumps(data)])
    with pytest.raises(InputError, match="encoded by another text model"):
        training.build()


def test_a_copy_of_the_models_elsewhere_is_the_same_model(place: Path, tmp_path: Path) -> None:
    change = []
    for part, name in (("localizer", "sam"), ("vlm", "clip")):
        shutil.copytree(place / name, tmp_path / name)
        change += [f"--regionspot.{part}", str(tmp_path / name)]
    read_training(place / "stored.yaml", change).build()
    torch.manual_seed(1)
    transformers.SamModel(sam_config()).save_pretrained(tmp_path / "sam")
    with pytest.raises(InputError, match="made with localizer"):
        read_training(place / "stored.yaml", change).build()


def test_several_processes_keep_their_models_on_their_own_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(name) for name in ("cuda", "cpu")] == ["cuda:1", "cpu"]


def test_recipes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-recipe", "regionspot_l14_stage2"]) == 0
    assert "init_from: runs/regionspot_l14_stage1/model" in capsys.readouterr().out
    assert main(["train", "--list-recipes"]) == 0
    assert "regionspot_b16_stage1" in capsys.readouterr().out.split()
    assert main(["train", "regionspot_b16_stage1"]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["train", "regionspot_b16_stage1", "--help"]) == 0
    assert "--regionspot.objective.gamma" in capsys.readouterr().out


def test_the_function_does_what_the_command_does(place: Path, tmp_path: Path) -> None:
    config = place / "rich.yaml"
    assert main(["train", str(config), *STEPS, "--out", str(tmp_path / "command")]) == 0
    logged: list[tuple[int, str]] = []
    report = train(
        yaml.safe_load(config.read_text()),
        tmp_path / "function",
        settings={"steps": 4, "log_every": 1, "tensorboard": False},
        callbacks=Callbacks(log=lambda step, group, values: logged.append((step, group))),
    )
    assert lines(tmp_path / "function") == lines(tmp_path / "command")
    assert logged == [*((step, "train") for step in range(1, 5)), (4, "validation")]
    assert (report.steps, report.total_steps) == (4, 4)
    assert (report.folder / "model/adapter.safetensors").is_file()
    with pytest.raises(InputError, match="no recipe 'nothing'"):
        train("nothing", tmp_path / "other")


def test_losses_rate_and_metrics_are_shown(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(place / "rich.yaml"), *STEPS, "--out", str(tmp_path / "run")]
    assert main([*command, "--log_every", "2", "--validate_every", "4"]) == 0
    shown = capsys.readouterr().err.splitlines()
    losses = [line for line in shown if " loss " in line]
    assert [line.split(":")[1].strip() for line in losses] == ["step 2 of 4", "step 4 of 4"]
    logged = read_log(tmp_path / "run")[0]
    assert f"loss {logged['loss']:.4g}" in losses[0]
    assert f"lr {logged['lr']:.4g}" in losses[0]
    assert any(re.search(r"step 4: validation  top1 0\.\d+  top5 1", line) for line in shown)


def test_a_terminal_has_one_line_that_is_updated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    monkeypatch.setenv("COLUMNS", "120")
    with show_training("superpixels") as callbacks:
        callbacks.prepare(3, 8)
        callbacks.progress(0, 20)
        callbacks.progress(7, 20)
        callbacks.log(7, "train", {"loss": 0.125, "lr": 4e-5, "grad_norm": 3.0, "seconds": 2.0})
        callbacks.log(7, "validation", {"top1": 0.5})
        callbacks.note("[red] is a name, not a colour")
        time.sleep(0.3)  # the line is drawn ten times a second
    shown = capsys.readouterr().err
    assert re.search(r"superpixels.*3/8", shown)
    assert re.search(r"training.*7/20.*loss 0\.125  lr 4e-05", shown)
    assert "grad_norm" not in shown
    assert "step 7: validation  top1 0.5" in shown
    assert "anyregion: [red] is a name, not a colour" in shown
