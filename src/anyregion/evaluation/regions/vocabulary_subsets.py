"""Vocabularies of several sizes that lack the same classes, to compare what scores mean in each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import InputError, SetAside
from anyregion.io.vocabulary import builtin_vocabularies, load_vocabulary
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, clean_name

TRIALS = 8
"""Of a small size so many vocabularies are asked: which three words they are must not decide."""


@dataclass(frozen=True, eq=False)
class SubVocabulary:
    """One vocabulary to ask with.

    Attributes:
        label: `all`, `half`, or the size.
        vocabulary: the names.
        origin: `(C,)` int64, the position of each name in the whole vocabulary; -1 of distractors.
    """

    label: str
    vocabulary: Vocabulary
    origin: NDArray[np.int64]


def sub_vocabularies(
    whole: Vocabulary,
    left_out: Set[int],
    *,
    sizes: Sequence[int],
    distractors: Vocabulary | None,
    aside: list[SetAside],
) -> list[SubVocabulary]:
    """`all` and `half` first, and then those of each size.

    A size below that of `half` is made several times, of names that lie evenly apart among those
    that stay. A larger one is `half` and distractors, evenly from their list.

    Args:
        whole: the names, with templates and cleaning.
        left_out: positions of the names that all but the first lack.
        sizes: of the further vocabularies.
        distractors: names to fill up with; the built-in lists unless given. Those that share a
            word with a name of `whole`, or one of whose synonyms does, are not used: they might
            mean a class that was left out. (A distractor may mean one in other words yet.)
        aside: grows by sizes that cannot be made.

    Raises:
        InputError: a size below 1, or nothing stays.
    """
    stay = [i for i in range(len(whole)) if i not in left_out]
    if not stay:
        raise InputError("every class is left out of the vocabulary")
    made = [
        _part("all", whole, range(len(whole)), ()),
        _part("half", whole, stay, ()),
    ]
    others: list[str] | None = None
    for size in dict.fromkeys(sizes):
        if size < 1:
            raise InputError(f"a vocabulary of {size} names cannot be made")
        if size < len(stay):
            # 0, 13, 26; then 1, 14, 27; ... : neighbours are often of one kind
            step = len(stay) // size
            starts = range(min(TRIALS, step))
            made += [_part(str(size), whole, stay[s::step][:size], ()) for s in starts]
            continue
        if others is None:
            others = _distractors(whole, distractors)
        wanted = size - len(stay)
        if wanted > len(others):
            aside.append(
                SetAside(f"size {size}", f"{len(stay)} names and {len(others)} distractors at most")
            )
            continue
        at = np.linspace(0, len(others) - 1, wanted).round().astype(int).tolist()
        made.append(_part(str(size), whole, stay, [others[i] for i in at]))
    return made


def _part(
    label: str, whole: Vocabulary, positions: Sequence[int], extra: Sequence[str]
) -> SubVocabulary:
    at = list(positions)
    vocabulary = Vocabulary.from_names(
        [*(whole.names[i] for i in at), *extra],
        synonyms=[*(whole.synonyms[i] for i in at), *(() for _ in extra)],
        templates=whole.templates,
        cleaning=whole.cleaning,
    )
    return SubVocabulary(label, vocabulary, np.array(at + [-1] * len(extra), dtype=np.int64))


def _distractors(whole: Vocabulary, given: Vocabulary | None) -> list[str]:
    lists = [given] if given is not None else [_built_in(name) for name in builtin_vocabularies()]
    own = (*whole.names, *itertools.chain.from_iterable(whole.synonyms))
    taken = {word for name in own for word in _words(name)}
    seen: set[str] = set()
    found: list[str] = []
    for vocabulary in lists:
        for name, synonyms in zip(vocabulary.names, vocabulary.synonyms, strict=True):
            words = {word for text in (name, *synonyms) for word in _words(text)}
            key = " ".join(sorted(_words(name)))
            if key and key not in seen and not words & taken:
                seen.add(key)
                found.append(name)
    return found


def _built_in(name: str) -> Vocabulary:
    loaded = load_vocabulary(name)
    return loaded.vocabulary if isinstance(loaded, EncodedVocabulary) else loaded


def _words(text: str) -> set[str]:
    """The words of a name in the singular, roughly: `wine glasses` and `wine_glass` are one."""
    found = re.findall(r"[^\W_]+", clean_name(text).casefold())
    return {re.sub(r"(?<=ss)es$|(?<=[^s])s$", "", word) for word in found}
