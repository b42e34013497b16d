"""The shell blocks of the guides, run from the first line to the last on four photographs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from anyregion.cli.main import main
from tests.helpers.docs import PAGES, ROOT, link_examples, run_commands

NAMES = ["steel tower", "rocket", "flag", "helmet", "space shuttle", "espresso cup", "cat"]
# what the ten boxes of examples/regions.json show
LABELS = [1, 1, 2, 1, 1, 5, 4, 3, 6, 7]


def coco(*images: int) -> dict[str, Any]:
    """The hand-drawn regions of some of the example photographs, named."""
    content = json.loads((ROOT / "examples/regions.json").read_text("utf-8"))
    named = [
        {**row, "category_id": label}
        for row, label in zip(content["annotations"], LABELS, strict=True)
        if row["image_id"] in images
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    listed = [image for image in content["images"] if image["id"] in images]
    return {"images": listed, "annotations": named, "categories": categories}


def mirror(place: Path) -> None:
    """Photographs and corrections once more, mirrored: names that several photographs show."""
    content = coco(1, 2, 3, 4)
    sizes = {image["id"]: image["width"] for image in content["images"]}
    for image in list(content["images"]):
        name = f"mirrored_{image['file_name']}"
        with Image.open(place / "photos" / image["file_name"]) as photograph:
            ImageOps.mirror(photograph).save(place / "photos" / name)
        content["images"].append({**image, "id": image["id"] + 4, "file_name": name})
    for row in list(content["annotations"]):
        x, y, width, height = row["bbox"]
        box = [sizes[row["image_id"]] - x - width, y, width, height]
        changed = {"id": row["id"] + 10, "image_id": row["image_id"] + 4, "bbox": box}
        content["annotations"].append({**row, **changed})
    (place / "corrections.json").write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader of the guides has: photographs, boxes, names, corrections."""
    link_examples(tmp_path, monkeypatch)
    for folder in ("photos", "more_photos"):
        (tmp_path / folder).mkdir()
        for photograph in (ROOT / "examples").glob("*.jpg"):
            os.link(photograph, tmp_path / folder / photograph.name)
    for name in ("boxes.json", "more_boxes.json"):
        shutil.copy(ROOT / "examples/regions.json", tmp_path / name)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for name, images in {
        "corrections.json": (1, 2, 3, 4), "mine.json": (1, 2), "held_out.json": (3, 4),
    }.items():  # fmt: skip
        (tmp_path / name).write_text(json.dumps(coco(*images)))
    return tmp_path


def test_label_photographs(place: Path) -> None:
    (place / "corrections.json").write_text(json.dumps(coco(1, 2, 3)))  # there is more to ask
    run_commands("guides/label_photos.md")
    named = json.loads((place / "named/boxes.json").read_text())
    assert [row["id"] for row in named["annotations"]] == list(range(1, 11))
    assert sorted(p.name for p in (place / "set/labels").iterdir())
    assert (place / "run/review.html").is_file()
    assert (place / "run2/queue.json").is_file()


def test_runs(place: Path) -> None:
    replaced = {
        "--vocabulary coco --regions regions.json": "--vocabulary coco --regions boxes.json"
    }
    run_commands("guides/runs.md", replaced)
    assert (place / "out/predictions.json").is_file()


def test_collection(place: Path) -> None:
    pytest.importorskip("pyarrow")
    lines = {
        "photos/street.jpg": "photos/coffee.jpg", "--workers 2": "--workers 1",
        '"bicycle"': '"cat"',
    }  # fmt: skip
    # the guide's Python makes it
    (place / "turned").symlink_to(place / "photos", target_is_directory=True)
    # the cluster's block is for a cluster
    cluster = (
        "anyregion index /shared/photos --out /shared/photos.index --engine ray --address auto"
    )
    run_commands("guides/scale.md", {**lines, cluster: "echo"})
    assert (place / "buses/matches.jsonl").is_file()
    listed = (place / "bicycles/images.txt").read_text().splitlines()
    assert listed[0] == str(place / "photos/cat.jpg")
    assert len(listed) < 4
    named = json.loads((place / "bicycles/named/predictions.json").read_text())
    assert len(named["images"]) == len(listed)
    assert len((place / "like-this/images.txt").read_text().splitlines()) == 4


def labels(place: Path, kind: str, out: str) -> Path:
    """The named regions of the four photographs in a tool's format."""
    command = ["export-labels", "corrections.json", "--to", kind, "--images", "photos"]
    assert main([*command, "--out", out]) == 0
    return place / out


def test_formats(place: Path) -> None:
    labels(place, "label-studio", "studio")
    labels(place, "cvat", "cvat")
    shutil.copy(place / "studio/tasks.json", place / "export.json")
    shutil.copy(place / "cvat/annotations.xml", place)
    # two stories, each with a run of its own
    regions = "annotations.xml --vocabulary names.txt --out run"
    into = "run --into annotations.xml --out named"
    second = {into: into.replace("run", "run2") + "2", regions: f"{regions}2"}
    run_commands("reference/formats.md", second)
    assert len(json.loads((place / "named/predictions.json").read_text())) == 4
    assert "<box" in (place / "named2/annotations.xml").read_text()
    assert (place / "out/set/data.yaml").is_file()


def test_x_anylabeling(place: Path) -> None:
    for file in labels(place, "labelme", "labelme").glob("*.json"):
        shutil.copy(file, place / "photos")
    run_commands("guides/x_anylabeling.md", {"anyregion serve": "true"})
    assert sorted(p.name for p in (place / "named").rglob("*.json")) == [
        "astronaut.json", "cat.json", "coffee.json", "launch.json",
    ]  # fmt: skip


