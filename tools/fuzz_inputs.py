"""Damaged inputs for `fuzz.py`: valid small files, and ways to spoil them.

Every generator writes files into a folder and returns the words of one command line. Valid files
are built once (`Originals`) and spoiled in one to four places: so most of them pass a reader's
first check, and the code behind it is reached.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Rng = random.Random
Words = list[str]
Generator = Callable[[Rng, Path, "Originals"], Words]

SIZE = (64, 48)  # of every photograph, width and height
NAMES = ["cat", "dog", "bicycle"]
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
# what a file of annotations or settings may hold in place of what belongs there
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    10**30, -(10**30), 2**31, 2**63, "", " ", "x", "0", "1", "nan", "true", "a\x00b", "../../a.png",
    "/etc/passwd", "http://127.0.0.1:9/a.png", "C:\\data\\0.png", "\ud83d", "\u200b",
    "caf\u0065\u0301", "%30.png", "\u202ecat", "x" * 5000, [], [[]], {}, {"a": 1},
    [None], [1, 2], [0, 0, 0, 0],
    [1, 2, 3, 4, 5], ["1", "2", "3", "4"], [float("nan")] * 4, [1e300] * 4, DEEP,
]  # fmt: skip
ODD_TEXTS = [
    "", "nan", "inf", "-1", "1e400", "0x10", "1_000", ".", "1e", "&a [*a]",
    "!!python/name:os.system", "*x", "- - - -", "[[[[[[", "{{{{{{", "'", '"',
    "\x00", "\ufeff", "\u2028", "\ud83d", "~", "? ", "<<: ",
    "---", "...", "%YAML 9.9", "!!binary x", "!!timestamp 2026-99-99", "!!float x", "0b", "1:2:3",
    "9" * 5000, "\t", "&a", "|", ">", "@", "`",
]  # fmt: skip
# with Pillow's names for them; those beyond the documented ones must be refused, not tried
FORMATS = [
    "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX",
    "SGI", "DDS", "EPS", "PDF", "IM", "MSP", "SPIDER", "XBM", "BLP", "ICNS", "QOI", "MPO",
]  # fmt: skip
SUFFIXES = [
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".jfif", ".avif", ".jp2",
    ".pgm", ".apng", ".mpo", ".heic", ".dds", ".eps",
]  # fmt: skip
MODES = ["RGB", "L", "P", "RGBA", "CMYK", "1", "I", "I;16", "F", "LA", "YCbCr", "LAB"]


def spoil_bytes(rng: Rng, content: bytes, *, times: int | None = None) -> bytes:
    """Flip, cut out, repeat, insert or truncate."""
    data = bytearray(content)
    for _ in range(times or rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 64))
        length = rng.randint(1, 16)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[max(at - length, 0) : at]
            case 4:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)])
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def spoil_json(rng: Rng, value: Any) -> Any:
    """A copy with one to three nodes replaced, left out, repeated or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        nodes: list[tuple[Any, Any]] = []  # container and key
        stack = [value]
        while stack:
            node = stack.pop()
            keys = node.keys() if isinstance(node, dict) else range(len(node))
            for key in list(keys)[:200]:
                nodes.append((node, key))
                if isinstance(node[key], (dict, list)) and len(nodes) < 3000:
                    stack.append(node[key])
        if not nodes:
            return rng.choice(ODD_VALUES)
        node, key = rng.choice(nodes)
        match rng.randrange(5):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node[str(rng.choice(["id", "name", "x", "", "bbox", "\ud83d"]))] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(key, node[key])
            case _:
                node[key] = rng.choice(ODD_VALUES)
    return value


def write_json(rng: Rng, path: Path, value: Any) -> None:
    """As some program would write it, sometimes with bytes that are no JSON."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice([None, 1]))
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = spoil_bytes(rng, content)
    if rng.random() < 0.03:
        content = text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]), "surrogatepass")
    path.write_bytes(content)


def spoil_text(rng: Rng, text: str) -> bytes:
    """Lines repeated or lost, words replaced by odd ones, bytes damaged."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(5):
            case 0 if lines:
                lines.insert(at, lines[at])
            case 1 if lines:
                del lines[at]
            case 2 if lines:
                lines[at] = rng.choice(["  ", "\t", "- ", ""]) + lines[at]
            case _ if lines:
                words = lines[at].replace(",", " , ").split(" ")
                words[rng.randrange(len(words))] = rng.choice(ODD_TEXTS)
                lines[at] = " ".join(words).replace(" , ", ",")
            case _:
                lines = [rng.choice(ODD_TEXTS)]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoil_bytes(rng, content) if rng.random() < 0.2 else content


