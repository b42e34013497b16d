"""Pictures of predictions: outlines, masks, points and labels that can be read.

The rules, for regions of any number on images of any size:

- An image whose short side is under 480 pixels is enlarged, one whose long side is over `max_side`
  is reduced; lines and letters are sized by the picture, not by the image.
- A region with a mask shows it as a translucent fill with a contour; any other shows its box. A
  region of less than five pixels is outlined as if it had five. Small regions are drawn last.
- A colour belongs to a name and never changes (`name_colour`).
- Labels never overlap. Small regions choose first; each takes the first that fits of: the full
  label beside or inside its region; the same in small letters; apart from it with a leader line; a
  number beside it; a number with a leader line. Numbers count the records from 1 and are spelt out
  in a legend under the picture. Where not even numbers fit, the legend says how many regions of
  each name have none.
- Where the labels together would cover more than 30 % of the picture, all are in small letters;
  where those too would cover more than 40 %, all are numbers.
- A picture holds only so many labels: where there are more regions than numbers would cover 40 % of
  it, those of the best scores are labelled, and the legend says how many others each name has.
- Names are cut at a width that the picture can hold. Letters that Pillow's own font lacks come from
  a system font, where there is one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anyregion.drawing.layout import Anchor, LabelLayout, Placement
from anyregion.files import valid_text
from anyregion.images import Pixels
from anyregion.masks import RLE, decode_mask
from anyregion.predictions import Predictions

Colour: TypeAlias = tuple[int, int, int]

_SHORT_SIDE = 480
_LEAST_SHOWN = 5.0
_FILL = 0.32
_SHADOW = (0, 0, 0, 110)
# share of the picture that labels may cover: 258 numbers of 640 x 480; 2,000 took 11 s to place
_MOST_NUMBERED = 0.4

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
_default_font = lru_cache(maxsize=64)(ImageFont.load_default)


def draw(
    pixels: Pixels,
    predictions: Predictions | Sequence[Mapping[str, Any]],
    *,
    max_side: int = 2048,
    show_scores: bool = True,
) -> Image.Image:
    """Draw the predictions of one image on it; see the module for the rules.

    Args:
        pixels: the image, `(height, width, 3)` RGB uint8; it is not changed.
        predictions: what its regions were named; or their records, as `Predictions.to_records`
            gives them and JSONL keeps them.
        max_side: the longest side of the drawn image; a legend may add to its height.
        show_scores: write the score behind each name.
    """
    records = predictions.to_records() if isinstance(predictions, Predictions) else predictions
    height, width = pixels.shape[:2]
    scale = min(max(1.0, _SHORT_SIDE / min(height, width)), max_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if not records:
        return picture
    # in pixels of the picture, inside it, and none too small to be seen
    boxes = np.array([record["box"] for record in records], dtype=np.float64)  # (R, 4)
    boxes = boxes * np.tile(np.array(size) / (width, height), 2)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, _LEAST_SHOWN / 2)
    boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, np.tile(size, 2))

    names = [valid_text(" ".join(str(record["label"]).split())) for record in records]
    colours = [name_colour(name) for name in names]
    # 2 pixels below 800 x 800, 5 from 1,440 x 1,440
    line = int(np.clip(round(float(np.sqrt(size[0] * size[1])) / 320), 2, 5))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    large_first = np.argsort(-areas, kind="stable").tolist()
    anchors: dict[int, Anchor] = {}
    for i in large_first:
        mask: RLE | None = records[i].get("mask")
        anchor = None if mask is None else _draw_mask(picture, mask, colours[i], line, scale)
        if anchor is None:
            draw_box(picture, boxes[i], colours[i], line)
        else:
            anchors[i] = anchor
    for i in large_first:
        if records[i].get("points"):
            _draw_points(picture, records[i], colours[i], line, scale)

    scores = [""] * len(records)
    if show_scores:
        values = [record["score"] for record in records]
        scores = [" <0.01" if 0 < value < 0.005 else f" {value:.2f}" for value in values]
    labelled = _best_scored(records, size)
    order = [i for i in large_first[::-1] if i in labelled]
    # labels keep off the regions that have one: of thousands, none could keep off all
    rows = {i: row for row, i in enumerate(order)}
    layout = LabelLayout(boxes[order], size, {rows[i]: anchors[i] for i in order if i in anchors})
    numbered = dict.fromkeys(set(range(len(records))) - labelled, False)
    numbered |= _draw_labels(picture, layout, names, scores, order)
    return _with_legend(picture, names, scores, numbered) if numbered else picture


def _best_scored(records: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> set[int]:
    """The regions whose labels a picture has room for: all, unless there are hundreds."""
    number = measure_label(str(len(records)), _letters(size)[1])
    room = int(_MOST_NUMBERED * size[0] * size[1] / (number.width * number.height))
    if len(records) <= room:
        return set(range(len(records)))
    scores = np.array([record["score"] for record in records], dtype=np.float64)
    return set(np.argsort(-scores, kind="stable")[:room].tolist())


def _letters(size: tuple[int, int]) -> tuple[int, int]:
    """Usual and small letters of a picture, in pixels."""
    # 13 pixels up to 520 x 520, 28 from 1,120 x 1,120; below 10, Pillow's letters run together
    base = int(np.clip(round(float(np.sqrt(size[0] * size[1])) / 40), 13, 28))
    return base, max(10, round(0.8 * base))


@lru_cache(maxsize=4096)
def name_colour(name: str) -> Colour:
    """The colour of a name: always the same for the same name, whatever else is in the picture.

    One of 20, so two names of one picture may share one: the label tells them apart.
    """
    word = " ".join(name.replace("_", " ").split()).casefold()
    digest = hashlib.blake2s(word.encode(), digest_size=4, salt=_SALT.to_bytes(2, "little"))
    code = _PALETTE[int.from_bytes(digest.digest(), "little") % len(_PALETTE)]
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


def draw_box(picture: Image.Image, box: NDArray[np.float64], colour: Colour, line: int) -> None:
    """An outline within the box, between shadows that set it off from any ground."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    # a small region is not to vanish under its own outline
    thin = max(1, min(line, min(x1 - x0, y1 - y0) // 8))
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_SHADOW, width=1)
    if x1 - x0 > 2 * thin + 4 and y1 - y0 > 2 * thin + 4:
        inner = (x0 + thin, y0 + thin, x1 - thin, y1 - thin)
        pen.rectangle(inner, outline=_SHADOW, width=1)
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=thin)


