"""Reads exemplars from a folder of images a class, or from COCO annotations."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from anyregion.data.image_files import image_path
from anyregion.errors import InputError, SetAside
from anyregion.exemplars import Exemplar, ExemplarVocabulary
from anyregion.images import find_images
from anyregion.io.regions import load_regions
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

Classes = dict[str, list[Exemplar]]


def load_exemplars(
    source: str | Path,
    *,
    images: str | Path | None = None,
    shots: int | None = None,
    seed: int = 0,
    masks: bool = False,
    words: Vocabulary | EncodedVocabulary | None = None,
    weight: float | None = None,
) -> ExemplarVocabulary:
    """Read a vocabulary of exemplars.

    `source` is one of two:
        A folder with a folder for each class, called as the class is: each image in it, at any
            depth, is one region, the whole image.
        A COCO file (JSON): the annotated regions of each category, but for crowds.

    Classes without any exemplar are set aside, and so are regions that the file states wrongly.
    Images are read when the vocabulary is encoded.

    Args:
        source: folder or file.
        images: where the images of a COCO file lie; unless given, the folder of the file.
        shots: exemplars a class, drawn at random where there are more; None for all.
        seed: of that draw.
        masks: also use the masks of a COCO file as prompts.
        words, weight: see `ExemplarVocabulary.from_exemplars`.

    Raises:
        InputError: nothing there, malformed, no class with an example, or an image that is missing.
    """
    path = Path(source).expanduser()
    if shots is not None and shots < 1:
        raise InputError(f"shots must be at least 1; it is {shots}")
    if seed < 0:
        raise InputError(f"the seed must not be negative; it is {seed}")
    ids: dict[str, int] = {}
    skipped: list[SetAside] = []
    if path.is_dir():
        if images is not None:
            raise InputError(f"{path} holds its images itself: leave the images' folder out")
        classes, skipped = _from_folders(path)
    elif path.is_file():
        folder = path.parent if images is None else Path(images).expanduser()
        classes, ids, skipped = _from_coco(path, folder, masks)
    else:
        raise InputError(f"{path}: there is no such folder or file")
    empty = [name for name, exemplars in classes.items() if not exemplars]
    skipped += [SetAside(f"class {name!r}", "no example of it") for name in empty]
    # each class has a generator of its own, so that another class more or less changes no draw
    sampled = {
        name: _sample(exemplars, shots, np.random.default_rng([seed, position]))
        for position, (name, exemplars) in enumerate(classes.items())
        if exemplars
    }
    if not sampled:
        reason = f" ({skipped[0]})" if skipped else ""
        raise InputError(f"{path}: no class has an example{reason}")
    # now: images are read when the vocabulary is encoded, which may be after other work
    for name, exemplars in sampled.items():
        for exemplar in exemplars:
            if not Path(exemplar.source).is_file():
                raise InputError(f"an exemplar of {name!r}: {exemplar.source}: no such file")
    try:
        vocabulary = ExemplarVocabulary.from_exemplars(sampled, words=words, weight=weight, ids=ids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return replace(vocabulary, set_aside=tuple(skipped))


def _from_folders(path: Path) -> tuple[Classes, list[SetAside]]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{path}: no folder in it: each class needs a folder of images")
    classes: Classes = {}
    skipped: list[SetAside] = []
    for folder in folders:
        images, passed_over = find_images([folder])
        classes[folder.name] = [Exemplar(image) for image in images]
        # a folder without any is set aside as a class without an example
        skipped += [a for a in passed_over if a.item != str(folder)]
    return classes, skipped


def _from_coco(
    path: Path, folder: Path, masks: bool
) -> tuple[Classes, dict[str, int], list[SetAside]]:
    file = load_regions(path, masks=masks, scores=False, images=folder)
    if not file.categories:
        raise InputError(f"{path}: no categories, so nothing says what its regions show")
    by_category: dict[int, list[Exemplar]] = defaultdict(list)
    for entry in file.images.values():
        if entry.regions.categories is None or entry.file_name is None:
            continue
        image = image_path(folder, entry.file_name)
        for row, category in enumerate(entry.regions.categories.tolist()):
            by_category[category].append(Exemplar(image, entry.regions[[row]], entry.size))
    classes: Classes = {name: [] for name in file.categories.values()}
    for category, name in file.categories.items():
        classes[name] += by_category[category]
    ids = {name: i for i, name in reversed(file.categories.items())}
    return classes, ids, list(file.set_aside)


def _sample(
    exemplars: list[Exemplar], shots: int | None, rng: np.random.Generator
) -> list[Exemplar]:
    if shots is None or len(exemplars) <= shots:
        return exemplars
    return [exemplars[i] for i in sorted(rng.permutation(len(exemplars))[:shots].tolist())]
