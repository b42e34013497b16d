"""Regions given, names asked: how often the right name comes first, or among the first five."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.images import Pixels
from anyregion.recognizer import Recognizer
from anyregion.region_files import ImageEntry, RegionFile, load_regions
from anyregion.regions import Regions
from anyregion.runs.reading import read_ahead
from anyregion.scoring import Score
from anyregion.vocabulary import EncodedVocabulary, Progress, Vocabulary, name_key

SIZES = ("small", "medium", "large")
"""COCO's sizes by area of the box in pixels of the stored image: below 32^2, below 96^2, above."""


@dataclass(frozen=True)
class Accuracy:
    """Of some regions: how many there are, and the fractions (0 to 1) named rightly."""

    regions: int
    top1: float
    top5: float


@dataclass(frozen=True)
class ClassificationReport:
    """How well given regions were named.

    Attributes:
        top1: fraction of the regions whose best name is right.
        top5: fraction whose right name is among the five best (or all, of a smaller vocabulary).
        mean_class_accuracy: `top1` of each class that occurs, averaged over those classes.
        mean_score: mean score of the best names: against `top1`, how sure the model is of itself.
        regions: how many regions were named.
        images: how many images they are in.
        names: size of the vocabulary.
        by_size: accuracy of `small`, `medium` and `large` boxes; a size without regions is absent.
        by_class: accuracy of each class that occurs, in the vocabulary's order.
        outside_vocabulary: regions left out because their class is not in the vocabulary.
        seconds: time spent on the images, without loading the model or encoding the names.
        set_aside: images and regions that could not be used.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    mean_score: float
    regions: int
    images: int
    names: int
    by_size: dict[str, Accuracy]
    by_class: dict[str, Accuracy]
    outside_vocabulary: int
    seconds: float
    set_aside: tuple[SetAside, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def evaluate_classification(
    recognizer: Recognizer | Callable[[], Recognizer],
    annotations: str | Path,
    images: str | Path,
    *,
    vocabulary: Vocabulary | EncodedVocabulary | None = None,
    templates: Sequence[str] | None = None,
    cleaning: Literal["plain", "published"] = "plain",
    use_masks: bool = False,
    score: Score = "softmax",
    limit: int | None = None,
    batch_size: int = 4,
    progress: Progress | None = None,
    encoding: Progress | None = None,
) -> ClassificationReport:
    """Name every annotated region and compare with its category.

    Crowd regions are left out. Names of another vocabulary than the file's are matched with the
    file's category names whatever their case and underscores; regions of classes that it does not
    hold are counted and left out. Scores that the file may state for its regions are not used.

    Args:
        recognizer: the recogniser, or what loads it once the files are known to be usable.
        annotations: COCO annotations: boxes, categories and their names.
        images: the folder that `file_name` starts from (or that holds the bare file). An image
            file that several entries lead to is nobody's: those are set aside.
        vocabulary: names to choose from; the file's categories unless given.
        templates, cleaning: of the vocabulary that is made of the file's categories.
        use_masks: give the masks as prompts too, where there are any.
        score: only `mean_score` depends on it.
        limit: no more than the first so many images that have regions.
        batch_size: images at once.
        progress: called with (done, total) images.
        encoding: called with (done, total) names while the vocabulary is encoded.

    Raises:
        InputError: files that cannot be used, or no region that could be named.
    """
    file = load_regions(annotations, masks=use_masks, scores=False)
    if not file.categories:
        raise InputError(f"{annotations}: no categories, so there is nothing to compare with")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image; it is {limit}")
    own: Vocabulary | None = None
    if vocabulary is None:
        ids = list(file.categories)
        vocabulary = own = Vocabulary.from_names(
            [file.categories[i] for i in ids], ids=ids, templates=templates, cleaning=cleaning
        )
    elif templates is not None or cleaning != "plain":
        raise InputError("templates and cleaning belong to the vocabulary that was given")
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    truth = _positions(file, names)
    if not truth:
        raise InputError(f"{annotations}: none of its categories is in the vocabulary")
    # categories that come to one name are one class here; a vocabulary that was given is not ours
    merged = (
        [SetAside(a.item.replace("name", "category"), a.reason) for a in own.set_aside]
        if own
        else []
    )
    aside = [*file.set_aside, *merged]
    found = _found(file, Path(images), limit, aside)
    if not found:
        first = str(aside[-1]) if aside else "no image has regions"
        raise InputError(f"{annotations}: nothing to evaluate ({first})")

    if not isinstance(recognizer, Recognizer):
        recognizer = recognizer()
    words = recognizer.encode_vocabulary(vocabulary, progress=encoding)
    results: list[_Named] = []
    outside = done = 0
    started = time.perf_counter()
    upcoming = iter([entry for entry, _ in found])
    for batch in read_ahead([path for _, path in found], batch_size=batch_size):
        pixels: list[Pixels] = []
        asked: list[Regions] = []
        for path, image in batch:
            usable, left = _usable(next(upcoming), path, image, truth, aside)
            outside += left
            if usable is not None and not isinstance(image, InputError):
                pixels.append(image)
                asked.append(usable)
        if pixels:
            predictions = recognizer.recognize(pixels, asked, words, top_k=5, score=score)
            results += [
                _Named.of(p.indices, p.scores, r, truth)
                for p, r in zip(predictions, asked, strict=True)
            ]
        done += len(batch)
        if progress is not None:
            progress(done, len(found))
    seconds = time.perf_counter() - started
    if not results:
        first = str(aside[-1]) if aside else "no region has a class of the vocabulary"
        raise InputError(f"{annotations}: nothing to evaluate ({first})")
    return _report(_Named.join(results), names, len(results), outside, seconds, aside)


@dataclass(frozen=True, eq=False)
class _Named:
    """Per region: position of the right name, whether it came first or in five, score, area."""

    truth: NDArray[np.int64]
    first: NDArray[np.bool_]
    five: NDArray[np.bool_]
    scores: NDArray[np.float32]
    areas: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        indices: NDArray[np.int64],
        scores: NDArray[np.float32],
        regions: Regions,
        truth: dict[int, int],
    ) -> _Named:
        right = np.array([truth[int(c)] for c in _categories(regions)], dtype=np.int64)
        hits = indices == right[:, None]
        sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
        return cls(right, hits[:, 0], hits.any(axis=1), scores[:, 0], sides.prod(axis=1))

    @classmethod
    def join(cls, parts: Sequence[_Named]) -> _Named:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def _report(
    named: _Named,
    vocabulary: Vocabulary,
    images: int,
    outside: int,
    seconds: float,
    aside: list[SetAside],
) -> ClassificationReport:
    of_size = np.digitize(named.areas, [32.0**2, 96.0**2])
    by_size = {
        name: _accuracy(named, of_size == i) for i, name in enumerate(SIZES) if (of_size == i).any()
    }
    by_class = {
        vocabulary.names[i]: _accuracy(named, named.truth == i) for i in np.unique(named.truth)
    }
    whole = _accuracy(named, np.ones(len(named.truth), dtype=bool))
    return ClassificationReport(
        top1=whole.top1,
        top5=whole.top5,
        mean_class_accuracy=float(np.mean([a.top1 for a in by_class.values()])),
        mean_score=float(named.scores.mean()),
        regions=whole.regions,
        images=images,
        names=len(vocabulary),
        by_size=by_size,
        by_class=by_class,
        outside_vocabulary=outside,
        seconds=seconds,
        set_aside=tuple(aside),
    )


def _accuracy(named: _Named, which: NDArray[np.bool_]) -> Accuracy:
    return Accuracy(
        regions=int(which.sum()),
        top1=float(named.first[which].mean()),
        top5=float(named.five[which].mean()),
    )


def _usable(
    entry: ImageEntry,
    path: Path,
    image: Pixels | InputError,
    truth: dict[int, int],
    aside: list[SetAside],
) -> tuple[Regions | None, int]:
    """The regions to ask about (None if none), and how many have a class of no name."""
    if isinstance(image, InputError):
        aside.append(SetAside(str(path), str(image)))
        return None, 0
    size = image.shape[:2]
    if entry.size is not None and entry.size != size:
        # boxes of another size of the image would be compared with the wrong pixels
        reason = f"{size[1]} x {size[0]}, but the annotations say {entry.size[1]} x {entry.size[0]}"
        aside.append(SetAside(str(path), reason))
        return None, 0
    known = [i for i, c in enumerate(_categories(entry.regions)) if int(c) in truth]
    kept, outside = entry.regions.take(known).fit(*size)
    aside += [SetAside(f"{path}, {a.item}", a.reason) for a in outside]
    return (kept if len(kept) else None), len(entry.regions) - len(known)


def _categories(regions: Regions) -> Sequence[int]:
    return [] if regions.categories is None else regions.categories.tolist()


def _positions(file: RegionFile, names: Vocabulary) -> dict[int, int]:
    """`{category id: position in the vocabulary}` of the categories whose names it holds."""
    # a region of no category has -1, which is no category's id
    known = {name_key(n, names.cleaning): i for i, n in reversed(list(enumerate(names.names)))}
    keys = {i: name_key(name, names.cleaning) for i, name in file.categories.items() if i != -1}
    return {i: known[key] for i, key in keys.items() if key in known}


def _found(
    file: RegionFile, folder: Path, limit: int | None, aside: list[SetAside]
) -> list[tuple[ImageEntry, Path]]:
    """The first entries that have regions, each with its image; the others are set aside."""
    paths = {k: _image_path(folder, e.file_name) for k, e in file.images.items() if e.file_name}
    claims = Counter(paths.values())
    asked = [e for e in file.images.values() if e.key in paths and len(e.regions)][:limit]
    found: list[tuple[ImageEntry, Path]] = []
    for entry in asked:
        path = paths[entry.key]
        if path is None:
            aside.append(SetAside(str(entry.file_name), f"not in {folder}"))
        elif claims[path] > 1:
            # `a/1.jpg` and `b/1.jpg` both lead to `1.jpg`: whose regions it has, nobody can tell
            reason = f"{path} could be the file of {claims[path]} entries"
            aside.append(SetAside(str(entry.file_name), reason))
        else:
            found.append((entry, path))
    return found


def _image_path(folder: Path, name: str) -> Path | None:
    places = (folder / name, folder / Path(name).name)
    return next((path for path in places if path.is_file()), None)
