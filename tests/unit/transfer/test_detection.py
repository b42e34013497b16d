"""`anyregion transfer detection` and `evaluate detector`, from annotations to AP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "scipy"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.backbones.loading import build_encoder  # noqa: E402
from anyregion.cli.main import main  # noqa: E402
from anyregion.errors import CheckpointError, InputError  # noqa: E402
from anyregion.recipes.loading import read_training  # noqa: E402
from anyregion.recipes.run import transfer_training  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from anyregion.training.sync_batchnorm import SharedBatchNorm  # noqa: E402
from anyregion.transfer.detection_config import DetectionSource, DetectorConfig  # noqa: E402
from anyregion.transfer.detection_evaluation import open_detection_dataset  # noqa: E402
from anyregion.transfer.detector import (  # noqa: E402
    Detector,
    DetectorBatch,
    load_detector,
    save_detector,
)
from tests.helpers.run_logs import lines  # noqa: E402
from tests.helpers.small_backbones import scrambled  # noqa: E402
from tests.helpers.transfer_runs import BACKBONE, command, kill_after, transfer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
TINY = DetectorConfig(
    short_side=(48,),
    long_side=64,
    anchors=(8, 16, 24, 32, 48),
    channels=16,
    hidden=32,
    samples=16,
    proposals=(60, 30),
    detections=10,
    min_score=0.0,
)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with coloured squares, and their annotations: `squares.json`."""
    root = tmp_path_factory.mktemp("squares")
    draw = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, 7):
        pixels = np.full((48, 64, 3), 120, dtype=np.uint8)
        for label, colour in enumerate(COLOURS.values()):
            side = int(draw.integers(14, 22))
            x, y = int(draw.integers(0, 32 - side) + 32 * label), int(draw.integers(0, 48 - side))
            pixels[y : y + side, x : x + side] = colour
            outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 5 + label,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
            )
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
    categories = [{"id": 5 + i, "name": name} for i, name in enumerate(COLOURS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "squares.json").write_text(json.dumps(content))
    return root


def words_of(squares: Path) -> list[str]:
    return ["--images", str(squares / "images"), "--validation", str(squares / "squares.json")]


def detector(seed: int = 0, **changes: Any) -> Detector:
    torch.manual_seed(seed)
    frozen = changes.pop("frozen", False)
    config = DetectorConfig(**(vars(TINY) | changes))
    made = Detector(build_encoder(BACKBONE, size=64), tuple(COLOURS), config, frozen=frozen)
    scrambled(made.encoder, seed)
    return made


def example() -> DetectorBatch:
    masks = torch.zeros(1, 48, 64, dtype=torch.uint8)
    masks[0, 8:24, 8:24] = 1
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 24.0, 24.0]]),
        "labels": torch.tensor([1]),
        "masks": masks,
    }
    return DetectorBatch([torch.rand(3, 48, 64), torch.rand(3, 48, 64)], [target, target])


