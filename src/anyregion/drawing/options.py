"""What a picture looks like, as far as it can be chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from anyregion.errors import InputError

Shapes: TypeAlias = Literal["boxes", "masks", "both"]
SHAPES: tuple[Shapes, ...] = get_args(Shapes)
LARGEST = 8192
"""Pixels of a picture's longest side, whatever was chosen."""
_NARROWEST = 32


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How regions are drawn; the same wherever pictures of them are written.

    Attributes:
        draw: `masks`: the mask of a region that has one, else its box; `boxes`; or `both`.
        width: of the picture, in pixels; None leaves it to the image and to how crowded it is. A
            picture that would be higher than 8,192 pixels is narrower.
        font: a font file (.ttf, .otf, .ttc) that is tried before Pillow's own and the system's.
        min_score: regions that score less are not drawn.
        scores: write the score behind each name.
        doubt: a score from which on an answer is drawn in full colour, on solid lines. Below, lines
            are dashed, and the lower the score, the paler the colour. Where scores are
            probabilities, an answer under one half is more likely wrong than right.
        max_side: the longest side of a picture whose width was not chosen; a legend may add to its
            height.

    Raises:
        InputError: a font that cannot be read, or a value out of range.
    """

    draw: Shapes = "masks"
    width: int | None = None
    font: str | Path | None = None
    min_score: float = 0.0
    scores: bool = True
    doubt: float = 0.5
    max_side: int = 2048

    def __post_init__(self) -> None:
        """Refuse what no picture could be made with, before anything is named."""
        if self.draw not in SHAPES:
            raise InputError(f"pictures show {', '.join(SHAPES)}, not {self.draw!r:.60}")
        if self.width is not None and not _NARROWEST <= self.width <= LARGEST:
            raise InputError(
                f"pictures are from {_NARROWEST} to {LARGEST:,} pixels wide, not {self.width}"
            )
        if not 0 <= self.doubt <= 1:
            raise InputError(f"scores are from 0 to 1, so doubt does not begin at {self.doubt}")
        if self.font is not None:
            from anyregion.drawing.text import open_font

            open_font(str(self.font), 12)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON."""
        values = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.default != getattr(self, f.name)
        }
        return values | ({"font": str(self.font)} if "font" in values else {})
