"""Colours by name and a font that has the letters: what pictures are drawn with."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TypeAlias, cast

from PIL import ImageFont

Colour: TypeAlias = tuple[int, int, int]

# vivid colours, each the farthest from those before it in OKLab
_PALETTE = (
    *("ff4b2d", "00ff00", "1e78ff", "f000ff", "5affff", "878700", "f0a5f0", "ffe100", "ff0096"),
    *("964bff", "00c378", "ffa55a", "00b4f0", "c35a87", "8778d2", "a5ff87", "c35ad2", "a5c300"),
    *("c3692d", "ff8787"),
)
# of all salts tried, the one under which the names that people meet first differ most
_SALT = 56184

# fonts with more letters than Pillow's own, by the names under which systems keep them
_MORE_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "segoeui.ttf",
    "Nirmala.ttf",
)
_NO_LETTER = "\U0010fffe"  # never assigned, so every font draws its replacement box for it


@lru_cache(maxsize=4096)
def name_colour(name: str) -> Colour:
    """The colour of a name: always the same for the same name, whatever else is in the picture.

    One of 20, so two names of one picture may share one: the label tells them apart.
    """
    word = " ".join(name.replace("_", " ").split()).casefold()
    digest = hashlib.blake2s(word.encode(), digest_size=4, salt=_SALT.to_bytes(2, "little"))
    code = _PALETTE[int.from_bytes(digest.digest(), "little") % len(_PALETTE)]
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with `colour` (WCAG 2 relative luminance)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # the two contrasts are equal where (L + 0.05)^2 = 1.05 * 0.05
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


@lru_cache(maxsize=4096)
def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has every letter; else the first known system font that has.

    Where no font has them all, Pillow's own is used and missing letters show as boxes.
    """
    own = _own(size)
    letters = "".join(sorted({letter for letter in text if letter > "~"}))
    if _has(own, letters):
        return own
    return next((f for n in _MORE_FONTS if (f := _font(n, size)) and _has(f, letters)), own)


@lru_cache(maxsize=64)
def _own(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # not on this system
        return None


def _has(font: ImageFont.FreeTypeFont, letters: str) -> bool:
    missing = bytes(font.getmask(_NO_LETTER))
    return all(bytes(font.getmask(letter)) != missing for letter in letters)
