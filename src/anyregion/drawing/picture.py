"""Pictures of predictions: outlines, masks, points and labels that can be read.

The rules, for regions of any number on images of any size:

- An image whose short side is under 480 pixels is enlarged, one whose long side is over `max_side`
  is reduced, and where labels would cover more than an eighth of it, it is drawn up to twice as
  large, with letters as they were; all unless a width was chosen.
- A region with a mask shows it as a translucent fill with a contour; any other shows its box
  (`PictureOptions.draw`). A region of less than five pixels is outlined as if it had five. Small
  regions are drawn last.
- A colour belongs to a name (`Colours`). Answers under `PictureOptions.doubt` are the paler the
  lower they score, on dashed lines. What is none of the names (`"refused": true`) is grey.
- Labels never overlap. Small regions choose first; each takes the first that fits of: the full
  label beside or inside its region; the same in small letters; apart from it with a leader line; a
  number beside it; a number with a leader line. Numbers count the records from 1 and are spelt out
  in a legend under the picture. Where not even numbers fit, the legend says how many regions of
  each name have none.
- Where the labels together would cover more than 30 % of the picture, all are in small letters;
  where those too would cover more than 40 %, all are numbers.
- A picture holds only so many labels: where there are more regions than numbers would cover 40 % of
  it, those of the best scores are labelled, and the legend says how many others each name has.
- Names are cut at a width that the picture can hold; in which font they are written, and what
  happens to those that no font has, stands in `anyregion.drawing.text`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anyregion.drawing.layout import Anchor, LabelLayout, Placement
from anyregion.drawing.options import LARGEST, PictureOptions
from anyregion.drawing.palette import GREY, Colour, Colours, answer_colour
from anyregion.drawing.shapes import draw_box, draw_mask, draw_points
from anyregion.drawing.text import NO_FONT, Label, draw_label, measure_label, shorten, written
from anyregion.images import Pixels
from anyregion.predictions import Predictions

Size: TypeAlias = tuple[int, int]

NONE_OF_THESE = "none of these"

_SHORT_SIDE = 480
_LEAST_SHOWN = 5.0
# share of the picture that labels may cover before it is drawn larger, and how much at most
_UNCROWDED, _MOST_ENLARGED = 0.12, 2.0
# share of the picture that labels may cover: 258 numbers of 640 x 480; 2,000 took 11 s to place
_MOST_NUMBERED = 0.4


@dataclass(frozen=True, eq=False)
class _Mark:
    """A region as it is drawn: its record, number and colour, and what its label says.

    `name` is None where no font has its letters; `score` begins with a blank, or is empty.
    """

    record: Mapping[str, Any]
    number: int
    name: str | None
    score: str
    colour: Colour
    dashed: bool
    refused: bool


def draw(
    pixels: Pixels,
    predictions: Predictions | Sequence[Mapping[str, Any]],
    options: PictureOptions | None = None,
    *,
    colours: Colours | None = None,
) -> Image.Image:
    """Draw the predictions of one image on it; see the module for the rules.

    Args:
        pixels: the image, `(height, width, 3)` RGB uint8; it is not changed.
        predictions: what its regions were named; or their records, as `Predictions.to_records`
            gives them and JSONL keeps them.
        options: what the picture looks like.
        colours: of the names; those of the predictions' vocabulary, unless given.
    """
    options = options or PictureOptions()
    if isinstance(predictions, Predictions):
        colours = colours or Colours(predictions.vocabulary.names)
        predictions = predictions.to_records()
    marks = _marks(predictions, options, colours or Colours())
    height, width = pixels.shape[:2]
    plain = _plain_size((width, height), options)
    letters = _letters(plain)
    size = _roomy_size(plain, marks, letters, options)
    picture = Image.fromarray(pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if not marks:
        return picture
    # in pixels of the picture, inside it, and none too small to be seen
    boxes = np.array([mark.record["box"] for mark in marks], dtype=np.float64)  # (R, 4)
    boxes = boxes * np.tile(np.array(size) / (width, height), 2)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, _LEAST_SHOWN / 2)
    boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, np.tile(size, 2))

    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    # what is none of the names lies under all others
    large_first = sorted(range(len(marks)), key=lambda i: (not marks[i].refused, -areas[i]))
    # 2 pixels below 800 x 800, 5 from 1,440 x 1,440
    line = int(np.clip(round(float(np.sqrt(plain[0] * plain[1])) / 320), 2, 5))
    anchors = {i: _draw_shape(picture, marks[i], boxes[i], line, options) for i in large_first}
    for i in large_first:
        if marks[i].record.get("points"):
            scale = size[0] / width
            draw_points(picture, marks[i].record, marks[i].colour, line, scale)

    labelled = _best_scored(marks, size, letters[1])
    order = [i for i in large_first[::-1] if i in labelled]
    # labels keep off the regions that have one: of thousands, none could keep off all
    shapes = {row: shape for row, i in enumerate(order) if (shape := anchors[i]) is not None}
    layout = LabelLayout(boxes[order], size, shapes)
    numbered = dict.fromkeys(set(range(len(marks))) - labelled, False)
    numbered |= _draw_labels(picture, layout, [marks[i] for i in order], order, letters, options)
    return _with_legend(picture, marks, numbered, letters[1], options) if numbered else picture


def _marks(
    records: Sequence[Mapping[str, Any]], options: PictureOptions, colours: Colours
) -> list[_Mark]:
    """The regions that are drawn, with their looks."""
    marks = []
    font = None if options.font is None else str(options.font)
    for number, record in enumerate(records, start=1):
        value = float(record["score"])
        refused = bool(record.get("refused"))
        if value < options.min_score and not refused:
            continue
        score = ""
        if options.scores and not refused:
            score = " <0.01" if 0 < value < 0.005 else f" {value:.2f}"
        name = str(record["label"])
        colour, dashed = answer_colour(colours[name], value, doubt=options.doubt, refused=refused)
        text = written(NONE_OF_THESE if refused else name, font)
        marks.append(_Mark(record, number, text, score, colour, dashed, refused))
    return marks


def _plain_size(image: Size, options: PictureOptions) -> Size:
    """The size of a picture with few regions."""
    width, height = image
    if options.width is not None:
        scale = min(options.width / width, LARGEST / height)
    else:
        scale = max(1.0, _SHORT_SIDE / min(image))
        scale = min(scale, options.max_side / max(image))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _roomy_size(
    plain: Size, marks: Sequence[_Mark], letters: tuple[int, int], options: PictureOptions
) -> Size:
    """The size at which labels do not hide the picture, unless a width was chosen."""
    if options.width is not None:
        return plain
    # of hundreds a part is enough: they are crowded
    labels = (_full_label(mark, *letters, plain, options) for mark in marks[:300])
    share = sum(label.width * label.height for label in labels) / (plain[0] * plain[1])
    # never beyond `max_side`, and never smaller than it was
    factor = min(_MOST_ENLARGED, (share / _UNCROWDED) ** 0.5, options.max_side / max(plain))
    if factor <= 1:
        return plain
    return round(plain[0] * factor), round(plain[1] * factor)


def _letters(size: Size) -> tuple[int, int]:
    """Usual and small letters of a picture, in pixels."""
    # 13 pixels up to 520 x 520, 28 from 1,120 x 1,120; below 10, Pillow's letters run together
    base = int(np.clip(round(float(np.sqrt(size[0] * size[1])) / 40), 13, 28))
    return base, max(10, round(0.8 * base))


def _draw_shape(
    picture: Image.Image,
    mark: _Mark,
    box: NDArray[np.float64],
    line: int,
    options: PictureOptions,
) -> Anchor | None:
    """Draw the mask, the box, or both; the mask's anchor."""
    anchor = None
    mask = mark.record.get("mask")
    if mask is not None and options.draw != "boxes":
        anchor = draw_mask(
            picture, mask, mark.colour, line, dashed=mark.dashed, filled=not mark.refused
        )
    if anchor is None or options.draw == "both":
        draw_box(picture, box, mark.colour, line, dashed=mark.dashed)
    return anchor


