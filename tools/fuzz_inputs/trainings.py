"""Damaged settings, weights, backbones and runs of training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fuzz_inputs.folders import make_store, read_tensors, spoil_folder
from fuzz_inputs.originals import Originals, Rng, Words, run
from fuzz_inputs.spoiling import (
    ODD_TEXTS,
    ODD_VALUES,
    spoil_arrays,
    spoil_bytes,
    spoil_json,
    spoil_text,
)

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
  validation: {store: STORE}
  batch: 2
  flip: 0
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


def write_recipe(path: Path, store: Path) -> None:
    """A recipe whose training of two steps takes seconds."""
    path.write_text(RECIPE.replace("STORE", str(store)))


def trained(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A run of training that ended after its first step, damaged and continued."""
    store = make_store(originals)

    def make(path: Path) -> None:
        from safetensors.numpy import save_file

        write_recipe(path / "mine.yaml", store)
        run(["train", str(path / "mine.yaml"), "--out", str(path / "run")])
        last = path / "run" / "checkpoints" / "last.safetensors"
        arrays, metadata = read_tensors(last)
        record = json.loads(metadata["record"])
        record["state"]["step"] = 1
        save_file(arrays, last, metadata | {"record": json.dumps(record)})

    source = originals.made("trained", make) / "run"
    if rng.random() < 0.3:
        spoil_folder(rng, source, folder / "run")
    else:
        from safetensors.numpy import save_file

        shutil.copytree(source, folder / "run")
        last = folder / "run" / "checkpoints" / "last.safetensors"
        arrays, metadata = read_tensors(last)
        if rng.random() < 0.5:
            arrays = spoil_arrays(rng, arrays)
        else:
            record = spoil_json(rng, json.loads(metadata["record"]))
            if rng.random() < 0.4 and isinstance(record, dict):
                state = record.get("state")
                if isinstance(state, dict):
                    key = rng.choice(["step", "images", "best_metric", "window", "losses"])
                    state[key] = rng.choice(ODD_VALUES)
            metadata["record"] = json.dumps(record)
        save_file(arrays, last, metadata)
    write_recipe(folder / "mine.yaml", store)
    return ["train", str(folder / "mine.yaml"), "--out", str(folder / "run")]


def backbones(rng: Rng, folder: Path, originals: Originals) -> Words:
    """A saved backbone whose weights and description were changed together."""

    def make(path: Path) -> None:
        from anyregion.backbones.checkpoint import save_encoder
        from anyregion.backbones.loading import build_encoder

        save_encoder(build_encoder("timm/test_resnet", size=64), path / "model")

    source, path = originals.made("backbone", make) / "model", folder / "model"
    if rng.random() < 0.3:
        spoil_folder(rng, source, path)
    else:
        from safetensors.numpy import save_file
        from safetensors.torch import load_file

        from anyregion.torch_utils.weights import fingerprint

        shutil.copytree(source, path)
        arrays, metadata = read_tensors(path / "backbone.safetensors")
        if rng.random() < 0.7:
            arrays = spoil_arrays(rng, arrays)
        save_file(arrays, path / "backbone.safetensors", metadata)
        stated = json.loads((path / "backbone.json").read_bytes())
        if rng.random() < 0.5:
            stated = spoil_json(rng, stated)
        if isinstance(stated, dict):
            tensors = load_file(path / "backbone.safetensors")
            stated["fingerprint"] = fingerprint(sorted(tensors.items()))
        (path / "backbone.json").write_text(json.dumps(stated))
    if rng.random() < 0.4:
        to = rng.choice(["timm", "torchvision", "huggingface", "detectron2"])
        return ["export", str(path), "--to", to, "--out", str(folder / "out.safetensors")]
    for name in ("cat", "dog"):
        shutil.copytree(originals.photos, folder / "classes" / name)
    words = ["--backbone", str(path), "--size", "64", "--k", "1"]
    return ["evaluate", "knn", str(folder / "classes"), *words]
