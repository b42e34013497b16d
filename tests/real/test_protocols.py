"""RegionSpot's other protocols on the LVIS sample: each a configuration of the commands there are.

The frozen models are small and random: what is tested is that every step fits the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.shared import SHARED, needs_shared

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")
transformers = pytest.importorskip("transformers")

from anyregion import Regions, load_recognizer  # noqa: E402
from anyregion.cli.main import main  # noqa: E402
from anyregion.data.store.store import Store  # noqa: E402
from anyregion.regionspot.encoder import RegionSpotEncoder  # noqa: E402
from anyregion.vocabulary import Vocabulary, name_key  # noqa: E402
from tests.helpers.small_localizers import sam_config  # noqa: E402
from tests.helpers.small_vlms import RESNET, small_open_clip, write_folder  # noqa: E402

pytestmark = needs_shared
COCO = SHARED / "data" / "coco"
RARE = 73946  # the sample's one image with a class that LVIS calls rare
IMAGES = ["--images", str(COCO / "images")]
STEPS = ["--steps", "2", "--tensorboard", "false", "--regionspot.templates", "['{}']"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of the LVIS sample as `lvis.json`, a detector's boxes, and small models."""
    root = tmp_path_factory.mktemp("protocols")
    lvis = json.loads((COCO / "annotations" / "lvis_v0.5_val_sample.json").read_text())
    ids = [RARE, *[i["id"] for i in lvis["images"] if i["id"] != RARE][:3]]
    lvis["images"] = [i for i in lvis["images"] if i["id"] in ids]
    lvis["annotations"] = [a for a in lvis["annotations"] if a["image_id"] in ids]
    kept = {a["category_id"] for a in lvis["annotations"]}
    kept |= {c for i in lvis["images"] for c in i["neg_category_ids"]}
    lvis["categories"] = [c for c in lvis["categories"] if c["id"] in kept]
    (root / "lvis.json").write_text(json.dumps(lvis))
    boxes: dict[int, dict[str, list[Any]]] = {i: {"boxes": [], "scores": []} for i in ids}
    for row in lvis["annotations"]:
        x, y, w, h = row["bbox"]
        boxes[row["image_id"]]["boxes"].append([x, y, x + w, y + h])
        boxes[row["image_id"]]["scores"].append(0.5)
    (root / "glip.json").write_text(json.dumps(boxes))
    torch.manual_seed(0)
    for name, width in (("sam-base", 24), ("sam-large", 32)):
        config = sam_config()
        config.vision_config.hidden_size = width
        transformers.SamModel(config).save_pretrained(root / name)
    write_folder(root / "clip", "clip")
    torch.save(small_open_clip("rn", **RESNET).state_dict(), root / "rn50.pt")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def fill(place: Path, out: Path, *words: str) -> Store:
    command = ["cache", "--annotations", str(place / "lvis.json"), *IMAGES, "--no-mirror"]
    assert main([*command, "--out", str(out), *words]) == 0
    return Store(out)


def train(out: Path, store: Path, *words: str, **adapter: Any) -> Path:
    sizes = {"token_width": 32, "feature_width": 48, "embed_width": 40, "layers": 1, **adapter}
    settings = [f"--regionspot.adapter.{key}={json.dumps(value)}" for key, value in sizes.items()]
    data = f"--regionspot.data=[{{store: {store}, images: {COCO / 'images'}}}]"
    command = ["train", "regionspot_b16_stage1", *STEPS, "--regionspot.flip", "0", "--precision"]
    assert main([*command, "fp32", data, *settings, *words, "--out", str(out)]) == 0
    return out / "model"