def test_exemplars(place: Path) -> None:
    labels(place, "crops", "shown")
    shutil.copy(place / "corrections.json", place / "labels.json")
    run_commands("guides/exemplars.md", {"--exemplar-images images": "--exemplar-images photos"})


def test_explain(place: Path) -> None:
    run_commands("guides/explain.md")
    assert (place / "helmet.png").is_file()


def test_teaching(place: Path) -> None:
    shutil.copy(place / "corrections.json", place / "more.json")
    page = {
        "--forget bad.jpg --forget other.jpg:17": "--forget cat.jpg --forget launch.jpg:6",
        "--count 50": "--count 3",
        # curves of dozens of photographs, which has tests of its own
        "anyregion evaluate teaching --annotations": "true",
    }
    run_commands("guides/teaching.md", page)
    assert (place / "run3/predictions.json").is_file()


# what is not run here, and why
NOT_RUN = {
    "design/compact.md": "the built-in model is trained again: an hour, and COCO",
    "guides/cvat.md": "a CVAT server; tests/unit/integrations has its answers",
    "guides/install.md": "an environment of its own: .ci/run installs the package",
    "guides/label_studio.md": "a Label Studio server; reference/formats.md runs the files' story",
    "guides/page.md": "a service that does not end; the review is in guides/label_photos.md",
    "guides/pretraining.md": "hours, or processes; guides/pretrain_my_photos.md runs the way",
    "guides/proposals.md": "SAM's weights, COCO; tests/unit/region_trees runs r2o:compact",
    "guides/regionspot.md": "the published checkpoint; guides/sam_and_clip.md runs a small one",
    "guides/service.md": "a service that does not end; its Python runs against one",
    "guides/training.md": "a sketch of what guides/train_my_classes.md runs",
    "guides/transfer.md": "minutes of training on CamVid and COCO",
    "reference/onnx.md": "an export, which tests/unit/exported makes and runs",
    "reference/store.md": "COCO's photographs; guides/train_my_classes.md fills stores",
    "results/backbones.md": "minutes of training on CamVid",
    "results/compact.md": "figures of COCO's val and of trainings",
    "results/pretraining.md": "trainings from ImageNet's weights",
    "results/proposals.md": "COCO; tests/unit/region_trees runs r2o:compact",
    "results/r2o_comparison.md": "three hours of two cores",
    "results/reproduce.md": "the papers' data",
    "results/services.md": "a Label Studio server",
}


def test_every_page_is_run_or_says_why_not() -> None:
    pages = {
        str(p.relative_to(ROOT / "docs"))
        for p in PAGES
        if ROOT / "docs" in p.parents and "```sh\n" in p.read_text("utf-8")
    }
    run = set(re.findall(r'run_commands\(\s*"([^"]+)"', Path(__file__).read_text("utf-8")))
    assert run | NOT_RUN.keys() == pages
    assert not run & NOT_RUN.keys()


@pytest.mark.usefixtures("one_thread", "torch_extras")
class TestWithTorch:
    """Guides that need the extras `[torch]` or `[train]`."""

    def test_train_on_my_classes(self, place: Path) -> None:
        pretrained = "runs/my-pretraining"
        from anyregion.backbones import build_encoder, save_encoder

        save_encoder(build_encoder("timm/test_resnet", size=64), place / pretrained)
        mirror(place)
        changes = {"--steps 300": "--steps 1"}
        commands = run_commands("guides/train_my_classes.md", changes)
        assert len(commands) == 13
        card = (place / "runs/corrected/README.md").read_text()
        assert "top1" in card

    def test_sam_and_clip(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch
        import transformers

        from anyregion.localizers import load_localizer
        from anyregion.regionspot import Adapter, AdapterConfig, RegionSpotEncoder
        from anyregion.vlms import load_vlm
        from tests.helpers.small_localizers import sam_config, spread
        from tests.helpers.small_vlms import write_folder

        torch.manual_seed(0)
        spread(transformers.SamModel(sam_config())).save_pretrained(place / "sam")
        write_folder(place / "clip", "clip")
        config = AdapterConfig(token_width=32, feature_width=48, embed_width=40, layers=1)
        encoder = RegionSpotEncoder(
            load_localizer("sam"), load_vlm("clip"), spread(Adapter(config))
        )
        encoder.save_pretrained(place / "regionspot-b16")
        run_commands(
            "guides/sam_and_clip.md",
            {
                "openai/clip-vit-base-patch16": "clip",
                "open_clip:ViT-B-16/openai": "clip",
                "facebook/sam-vit-base": "sam",
                # the checkpoint of others; its conversion has tests of its own
                "anyregion convert regionspot_vit_b16.pth regionspot-b16": "true",
            },
        )
        assert (place / "run/predictions.json").is_file()

    def test_pretrain_my_photographs(self, place: Path) -> None:
        from tests.helpers.colour_backbone import class_folders
        from tests.helpers.pretraining import SMALL

        for part, seed in (("train", 3), ("val", 2)):
            class_folders(place / "classes" / part, {"red": seed, "blue": seed})
        settings = " ".join(f"--{name} '{value}'" for name, value in SMALL.items())
        run_commands(
            "guides/pretrain_my_photos.md",
            {
                "--out runs/photos\n": f"--out runs/photos {settings}\n",
                "anyregion pretrain photos --out runs/photos-50": "true",
                "torchvision/resnet18 --weights random --size 96": "timm/test_resnet --size 64",
                # timm's small network is not among torchvision's
                "anyregion export runs/photos --to torchvision --out resnet18.pth": "",
            },
        )
        assert (place / "backbone/config.json").is_file()
