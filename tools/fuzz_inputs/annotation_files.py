"""Damaged files of regions, annotations, results and exemplars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzz_inputs.image_files import image_bytes
from fuzz_inputs.originals import Originals, Rng, Words, picture_words, recognize_words
from fuzz_inputs.spoiling import spoil_bytes, spoil_json, spoil_text, write_json


def regions(rng: Rng, folder: Path, originals: Originals) -> Words:
    """Region files of each layout."""
    value = spoil_json(rng, rng.choice([originals.coco, originals.results, originals.detector]))
    write_json(rng, folder / "regions.json", value)
    options = rng.choice([[], ["--use-masks"], ["--ignore-scores"], ["--use-masks", "--masks"]])
    return recognize_words(
        folder,
        originals.photos,
        "--regions",
        folder / "regions.json",
        "--vocabulary",
        "cat,dog",
        *options,
        *picture_words(rng),
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
    return recognize_words(
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
    return recognize_words(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        *shown,
        "--no-pictures",
        *rng.choice([[], ["--vocabulary", "cat,dog"]]),
    )
