"""Pictures of predictions: outlines, masks, points and labels that can be read.

The rules, for regions of any number on images of any size:

- An image whose short side is under 480 pixels is enlarged, one whose long side is over `max_side`
  is reduced; lines and letters are sized by the picture, not by the image.
- A region with a mask shows it as a translucent fill with a contour; any other shows its box. A
  region of less than five pixels is outlined as if it had five. Small regions are drawn last.
- A colour belongs to a name and never changes (`drawing_style.name_colour`).
- Labels never overlap. Small regions choose first; each takes the first that fits of: the full
  label beside or inside its region; the same in small letters; apart from it with a leader line; a
  number beside it; a number with a leader line. Numbers count the records from 1 and are spelt out
  in a legend under the picture. Where not even numbers fit, the legend says how many regions of
  each name have none.
- Where the labels together would cover more than 30 % of the picture, all are in small letters;
  where those too would cover more than 40 %, all are numbers.
- Names are cut at a width that the picture can hold. Letters that Pillow's own font lacks come from
  a system font, where there is one (`drawing_style.font_for`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anyregion.drawing.layout import Anchor, Layout, Place
from anyregion.drawing.style import Colour, font_for, ink_on, name_colour
from anyregion.images import Pixels
from anyregion.masks import RLE, decode_mask
from anyregion.predictions import Predictions

_SHORT_SIDE = 480
_LEAST_SHOWN = 5.0
_FILL = 0.32
_SHADOW = (0, 0, 0, 110)


def draw(
    pixels: Pixels, predictions: Predictions, *, max_side: int = 2048, show_scores: bool = True
) -> Image.Image:
    """Draw the predictions of one image on it; see the module for the rules.

    Args:
        pixels: the image, `(height, width, 3)` RGB uint8; it is not changed.
        predictions: what its regions were named.
        max_side: the longest side of the drawn image; a legend may add to its height.
        show_scores: write the score behind each name.
    """
    records = predictions.to_records()
    return draw_records(pixels, records, max_side=max_side, show_scores=show_scores)


def draw_records(
    pixels: Pixels,
    records: Sequence[dict[str, Any]],
    *,
    max_side: int = 2048,
    show_scores: bool = True,
) -> Image.Image:
    """As `draw`, from the records of `Predictions.to_records` (as kept in JSONL)."""
    height, width = pixels.shape[:2]
    scale = min(max(1.0, _SHORT_SIDE / min(height, width)), max_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if not records:
        return picture
    boxes = _shown_boxes(records, np.array(size) / (width, height), size)
    names = [" ".join(str(record["label"]).split()) for record in records]
    colours = [name_colour(name) for name in names]
    line = int(np.clip(round(float(np.sqrt(size[0] * size[1])) / 320), 2, 5))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    large_first = np.argsort(-areas, kind="stable")
    anchors: dict[int, Anchor] = {}
    for i in large_first:
        anchor = _draw_region(picture, records[i], boxes[i], colours[i], line, scale)
        if anchor is not None:
            anchors[int(i)] = anchor
    for i in large_first:
        _draw_points(picture, records[i], colours[i], line, scale)
    scores = [f" {_score(record['score'])}" if show_scores else "" for record in records]
    numbered = _draw_labels(picture, boxes, names, scores, colours, large_first[::-1], anchors)
    return _with_legend(picture, names, scores, numbered) if numbered else picture


def _shown_boxes(
    records: Sequence[dict[str, Any]], scale: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Boxes in pixels of the picture, inside it, and none too small to be seen."""
    boxes = np.array([r["box"] for r in records], dtype=np.float64) * np.tile(scale, 2)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, _LEAST_SHOWN / 2)
    shown: NDArray[np.float64] = np.concatenate([centre - half, centre + half], axis=1)
    return shown.clip(0, np.tile(size, 2))


def _draw_region(
    picture: Image.Image,
    record: dict[str, Any],
    box: NDArray[np.float64],
    colour: Colour,
    line: int,
    scale: float,
) -> Anchor | None:
    mask: RLE | None = record.get("mask")
    if mask is not None and (anchor := _draw_mask(picture, mask, colour, line, scale)):
        return anchor
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)
    thin = max(1, min(line, min(x1 - x0, y1 - y0) // 8))
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_SHADOW, width=1)
    if x1 - x0 > 2 * thin + 4 and y1 - y0 > 2 * thin + 4:
        inner = (x0 + thin, y0 + thin, x1 - thin, y1 - thin)
        pen.rectangle(inner, outline=_SHADOW, width=1)
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=thin)
    return None


def _draw_mask(
    picture: Image.Image, rle: RLE, colour: Colour, line: int, scale: float
) -> Anchor | None:
    """Fill and contour; None for a mask with nothing inside."""
    mask = decode_mask(rle)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    left, top = round(x0 * scale), round(y0 * scale)
    size = (max(1, round(x1 * scale) - left), max(1, round(y1 * scale) - top))
    crop = Image.fromarray(mask[y0:y1, x0:x1].astype(np.uint8) * 255)
    inside = np.asarray(crop.resize(size, Image.Resampling.BILINEAR)) > 127
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
    side = 32
    left = np.pad(np.asarray(crop.resize((side, side), Image.Resampling.BOX)) > 127, 1)
    core = left
    while core.any():
        left, core = core, core.copy()
        core[1:-1, 1:-1] &= left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
    cells = np.argwhere(left)
    if not len(cells):  # too thin to show at this size
        return 0.5, 0.5
    y, x = cells[np.abs(cells - cells.mean(axis=0)).sum(axis=1).argmin()]
    return (float(x) - 0.5) / side, (float(y) - 0.5) / side