def judge(place: Path, model: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    command = ["evaluate", "detection", "--annotations", str(place / "lvis.json"), *IMAGES]
    assert main([*command, "--model", str(model), "--templates", "{}", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def parts(place: Path, localizer: str, vlm: str = "clip") -> list[str]:
    return ["--regionspot.localizer", localizer, "--regionspot.vlm", str(place / vlm)]


def test_vild_base_classes_and_a_resnets_feature_map(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sam, clip = str(place / "sam-base"), str(place / "rn50.pt")
    store = fill(place, tmp_path / "s", "--localizer", sam, "--vlm", clip, "--features")
    assert "width 256" in store.info.extractor["features"], "of the last stage"
    words = [*parts(place, sam, "rn50.pt"), "--regionspot.unseen", "frequency:r"]
    model = train(tmp_path / "run", tmp_path / "s", *words, feature_width=256, embed_width=48)
    rare = [
        c["name"]
        for c in json.loads((place / "lvis.json").read_text())["categories"]
        if c["frequency"] == "r"
    ]
    vocabulary = load_recognizer(model, cache=None).vocabulary
    assert isinstance(vocabulary, Vocabulary)
    assert rare
    assert not {name_key(name) for name in rare} & {name_key(name) for name in vocabulary.names}
    report = judge(place, model, capsys, "--unseen", "frequency:r")
    assert set(rare) == set(report["split"]["unseen_classes"])
    assert report["boxes"]["APr"] == pytest.approx(report["split"]["unseen"])


def test_a_detectors_boxes_and_masks_of_them(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sam = str(place / "sam-large")
    fill(place, tmp_path / "s", "--localizer", sam, "--vlm", str(place / "clip"), "--features")
    model = train(tmp_path / "run", tmp_path / "s", *parts(place, sam))
    detector = ["--regions", str(place / "glip.json"), "--masks", "--pairs", "900"]
    report = judge(place, model, capsys, *detector)
    assert report["style"] == "lvis"
    assert report["masks"]["AP"] is not None
    assert report["boxes"]["AP"] > report["masks"]["AP"], "random masks fit worse than right boxes"


def test_the_prompts_token_from_a_store(place: Path, tmp_path: Path) -> None:
    sam, clip = str(place / "sam-base"), str(place / "clip")
    models = ["--localizer", sam, "--vlm", clip, "--features", "--source", "prompt"]
    store = fill(place, tmp_path / "s", *models)
    assert store.info.extractor["tokens"].startswith("prompt")
    assert main(["cache", "--out", str(tmp_path / "s")]) == 0, "the store notes the source"
    words = parts(place, sam)
    model = train(tmp_path / "run", tmp_path / "s", *words, "--regionspot.source", "prompt")
    encoder = load_recognizer(model, cache=None).encoder
    assert isinstance(encoder, RegionSpotEncoder)
    assert encoder.source == "prompt"
    data = f"--regionspot.data=[{{store: {tmp_path / 's'}}}]"
    command = ["train", "regionspot_b16_stage1", *STEPS, data, *words, "--regionspot.flip", "0"]
    assert main([*command, "--out", str(tmp_path / "other")]) == 1, "of another token"


def test_several_boxes_a_region(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, several = (
        fill(place, tmp_path / name, "--localizer", prefix + str(place / "sam-base"))
        for name, prefix in (("one", ""), ("several", "boxes:0.8,1,1.25:"))
    )
    tokens = [np.array(store.read(0)["tokens"], dtype=np.float32) for store in (one, several)]
    assert tokens[0].shape == tokens[1].shape
    assert np.abs(tokens[0] - tokens[1]).max() > 1e-3
    name = f"boxes:0.8,1,1.25:{place / 'sam-base'}"
    model = train(tmp_path / "run", tmp_path / "several", *parts(place, name))
    encoder = load_recognizer(model, cache=None).encoder
    assert isinstance(encoder, RegionSpotEncoder)
    pixels = np.zeros((60, 80, 3), np.uint8)
    (encoded,) = encoder.localizer.encode([pixels])
    regions = Regions.from_boxes([[10, 10, 50, 40], [0, 0, 80, 60]])
    own = encoder.localizer.tokens(encoded, regions, masks=True)
    assert own.mask_logits is not None
    alone = [
        encoder.localizer.localizer.tokens(encoded[0], Regions.from_boxes(b)).tokens  # type: ignore[attr-defined]
        for b in (
            [[14, 13, 46, 37], [8, 6, 72, 54]],
            [[10, 10, 50, 40], [0, 0, 80, 60]],
            [[5, 6.25, 55, 43.75], [0, 0, 80, 60]],
        )
    ]
    torch.testing.assert_close(own.tokens, torch.stack(alone).mean(0))
    for wrong in ("boxes:0:x", "boxes:1", "boxes:a:x"):
        words = ["cache", "--annotations", str(place / "lvis.json"), *IMAGES, "--out", "x"]
        assert main([*words, "--localizer", wrong]) == 1
        assert "boxes:0.8,1,1.25:NAME" in capsys.readouterr().err


def test_a_trained_linear_adapter_on_crops(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = f"crop:{place / 'clip'}"
    fill(place, tmp_path / "s", "--localizer", crop)
    sizes = {"token_width": 40, "layers": 0, "use_features": False}
    model = train(tmp_path / "run", tmp_path / "s", *parts(place, crop), **sizes)
    recognizer = load_recognizer(model, cache=None)
    encoder = recognizer.encoder
    assert isinstance(encoder, RegionSpotEncoder)
    a, b = torch.randn(2, 1, 3, 40)
    zero = torch.zeros(1, 3, 40)
    sums = [encoder.adapter(x, None) for x in (a, b, a + b, zero)]
    torch.testing.assert_close(sums[0] + sums[1], sums[2] + sums[3], atol=1e-5, rtol=1e-4)
    assert judge(place, model, capsys)["boxes"]["AP"] is not None


def test_a_share_of_the_images_lies_in_a_larger_share(place: Path, tmp_path: Path) -> None:
    from anyregion.data.region_dataset import share_of_images

    images = np.arange(100, 140)
    quarter, half = share_of_images(images, 0.25), share_of_images(images, 0.5)
    assert (len(quarter), len(half)) == (10, 20)
    assert set(quarter) <= set(half) <= set(images)
    assert share_of_images(images, 1).tolist() == images.tolist()
