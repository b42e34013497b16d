"""The Python of every page of the documentation runs as it stands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.masks import decode_mask
from tests.helpers.docs import PAGES, ROOT, link_examples, python_blocks, run_blocks

PYTHON_PAGES = {str(p.relative_to(ROOT / "docs")) for p in PAGES[3:] if python_blocks(p)}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return link_examples(tmp_path, monkeypatch)


def annotated(place: Path) -> None:
    """The coffee, annotated, as `annotations.json` beside `photos`."""
    (place / "photos").mkdir()
    shutil.copy(ROOT / "examples/coffee.jpg", place / "photos")
    image = {"id": 1, "file_name": "coffee.jpg", "width": 600, "height": 400}
    regions = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": box}
        for i, box in ((1, [76, 66, 404, 322]), (2, [325, 66, 101, 261]))
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "spoon"}]
    content = {"images": [image], "annotations": regions, "categories": categories}
    (place / "annotations.json").write_text(json.dumps(content))


def test_every_page_is_run_here() -> None:
    """A new page with Python needs a test in this file."""
    run = set(re.findall(r'run_blocks\(\s*"([^"]+)"', Path(__file__).read_text("utf-8")))
    assert run == PYTHON_PAGES


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("guides/python.md")
    assert [len(names[n]) for n in ("regions", "large", "predictions")] == [2, 1, 2]
    assert [r["id"] for r in names["records"]] == ["cup", "spoon"][: len(names["best"])]
    first, *per_region, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 cup [320.")
    assert [line.split()[:2] for line in per_region] == [["cup", "cup"], ["spoon", "spoon"]]
    assert last == "['cup', 'spoon'] Apache-2.0"


def test_exemplars() -> None:
    assert run_blocks("guides/exemplars.md")["labels"] == ["my cup"]


def test_teaching(place: Path) -> None:
    names = run_blocks("guides/teaching.md")
    assert names["teacher"].vocabulary().vocabulary.names == ("cup", "spoon", "my cup")
    assert (place / "my.vocab").is_file()


def test_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("guides/runs.md")
    assert (names["report"].images, names["report"].regions) == (1, 2)
    assert len((place / "out" / "predictions.csv").read_text().splitlines()) == 3
    assert not (place / "out" / "pictures").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1 2 ()"
    assert [line.split()[0] for line in printed[1:]] == ["a", "pixels", "[]"]
    assert printed[1].removeprefix("a file ") == printed[2].removeprefix("pixels ")


def test_evaluation() -> None:
    assert run_blocks("guides/evaluation.md")["report"].regions == 2


def test_pictures(place: Path) -> None:
    assert run_blocks("guides/pictures.md")["picture"].width == 900
    assert (place / "coffee-named.png").is_file()


def test_what_an_answer_is_made_of(place: Path) -> None:
    assert run_blocks("guides/explain.md")["explanation"].labels[0] == "helmet"
    assert (place / "helmet.png").is_file()


def test_train_on_my_classes(place: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(1, 10)]
    regions = [
        {"id": i, "image_id": 1 + i % 9, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(30)
    ]
    content: dict[str, Any] = {
        "images": images,
        "annotations": regions,
        "categories": [{"id": 1, "name": "cup"}],
    }
    (place / "all.json").write_text(json.dumps(content))
    run_blocks("guides/train_my_classes.md")
    parts = [json.loads((place / name).read_text()) for name in ("mine.json", "held_out.json")]
    assert [len(part["images"]) for part in parts] == [7, 2]
    for key in ("images", "annotations"):
        assert sorted(item["id"] for part in parts for item in part[key]) == sorted(
            item["id"] for item in content[key]
        )
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert {region["image_id"] for region in part["annotations"]} <= ids
        assert part["categories"] == content["categories"]


def test_data(place: Path) -> None:
    annotated(place)
    replaced = {"instances_train.json": "annotations.json", '"cat", "dog"': '"cup"'}
    names = run_blocks(
        "guides/data.md", {**replaced, "range(100)": "range(1)", '"images"': '"photos"'}
    )
    assert [len(names[n].labels) for n in ("annotations", "seen", "unseen")] == [2, 1, 1]


def test_turned_copies(place: Path) -> None:
    annotated(place)
    run_blocks("guides/scale.md")
    assert sorted(p.name for p in (place / "turned").iterdir()) == [
        "coffee_270.jpg", "coffee_90.jpg",
    ]  # fmt: skip
    with Image.open(place / "turned/coffee_90.jpg") as copy:
        assert copy.size == (400, 600)


def test_service(place: Path) -> None:
    pytest.importorskip("starlette")
    from anyregion.serve.client import Client
    from tests.unit.serve.test_serve_command import free_port, wait_until

    shutil.copy(ROOT / "examples/cat.jpg", place / "photo.jpg")
    port = free_port()
    command = [sys.executable, "-m", "anyregion", "serve", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: Client(f"http://127.0.0.1:{port}").health()["status"] == "ok")
        names = run_blocks("guides/service.md", {"8750": str(port)})
        assert [region["label"] for region in names["answer"]] == ["cat"]
    finally:
        process.kill()
        process.wait()


def test_a_method_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotated(place)
    names = run_blocks("guides/add_a_method.md")
    assert capsys.readouterr().out.splitlines()[0] == "['cup']"
    assert names["report"].regions == 2


def test_onnx(place: Path) -> None:
    """By the built-in model, which is ONNX too: an exported RegionSpot answers the same call."""
    import anyregion

    anyregion.load_recognizer().save_pretrained("out")
    run_blocks("reference/onnx.md")
    assert sorted(json.loads((place / "names.json").read_text())) == ["cat", "dog"]


def test_store(place: Path) -> None:
    from anyregion.data import fill_store
    from tests.helpers.feature_store import SmallExtractor, new_store

    fill_store(new_store(place), SmallExtractor(), place / "images")
    names = run_blocks("reference/store.md")
    assert len(names["labels"]) == len(names["features"]["tokens"])


def test_superpixels(place: Path) -> None:
    pytest.importorskip("skimage")
    (place / "photos").symlink_to(ROOT / "examples", target_is_directory=True)
    names = run_blocks("design/priors.md", {"workers=8": "workers=1"})
    assert names["labels"].shape == (224, 224)
    assert len(names["store"].usable) == 4


@pytest.mark.usefixtures("one_thread", "torch_extras")
class TestWithTorch:
    """Pages that need the extras `[torch]` or `[train]`."""

    def test_a_segmenter_of_ones_own(self, place: Path) -> None:
        from tests.helpers.small_vlms import write_folder

        write_folder(place / "clip", "clip")
        names = run_blocks("guides/add_a_segmenter.md")
        assert len(names["predictions"].labels) == 2
        for rle, box in zip(names["predictions"].masks, names["regions"].boxes, strict=True):
            rows, columns = np.nonzero(decode_mask(rle))
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(box - corners).max() <= 2, "the filled box, to a cell of 600 / 256"

    def test_a_stand_in_of_regionspot(self, place: Path) -> None:
        import anyregion

        run_blocks("guides/regionspot.md")
        recognizer = anyregion.load_recognizer("stand-in")
        recognizer.set_image("examples/coffee.jpg")
        answer = recognizer.predict(
            anyregion.Regions.from_boxes([[76, 66, 480, 388]]), ["cat", "dog"]
        )
        assert answer.scores[0, 0] != answer.scores[0, 1], "words are told apart"

    def test_a_task_of_ones_own(self, place: Path) -> None:
        report = run_blocks("guides/add_a_task.md")["report"]
        assert (report.steps, set(report.validation)) == (6, {"top1"})
        assert (place / "runs/rotation/curves.png").is_file()

    def test_training(self, place: Path) -> None:
        from anyregion.cli.main import main

        annotated(place)
        for name in ("train", "val"):
            store = ["--annotations", "annotations.json", "--images", "photos"]
            assert main(["cache", *store, "--out", f"stores/{name}"]) == 0
        names = run_blocks("guides/training.md", {'"steps": 500': '"steps": 1'})
        assert (names["report"].folder / "model").is_dir()

    def test_backbones(self, place: Path) -> None:
        import torch

        from anyregion.backbones import build_encoder, save_encoder
        from anyregion.r2o.model import Networks
        from tests.helpers.published_r2o import to_published

        encoder = build_encoder("torchvision/resnet50", size=64)
        save_encoder(encoder, place / "runs/r2o")
        networks = Networks(encoder, width=256, hidden=4096, out=256)
        state = to_published(networks.state_dict())
        model = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 7, "steps": 1234, "model": model}, place / "r2o.pth")
        changed = {'weights="pretrained"': 'weights="random"'}
        run_blocks("guides/backbones.md", changed)
