"""Classes that training never saw, told apart from the others (generalised zero-shot).

Every region is named with the whole vocabulary, seen and unseen names together; only the figures
are split. Their harmonic mean is high only if both are (Xian et al., Zero-Shot Learning: A
Comprehensive Evaluation, section 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from anyregion.errors import InputError
from anyregion.io.vocabulary import load_vocabulary
from anyregion.vocabulary import EncodedVocabulary, name_key


class NothingSplitError(InputError):
    """A split of classes that leaves one side empty."""


def unseen_categories(
    spec: str, categories: Mapping[int, str], *, all_known: bool = True
) -> frozenset[int]:
    """The ids of the unseen categories.

    Args:
        spec: `every:4:1` for positions 1, 5, 9, ... (from 0) of the categories in the order of
            their ids; or names, parted by commas or in a file, as `load_vocabulary` reads them.
        categories: `{id: name}`.
        all_known: False lets names pass that are no category.

    Raises:
        InputError: a name that is no category.
        NothingSplitError: no category, or every one, is unseen.
    """
    if spec.startswith("every:"):
        chosen = frozenset(sorted(categories)[_every(spec)])
    else:
        given = load_vocabulary(spec, synonyms=False)
        names = given.vocabulary if isinstance(given, EncodedVocabulary) else given
        wanted = {name_key(name): name for name in names.names}
        chosen = frozenset(i for i, name in categories.items() if name_key(name) in wanted)
        known = {name_key(name) for name in categories.values()}
        missing = [name for key, name in wanted.items() if key not in known]
        if missing and all_known:
            raise InputError(f"unseen classes that the annotations do not have: {missing[:5]}")
    if not chosen or len(chosen) == len(categories):
        raise NothingSplitError(
            f"{spec}: chooses {len(chosen)} of {len(categories)} classes; choose some, and not all"
        )
    return chosen


def harmonic_mean(seen: float | None, unseen: float | None) -> float | None:
    """The harmonic mean of two figures; 0 if either is, None if either is not known."""
    if seen is None or unseen is None:
        return None
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def _every(spec: str) -> slice:
    try:
        step, start = (int(part) for part in spec.split(":")[1:])
    except ValueError:
        step = start = -1
    if step < 1 or start < 0:
        raise InputError(f"{spec!r} is not every:STEP:FIRST, as in every:4:1")
    return slice(start, None, step)