def _best_scored(marks: Sequence[_Mark], size: Size, letters: int) -> set[int]:
    """The regions whose labels a picture has room for: all, unless there are hundreds."""
    number = measure_label(str(len(marks)), letters)
    room = int(_MOST_NUMBERED * size[0] * size[1] / (number.width * number.height))
    by_score = sorted(
        range(len(marks)), key=lambda i: (marks[i].refused, -float(marks[i].record["score"]))
    )
    return set(by_score[:room])


def _full_label(
    mark: _Mark, letters: int, small: int, plain: Size, options: PictureOptions
) -> Label:
    """Name and score, or the number of a region whose name cannot be written."""
    font = None if options.font is None else str(options.font)
    if mark.name is None:
        return measure_label(str(mark.number), letters, font)
    text = shorten(mark.name, mark.score, small, 0.45 * plain[0], font)
    return measure_label(text, letters, font)


def _draw_labels(
    picture: Image.Image,
    layout: LabelLayout,
    marks: Sequence[_Mark],
    order: Sequence[int],
    letters: tuple[int, int],
    options: PictureOptions,
) -> dict[int, bool]:
    """Draw a label for each region; those the legend must explain.

    Args:
        picture, layout: where; the rows of the layout are those of `marks`.
        marks, order: the regions, and their places among all that are drawn.
        letters: usual and small ones.
        options: of the picture.

    Returns:
        By place: True where its number is in the picture, False where not even that found room.
    """
    width, height = picture.size
    base, small = letters
    font = None if options.font is None else str(options.font)
    large_labels, small_labels = (
        [_full_label(mark, size, small, picture.size, options) for mark in marks]
        for size in letters
    )
    areas = [
        sum(label.width * label.height for label in labels) / (width * height)
        for labels in (large_labels, small_labels)
    ]
    first = 3 if areas[1] > 0.4 else 1 if areas[0] > 0.3 else 0
    placed: list[tuple[_Mark, Label, Placement]] = []
    numbered: dict[int, bool] = {}
    for row, (i, mark) in enumerate(zip(order, marks, strict=True)):
        number = measure_label(str(mark.number), small, font)
        ladder = [  # label, how far from its region it may stand, highest cost of its spot
            (large_labels[row], 0.0, 0.3),
            (small_labels[row], 0.0, 0.35),
            (small_labels[row], 4.0 * small, 0.45),
            (number, 0.0, 0.7),
            (number, 6.0 * small, 1.0),
            (measure_label(number.text, 10, font), 20.0 * small, 4.0),
        ]
        for label, reach, limit in ladder[first:]:
            placement = layout.place(row, label.width, label.height, limit=limit, reach=reach)
            if placement is not None:
                placed.append((mark, label, placement))
                break
        if placement is None or label.text == number.text:
            numbered[i] = placement is not None
    pen = ImageDraw.Draw(picture)
    # all leader lines first: none is to cross a label
    thin = max(1, round(base / 10))
    for ink, further in ((None, 1), (True, 0)):
        for mark, _, placement in placed:
            if placement.leader is None:
                continue
            colour = mark.colour if ink else (0, 0, 0)
            pen.line(placement.leader, fill=colour, width=thin + 2 * further)
            x, y = placement.leader[2:]
            pen.circle((x, y), 1.5 * thin + further, fill=colour)
    for mark, label, placement in placed:
        draw_label(pen, label, round(placement.x), round(placement.y), mark.colour)
    return numbered