def _draw_mask(
    picture: Image.Image, rle: RLE, colour: Colour, line: int, scale: float
) -> Anchor | None:
    """Fill and contour; None for a mask with nothing inside."""
    mask = decode_mask(rle)  # (H, W) of the image
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    left, top = round(x0 * scale), round(y0 * scale)
    size = (max(1, round(x1 * scale) - left), max(1, round(y1 * scale) - top))
    crop = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    inside = np.asarray(crop.resize(size, Image.Resampling.BILINEAR)) > 127  # (h, w) of the picture
    # the contour is what lies in the mask, but not in all of its shifts by the line's width
    padded = np.pad(inside, line)
    core = inside.copy()
    for dy, dx in ((0, line), (2 * line, line), (line, 0), (line, 2 * line)):
        core &= padded[dy : dy + inside.shape[0], dx : dx + inside.shape[1]]
    alpha = np.where(inside & ~core, 255, np.where(inside, round(255 * _FILL), 0))
    picture.paste(colour, (left, top), Image.fromarray(alpha.astype(np.uint8)))
    x, y = _thickest(crop)
    top_x = float(np.flatnonzero(inside[np.flatnonzero(inside.any(axis=1))[0]]).mean())
    at = (left + x * size[0], top + y * size[1])
    return Anchor(*at, top_x=left + top_x, area=float(inside.sum()))


