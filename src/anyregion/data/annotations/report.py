"""Findings about a data set: faults and oddities, counted by kind, with the first few examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import SetAside

# a file of millions of faulty regions must not become millions of texts
EXAMPLES = 100


@dataclass(frozen=True)
class Kind:
    """One kind of fault: what to call many of them, whether it is wrong, and what to do."""

    what: str
    wrong: bool
    advice: str


@dataclass(frozen=True)
class Finding:
    """All findings of one kind.

    Attributes:
        what: the kind, in the plural.
        wrong: something was left out or would be learned wrongly; else it is only worth knowing.
        count: how many.
        examples: the first of them, at most `EXAMPLES`.
        advice: what to do about it.
    """

    what: str
    wrong: bool
    count: int
    examples: tuple[SetAside, ...]
    advice: str


class Findings:
    """Collects findings while a data set is read or checked, after those of `before`."""

    def __init__(self, before: Iterable[Finding] = ()) -> None:
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, list[SetAside]] = {}
        for finding in before:
            kind = Kind(finding.what, finding.wrong, finding.advice)
            self._counts[kind] = finding.count
            self._examples[kind] = list(finding.examples)

    def add(self, kind: Kind, item: str, reason: str) -> None:
        """One of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(SetAside(item, reason))

    def add_rows(
        self, kind: Kind, rows: NDArray[np.int64], describe: Callable[[int], tuple[str, str]]
    ) -> None:
        """Many of a kind; only the examples are described, as `(item, reason)`."""
        # no entry for none: a kind that never occurs is not listed
        if len(rows):
            self._counts[kind] = self._counts.get(kind, 0) + len(rows)
            examples = self._examples.setdefault(kind, [])
            room = EXAMPLES - len(examples)
            examples += [SetAside(*describe(int(row))) for row in rows[:room]]

    def list(self) -> tuple[Finding, ...]:
        """In the order in which the kinds were first added, what is wrong first."""
        kinds = sorted(self._counts, key=lambda kind: not kind.wrong)
        return tuple(
            Finding(k.what, k.wrong, self._counts[k], tuple(self._examples[k]), k.advice)
            for k in kinds
        )


def skipped_items(findings: Sequence[Finding]) -> tuple[SetAside, ...]:
    """The items of everything wrong; of very many, the first ones and how many others there are."""
    skipped: list[SetAside] = []
    for finding in findings:
        if finding.wrong:
            skipped += finding.examples
            if others := finding.count - len(finding.examples):
                skipped.append(SetAside(f"{others:,} more", finding.what))
    return tuple(skipped)
