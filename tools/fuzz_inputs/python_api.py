"""Calls from Python with wrong regions, images and vocabularies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzz_inputs.image_files import FORMATS, MODES, image_bytes
from fuzz_inputs.originals import NAMES, SIZE, Originals, Rng, photo
from fuzz_inputs.spoiling import ODD_VALUES, spoil_array, spoil_bytes, spoil_json

BOX = [4.0, 5.0, 24.0, 20.0]


@cache
def built_in() -> Any:
    from anyregion import load_recognizer

    return load_recognizer()


def python_api(rng: Rng, folder: Path, originals: Originals) -> Callable[[], None]:
    """`recognize`, `predict`, `find` and the constructors of `Regions` and vocabularies.

    What is wrong of it must be an error of the package, as the docstrings promise.
    """
    images = [_image(rng, folder, originals) for _ in range(rng.randint(1, 2))]
    vocabulary = _vocabulary(rng)
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["top_k"] = rng.choice([0, -1, 1, 10**9, 2])
    if rng.random() < 0.2:
        options["score"] = rng.choice(["sigmoid", "softmax", "x", ""])
    if rng.random() < 0.3:
        options["masks"] = True
    kind = rng.choice(["recognize", "recognize", "recognize", "predict", "regions", "supervision"])
    arguments = _region_arguments(rng)
    odd_regions = rng.random() < 0.05

    def call() -> None:
        from anyregion import Regions

        regions: Any = _build(rng, arguments, Regions)
        if kind == "regions":
            for part in (slice(None), [0] if len(regions) else [], 0 if len(regions) else []):
                regions[part]
            regions.fit(*SIZE[::-1])
        elif kind == "predict":
            recognizer = built_in()
            recognizer.set_image(images[0])
            recognizer.predict(regions, vocabulary, **options)
        else:
            recognized = built_in().recognize(
                images, [regions] * (len(images) + odd_regions), vocabulary, **options
            )
            for predictions in recognized:
                predictions.to_records()
                predictions.above(0.1)
                if kind == "supervision":
                    predictions.to_supervision()

    call.__doc__ = f"{kind} images={images!r} {arguments!r} vocabulary={vocabulary!r} {options!r}"
    return call


def _build(rng: Rng, arguments: dict[str, Any], regions: Any) -> Any:
    boxes_only = set(arguments) <= {"boxes", "ids", "scores", "categories"}
    make = regions.from_boxes if "boxes" in arguments and boxes_only else regions.from_prompts
    return make(**arguments)


def _region_arguments(rng: Rng) -> dict[str, Any]:
    """One to three things of each region, one of them spoiled as often as not."""
    count = rng.choice([0, 1, 2, 2, 3, 300])
    mask = np.zeros(SIZE[::-1], bool)
    mask[5:20, 4:24] = True
    rle = {"size": [48, 64], "counts": [200, 700, 48 * 64 - 900]}
    full: dict[str, Any] = {
        "boxes": np.array([BOX] * count).reshape(-1, 4),
        "points": [[[9.0, 9.0], [12.0, 10.0]]] * count,
        "point_labels": [[1, 0]] * count,
        "masks": [rng.choice([mask, rle, mask.astype(np.uint8), None]) for _ in range(count)],
        "ids": list(range(count)),
        "scores": [0.5] * count,
        "categories": [1] * count,
    }
    names = rng.sample(sorted(full), rng.randint(0, 3))
    arguments = {"boxes": full["boxes"]} if rng.random() < 0.8 else {"points": full["points"]}
    arguments |= {name: full[name] for name in names}
    if rng.random() < 0.7:
        name = rng.choice(sorted(arguments))
        value = copy.deepcopy(arguments[name])
        if name == "boxes" and rng.random() < 0.6:
            value = spoil_array(rng, value)
        elif name == "masks" and count and rng.random() < 0.5:
            at = rng.randrange(count)
            if isinstance(value[at], np.ndarray):
                value[at] = spoil_array(rng, value[at])
            elif value[at] is not None:
                value[at] = spoil_json(rng, value[at])
        elif isinstance(value, list) and value:
            value[rng.randrange(len(value))] = rng.choice(ODD_VALUES)
        else:
            value = rng.choice(ODD_VALUES)
        arguments[name] = value
    return arguments


def _image(rng: Rng, folder: Path, originals: Originals) -> Any:
    whole = photo(rng.randrange(9))
    match rng.randrange(8):
        case 0:
            return spoil_bytes(rng, image_bytes(rng, rng.choice(FORMATS[:9])) or b"")
        case 1:
            path = folder / "a.png"
            path.write_bytes(spoil_bytes(rng, image_bytes(rng, rng.choice(FORMATS[:9])) or b""))
            return rng.choice([path, str(path)])
        case 2:
            array = np.asarray(whole)
            return spoil_array(rng, array)
        case 3:
            dtype = rng.choice([np.float32, np.float64, np.int64, np.uint16, bool])
            return np.asarray(whole).astype(dtype)
        case 4:
            mode = rng.choice(MODES)
            try:
                return whole.convert(mode)
            except ValueError:
                return whole.convert("L")
        case 5:
            return rng.choice([*ODD_VALUES[:40], Image.new("RGB", (1, 1)), np.zeros((0, 0, 3))])
        case _:
            return rng.choice([originals.photos / "0.png", np.asarray(whole), whole])


def _vocabulary(rng: Rng) -> Any:
    from anyregion.vocabulary import Vocabulary

    spoiled = spoil_json(rng, NAMES)
    return rng.choice(
        [NAMES, NAMES, tuple(NAMES), spoiled, spoiled, [], None, "cat", "coco", {"cat": ["kitten"]},
         rng.choice(ODD_VALUES), Vocabulary.from_names(NAMES), iter(NAMES)]
    )  # fmt: skip