def _thickest(crop: Image.Image) -> tuple[float, float]:
    """The place, from 0 to 1 of width and height, that is farthest from the edge of a mask."""
    # 32 cells a side place a label well enough, and take 2 ms however large the mask is
    side = 32
    eroded = np.pad(np.asarray(crop.resize((side, side), Image.Resampling.BOX)) > 127, 1)
    core = eroded
    while core.any():
        eroded, core = core, core.copy()
        for shifted in (eroded[:-2, 1:-1], eroded[2:, 1:-1], eroded[1:-1, :-2], eroded[1:-1, 2:]):
            core[1:-1, 1:-1] &= shifted
    cells = np.argwhere(eroded)
    if not len(cells):  # too thin to show at this size
        return 0.5, 0.5
    y, x = cells[np.abs(cells - cells.mean(axis=0)).sum(axis=1).argmin()]
    return (float(x) - 0.5) / side, (float(y) - 0.5) / side


def _draw_points(
    picture: Image.Image, record: Mapping[str, Any], colour: Colour, line: int, scale: float
) -> None:
    """Foreground points as discs, background points as crosses, both ringed in white."""
    pen = ImageDraw.Draw(picture)
    r = 2 * line
    points = record["points"]
    for (x, y), label in zip(points, record.get("point_labels", [1] * len(points)), strict=True):
        x, y = x * scale, y * scale
        if label:
            pen.ellipse((x - r - 1, y - r - 1, x + r + 1, y + r + 1), fill=(0, 0, 0))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
            pen.ellipse((x - r + 2, y - r + 2, x + r - 2, y + r - 2), fill=colour)
        else:
            for ink, width in (((0, 0, 0), line + 4), ((255, 255, 255), line + 2), (colour, line)):
                pen.line((x - r, y - r, x + r, y + r), fill=ink, width=width)
                pen.line((x - r, y + r, x + r, y - r), fill=ink, width=width)


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


def _draw_labels(
    picture: Image.Image, layout: LabelLayout, names: list[str], scores: list[str], order: list[int]
) -> dict[int, bool]:
    """Draw a label for every region that `order` names; give those the legend must explain.

    Returns:
        by region: True where its number is in the picture, False where not even that found room.
    """
    width, height = picture.size
    base, small = _letters(picture.size)
    texts = {i: shorten(names[i], scores[i], small, 0.45 * width) for i in order}
    labels = {
        letters: {i: measure_label(text, letters) for i, text in texts.items()}
        for letters in (base, small)
    }
    share = {
        letters: sum(label.width * label.height for label in row.values()) / (width * height)
        for letters, row in labels.items()
    }
    first = 3 if share[small] > 0.4 else 1 if share[base] > 0.3 else 0
    placed: list[tuple[int, Label, Placement]] = []
    numbered: dict[int, bool] = {}
    for row, i in enumerate(order):
        number = measure_label(str(i + 1), small)
        ladder = [  # label, how far from its region it may stand, highest cost of its spot
            (labels[base][i], 0.0, 0.3),
            (labels[small][i], 0.0, 0.35),
            (labels[small][i], 4.0 * small, 0.45),
            (number, 0.0, 0.7),
            (number, 6.0 * small, 1.0),
            (measure_label(str(i + 1), 10), 20.0 * small, 4.0),
        ]
        for label, reach, limit in ladder[first:]:
            placement = layout.place(row, label.width, label.height, limit=limit, reach=reach)
            if placement is not None:
                placed.append((i, label, placement))
                break
        if placement is None or label.text == number.text:
            numbered[i] = placement is not None
    pen = ImageDraw.Draw(picture)
    # all leader lines first: none is to cross a label
    for i, _, placement in placed:
        if placement.leader is not None:
            pen.line(placement.leader, fill=(0, 0, 0), width=3)
            pen.line(placement.leader, fill=name_colour(names[i]), width=1)
    for i, label, placement in placed:
        draw_label(pen, label, round(placement.x), round(placement.y), name_colour(names[i]))
    return numbered