def _draw_points(
    picture: Image.Image, record: dict[str, Any], colour: Colour, line: int, scale: float
) -> None:
    """Foreground points as discs, background points as crosses, both ringed in white."""
    pen = ImageDraw.Draw(picture)
    r = 2 * line
    points = record.get("points", [])
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


def _draw_labels(
    picture: Image.Image,
    boxes: NDArray[np.float64],
    names: list[str],
    scores: list[str],
    colours: list[Colour],
    order: NDArray[np.int64],
    anchors: dict[int, Anchor],
) -> dict[int, bool]:
    """Draw a label for every region that `order` names; give those the legend must explain.

    Returns:
        by region: True where its number is in the picture, False where not even that found room.
    """
    width, height = picture.size
    base = int(np.clip(round(float(np.sqrt(width * height)) / 40), 13, 28))
    small = max(10, round(0.8 * base))
    texts = [_cut(n, s, small, 0.45 * width) for n, s in zip(names, scores, strict=True)]
    share = {
        letters: sum(float(np.prod(_label_size(t, letters))) for t in texts) / (width * height)
        for letters in (base, small)
    }
    layout = Layout(boxes, width, height, anchors)
    chosen: list[tuple[int, str, int, Place]] = []
    numbered: dict[int, bool] = {}
    for i in (int(row) for row in order):
        full, number = texts[i], str(i + 1)
        ladder = [
            (full, base, 0.0, 0.3),
            (full, small, 0.0, 0.35),
            (full, small, 4.0 * small, 0.45),
            (number, small, 0.0, 0.7),
            (number, small, 6.0 * small, 1.0),
            (number, 10, 20.0 * small, 4.0),
        ]
        crowded = share[base] > 0.3
        for text, letters, reach, limit in ladder[3 if share[small] > 0.4 else int(crowded) :]:
            sides = _label_size(text, letters)
            place = layout.put(i, *sides, limit=limit, reach=reach)
            if place is not None:
                chosen.append((i, text, letters, place))
                break
        if place is None or text == number:
            numbered[i] = place is not None
    pen = ImageDraw.Draw(picture)
    for i, _, _, place in chosen:
        if place.leader is not None:
            pen.line(place.leader, fill=(0, 0, 0), width=3)
            pen.line(place.leader, fill=colours[i], width=1)
    for i, text, letters, place in chosen:
        _draw_label(pen, text, letters, place.box[0], place.box[1], colours[i])
    return numbered


def _cut(name: str, score: str, letters: int, room: float) -> str:
    """Name and score, the name cut so that both fit into `room` pixels."""
    text = name + score
    while len(name) > 4 and font_for(text, letters).getlength(text) > room:
        name = name[: max(4, min(len(name) - 1, int(len(name) * 0.9)))].rstrip()
        text = f"{name}…{score}"
    return text


def _score(score: float) -> str:
    return "<0.01" if 0 < score < 0.005 else f"{score:.2f}"


def _padding(letters: int) -> tuple[int, int]:
    return max(2, letters // 4), max(1, letters // 7)


def _label_size(text: str, letters: int) -> tuple[int, int]:
    top, bottom, length = _extent(text, letters)
    x, y = _padding(letters)
    return length + 2 * x, bottom - top + 2 * y


def _extent(text: str, letters: int) -> tuple[int, int, int]:
    """Top, bottom and width of a line of text; capitals and descenders always count."""
    font = font_for(text, letters)
    _, top, right, bottom = font.getbbox(text)
    _, usual_top, _, usual_bottom = font.getbbox("Ay")
    return int(min(top, usual_top)), int(np.ceil(max(bottom, usual_bottom))), int(np.ceil(right))


def _draw_label(
    pen: ImageDraw.ImageDraw, text: str, letters: int, left: float, top: float, colour: Colour
) -> None:
    width, height = _label_size(text, letters)
    x, y = round(left), round(top)
    pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), max(1, height // 6), fill=colour)
    pad_x, pad_y = _padding(letters)
    at = (x + pad_x, y + pad_y - _extent(text, letters)[0])
    pen.text(at, text, fill=ink_on(colour), font=font_for(text, letters))


def _with_legend(
    picture: Image.Image, names: list[str], scores: list[str], numbered: dict[int, bool]
) -> Image.Image:
    """The picture with lines under it: per name its numbers and their scores."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in sorted(numbered):
        groups[names[i]].append(i)
    letters, margin = 13, 10
    width = max(picture.width, 320)
    cells: list[tuple[str, Colour | None]] = []
    for name in sorted(groups, key=str.casefold):
        shown = [i for i in groups[name] if numbered[i]]
        cells.append((_cut(name, "", letters, 0.6 * width), name_colour(name)))
        cells.extend((f"{i + 1}:{scores[i]}" if scores[i] else f"{i + 1}", None) for i in shown)
        if rest := len(groups[name]) - len(shown):
            cells.append((f"{'and ' if shown else ''}{rest} without a number", None))
    x, y, row = margin, margin, round(1.7 * letters)
    spots: list[tuple[int, int]] = []
    for text, colour in cells:
        length = _label_size(text, letters)[0]
        x += margin if colour is not None and x > margin else 0
        if x + length > width - margin:
            x, y = margin, y + row
        spots.append((x, y))
        x += length + 4
    sheet = Image.new("RGB", (width, picture.height + y + row + margin // 2), "white")
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for (text, colour), (left, top) in zip(cells, spots, strict=True):
        ground: Colour = (255, 255, 255) if colour is None else colour
        _draw_label(pen, text, letters, left, picture.height + top, ground)
    return sheet
