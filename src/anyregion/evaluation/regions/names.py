"""The names that are asked about, and which of them is right for a category of the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anyregion.errors import InputError, SetAside
from anyregion.exemplars import ExemplarVocabulary
from anyregion.vocabulary import Cleaning, EncodedVocabulary, Vocabulary, name_key


@dataclass(frozen=True, eq=False)
class AskedNames:
    """The vocabulary of an evaluation.

    Attributes:
        vocabulary: what is handed to the recogniser, encoded or not.
        names: the same, not encoded.
        positions: `{category id: position in names}` of the categories that it holds.
        set_aside: categories that come to one name.
    """

    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary
    names: Vocabulary
    positions: dict[int, int]
    set_aside: tuple[SetAside, ...] = ()


def ask_names(
    categories: Mapping[int, str],
    vocabulary: Vocabulary | EncodedVocabulary | ExemplarVocabulary | None,
    *,
    templates: Sequence[str] | None = None,
    cleaning: Cleaning = "plain",
    source: object,
) -> AskedNames:
    """The vocabulary that was given, or one of the annotations' categories.

    Names are matched with categories whatever their case and underscores.

    Args:
        categories: `{id: name}`.
        vocabulary: what was given, or None.
        templates, cleaning: of a vocabulary made of the categories.
        source: the annotations, for errors.

    Raises:
        InputError: no categories, or none of them is in the vocabulary; templates or cleaning
            together with a vocabulary.
    """
    if not categories:
        raise InputError(f"{source}: no categories, so there is nothing to compare with")
    aside: tuple[SetAside, ...] = ()
    if vocabulary is None:
        ids = list(categories)
        vocabulary = Vocabulary.from_names(
            [categories[i] for i in ids], ids=ids, templates=templates, cleaning=cleaning
        )
        # categories that come to one name are one class here
        aside = tuple(
            SetAside(a.item.replace("name", "category"), a.reason) for a in vocabulary.set_aside
        )
    elif templates is not None or cleaning != "plain":
        raise InputError("templates and cleaning belong to the vocabulary that was given")
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    positions = _positions(categories, names)
    if not positions:
        raise InputError(f"{source}: none of its categories is in the vocabulary")
    return AskedNames(vocabulary, names, positions, aside)


def _positions(categories: Mapping[int, str], names: Vocabulary) -> dict[int, int]:
    known = {name_key(n, names.cleaning): i for i, n in reversed(list(enumerate(names.names)))}
    # a region of no category has -1, which is no category's id
    keys = {i: name_key(name, names.cleaning) for i, name in categories.items() if i != -1}
    return {i: known[key] for i, key in keys.items() if key in known}