def test_the_published_recipe() -> None:
    training = read_training("detection-coco")
    loop, own = training.loop, training.settings
    assert (loop.steps, loop.schedule.milestones) == (90_000, (60_000, 80_000))
    assert (loop.optimizer.kind, loop.optimizer.lr, own.batch) == ("sgd", 0.02, 16)
    network = own.detector
    assert (network.masks, network.norm, network.short_side[-1], network.long_side) == (
        True, "batch", 800, 1333,
    )  # fmt: skip
    assert (network.anchors, network.samples, network.channels) == (
        (32, 64, 128, 256, 512),
        512,
        256,
    )


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_every_parameter_that_learns_gets_a_gradient(norm: str) -> None:
    made = detector(norm=norm).train()
    buffers = {name: value.clone() for name, value in made.encoder.named_buffers()}
    losses = made(example())
    assert set(losses) == {
        "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg",
    }  # fmt: skip
    sum(losses.values()).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []
    norms = [part for part in made.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    own = [part for part in made.encoder.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    moved = any(not torch.equal(b, buffers[n]) for n, b in made.encoder.named_buffers())
    if norm == "batch":  # also in the pyramid, and four in each head
        assert len(norms) > len(own) + 8
        assert moved
    else:
        assert len(norms) == len(own)
        assert not moved
        assert not any(p.requires_grad for part in own for p in part.parameters())


def test_a_frozen_backbone_stays_as_it_is() -> None:
    made = detector(frozen=True).train()
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    sum(made(example()).values()).backward()
    after = made.encoder.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None for p in made.encoder.parameters())


def test_without_masks() -> None:
    made = detector(masks=False)
    batch = example()
    batch.targets = [{k: t[k] for k in ("boxes", "labels")} for t in batch.targets or ()]
    losses = made.train()(batch)
    assert "loss_mask" not in losses
    detected = made.eval().predict(np.zeros((48, 64, 3), dtype=np.uint8))
    assert detected.masks is None
    assert len(detected.boxes) == len(detected.labels) == len(detected.scores)


def test_a_saved_detector_is_the_same(tmp_path: Path) -> None:
    made = detector().eval()
    save_detector(made, tmp_path / "run" / "model", licence="MIT")
    loaded = load_detector(tmp_path / "run")
    assert (loaded.classes, loaded.config) == (made.classes, made.config)
    pixels = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    first, second = made.predict(pixels), loaded.predict(pixels)
    assert len(first.scores) == 10
    for name in ("boxes", "labels", "scores"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.masks == second.masks
    assert set(first.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"format": "x"}, "not of the format"),
        (lambda c: c | {"classes": "red"}, "malformed"),
        (lambda c: c | {"detector": c["detector"] | {"anchors": 3}}, "malformed"),
        (lambda c: c | {"detector": c["detector"] | {"hidden": "64"}}, "malformed"),
        (lambda c: c | {"detector": {}}, "malformed"),
        (lambda c: c | {"classes": ["red"]}, "of another detector"),
        (lambda c: c | {"fingerprint": "0"}, "not the one that"),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    save_detector(detector(), tmp_path)
    path = tmp_path / "detector.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        load_detector(tmp_path)


def test_a_detector_learns_to_find_squares(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AP rises from nothing, and every way to judge the run gives the same figure."""
    out, data = tmp_path / "run", squares / "squares.json"
    changes = {"steps": 80, "optimizer__lr": 3e-3, "log_every": 40, "checkpoint_every": 200}
    assert transfer("detection", data, out, *words_of(squares), **changes) == 0
    last = read_log(out)[-1]["validation"]
    assert last["box_ap50"] > 0.5
    assert last["mask_ap50"] > 0.5
    untrained = ["--steps=1", "--optimizer.lr=1e-9"]
    blank = command("detection", data, tmp_path / "blank", *words_of(squares))
    assert main([*blank, *untrained]) == 0
    assert read_log(tmp_path / "blank")[-1]["validation"]["box_ap50"] < 0.1
    results = tmp_path / "results.json"
    judge = ["evaluate", "detector", str(out), "--annotations", str(data), "--json"]
    capsys.readouterr()
    assert main([*judge, "--images", str(squares / "images"), "--save", str(results)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["boxes"]["AP"] == pytest.approx(last["box_ap"], abs=1e-9)
    assert report["masks"]["AP"] == pytest.approx(last["mask_ap"], abs=1e-9)
    assert report["by_class"].keys() == COLOURS.keys()
    finished = ["evaluate", "detection", "--annotations", str(data), "--predictions", str(results)]
    assert main([*finished, "--masks", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    # results are rounded to thousandths of a pixel
    assert again["boxes"]["AP"] == pytest.approx(last["box_ap"], abs=0.02)
    assert again["masks"]["AP"] == pytest.approx(last["mask_ap"], abs=1e-9)


def test_mixed_precision(squares: Path, tmp_path: Path) -> None:
    """Boxes stay exact: they are what is learnt."""
    data, changes = squares / "squares.json", {"steps": 1, "precision": "bf16"}
    words = ["--images", str(squares / "images")]
    assert transfer("detection", data, tmp_path / "run", *words, **changes) == 0
    losses = read_log(tmp_path / "run")[-1]
    assert transfer("detection", data, tmp_path / "full", *words, steps=1) == 0
    assert losses["loss"] == pytest.approx(read_log(tmp_path / "full")[-1]["loss"], rel=0.05)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_and_resumed_equals_never_killed(squares: Path, tmp_path: Path) -> None:
    out, whole, data = tmp_path / "killed", tmp_path / "whole", squares / "squares.json"
    changes = {"optimizer__kind": "sgd", "steps": 7, "validate_every": 3}
    words = words_of(squares)
    kill_after(3, out, command("detection", data, out, *words, **changes))
    assert transfer("detection", data, whole, *words, **changes) == 0
    assert transfer("detection", data, out, *words, **changes) == 0
    assert lines(out) == lines(whole)
    for part in (last_checkpoint(out).relative_to(out), Path("model/heads.safetensors")):
        killed, never = load_file(out / part), load_file(whole / part)
        assert killed.keys() == never.keys()
        assert all(torch.equal(killed[name], never[name]) for name in killed), part


def test_a_dry_run_writes_nothing(
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*words_of(squares), "--dry-run"]
    assert transfer("detection", squares / "squares.json", tmp_path / "run", *words) == 0
    printed = capsys.readouterr().out
    for text in ("masks (2, 48, 64)", "4 of 2 images", "1.png, 64 x 48", "Mask R-CNN, norm batch"):
        assert text in printed
    assert list(tmp_path.iterdir()) == []


def test_mirrored_regions(squares: Path) -> None:
    settings = {"detection.batch": 6, "detection.flip": 1.0}
    data = {"annotations": str(squares / "squares.json"), "images": str(squares / "images")}
    training = transfer_training(
        "detection", BACKBONE, data=data, config="detection-small", settings=settings
    )
    task = training.build()
    for item in task.plan(0):
        shown = task.load(item)
        for box, label, mask in zip(shown.boxes, shown.labels, shown.masks, strict=True):
            x0, y0, x1, y1 = box.astype(int)
            colour = list(COLOURS.values())[label - 1]
            assert (shown.pixels[y0:y1, x0:x1] == colour).all()
            assert mask[y0:y1, x0:x1].all()
            assert mask.sum() == (x1 - x0) * (y1 - y0)


def test_norms_of_several_processes(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In backbone, pyramid and heads; built as one of two processes would."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = {"annotations": str(squares / "squares.json"), "images": str(squares / "images")}

    def kinds(**settings: Any) -> dict[str, set[type]]:
        training = transfer_training(
            "detection", "torchvision/resnet18", data=data, config="detection-small",
            settings={name.replace("__", "."): value for name, value in settings.items()},
        )  # fmt: skip
        network = training.build().module.network
        parts = {"backbone": network.backbone.encoder, "pyramid": network.backbone.pyramid}
        parts |= {"box": network.roi_heads.box_head, "mask": network.roi_heads.mask_head}
        norm = torch.nn.modules.batchnorm._BatchNorm
        return {
            name: {type(m) for m in part.modules() if isinstance(m, norm)}
            for name, part in parts.items()
        }

    assert list(kinds().values()) == [{SharedBatchNorm}] * 4
    plain = kinds(detection__sync_norm=False)
    assert list(plain.values()) == [{torch.nn.BatchNorm2d}] * 4


def test_what_cannot_be_used_is_said(squares: Path, tmp_path: Path) -> None:
    content = json.loads((squares / "squares.json").read_text())
    content["annotations"][0]["segmentation"] = []
    content["images"].append({"id": 99, "file_name": "99.png", "height": 4, "width": 4})
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    source = DetectionSource(str(path), str(squares / "images"))
    dataset = open_detection_dataset(source, masks=True, regions_needed=False)
    assert len(dataset.paths) == 5
    reasons = sorted(str(fault) for fault in dataset.set_aside)
    assert reasons[0] == "1.png: a region has no mask"
    assert reasons[1].startswith("99.png: not in")
    # boxes alone need no masks, and nothing is learnt from an image without a region
    assert len(open_detection_dataset(source, masks=False, regions_needed=True).paths) == 6
    with pytest.raises(InputError, match="there is no such folder"):
        open_detection_dataset(
            DetectionSource(str(path), "nowhere"), masks=True, regions_needed=True
        )
    content["categories"].append({"id": 9, "name": "green"})
    path.write_text(json.dumps(content))
    words = ["--images", str(squares / "images"), "--validation", str(path)]
    assert transfer("detection", squares / "squares.json", tmp_path / "run", *words) == 1
