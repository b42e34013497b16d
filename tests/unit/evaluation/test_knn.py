"""`evaluate knn`: the votes, class folders, the features under them, faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.cli.main import main  # noqa: E402
from anyregion.errors import CheckpointError, InputError  # noqa: E402
from anyregion.evaluation.backbones.class_folders import (  # noqa: E402
    LabelledFeatures,
    find_class_folders,
)
from anyregion.evaluation.backbones.features import (  # noqa: E402
    open_backbone,
    pooled_features,
    read_square,
)
from anyregion.evaluation.backbones.knn import evaluate_knn, nearest_classes  # noqa: E402
from tests.helpers.colour_backbone import class_folders, colour_backbone  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def votes_one_by_one(
    bank: Any, labels: Any, query: Any, *, k: int, temperature: float, classes: int
) -> list[int]:
    nearest = sorted(
        ((float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)), int(label)))
        for row, label in zip(bank, labels, strict=True)
    )[::-1][:k]
    votes = [sum(np.exp(s / temperature) for s, own in nearest if own == c) for c in range(classes)]
    ranked = sorted(range(classes), key=lambda c: -votes[c])
    return [c if votes[c] > 0 else -1 for c in ranked][:5]


@pytest.mark.parametrize("k", [1, 4, 20, 500])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes(k: int, temperature: float) -> None:
    draw = np.random.default_rng(k)
    bank, queries = draw.normal(size=(60, 9)), draw.normal(size=(11, 9))
    labels = draw.integers(0, 7, 60)
    ranked, used = nearest_classes(
        torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries),
        classes=7, k=k, temperature=temperature,
    )  # fmt: skip
    assert used == min(k, 60)
    options: dict[str, Any] = {"k": k, "temperature": temperature, "classes": 7}
    assert ranked.tolist() == [votes_one_by_one(bank, labels, q, **options) for q in queries]
    alone, used = nearest_classes(
        torch.from_numpy(bank), torch.from_numpy(labels), None,
        classes=7, k=k, temperature=temperature,
    )  # fmt: skip
    assert used == min(k, 59)
    for i, row in enumerate(alone.tolist()):
        rest = np.arange(60) != i
        assert row == votes_one_by_one(bank[rest], labels[rest], bank[i], **options)


def test_accuracy() -> None:
    ranked = np.array([[0, 1], [1, 0], [0, 1], [-1, -1]])
    truth = np.array([0, 0, 0, -1])

    def report(classes: tuple[str, ...]) -> Any:
        data = LabelledFeatures(
            classes=classes, train=torch.zeros(4, 1), labels=truth, queries=None, truth=truth,
            groups=("a", "a", "a", "b"), missing=(), set_aside=(),
        )  # fmt: skip
        return data.report(ranked, colour_backbone(), None, started=0.0)

    result = report(("a", "c"))
    assert result.top1 == 0.5
    assert result.top1_error == pytest.approx(0.25 / 2**0.5), "sqrt(0.5 x 0.5 / (4 + 4))"
    assert result.by_class == {"a": pytest.approx(2 / 3), "b": 0}, "no answer is not the unknown"
    assert result.mean_class_accuracy == pytest.approx(1 / 3)
    assert result.top5 is None
    assert report(("a", "c", "d", "e", "f")).top5 == 0.75


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", {"blue": 4, "green": 5, "red": 6})
    # `violet` is unknown, `blue` is not asked: numbers differ, names do not
    val = class_folders(tmp_path / "val", {"green": 2, "red": 4, "violet": 2})
    (train / "red" / "broken.png").write_bytes(b"no image")
    (train / "red" / "notes.txt").write_text("no image either")
    (train / "empty").mkdir()
    (train / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(val / "loose.png")
    report = evaluate_knn(colour_backbone(), train, val)
    assert report.by_class == {"green": 1, "red": 1, "violet": 0}
    assert report.top1 == 0.75
    assert report.mean_class_accuracy == pytest.approx(2 / 3)
    assert report.missing == ("violet",)
    assert (report.details.k, report.train_images, report.images, report.classes) == (15, 15, 8, 3)
    assert sorted(Path(a.item).name for a in report.set_aside) == [
        "broken.png", "empty", "loose.png",
    ]  # fmt: skip
    assert json.loads(json.dumps(report.to_dict()))["top1"] == 0.75


def test_a_class_that_cannot_be_read(tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", {"green": 2, "red": 2})
    (train / "blue").mkdir()
    (train / "blue" / "0.jpg").write_bytes(b"no image")
    val = class_folders(tmp_path / "val", {"blue": 1, "red": 1})
    report = evaluate_knn(colour_backbone(), train, val)
    assert report.missing == ("blue",)
    assert report.classes == 2
    assert report.top1 == 0.5


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_image_to_learn_from_is_none_to_judge_on(tmp_path: Path, link: str) -> None:
    train = class_folders(tmp_path / "train", {"green": 2, "red": 2})
    val = class_folders(tmp_path / "val", {"green": 1, "red": 1})
    getattr(val / "red" / "same.png", link)(train / "red" / "01.png")
    with pytest.raises(InputError, match=r"same\.png \(1 such\) is also in .*must not be those"):
        evaluate_knn(colour_backbone(), train, val)
    assert evaluate_knn(colour_backbone(), train, val, limit=1).images == 2


def test_leave_one_out(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, {"red": 3, "green": 3, "blue": 1})
    report = evaluate_knn(colour_backbone(), folder, k=1)
    assert report.details.leave_one_out
    assert report.by_class == {"red": 1, "green": 1, "blue": 0}, "nothing else is blue"
    assert (report.images, report.train_images) == (7, 7)
    again = evaluate_knn(colour_backbone(), folder, k=1, batch_size=2, limit=2)
    assert again.images == 5


def test_figures_do_not_hang_on_the_batch(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, {"red": 6, "green": 5})
    backbone = open_backbone("torchvision/resnet18", size=32)
    paths = find_class_folders(folder).paths
    one, _ = pooled_features(backbone, paths, batch_size=1, faults=[])
    all_, rows = pooled_features(backbone, paths, batch_size=50, faults=[])
    assert torch.allclose(one, all_, rtol=1e-4, atol=1e-5)
    assert rows.tolist() == list(range(11))
    assert not backbone.encoder.training


def test_random_weights_follow_from_the_seed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = open_backbone("torchvision/resnet18", size=32, seed=3)
    assert torch.equal(torch.rand(3), expected), "the caller's generator is as it was"
    again = open_backbone("torchvision/resnet18", size=32, weights="random", seed=3)
    other = open_backbone("torchvision/resnet18", size=32, seed=4)
    assert first.identity == again.identity
    assert first.identity.fingerprint != other.identity.fingerprint
    assert (first.identity.weights, first.identity.seed) == ("random", 3)


def test_a_saved_backbone(tmp_path: Path) -> None:
    from anyregion.backbones.checkpoint import save_encoder

    random = open_backbone("torchvision/resnet18", size=32, seed=3)
    save_encoder(random.encoder, tmp_path / "run" / "model", size=64)
    saved = open_backbone(str(tmp_path / "run"))
    assert saved.identity.fingerprint == random.identity.fingerprint
    stated = json.loads((tmp_path / "run" / "model" / "backbone.json").read_text())
    assert saved.identity.fingerprint == stated["fingerprint"]
    assert (saved.identity.weights, saved.identity.seed, saved.identity.size) == ("saved", None, 64)
    assert open_backbone(str(tmp_path / "run"), size=32).identity.size == 32
    with pytest.raises(InputError, match="its own weights"):
        open_backbone(str(tmp_path / "run"), weights="random")


def test_geometry(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    prepared, size = read_square(tmp_path / "a.png", side=224, centre=True)
    assert size == (256, 300)
    assert np.array_equal(prepared, pixels[16:240, 38:262]), "nothing is scaled where 256 is 256"
    whole, _ = read_square(tmp_path / "a.png", side=64, centre=False)
    assert np.array_equal(whole, Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC))
    Image.new("RGB", (1, 20_000), "red").save(tmp_path / "thread.png")
    prepared, _ = read_square(tmp_path / "thread.png", side=64, centre=True)
    assert (prepared == (255, 0, 0)).all()


def test_faults(tmp_path: Path) -> None:
    backbone = colour_backbone()
    with pytest.raises(InputError, match="no such folder"):
        evaluate_knn(backbone, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in any class folder"):
        evaluate_knn(backbone, tmp_path / "empty")
    one = class_folders(tmp_path / "one", {"red": 1})
    with pytest.raises(InputError, match="1 class with images"):
        evaluate_knn(backbone, one)
    good = class_folders(tmp_path / "good", {"red": 2, "green": 2})
    with pytest.raises(InputError, match="must not be those to learn from"):
        evaluate_knn(backbone, good, tmp_path / "one" / ".." / "good")
    shutil.copytree(good, tmp_path / "bad")
    for path in (tmp_path / "bad" / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="1 class with images that can be read"):
        evaluate_knn(backbone, tmp_path / "bad")
    (one / "red" / "00.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of its 1 images can be read"):
        evaluate_knn(backbone, good, one)
    with pytest.raises(CheckpointError, match="not finite"):
        evaluate_knn(colour_backbone(broken=True), good)
    for options in ({"k": 0}, {"temperature": 0.0}, {"limit": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match="must"):
            evaluate_knn(backbone, good, **options)  # type: ignore[arg-type]
    for wrong in ({"seed": -1}, {"size": 0}, {"device": "abacus"}):
        with pytest.raises(InputError):
            open_backbone("torchvision/resnet18", **wrong)  # type: ignore[arg-type]


def test_command(tmp_path: Path, capsys: Any) -> None:
    train = class_folders(tmp_path / "train", {"red": 3, "green": 3, "blue": 2})
    val = class_folders(tmp_path / "val", {"red": 1, "green": 1})
    words = ["--backbone", "torchvision/resnet18", "--size", "32", "--seed", "2"]
    assert main(["evaluate", "knn", str(train), str(val), *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2
    assert result["backbone"]["seed"] == 2
    assert result["backbone"]["size"] == 32
    (val / "red" / "1.png").write_bytes(b"")
    assert main(["evaluate", "knn", str(train), str(val), *words, "--k", "1"]) == 3
    printed = capsys.readouterr()
    assert "+- 19.2 (standard error of 2 images)" in printed.out
    assert result["backbone"]["fingerprint"] in printed.out
    assert "1.png" in printed.err
    assert main(["evaluate", "knn", str(train), *words, "--limit", "2"]) == 0
    assert "each among the others" in capsys.readouterr().out
