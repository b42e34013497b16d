"""Damaged vocabularies: files of every layout, and encoded ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fuzz_inputs.originals import NAMES, Originals, Rng, Words, picture_words, recognize_words
from fuzz_inputs.spoiling import ODD_VALUES, spoil_bytes, spoil_json, spoil_text, write_json


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
    return recognize_words(
        folder,
        originals.photos / "0.png",
        "--box",
        "1,1,40,40",
        f"--vocabulary={spec}",
        *picture_words(rng),
        *rng.choice([[], ["--csv"], ["--cleaning", "published"], ["--no-synonyms"]]),
    )


def save_encoded_vocabulary(folder: Path) -> None:
    """`names.safetensors`: a vocabulary with its matrix."""
    from anyregion import load_recognizer
    from anyregion.vocabulary import Vocabulary

    encoded = load_recognizer().encode_vocabulary(Vocabulary.from_names(NAMES))
    encoded.save(folder / "names.safetensors")
