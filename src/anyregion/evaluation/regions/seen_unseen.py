"""The split of classes into those that training saw and those it did not (generalised zero-shot).

Every region is named with the whole vocabulary, seen and unseen names together; only the figures
are split. Their harmonic mean is high only if both are (Xian et al., Zero-Shot Learning: A
Comprehensive Evaluation, section 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from anyregion.data.annotations.annotations import Categories
from anyregion.errors import InputError
from anyregion.io.vocabulary import load_vocabulary
from anyregion.vocabulary import EncodedVocabulary, name_key


class EmptySplitError(InputError):
    """A split of classes that leaves one side empty."""


def unseen_categories(
    spec: str | frozenset[int],
    categories: Mapping[int, str],
    *,
    frequency: Mapping[int, str] | None = None,
    all_known: bool = True,
) -> frozenset[int]:
    """The ids of the unseen categories.

    Args:
        spec: `every:4:1` for positions 1, 5, 9, ... (from 0) of the categories in the order of
            their ids; `frequency:r` for LVIS's rare ones (also `c` and `f`, with commas between),
            which ViLD leaves out of training; or names, parted by commas or in a file, as
            `load_vocabulary` reads them; or the ids.
        frequency: LVIS's letter of each category, where the annotations state any.
        all_known: False lets names pass that are no category.

    Raises:
        InputError: a name that is no category, or frequencies that are not stated.
        EmptySplitError: no category, or every one, is unseen.
    """
    if isinstance(spec, frozenset):
        return spec
    if spec.startswith("every:"):
        try:
            step, first = (int(part) for part in spec.split(":")[1:])
        except ValueError:
            step = first = -1
        if step < 1 or first < 0:
            raise InputError(f"{spec!r} is not every:STEP:FIRST, as in every:4:1")
        # by id, so that the order in the file does not matter
        unseen = frozenset(sorted(categories)[first::step])
    elif spec.startswith("frequency:"):
        letters = set(spec.removeprefix("frequency:").split(","))
        stated = {i: letter for i, letter in (frequency or {}).items() if letter}
        if not letters <= {"r", "c", "f"}:
            raise InputError(f"{spec!r} is not frequency:r, frequency:c, frequency:f or several")
        if not stated:
            raise InputError(f"{spec}: the annotations state no frequency of classes, as LVIS's do")
        unseen = frozenset(i for i, letter in stated.items() if letter in letters)
    else:
        vocabulary = load_vocabulary(spec, synonyms=False)
        if isinstance(vocabulary, EncodedVocabulary):
            vocabulary = vocabulary.vocabulary
        listed = {name_key(name): name for name in vocabulary.names}
        unseen = frozenset(i for i, name in categories.items() if name_key(name) in listed)
        known = {name_key(name) for name in categories.values()}
        # a misspelt class would be counted as seen without a word
        missing = [name for key, name in listed.items() if key not in known]
        if missing and all_known:
            raise InputError(f"unseen classes that the annotations do not have: {missing[:5]}")
    if not unseen or len(unseen) == len(categories):
        raise EmptySplitError(
            f"{spec}: chooses {len(unseen)} of {len(categories)} classes; choose some, and not all"
        )
    return unseen


def unseen_of(spec: str | frozenset[int], categories: Categories) -> frozenset[int]:
    """`unseen_categories` of the categories of annotations; none where `spec` is empty."""
    if not spec:
        return frozenset()
    ids = categories.ids.tolist()
    return unseen_categories(
        spec,
        dict(zip(ids, categories.names, strict=True)),
        frequency=dict(zip(ids, categories.frequency, strict=True)),
    )


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """The harmonic mean of two figures; 0 if either is, None if either is not known."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
