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
"""So many vocabularies of a small size are asked: which three words they are must not decide."""


@dataclass(frozen=True, eq=False)
class VocabularySubset:
    """Some names of a vocabulary, and perhaps distractors.

    Attributes:
        label: `all`, `half`, or the size.
        vocabulary: the names.
        origin: `(C,)` int64, the position of each name in the whole vocabulary; -1 of distractors.
    """

    label: str
    vocabulary: Vocabulary
    origin: NDArray[np.int64]


def vocabulary_subsets(
    whole: Vocabulary,
    left_out: Set[int],
    *,
    sizes: Sequence[int],
    distractors: Vocabulary | None,
    set_aside: list[SetAside],
) -> list[VocabularySubset]:
    """`all` and `half` first, and then those of each size.

    A size below that of `half` is made several times, of names that lie evenly apart among those
    that stay. A larger one is `half` and distractors, evenly from their list.

    Args:
        left_out: positions of the names that all but the first lack.
        distractors: names to fill up with; the built-in lists unless given. Those that share a
            word with a name of `whole`, or one of whose synonyms does, are not used: they might
            mean a class that was left out. (A distractor may mean one in other words yet.)
        set_aside: grows by sizes that cannot be made.

    Raises:
        InputError: a size below 1, or nothing stays.
    """
    stay = [i for i in range(len(whole)) if i not in left_out]
    if not stay:
        raise InputError("every class is left out of the vocabulary")
    subsets = [_subset("all", whole, range(len(whole))), _subset("half", whole, stay)]
    pool: list[str] | None = None
    for size in dict.fromkeys(sizes):
        if size < 1:
            raise InputError(f"a vocabulary of {size} names cannot be made")
        if size < len(stay):
            # 0, 13, 26; then 1, 14, 27; and so on: neighbours are often of one kind
            step = len(stay) // size
            starts = range(min(TRIALS, step))
            subsets += [_subset(str(size), whole, stay[s::step][:size]) for s in starts]
            continue
        if pool is None:
            pool = unrelated_names(whole, distractors)
        count = size - len(stay)
        if count > len(pool):
            reason = f"{len(stay)} names and {len(pool)} distractors at most"
            set_aside.append(SetAside(f"size {size}", reason))
            continue
        # evenly from the whole list: its beginning may be one domain
        at = np.linspace(0, len(pool) - 1, count).round().astype(int).tolist()
        subsets.append(_subset(str(size), whole, stay, [pool[i] for i in at]))
    return subsets


def _subset(
    label: str, whole: Vocabulary, positions: Sequence[int], distractors: Sequence[str] = ()
) -> VocabularySubset:
    at = list(positions)
    vocabulary = Vocabulary.from_names(
        [*(whole.names[i] for i in at), *distractors],
        synonyms=[*(whole.synonyms[i] for i in at), *(() for _ in distractors)],
        templates=whole.templates,
        cleaning=whole.cleaning,
    )
    origin = np.array(at + [-1] * len(distractors), dtype=np.int64)
    return VocabularySubset(label, vocabulary, origin)


def unrelated_names(whole: Vocabulary, distractors: Vocabulary | None = None) -> list[str]:
    """The distractors, or names of the built-in lists, that share no word with `whole`."""
    if distractors is not None:
        lists = [distractors]
    else:
        read = map(load_vocabulary, builtin_vocabularies())
        lists = [v.vocabulary if isinstance(v, EncodedVocabulary) else v for v in read]
    texts = (*whole.names, *itertools.chain.from_iterable(whole.synonyms))
    excluded = {word for text in texts for word in _words(text)}
    keys: set[str] = set()
    names: list[str] = []
    for vocabulary in lists:
        for name, synonyms in zip(vocabulary.names, vocabulary.synonyms, strict=True):
            words = {word for text in (name, *synonyms) for word in _words(text)}
            # the lists overlap: `traffic light` is to be a distractor once
            key = " ".join(sorted(_words(name)))
            if key and key not in keys and not words & excluded:
                keys.add(key)
                names.append(name)
    return names


def _words(text: str) -> set[str]:
    """The words of a name in the singular, roughly: `wine glasses` and `wine_glass` are one."""
    words = re.findall(r"[^\W_]+", clean_name(text).casefold())
    return {re.sub(r"(?<=ss)es$|(?<=[^s])s$", "", word) for word in words}
