"""Colours of names: well apart, the same in every picture of a run, paler with doubt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]

# each the farthest from those before it in OKLab, by the least of what people with all cones and
# with two kinds of them see: tools/fit_palette.py. The least distance of two is 0.116 with all
# cones, 0.048 with protanopia, 0.050 with deuteranopia
_CODES = (
    *("ff4b2d", "6900ff", "00ff00", "ff4bff", "a52d87", "0069b4", "3c960f", "b4d278", "4bd2ff"),
    *("ff96c3", "b42d00", "3c96ff", "f09600", "b469d2", "0fc396", "e1ff87", "00ffe1", "e10f69"),
    *("c300d2", "785ae1"),
)
PALETTE: tuple[Colour, ...] = tuple(
    (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in _CODES
)
GREY: Colour = (150, 150, 150)
"""What is none of the names."""
# of all salts tried, the one under which the names that people meet first differ most
_SALT = 45903
_PALE = (236, 236, 236)
# the palest still tells colours apart
_MOST_PALE = 0.6


@lru_cache(maxsize=4096)
def name_colour(name: str) -> Colour:
    """The colour of a name for itself, whatever other names there are."""
    return PALETTE[_own_row(name)]


class Colours:
    """The colours of the names of a vocabulary.

    With no more names than the palette has colours each name has one of its own: its
    `name_colour`, or the next free one where an earlier name has that. Otherwise names have their
    `name_colour`, which no other vocabulary changes.

    Args:
        names: of the vocabulary, in its order.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._colours = _distinct(tuple(names)) if len(names) <= len(PALETTE) else {}

    def __getitem__(self, name: str) -> Colour:
        """The colour of a name; also of one that the vocabulary lacks."""
        return self._colours.get(_key(name)) or name_colour(name)


@lru_cache(maxsize=64)
def _distinct(names: tuple[str, ...]) -> Mapping[str, Colour]:
    """A colour of its own for each of a few names."""
    rows: dict[str, int] = {}
    for name in names:
        # an earlier name keeps its colour whatever comes after it
        if (key := _key(name)) not in rows:
            row, taken = _own_row(name), set(rows.values())
            while row in taken:
                row = (row + 1) % len(PALETTE)
            rows[key] = row
    return {key: PALETTE[row] for key, row in rows.items()}


def answer_colour(
    own: Colour, score: float, *, doubt: float, refused: bool = False
) -> tuple[Colour, bool]:
    """What an answer is drawn in, and whether on dashed lines.

    Args:
        own: the colour of its name.
        score: how sure it is.
        doubt: the score from which on it is drawn in full colour, on solid lines.
        refused: it is none of the names.
    """
    if refused:
        return GREY, True
    doubtful = score < doubt
    return (pale(own, 1 - score / doubt) if doubtful else own), doubtful


def pale(colour: Colour, doubt: float) -> Colour:
    """A colour on its way to a light grey: all of it without doubt, at doubt 1 two fifths of it."""
    share = _MOST_PALE * min(max(doubt, 0.0), 1.0)
    red, green, blue = (round(c + share * (p - c)) for c, p in zip(colour, _PALE, strict=True))
    return red, green, blue


def ink_on(ground: Colour) -> Colour:
    """Black or white, whichever contrasts more with a ground (WCAG 2): at least 4.5 to 1."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in ground]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # the two contrasts are equal where (L + 0.05)^2 = 1.05 * 0.05
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _own_row(name: str) -> int:
    salt = _SALT.to_bytes(2, "little")
    digest = hashlib.blake2s(_key(name).encode(errors="replace"), digest_size=4, salt=salt)
    return int.from_bytes(digest.digest(), "little") % len(PALETTE)
