"""Damaged folders: of results, stores of features, saved models.

Most damage ends at a hash. So a part of it is hashed again, in all files consistently, as by
someone who edits them on purpose: the code behind the check is reached.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fuzz_inputs.originals import Originals, Rng, Words, recognize_words, run
from fuzz_inputs.spoiling import (
    ODD_VALUES,
    spoil_array,
    spoil_arrays,
    spoil_bytes,
    spoil_json,
    write_json,
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


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays of a safetensors file, and its metadata."""
    with safe_open(path, framework="numpy") as file:
        return load_file(path), file.metadata() or {}


def spoil_lines(rng: Rng, content: bytes) -> bytes:
    """Lines of JSON of which one is spoiled as JSON, doubled or gone, none of them cut short."""
    lines = content.splitlines()
    at = rng.randrange(len(lines)) if lines else 0
    match rng.randrange(8):
        case 0 if lines:
            lines.insert(at, lines[at])
        case 1 if lines:
            del lines[at]
        case 2:
            lines.append(json.dumps(rng.choice(ODD_VALUES)).encode())
        case _ if lines:
            lines[at] = json.dumps(spoil_json(rng, json.loads(lines[at]))).encode()
    return b"".join(line + b"\n" for line in lines)


def resume(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A folder of results that is continued after damage: to its files, or to what they say."""

    def make(path: Path) -> None:
        run(recognize_words(path, *_resume_words(originals)))

    source = originals.made("recognized", make) / "out"
    if rng.random() < 0.2:
        spoil_folder(rng, source, folder / "out")
    else:
        shutil.copytree(source, folder / "out")
        journal = folder / "out" / "predictions.jsonl"
        lines = journal.read_bytes()
        for name in rng.choice(
            [["journal"], ["journal"], ["run"], ["skipped"], ["journal", "run"]]
        ):
            if name == "journal":
                lines = spoil_lines(rng, lines)
            elif name == "run":
                path = folder / "out" / "run.json"
                write_json(rng, path, spoil_json(rng, json.loads(path.read_bytes())))
            else:
                line = {"image": "0.png", "item": "region 1", "reason": "x"}
                content = spoil_lines(rng, json.dumps(line).encode() + b"\n")
                (folder / "out" / "skipped.jsonl").write_bytes(content)
        # one image less is finished: a run that goes on, not one that only exports
        journal.write_bytes(b"".join(lines.splitlines(keepends=True)[: rng.choice([1, 2, 3])]))
    more = rng.choice([[], [], ["--overwrite"], ["--no-pictures"]])
    return recognize_words(folder, *_resume_words(originals), *more)


def _resume_words(originals: Originals) -> Words:
    regions = str(originals.root / "coco.json")
    return [str(originals.photos), "--regions", regions, "--vocabulary", "cat,dog", "--csv"]


def make_store(originals: Originals) -> Path:
    """A whole store of the three images."""

    def make(path: Path) -> None:
        words = ["--annotations", str(originals.root / "coco.json"), "--masks", "--no-mirror"]
        words += ["--images", str(originals.photos), "--out", str(path / "store")]
        run(["cache", *words])

    return originals.made("cached", make) / "store"


def store(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A store of features: verified, repaired, continued, or trained on after damage."""
    path = folder / "store"
    if rng.random() < 0.3:
        spoil_folder(rng, make_store(originals), path)
    else:
        shutil.copytree(make_store(originals), path)
        if rng.random() < 0.5:
            spoil_index(rng, path)
        else:
            spoil_shard(rng, path)
    if rng.random() < 0.15:
        from fuzz_inputs.trainings import write_recipe

        write_recipe(folder / "mine.yaml", path)
        return ["train", str(folder / "mine.yaml"), "--out", str(folder / "run")]
    options = rng.choice([[], ["--verify"], ["--verify"], ["--verify", "--repair"]])
    return ["cache", "--out", str(path), *options]


def spoil_index(rng: Rng, store: Path) -> None:
    """Spoil columns or categories, and state their hashes anew."""
    from anyregion.data.store.shards import hash_array, short_hash

    columns = spoil_arrays(rng, load_file(store / "index.safetensors"))
    stated = json.loads((store / "store.json").read_bytes())
    if rng.random() < 0.3:
        key = rng.choice(["categories", "made_with", "extractor"])
        stated[key] = spoil_json(rng, stated[key])
    if rng.random() < 0.2:
        stated[rng.choice(["images", "regions", "images_per_shard"])] = rng.choice([0, 1, 2, 10**9])
    hashes = {name: hash_array(array).hex() for name, array in columns.items()}
    text = json.dumps(stated["categories"], ensure_ascii=True)
    stated["columns"] = hashes | {"categories": short_hash(text.encode()).hex()}
    save_file(columns, store / "index.safetensors")
    (store / "store.json").write_text(json.dumps(stated))
    try:
        from anyregion.data.store.index import read_info

        identity = read_info(store)[0].identity
    except Exception:
        return  # refused before any shard is read
    for shard in sorted((store / "shards").glob("*.safetensors")):
        arrays, header = read_tensors(shard)
        write_shard(shard, arrays, header | {"identity": identity})


def spoil_shard(rng: Rng, store: Path) -> None:
    """Spoil features or what a shard's header says, and hash them anew."""
    from anyregion.data.store.store import hash_features

    shard = rng.choice(sorted((store / "shards").glob("*.safetensors")))
    arrays, header = read_tensors(shard)
    arrays = spoil_arrays(rng, arrays)
    if rng.random() < 0.4:
        key = rng.choice(["first", "set_aside"])
        odd = [str(rng.choice(ODD_VALUES)), "-1", "2", '{"1": "x"}', '{"x": 1}', '{"1": []}', "[1]"]
        header[key] = rng.choice(odd)
    hashes = arrays.get("hashes.records")
    if hashes is not None and hashes.ndim == 3 and hashes.shape[2] == 16:
        hashes = hashes.copy()
        for row in range(len(hashes)):
            names = [n for n in arrays if n.startswith(f"{row}/") and not n.endswith(".flipped")]
            features = {n.partition("/")[2]: arrays[n] for n in names}
            if hashes.shape[1] and hashes.dtype == np.uint8:
                hashes[row, 0] = np.frombuffer(hash_features(features), np.uint8)
        arrays["hashes.records"] = hashes
    write_shard(shard, arrays, header)


def write_shard(path: Path, arrays: dict[str, Any], header: dict[str, Any]) -> None:
    """Write a shard with the hash that belongs to its header and columns."""
    from anyregion.data.store.shards import short_hash

    header = {name: value for name, value in header.items() if name != "hash"}
    columns = [arrays[n].tobytes() for n in ("hashes.files", "hashes.records") if n in arrays]
    digest = short_hash(json.dumps(header, sort_keys=True).encode(), *columns).hex()
    save_file(arrays, path, metadata=header | {"hash": digest})


def models(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A saved model's folder with damage, most of it under hashes that are right."""

    def make(path: Path) -> None:
        from anyregion import load_recognizer

        load_recognizer().save_pretrained(path / "model")

    source, path = originals.made("model", make) / "model", folder / "model"
    if rng.random() < 0.3:
        spoil_folder(rng, source, path)
    else:
        shutil.copytree(source, path)
        _spoil_model(rng, path)
    return recognize_words(
        folder,
        originals.photos / "0.png",
        *rng.choice([["--box", "1,1,40,40"], ["--regions", "auto"]]),
        "--vocabulary",
        rng.choice(["cat,dog", "cat,unicycle"]),
        "--model",
        path,
        "--no-pictures",
        *rng.choice([[], ["--masks"], ["--method", "crop"]]),
    )


def _spoil_model(rng: Rng, path: Path) -> None:
    from anyregion.model_card import hash_path

    match rng.choice(["numbers", "about", "numbers", "graph", "names", "card"]):
        case "numbers":
            arrays, metadata = read_tensors(path / "namer.safetensors")
            save_file(spoil_arrays(rng, arrays), path / "namer.safetensors", metadata)
        case "about":
            arrays, metadata = read_tensors(path / "namer.safetensors")
            about = spoil_json(rng, json.loads(metadata["about"]))
            if rng.random() < 0.3 and isinstance(about, dict):
                about[rng.choice(["scale", "bias", "novelty", "names"])] = rng.choice(ODD_VALUES)
            save_file(arrays, path / "namer.safetensors", {"about": json.dumps(about)})
        case "graph":
            content = (path / "namer.onnx").read_bytes()
            # the first bytes are the graph, megabytes of numbers follow
            head = spoil_bytes(rng, content[:3000])
            (path / "namer.onnx").write_bytes(head + content[3000:])
        case "names":
            names = json.loads((path / "vocabulary.json").read_bytes())
            write_json(rng, path / "vocabulary.json", spoil_json(rng, names))
        case "card":
            pass
    card = json.loads((path / "card.json").read_bytes())
    card["sha256"] = {name: hash_path(path / name) for name in card["sha256"]}
    if rng.random() < 0.3:
        card = spoil_json(rng, card)
    (path / "card.json").write_text(json.dumps(card))


def encoded(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A vocabulary with its matrix, spoiled under a hash that is right."""
    from anyregion.vocabulary import _content_hash
    from fuzz_inputs.vocabulary_files import save_encoded_vocabulary

    source = originals.made("encoded", save_encoded_vocabulary) / "names.safetensors"
    arrays, metadata = read_tensors(source)
    stated = json.loads(metadata["anyregion_vocabulary"])
    stated.pop("sha256")
    matrix = arrays["matrix"]
    if rng.random() < 0.5:
        matrix = spoil_array(rng, matrix)
    else:
        stated = spoil_json(rng, stated)
        if rng.random() < 0.3 and isinstance(stated, dict):
            stated[rng.choice(sorted(stated) or ["names"])] = rng.choice(ODD_VALUES)
    if isinstance(stated, dict):
        stated["sha256"] = _content_hash(stated, matrix)
    path = folder / "names.safetensors"
    save_file({"matrix": matrix}, path, {"anyregion_vocabulary": json.dumps(stated)})
    return recognize_words(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        "--vocabulary",
        path,
        "--no-pictures",
    )


def index(rng: Rng, folder: Path, originals: Originals) -> Words:
    """An index, and labels in it, of which files are damaged or lie in each other's places."""
    photos, words = originals.photos, ["--regions", str(originals.root / "coco.json")]

    def make(path: Path) -> None:
        begun = ["index", str(photos), *words, "--out", str(path / "index"), "--shard-images", "1"]
        run(begun)
        run(["name", str(path / "index"), "--vocabulary", "cat,dog"])

    source = originals.made("index", make) / "index"
    target = folder / "index"
    if rng.random() < 0.3:
        shutil.copytree(source, target)
        kinds = ("shards/*.regions.parquet", "shards/*.images.parquet", "labels/*/*.parquet")
        first, second = rng.sample(sorted(target.glob(rng.choice(kinds))), 2)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    else:
        spoil_folder(rng, source, target)
    named = ["--vocabulary", "cat,dog"]
    return rng.choice(
        [
            ["name", str(target), *named, "--out", str(folder / "out")],
            ["search", str(target), "a cat"],
            ["stats", str(target), *named, "--out", str(folder / "out")],
            ["index", str(photos), *words, "--out", str(target), "--shard-images", "1"],
        ]
    )
