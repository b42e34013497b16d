"""Text on pictures: fonts that have the letters, names cut to a width, lines on a ground.

The rules for names in any script:

- A name is written in the first font that has all its letters: the one that was chosen, Pillow's
  own, then the fonts that systems commonly have. Arabic and Indic scripts are shaped where Pillow
  has Raqm, as its packages do.
- Symbols that none of these has (an emoji, say) are left out where letters remain.
- A name with letters that no font has is not written at all: boxes in their place would be
  garbage. Its region has a number, the legend says so, and a warning says what to do.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from PIL import ImageDraw, ImageFont

from anyregion.drawing.palette import Colour, ink_on
from anyregion.errors import InputError, InputWarning
from anyregion.files import valid_text

NO_FONT = "(no font for this name)"

# fonts with more letters than Pillow's own, by the names under which systems have them
_SYSTEM_FONTS = (
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
    "NotoEmoji-Regular.ttf",
    "Symbola.ttf",
)
_NO_LETTER = "\U0010fffe"  # never assigned, so every font draws its replacement box for it
_OWN = ""  # stands for Pillow's own font among the names of fonts


@dataclass(frozen=True)
class Label:
    """A measured line of text on a ground of its own.

    Attributes:
        text, font: what is written.
        width, height: of the ground. Capitals and descenders always count, so labels in letters of
            one size are of one height.
        offset: of the text's origin from the ground's upper left corner.
    """

    text: str
    font: ImageFont.FreeTypeFont
    width: int
    height: int
    offset: tuple[int, int]


def open_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of a file.

    Raises:
        InputError: it is none that can be read.
    """
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a font that can be read ({error})") from None


def written(name: str, font: str | None = None) -> str | None:
    """A name as it can be written in one line; None where no font has its letters."""
    text = valid_text(" ".join(name.split()))
    # nearly every name: no font need be asked
    if text.isascii() and text.isprintable():
        return text
    text = "".join(letter for letter in text if letter.isprintable() or letter in "\u200c\u200d")
    if _font_with(text, 12, font) is not None:
        return text
    known = [letter for letter in text if any(True for _ in _fonts_of(letter, 12, font))]
    missing = set(text) - set(known)
    rest = " ".join("".join(known).split())
    # of a word with letters left out, what is left is another word
    wordless = not any(unicodedata.category(letter)[0] in "LN" for letter in missing)
    if wordless and any(map(str.isalnum, rest)) and _font_with(rest, 12, font) is not None:
        return rest
    warnings.warn(
        "names have letters that no font here has: pictures show numbers in their place. "
        "Install a font that has them (Noto Sans CJK, say), or choose one with --font",
        InputWarning,
        stacklevel=2,
    )
    return None


def shorten(name: str, score: str, letters: int, room: float, font: str | None = None) -> str:
    """Name and score, the name cut so that both fit into `room` pixels."""
    text = name + score
    # letters are hardly narrower than a sixth of their height: no need to measure 5,000 of them
    if len(name) > (most := max(4, int(6 * room / letters))):
        name = name[:most]
        text = f"{name}…{score}"
    while len(name) > 4 and _font_for(text, letters, font).getlength(text) > room:
        name = name[: max(4, min(len(name) - 1, int(len(name) * 0.9)))].rstrip()
        text = f"{name}…{score}"
    return text


@lru_cache(maxsize=4096)
def measure_label(text: str, letters: int, font: str | None = None) -> Label:
    """A line of text in letters of a size, in pixels."""
    face = _font_for(text, letters, font)
    _, top, right, bottom = face.getbbox(text)
    usual_top, usual_bottom = _usual_height(face)
    top, bottom = int(min(top, usual_top)), int(-(-max(bottom, usual_bottom) // 1))
    x, y = max(3, letters // 4), max(2, letters // 7)
    return Label(text, face, int(-(-right // 1)) + 2 * x, bottom - top + 2 * y, offset=(x, y - top))


def draw_label(
    pen: ImageDraw.ImageDraw, label: Label, x: int, y: int, ground: Colour | None
) -> None:
    """Text in black or white on a rounded ground; without a ground, black on what is there."""
    corner = (x + label.width - 1, y + label.height - 1)
    if ground is not None:
        # labels of one colour that touch are told apart by their rims
        rim = tuple(round(0.72 * c) for c in ground)
        pen.rounded_rectangle((x, y, *corner), max(1, label.height // 6), fill=ground, outline=rim)
    ink = (0, 0, 0) if ground is None else ink_on(ground)
    at = (x + label.offset[0], y + label.offset[1])
    pen.text(at, label.text, fill=ink, font=label.font)


@lru_cache(maxsize=64)
def _usual_height(face: ImageFont.FreeTypeFont) -> tuple[float, float]:
    _, top, _, bottom = face.getbbox("Ay")
    return top, bottom


def _font_for(text: str, size: int, font: str | None) -> ImageFont.FreeTypeFont:
    """The first font with all letters of a text that `written` gave."""
    face = _font_with(text, size, font)
    return face or cast(ImageFont.FreeTypeFont, _face(_OWN, size))


@lru_cache(maxsize=4096)
def _font_with(text: str, size: int, font: str | None) -> ImageFont.FreeTypeFont | None:
    """The first font with all letters of a text, or None."""
    letters = set(text) - {" "}
    for name in _names_of(font):
        face = _face(name, size)
        if face is not None and all(_has(name, letter) for letter in letters):
            return face
    return None


def _fonts_of(letter: str, size: int, font: str | None) -> Iterator[str]:
    """The fonts that have a letter."""
    return (n for n in _names_of(font) if _face(n, size) is not None and _has(n, letter))


def _names_of(font: str | None) -> tuple[str, ...]:
    return (*(() if font is None else (font,)), _OWN, *_SYSTEM_FONTS)


@lru_cache(maxsize=65536)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter: whether it draws anything but its replacement box for it."""
    face = _face(name, 12)
    return (
        letter in "\u200c\u200d"  # joiners, which are never seen
        or face is None
        or bytes(face.getmask(letter)) != bytes(face.getmask(_NO_LETTER))
    )


@lru_cache(maxsize=256)
def _face(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font of a size; None of one that is not on this system."""
    if name == _OWN:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None
