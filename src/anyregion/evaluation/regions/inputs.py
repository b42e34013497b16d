"""What every evaluation of named regions starts from: options, samples and the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anyregion.drawing.options import PictureOptions
from anyregion.errors import InputError, SetAside
from anyregion.evaluation.regions.right_names import RightNames, positions_of
from anyregion.exemplars import ExemplarVocabulary
from anyregion.files import name_parts
from anyregion.io.regions import ImageEntry, RegionFile, load_regions
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.runs.pipeline import Sample, Track, silent
from anyregion.scoring import Score
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Vocabulary

SIZE_NAMES = ("small", "medium", "large")
SIZE_EDGES = (32.0**2, 96.0**2)
"""COCO's sizes by area in pixels of the stored image: below 32^2, below 96^2, and above."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How regions are named, whatever is measured.

    Attributes:
        vocabulary: names to choose from; the annotations' categories unless given.
        templates, cleaning: of the vocabulary that is made of the categories.
        use_masks: give the masks that regions bring as prompts too.
        score: see `Recognizer.predict`.
        unseen: which classes training never saw, to report apart: ids, or as `unseen_categories`
            reads them.
        limit: no more than the first so many images (that have regions, if the annotations' own
            are named).
        batch_size: images at once.
        track: shows how far the work is.
        report: a folder for the confusion matrix and the worst errors (`AnswerLog`); None for none.
        picture: what its crops look like.
    """

    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | None = None
    templates: Sequence[str] | None = None
    cleaning: Cleaning = "plain"
    use_masks: bool = False
    score: Score | None = None
    unseen: str | frozenset[int] | None = None
    limit: int | None = None
    batch_size: int = 4
    track: Track = silent
    report: Path | None = None
    picture: PictureOptions = field(default_factory=PictureOptions)


class EmptyEvaluationError(InputError):
    """Nothing can be evaluated; the message ends with the last thing that was set aside."""

    def __init__(self, annotations: object, set_aside: Sequence[SetAside], reason: str) -> None:
        last = f"; {len(set_aside):,} set aside, the last: {set_aside[-1]}" if set_aside else ""
        super().__init__(f"{annotations}: nothing to evaluate: {reason} that can be used{last}")


@dataclass(frozen=True, eq=False)
class CategoryNames:
    """The vocabulary of an evaluation, and where the annotations' categories are in it.

    Attributes:
        vocabulary: what is handed to the recogniser, encoded or not.
        names: the same, not encoded.
        positions: `{category id: position in names}` of the categories that it holds; with a list
            of right names, the first of these.
        right: `{category id: positions of all its right names}`; None without such a list.
        set_aside: categories that come to one name.
    """

    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary
    names: Vocabulary
    positions: dict[int, int]
    set_aside: tuple[SetAside, ...] = ()
    right: dict[int, tuple[int, ...]] | None = None


def category_names(
    categories: Mapping[int, str],
    options: EvaluationOptions,
    *,
    source: object,
    right_names: RightNames | None = None,
) -> CategoryNames:
    """The vocabulary of the options, or one of the annotations' categories.

    Names are matched with categories whatever their case and underscores; with `right_names`, all
    names that are right for a category are.

    Raises:
        InputError: no categories, or none of them is in the vocabulary; templates or cleaning
            together with a vocabulary.
    """
    if not categories:
        raise InputError(f"{source}: no categories, so there is nothing to compare with")
    set_aside: tuple[SetAside, ...] = ()
    vocabulary = options.vocabulary
    if vocabulary is None:
        ids = list(categories)
        vocabulary = Vocabulary.from_names(
            [categories[i] for i in ids],
            ids=ids,
            templates=options.templates,
            cleaning=options.cleaning,
        )
        # categories that come to one name are one class here
        set_aside = tuple(
            SetAside(a.item.replace("name", "category"), a.reason) for a in vocabulary.set_aside
        )
    elif options.templates is not None or options.cleaning != "plain":
        raise InputError("templates and cleaning belong to the vocabulary that was given")
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    right = None if right_names is None else right_names.positions(categories, names)
    listed = positions_of(categories, names, {}) if right is None else right
    # of names with one key the first counts
    positions = {category: at[0] for category, at in listed.items()}
    if not positions:
        raise InputError(f"{source}: none of its categories is in the vocabulary")
    return CategoryNames(vocabulary, names, positions, set_aside, right)


def detected_samples(
    path: Path, samples: Sequence[Sample], ids: Collection[str], *, masks: bool
) -> list[Sample]:
    """The samples with a detector's regions in place of the annotators'.

    Its images are found by the annotations' id of the image, or else by its file name; its classes
    are not looked at, its scores are.

    Args:
        path, masks: as `load_regions` reads it, and whether with its masks.
        ids: the ids of all images of the annotations.

    Raises:
        InputError: a file that is none of the known layouts, or that has none of the images.
    """
    file = load_regions(path, masks=masks)
    if not file.images:
        raise InputError(f"{path}: no image has regions")
    entries = [_detected(file, str(s.key), Path(s.name), ids) for s in samples]
    # ids that never match are another data set's, which no figure would tell
    if not any(entries):
        first = samples[0]
        raise InputError(
            f"{path}: none of the annotations' images is in it, neither by id ({first.key}) nor "
            f"by file name ({Path(first.name).name}); it has {next(iter(file.images))}, for one"
        )
    return [
        replace(sample, regions=entry.regions if entry else Regions.from_boxes([]))
        for sample, entry in zip(samples, entries, strict=True)
    ]


def _detected(file: RegionFile, key: str, path: Path, ids: Collection[str]) -> ImageEntry | None:
    same = file.images.get(key)
    # a file that names its images may have ids of its own: 1 may be another photograph
    names = [name_parts(n, alike=True)[-1:] for n in ((same and same.file_name) or "", path.name)]
    if same is not None and names[0] in ((), names[1]):
        return same
    entry = file.find(path)
    # nor does 139.jpg stand for the image 139, if another image of the annotations has that id
    if entry is not None and entry.file_name is None and entry.key in ids:
        return None
    return entry


def keep_categories(sample: Sample, positions: Mapping[int, int]) -> tuple[Sample, int]:
    """The sample with its regions of the categories in `positions`, and how many others it has."""
    regions = sample.regions
    if regions is None or regions.categories is None:
        return replace(sample, regions=regions and regions[[]]), len(regions or ())
    rows = [i for i, c in enumerate(regions.categories.tolist()) if c in positions]
    return replace(sample, regions=regions[rows]), len(regions) - len(rows)


def loaded(recognizer: Recognizer | Callable[[], Recognizer]) -> Recognizer:
    """The recogniser; evaluations load it once their files are known to be usable."""
    return recognizer if isinstance(recognizer, Recognizer) else recognizer()
