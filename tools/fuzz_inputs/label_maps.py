"""Damaged data sets of segments: label maps, COCO masks, CUB-200-2011's layout."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from fuzz_inputs.image_files import image_bytes
from fuzz_inputs.originals import SIZE, Originals, Rng, Words
from fuzz_inputs.spoiling import spoil_bytes, spoil_json, spoil_text, write_json


def label_maps(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A data set that `evaluate discovery` recognises by what lies there."""
    match rng.choice(["maps", "maps", "coco", "roboflow", "cub", "cub"]):
        case "maps":
            words = _write_maps(rng, folder / "SegmentationClass", originals)
        case "coco":
            write_json(rng, folder / "coco.json", spoil_json(rng, originals.coco))
            words = [str(folder / "coco.json"), str(originals.photos)]
        case "roboflow":
            shutil.copytree(originals.photos, folder / "set")
            write_json(
                rng, folder / "set" / "_annotations.coco.json", spoil_json(rng, originals.coco)
            )
            words = [str(folder / "set"), str(folder / "set")]
        case _:
            words = _write_cub(rng, folder / "CUB_200_2011", originals)
    options = rng.choice(
        [[], [], ["--foreground"], ["--k", "3"], ["--match", "best"], ["--count-background"]]
    )
    head = ["evaluate", "discovery", *words, "--backbone", "timm/test_resnet"]
    sizes = ["--weights", "random", "--size", "64", "--resolution", "8", "--json"]
    return [*head, *sizes, *options]


def _map_bytes(rng: Rng, values: list[int], format: str = "PNG") -> bytes:
    array = np.zeros(SIZE[::-1], np.uint8)
    array[5:30, 5:40] = rng.choice(values)
    array[20:40, 30:60] = rng.choice(values)
    image = Image.fromarray(array)
    if rng.random() < 0.3:
        image = image.convert(rng.choice(["P", "RGB", "1", "RGBA", "LA", "I", "I;16", "F"]))
    if rng.random() < 0.1:
        image = image.resize(rng.choice([(1, 1), (48, 64), (65, 48), (640, 480)]))
    buffer = io.BytesIO()
    try:
        image.save(buffer, format)
    except OSError:
        image.convert("L").save(buffer, format)
    return buffer.getvalue()


def _write_maps(rng: Rng, maps: Path, originals: Originals) -> Words:
    maps.mkdir()
    for i in range(3):
        content = _map_bytes(rng, [1, 2, 20, 255])
        if rng.random() < 0.05:
            content = image_bytes(rng, rng.choice(["JPEG", "EPS", "TIFF", "GIF"])) or b""
        name = rng.choice([f"{i}.png"] * 8 + [f"{i}.PNG", f"{i}_mask.png", "x.png", f"{i}.jpg"])
        spoiled = rng.random() < 0.5
        (maps / name).write_bytes(spoil_bytes(rng, content) if spoiled else content)
    values = ["0", "255", "-1", "70000", "1"]
    options = rng.choice(
        [[], [], [f"--void={rng.choice(values)}"], [f"--background={rng.choice(values)}"]]
    )
    return [str(maps), str(originals.photos), *options]


def _write_cub(rng: Rng, root: Path, originals: Originals) -> Words:
    (root / "images" / "001.A").mkdir(parents=True)
    segments = root / rng.choice(["segmentations"] * 6 + ["x"]) / "001.A"
    segments.mkdir(parents=True)
    for i in range(3):
        shutil.copyfile(originals.photos / f"{i}.png", root / "images" / "001.A" / f"{i}.jpg")
        content = _map_bytes(rng, [0, 51, 102, 153, 204, 255])
        spoiled = rng.random() < 0.3
        (segments / f"{i}.png").write_bytes(spoil_bytes(rng, content) if spoiled else content)
    lines = {
        "images.txt": "".join(f"{i + 1} 001.A/{i}.jpg\n" for i in range(3)),
        "train_test_split.txt": "1 0\n2 1\n3 0\n",
    }
    for name, text in lines.items():
        spoiled = rng.random() < 0.5
        (root / name).write_bytes(spoil_text(rng, text) if spoiled else text.encode())
    return [str(root), *rng.choice([[], ["--split", "all"], ["--split", "train"]])]
