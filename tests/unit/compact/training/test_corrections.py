"""The corrections of a taught vocabulary as the data of a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("lightning_fabric")

from anyregion import InputError, Regions, Teacher, load_recognizer, load_vocabulary
from anyregion.cli.main import main
from anyregion.compact.training.corrections import corrections_data
from anyregion.data.store.store import Store
from anyregion.recipes.run import train
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.tiles import untiled
from tests.helpers.colours import colour_recognizer

BOXES = Regions.from_boxes([[0, 0, 40, 60], [40, 0, 80, 60]])
PAIRS = [("tomato", "navy"), ("navy", "olive"), ("olive", "tomato")]


@pytest.fixture
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pictures of two halves, of which one half has no name; `hat` has no example."""
    monkeypatch.chdir(tmp_path)
    Path("photos/deep").mkdir(parents=True)
    teacher = Teacher(colour_recognizer(), ["tomato", "navy", "olive", "hat"])
    for i in range(10):
        random, pair = np.random.default_rng(i), PAIRS[i % 3]
        pixels = np.zeros((60, 80, 3))
        for columns, colour in zip((slice(0, 40), slice(40, 80)), pair, strict=True):
            pixels[:, columns] = np.array(ImageColor.getrgb(colour)) + random.normal(0, 8, 3)
        name = f"deep/{i}.png" if i == 4 else f"{i}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"photos/{name}")
        teacher.add(f"photos/{name}", BOXES, [pair[0], None if i == 3 else pair[1]], name=name)
    teacher.folders = (str(tmp_path / "photos"),)
    teacher.vocabulary().save("my.vocab")
    return tmp_path / "my.vocab"


def read(folder: Path, part: str) -> dict[str, list[dict[str, object]]]:
    return json.loads((folder / f"{part}.json").read_text())


def test_images_and_regions_are_those_of_the_corrections(taught: Path) -> None:
    data = corrections_data(taught, "run")
    train_set, validation = (read(data.folder, part) for part in ("train", "validation"))
    names = {e["file_name"] for e in train_set["images"]}
    held_out = {e["file_name"] for e in validation["images"]}
    assert len(held_out) == 2
    assert names | held_out == {f"deep/{i}.png" if i == 4 else f"{i}.png" for i in range(10)}
    # 19 regions: one is none of these
    assert len(train_set["annotations"]) + len(validation["annotations"]) == 19
    assert [c["name"] for c in train_set["categories"]] == ["tomato", "navy", "olive"]
    by_id = {e["id"]: e["file_name"] for e in train_set["images"]}
    regions = {
        (by_id[a["image_id"]], *a["bbox"]): a["category_id"] for a in train_set["annotations"]
    }
    for (name, x, y, width, height), category in regions.items():
        assert (y, width, height) == (0, 40, 60)
        pair = PAIRS[int(Path(str(name)).stem) % 3]
        assert ["tomato", "navy", "olive"][int(str(category)) - 1] == pair[int(x) // 40]
    # names without an example are the folder's too
    names_file = load_vocabulary(data.folder / "names.json")
    assert names_file.names == ("tomato", "navy", "olive", "hat")
    assert data.images == taught.parent / "photos"
    assert corrections_data(taught, "run").folder == data.folder


def test_missing_and_changed_images_are_said(taught: Path) -> None:
    Path("photos/2.png").unlink()
    Image.new("RGB", (80, 60)).save("photos/5.png")
    notes = "\n".join(corrections_data(taught, "run").notes)
    assert "2.png: not found" in notes
    assert "5.png is not the image that was corrected" in notes
    assert "15 regions of 8 images" in notes
    with pytest.raises(InputError, match=r"no image to train on.*Give --images"):
        corrections_data(taught, "run", images=taught.parent / "nowhere")


def test_moved_images_are_found_where_they_are_said_to_be(taught: Path) -> None:
    Path("photos").rename("moved")
    with pytest.raises(InputError, match="Give --images"):
        corrections_data(taught, "run")
    assert corrections_data(taught, "run", images="moved").images.name == "moved"


def test_what_cannot_be_trained_on_is_refused(taught: Path) -> None:
    teacher = Teacher(colour_recognizer(), ["tomato"])
    teacher.vocabulary().save("words.vocab")
    with pytest.raises(InputError, match="no corrections"):
        corrections_data("words.vocab", "run")
    vocabulary = TaughtVocabulary.load(taught)
    few = Teacher(colour_recognizer(), vocabulary)
    for i in (0, 1, 2, 3, 5, 6, 7, 8, 9):
        few.forget(f"{i}.png")
    few.vocabulary().save("few.vocab")
    with pytest.raises(InputError, match="1 images with named regions are too few"):
        corrections_data("few.vocab", "run")
    with pytest.raises(InputError, match="corrections train compact, not regionspot"):
        train("regionspot_b16_stage1", "run", corrections=taught)
    with pytest.raises(InputError, match="images are of corrections"):
        train("compact", "run", images="photos")


def test_from_corrections_to_a_folder_that_knows_its_names(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "compact", "--from", str(taught), "--out", "run", "--steps", "2"]
    command += ["--compact.batch", "2", "--tensorboard", "false"]
    assert main(command) == 0
    assert "2 of them for validation" in capsys.readouterr().err
    (folder,) = Path("run/data").iterdir()
    assert Store(folder / "train").info.mirrored
    assert not Store(folder / "validation").info.mirrored
    # once more: it is done, and nothing is computed again
    before = (folder / "train" / "store.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (folder / "train" / "store.json").stat().st_mtime_ns == before
    recognizer = load_recognizer("run/model")
    assert recognizer.vocabulary is not None
    assert recognizer.vocabulary.names == ("tomato", "navy", "olive", "hat")
    # the 80 names are kept beside them
    assert {"person", "tomato"} <= set(untiled(recognizer.encoder).calibration.names)
    assert main(["recognize", "photos/0.png", "--box", "0,0,40,60", "--model", "run/model",
                 "--out", "named"]) == 0  # fmt: skip
    (line,) = Path("named/predictions.jsonl").read_text().splitlines()
    assert set(json.loads(line)["regions"][0]["labels"]) == {"tomato", "navy", "olive", "hat"}
    # other corrections are another run
    teacher = Teacher(colour_recognizer(), TaughtVocabulary.load(taught))
    teacher.forget("0.png")
    teacher.vocabulary().save(taught)
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