def _with_legend(
    picture: Image.Image,
    marks: Sequence[_Mark],
    numbered: Mapping[int, bool],
    small: int,
    options: PictureOptions,
) -> Image.Image:
    """The picture with lines under it: per name its numbers and their scores."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in sorted(numbered):
        groups[marks[i].name or NO_FONT].append(i)
    letters, margin = max(13, small), 10
    font = None if options.font is None else str(options.font)
    width = max(picture.width, 320)
    cells: list[tuple[str, Colour | None]] = []  # a name on its colour, else numbers on white
    for name in sorted(groups, key=str.casefold):
        shown = [i for i in groups[name] if numbered[i]]
        # in the colour of its surest region
        surest = max(groups[name], key=lambda i: float(marks[i].record["score"]))
        colour = GREY if name == NO_FONT else marks[surest].colour
        cells.append((shorten(name, "", letters, 0.6 * width, font), colour))
        for i in shown:
            number = f"{marks[i].number}"
            cells.append((f"{number}:{marks[i].score}" if marks[i].score else number, None))
        if rest := len(groups[name]) - len(shown):
            cells.append((f"{'and ' if shown else ''}{rest} without a number", None))
    x, y, row = margin, margin, round(1.7 * letters)
    placed: list[tuple[Label, int, int, Colour | None]] = []
    for text, ground in cells:
        label = measure_label(text, letters, font)
        x += margin if ground is not None and x > margin else 0
        if x + label.width > width - margin:
            x, y = margin, y + row
        placed.append((label, x, picture.height + y, ground))
        x += label.width + 4
    sheet = Image.new("RGB", (width, picture.height + y + row + margin // 2), "white")
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for label, left, top, ground in placed:
        draw_label(pen, label, left, top, ground)
    return sheet