def shorten(name: str, score: str, letters: int, room: float) -> str:
    """Name and score, the name cut so that both fit into `room` pixels."""
    text = name + score
    while len(name) > 4 and _font_for(text, letters).getlength(text) > room:
        name = name[: max(4, min(len(name) - 1, int(len(name) * 0.9)))].rstrip()
        text = f"{name}…{score}"
    return text


def measure_label(text: str, letters: int) -> Label:
    """A line of text in letters of a size, in pixels."""
    font = _font_for(text, letters)
    _, top, right, bottom = font.getbbox(text)
    _, usual_top, _, usual_bottom = font.getbbox("Ay")
    top, bottom = int(min(top, usual_top)), int(np.ceil(max(bottom, usual_bottom)))
    x, y = max(2, letters // 4), max(1, letters // 7)
    return Label(text, font, int(np.ceil(right)) + 2 * x, bottom - top + 2 * y, offset=(x, y - top))


@lru_cache(maxsize=4096)
def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has every letter; else the first known system font that has.

    Where no font has them all, Pillow's own is used and missing letters show as boxes.
    """
    own = cast(ImageFont.FreeTypeFont, _default_font(size=size))
    letters = "".join(sorted({letter for letter in text if letter > "~"}))
    for font in chain([own], (_system_font(name, size) for name in _MORE_FONTS)):
        if font is not None:
            box = bytes(font.getmask(_NO_LETTER))
            if all(bytes(font.getmask(letter)) != box for letter in letters):
                return font
    return own


@lru_cache(maxsize=256)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # not on this system
        return None


def draw_label(pen: ImageDraw.ImageDraw, label: Label, x: int, y: int, ground: Colour) -> None:
    """Text on a rounded ground, black or white, whichever contrasts more (WCAG 2)."""
    corner = (x + label.width - 1, y + label.height - 1)
    pen.rounded_rectangle((x, y, *corner), max(1, label.height // 6), fill=ground)
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in ground]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # the two contrasts are equal where (L + 0.05)^2 = 1.05 * 0.05
    ink = (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
    pen.text((x + label.offset[0], y + label.offset[1]), label.text, fill=ink, font=label.font)


def _with_legend(
    picture: Image.Image, names: list[str], scores: list[str], numbered: dict[int, bool]
) -> Image.Image:
    """The picture with lines under it: per name its numbers and their scores."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in sorted(numbered):
        groups[names[i]].append(i)
    letters, margin = 13, 10
    width = max(picture.width, 320)
    cells: list[tuple[str, Colour | None]] = []  # a name on its colour, else numbers on white
    for name in sorted(groups, key=str.casefold):
        shown = [i for i in groups[name] if numbered[i]]
        cells.append((shorten(name, "", letters, 0.6 * width), name_colour(name)))
        cells.extend((f"{i + 1}:{scores[i]}" if scores[i] else f"{i + 1}", None) for i in shown)
        if rest := len(groups[name]) - len(shown):
            cells.append((f"{'and ' if shown else ''}{rest} without a number", None))
    x, y, row = margin, margin, round(1.7 * letters)
    placed: list[tuple[Label, int, int, Colour]] = []
    for text, colour in cells:
        label = measure_label(text, letters)
        x += margin if colour is not None and x > margin else 0
        if x + label.width > width - margin:
            x, y = margin, y + row
        placed.append((label, x, picture.height + y, colour or (255, 255, 255)))
        x += label.width + 4
    sheet = Image.new("RGB", (width, picture.height + y + row + margin // 2), "white")
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for label, left, top, ground in placed:
        draw_label(pen, label, left, top, ground)
    return sheet