def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(255, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def image_bytes(rng: Rng, format: str) -> bytes | None:
    """A small image of a format, in a mode that it can hold; None where Pillow writes none."""
    for mode in rng.sample(MODES, len(MODES)):
        buffer = io.BytesIO()
        try:
            image = (
                photo(rng.randrange(100)).convert("L").convert("I").convert("I;16")
                if mode == "I;16"
                else photo(rng.randrange(100)).convert(mode)
            )
            options: dict[str, Any] = {}
            if format in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.4:
                exif = Image.Exif()
                exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
                options["exif"] = exif
            image.save(buffer, format=format, **options)
        except Exception:
            continue
        return buffer.getvalue()
    return None


class Originals:
    """Valid files that the generators spoil, written once.

    Attributes:
        root: the folder of all.
        photos: a folder of three images, `0.png` to `2.png`.
        coco, results, detector: annotations of these, as JSON values.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.photos = root, root / "photos"
        self.photos.mkdir(parents=True)
        images, regions = [], []
        for i in range(3):
            photo(i).save(self.photos / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]})
            for j in range(2):
                x, y, w, h = 4 + 9 * j, 5 + 7 * i, 20, 15
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                mask: Any = [polygon]
                if j:
                    mask = {
                        "size": [SIZE[1], SIZE[0]],
                        "counts": [x * SIZE[1], 700, 64 * 48 - 700 - x * 48],
                    }
                regions.append(
                    {
                        "id": len(regions) + 1,
                        "image_id": i,
                        "category_id": 1 + (i + j) % 3,
                        "iscrowd": j * (i == 2),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": mask,
                    }
                )
        categories = [{"id": i + 1, "name": n, "synonyms": [n + "s"]} for i, n in enumerate(NAMES)]
        self.coco = {"images": images, "annotations": regions, "categories": categories}
        self.results = [
            {
                "image_id": r["image_id"],
                "category_id": r["category_id"],
                "bbox": r["bbox"],
                "score": 0.9,
                "segmentation": r["segmentation"],
            }
            for r in regions
        ]
        self.detector = {
            str(i): {
                "boxes": [[4, 5, 24, 20], [1, 1, 9, 9]],
                "scores": [0.5, 0.9],
                "labels": [1, 2],
            }
            for i in range(3)
        }
        (root / "coco.json").write_text(json.dumps(self.coco))
        self._made: dict[str, Path] = {}

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is filled by `make` when it is asked for the first time."""
        if name not in self._made:
            path = self.root / name
            path.mkdir()
            make(path)
            self._made[name] = path
        return self._made[name]


def _recognize(out: Path, *words: object) -> Words:
    return ["recognize", *map(str, words), "--out", str(out / "out")]


def _pictures(rng: Rng) -> Words:
    return rng.choice([["--no-pictures"], ["--no-pictures", "--csv"], []])


def images(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Damaged images of all formats, under names of the documented ones, beside a whole one."""
    photo(7).save(folder / "whole.png")
    for i in range(rng.randint(1, 3)):
        content = image_bytes(rng, rng.choice(FORMATS if rng.random() < 0.5 else FORMATS[:9]))
        if content is None:
            content = rng.choice(
                [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", b"%PDF-1.4"]
            )
        elif rng.random() < 0.9:
            content = spoil_bytes(rng, content)
        (folder / f"{i}{rng.choice(SUFFIXES)}").write_bytes(content)
    return _recognize(
        folder, folder, "--box", "1,1,40,40", "--vocabulary", "cat,dog", *_pictures(rng)
    )


def regions(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Region files of each layout."""
    value = spoil_json(rng, rng.choice([originals.coco, originals.results, originals.detector]))
    write_json(rng, folder / "regions.json", value)
    options = rng.choice([[], ["--use-masks"], ["--ignore-scores"], ["--use-masks", "--masks"]])
    return _recognize(
        folder,
        originals.photos,
        "--regions",
        folder / "regions.json",
        "--vocabulary",
        "cat,dog",
        *options,
        *_pictures(rng),
    )


def bombs(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Few bytes that ask for much work: long edges, large images, many runs, nested settings."""
    size = rng.choice([[48, 64], [35000, 60000], [1, 10**9], [10**5, 10**5], [2, 2]])
    width, height = size[1], size[0]
    points = rng.choice([50, 1000, 5000])
    zigzag = [v for i in range(points) for v in ((0, 0) if i % 2 else (width, height))]
    mask: Any = rng.choice(
        [
            [zigzag],
            [[0, 0, 1e9, 0, 1e9, 1e9]],
            [[1, 1, 2, 2, 3, 1]] * 3000,
            {"size": size, "counts": "0" * 5000},
            {"size": size, "counts": [0, width * height]},
            {"size": size, "counts": [1] * 10000},
        ]
    )
    value = json.loads(json.dumps(originals.coco))
    value["images"][0] |= {"width": width, "height": height}
    value["annotations"][0]["segmentation"] = mask
    (folder / "regions.json").write_text(json.dumps(value))
    if rng.random() < 0.5:
        return ["data", "check", str(folder / "regions.json"), str(originals.photos), "--masks"]
    return _recognize(
        folder,
        originals.photos,
        "--regions",
        folder / "regions.json",
        "--use-masks",
        "--vocabulary",
        "cat,dog",
        "--no-pictures",
    )


VOC = """<annotation><folder>x</folder><filename>0.png</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><truncated>0</truncated>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
</annotation>
"""


def annotations(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Annotations of the three layouts, read by `data check`, `cache` and the evaluators."""
    kind = rng.choice(["coco", "coco", "voc", "openimages"])
    if kind == "coco":
        path = folder / "coco.json"
        write_json(rng, path, spoil_json(rng, originals.coco))
    elif kind == "voc":
        path = folder / "voc"
        (path / "Annotations").mkdir(parents=True)
        for i in range(3):
            text = VOC.replace("0.png", f"{i}.png")
            content = spoil_text(rng, text) if rng.random() < 0.7 else text.encode()
            if rng.random() < 0.1:
                content = b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 500 + b'">]>' + content
            (path / "Annotations" / f"{i}.xml").write_bytes(content)
    else:
        lines = [
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
            "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
        ]
        lines += [f"{i},x,/m/{i},1,0.1,0.6,0.2,0.9,0,0,0,0,0" for i in range(3)]
        path = folder / "train-annotations-bbox.csv"
        path.write_bytes(spoil_text(rng, "\n".join(lines)))
        if rng.random() < 0.5:
            names = "LabelName,DisplayName\n/m/0,Cat\n/m/1,Dog\n/m/2,Bicycle\n"
            (folder / "class-descriptions-boxable.csv").write_bytes(spoil_text(rng, names))
    match rng.randrange(4):
        case 0:
            return [
                "cache",
                "--annotations",
                str(path),
                "--images",
                str(originals.photos),
                "--out",
                str(folder / "store"),
                "--batch-size",
                "2",
                "--workers",
                "1",
                "--no-mirror",
                *rng.choice([[], ["--masks"]]),
            ]
        case 1 if kind == "coco":
            return [
                "evaluate",
                "classification",
                "--annotations",
                str(path),
                "--images",
                str(originals.photos),
                "--json",
                *rng.choice([[], ["--use-masks"]]),
            ]
        case _:
            return [
                "data",
                "check",
                str(path),
                str(originals.photos),
                *rng.choice([[], ["--masks"]]),
            ]


def results(rng: Rng, folder: Path, originals: Originals) -> Words:
    """COCO results judged without a model."""
    truth = originals.coco if rng.random() < 0.6 else spoil_json(rng, originals.coco)
    write_json(rng, folder / "truth.json", truth)
    write_json(rng, folder / "results.json", spoil_json(rng, originals.results))
    return [
        "evaluate",
        "detection",
        "--annotations",
        str(folder / "truth.json"),
        "--predictions",
        str(folder / "results.json"),
        "--json",
        *rng.choice([[], ["--masks"], ["--style", "lvis"]]),
    ]


def vocabulary(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Vocabulary files of every layout."""
    layouts: list[Any] = [
        NAMES,
        {"names": NAMES},
        {"classes": NAMES, "nc": 3},
        {"categories": NAMES, "images": [], "annotations": []},
        {"names": {str(i): n for i, n in enumerate(NAMES)}},
        {str(i): n for i, n in enumerate(NAMES)},
        {name: i for i, name in enumerate(NAMES)},
        {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0}},
        {"cat": ["kitten"], "dog": []},
        [["cat", "kitten"], ["dog"]],
        {"categories": originals.coco["categories"], "templates": ["a {}."], "cleaning": "plain"},
        originals.coco["categories"],
        {"names": rng.choice(ODD_VALUES)},
    ]
    texts = [
        "cat\ndog\n", "cat, dog, bicycle", "0 cat\n1 dog\n", "cat: 0\ndog: 1\n", "- cat\n- dog\n",
        "['cat', dog]", "names: [cat, dog]\n", "cat | kitten\n# dog\n", "\"cat\"\n\"dog\"\n",
    ]  # fmt: skip
    suffix = rng.choice([".json", ".json", ".txt", ".names", "", ".csv", ".yaml", "typed", "own"])
    path = folder / f"names{suffix if suffix != 'own' else '.safetensors'}"
    spec = str(path)
    if suffix == "typed":
        # no zero bytes: no command line holds them
        text = spoil_text(rng, rng.choice([*texts, "cat,dog", "my/labels", "vocab.yaml", "and/or"]))
        spec = os.fsdecode(text.replace(b"\0", b" "))
    elif suffix == ".json":
        write_json(rng, path, spoil_json(rng, rng.choice(layouts)))
    elif suffix == ".yaml":
        layout = rng.choice(["nc: 3\nnames:\n  0: cat\n  1: dog\n  2: bicycle\n", *texts])
        path.write_bytes(spoil_text(rng, layout))
    elif suffix == ".csv":
        path.write_bytes(spoil_text(rng, "id,name,synonyms\n1,cat,kitten|kitty\n2,dog,\n"))
    elif suffix == "own":
        encoded = originals.made("encoded", save_encoded_vocabulary) / "names.safetensors"
        path.write_bytes(spoil_bytes(rng, encoded.read_bytes()))
    else:
        path.write_bytes(spoil_text(rng, rng.choice(texts)))
    return _recognize(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        f"--vocabulary={spec}",
        *_pictures(rng),
        *rng.choice([[], ["--csv"], ["--cleaning", "published"], ["--no-synonyms"]]),
    )


def save_encoded_vocabulary(folder: Path) -> None:
    """`names.safetensors`: a vocabulary with its matrix."""
    from anyregion import load_recognizer
    from anyregion.vocabulary import Vocabulary

    encoded = load_recognizer().encode_vocabulary(Vocabulary.from_names(NAMES))
    encoded.save(folder / "names.safetensors")


def exemplars(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Names shown as pictures: a COCO file, or folders of classes with damaged images."""
    if rng.random() < 0.5:
        write_json(rng, folder / "shown.json", spoil_json(rng, originals.coco))
        shown = [
            "--exemplars",
            str(folder / "shown.json"),
            "--exemplar-images",
            str(originals.photos),
        ]
    else:
        for name in ("cat", "dog"):
            (folder / "shown" / name).mkdir(parents=True)
            content = image_bytes(rng, "PNG") or b""
            (folder / "shown" / name / "a.png").write_bytes(content)
            (folder / "shown" / name / "b.png").write_bytes(spoil_bytes(rng, content))
        shown = ["--exemplars", str(folder / "shown")]
    return _recognize(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        *shown,
        "--no-pictures",
        *rng.choice([[], ["--vocabulary", "cat,dog"]]),
    )


def spoil_folder(rng: Rng, source: Path, target: Path) -> None:
    """A copy of a folder in which one or two files are damaged, cut, emptied or gone."""
    shutil.copytree(source, target)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    for path in rng.sample(files, min(rng.randint(1, 2), len(files))):
        content = path.read_bytes()
        if rng.random() < 0.1:
            path.unlink()
        elif path.suffix == ".json" and rng.random() < 0.7:
            try:
                write_json(rng, path, spoil_json(rng, json.loads(content)))
            except ValueError:
                path.write_bytes(spoil_bytes(rng, content))
        else:
            path.write_bytes(spoil_bytes(rng, content))


def resume(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A folder of results that is continued after damage."""

    def make(path: Path) -> None:
        run(_recognize(path, *_resume_words(originals)))

    spoil_folder(rng, originals.made("recognized", make) / "out", folder / "out")
    return _recognize(folder, *_resume_words(originals))


def _resume_words(originals: Originals) -> Words:
    regions = str(originals.root / "coco.json")
    return [str(originals.photos), "--regions", regions, "--vocabulary", "cat,dog", "--csv"]


def store(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A store of features: verified, repaired or continued after damage."""

    def make(path: Path) -> None:
        run(
            [
                "cache",
                "--annotations",
                str(originals.root / "coco.json"),
                "--images",
                str(originals.photos),
                "--out",
                str(path / "store"),
                "--masks",
            ]
        )

    spoil_folder(rng, originals.made("cached", make) / "store", folder / "store")
    options = rng.choice([[], ["--verify"], ["--verify", "--repair"]])
    return ["cache", "--out", str(folder / "store"), *options]


RECIPE = """task: compact
steps: 2
grad_norm: 1.0
checkpoint_every: 250
optimizer:
  lr: 4.0e-4
  decay_all: false
schedule:
  kind: cosine
  warmup_steps: 1
compact:
  data:
    - store: STORE
      terms: none
  batch: 2
  module: {layers: 1, dropout: 0.15}
  objective:
    distillation: 1.0
"""


def settings(rng: Rng, folder: Path, originals: Originals) -> Words:
    """YAML files of settings, words on the command line too; none trains, its store is missing."""
    (folder / "mine.yaml").write_bytes(
        spoil_text(rng, RECIPE.replace("STORE", str(folder / "none")))
    )
    if rng.random() < 0.1:
        text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
            for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
        )
        text = rng.choice(
            [text + "task: *k\n", "[" * 3000, "{a: " * 3000, "task: " + "!!float x", "- " * 5000]
        )
        (folder / "mine.yaml").write_text(text)
    words = rng.choice(
        [[], ["--optimizer.lr", rng.choice(ODD_TEXTS)], ["--steps", rng.choice(ODD_TEXTS)]]
    )
    command = rng.choice(["train", "train", "pretrain"])
    if command == "pretrain":
        return [
            "pretrain",
            "--config",
            str(folder / "mine.yaml"),
            "--out",
            str(folder / "run"),
            *words,
        ]
    return ["train", str(folder / "mine.yaml"), *words, "--out", str(folder / "run")]


def checkpoints(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Files of weights: torch's and safetensors, damaged or of something else."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"layer.{i}.weight": torch.zeros(4, 3) for i in range(3)}
    kind = rng.choice(["pt", "pickle", "safetensors", "zip"])
    path = folder / f"weights{rng.choice(['.pth', '.pt', '.safetensors', '.bin'])}"
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04" + rng.randbytes(200))
    else:
        value: Any = rng.choice(
            [tensors, {"model": tensors}, {"state_dict": tensors, "epoch": 3}, [tensors], 3]
        )
        torch.save(value, path, _use_new_zipfile_serialization=kind == "pt")
    if rng.random() < 0.8:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    if rng.random() < 0.5:
        return ["convert", str(path), str(folder / "converted")]
    return [
        "export",
        str(path),
        "--to",
        "timm",
        "--backbone",
        "timm/test_resnet",
        "--out",
        str(folder / "out.safetensors"),
    ]


def models(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A saved model's folder with damage."""

    def make(path: Path) -> None:
        from anyregion import load_recognizer

        load_recognizer().save_pretrained(path / "model")

    spoil_folder(rng, originals.made("model", make) / "model", folder / "model")
    return _recognize(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        "--vocabulary",
        "cat,dog",
        "--model",
        folder / "model",
        "--no-pictures",
    )


def label_maps(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Segmentations as images: Pascal VOC's layout, and plain folders of them."""
    maps = folder / "SegmentationClass"
    maps.mkdir()
    for i in range(3):
        values = np.zeros(SIZE[::-1], np.uint8)
        values[5:30, 5:40] = rng.choice([1, 2, 20, 255])
        image = Image.fromarray(values, "L")
        if rng.random() < 0.3:
            image = image.convert(rng.choice(["P", "RGB", "1", "RGBA", "LA"]))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        content = buffer.getvalue()
        (maps / f"{i}.png").write_bytes(
            spoil_bytes(rng, content) if rng.random() < 0.7 else content
        )
    return [
        "evaluate",
        "discovery",
        str(maps),
        str(originals.photos),
        "--backbone",
        "timm/test_resnet",
        "--weights",
        "random",
        "--size",
        "64",
        "--resolution",
        "8",
        "--json",
    ]


def run(words: Words) -> None:
    from anyregion.cli.main import main

    if code := main(words):
        raise RuntimeError(f"{' '.join(words)}: exit code {code}")


# with how often each is drawn: those whose call takes milliseconds more often
TARGETS: dict[str, tuple[Generator, int]] = {
    "images": (images, 6), "regions": (regions, 6), "bombs": (bombs, 1),
    "annotations": (annotations, 6), "results": (results, 4), "vocabulary": (vocabulary, 6),
    "exemplars": (exemplars, 2), "resume": (resume, 3), "store": (store, 3),
    "settings": (settings, 4), "checkpoints": (checkpoints, 3), "models": (models, 2),
    "label_maps": (label_maps, 2),
}  # fmt: skip
