"""Pictures, by their pixels: labels apart and inside, regions outlined, colours that stay."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFont

from anyregion import drawing as drawing_room
from anyregion.drawing import text as drawn_text
from anyregion.drawing.crops import crop_sheet
from anyregion.drawing.layout import Anchor, LabelLayout
from anyregion.drawing.options import PictureOptions
from anyregion.drawing.palette import GREY as NONE_COLOUR
from anyregion.drawing.palette import PALETTE, Colours, name_colour, pale
from anyregion.errors import InputError, InputWarning
from anyregion.masks import encode_mask
from anyregion.predictions import Predictions
from anyregion.regions import Regions
from anyregion.vocabulary import Vocabulary
from tests.helpers.read_picture import BLACK, WHITE, Box, contrast, find_labels, find_text
from tests.helpers.shared import SHARED, needs_shared

NAMES = ["person", "car", "chair", "dog", "cat", "bicycle", "bus", "truck", "bottle", "cup", "book"]
GREY = 128
NO_SCORES = PictureOptions(width=640, doubt=0.0, scores=False)
SIZES = (14, 11, 10)  # of letters in pictures of 640 x 480


def draw(
    pixels: NDArray[np.uint8], predictions: Any, options: PictureOptions | None = None
) -> Image.Image:
    """A picture of 640 pixels' width, if the image is no wider, in which nothing is pale."""
    width = 640 if pixels.shape[:2] == (480, 640) else None
    return drawing_room.draw(pixels, predictions, options or PictureOptions(width=width, doubt=0.0))


def grey(height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def record(box: list[float], label: str = "dog", score: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"id": 0, "box": box, "label": label, "score": score, **more}


def crowd(
    count: int, *, height: int = 480, width: int = 640, seed: int = 0
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    size = np.array([width, height])
    centres = rng.uniform(0, 1, (count, 2)) * size
    sides = np.exp(rng.uniform(np.log(4), np.log(120), (count, 2)))
    low, high = np.clip(centres - sides / 2, 0, size - 4), centres + sides / 2
    boxes = np.concatenate([low, np.clip(np.maximum(high, low + 2), 0, size)], axis=1)
    return [
        record(b.tolist(), NAMES[int(rng.integers(len(NAMES)))], float(rng.uniform(0.01, 1)))
        for b in boxes
    ]


def label_text(item: dict[str, Any]) -> str:
    return f"{item['label']} {item['score']:.2f}"


def find_name(
    picture: Image.Image, text: str, name: str, *, sizes: Sequence[int] = SIZES
) -> list[Box]:
    """Where a label's text stands on the colour of its name."""
    return find_text(picture, text, name_colour(name), sizes=sizes)


def find_names(
    picture: Image.Image | NDArray[Any],
    texts: list[tuple[str, str]],
    *,
    sizes: Sequence[int] = SIZES,
) -> list[tuple[str, Box]]:
    """The same of many texts, each with its name."""
    return find_labels(picture, [(text, name_colour(name)) for text, name in texts], sizes=sizes)


def legend_texts(picture: Image.Image, texts: list[str]) -> list[str]:
    """The texts that stand in black on white, sorted."""
    labels = find_labels(picture, [(text, WHITE) for text in texts], sizes=[13])
    return sorted(text for text, _ in labels)


def in_legend(picture: Image.Image, text: str) -> bool:
    """Whether a text stands in black on white."""
    return bool(find_text(picture, text, WHITE, sizes=[13]))


def pixels_of(picture: Image.Image, box: Box, *, margin: int = 5) -> NDArray[np.bool_]:
    """The pixels of a label, its whole ground among them, of a text at `box`."""
    inside = np.zeros((picture.height, picture.width), bool)
    x0, y0, x1, y1 = box
    inside[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin] = True
    return inside


def overlapping(labels: list[tuple[str, Box]]) -> list[tuple[str, str]]:
    return [
        (s, t)
        for (s, (a0, b0, a1, b1)), (t, (c0, d0, c1, d1)) in itertools.combinations(labels, 2)
        if min(a1, c1) > max(a0, c0) and min(b1, d1) > max(b0, d0)
    ]


@pytest.mark.parametrize("count", [1, 5, 15, 40, 100, 300])
def test_every_label_stands_whole_in_the_picture_and_apart(count: int) -> None:
    records = crowd(count, seed=count)
    out = draw(grey(), records)
    picture, legend = out.crop((0, 0, 640, 480)), out.crop((0, 480, out.width, out.height))
    full = find_names(picture, [(label_text(r), r["label"]) for r in records])
    numbers = find_names(picture, [(str(i), r["label"]) for i, r in enumerate(records, start=1)])
    assert not overlapping(full + numbers)
    # whatever has no whole label is counted in the legend
    hidden = Counter(r["label"] for r in records)
    hidden -= Counter(text.split()[0] for text, _ in full)
    hidden -= Counter(records[int(text) - 1]["label"] for text, _ in numbers)
    for name, rest in hidden.items():
        texts = (f"{rest} without a number", f"and {rest} without a number")
        assert any(in_legend(legend, text) for text in texts), (name, rest)
    listed = [f"{text}: {records[int(text) - 1]['score']:.2f}" for text, _ in numbers]
    assert legend_texts(legend, listed) == sorted(listed)
    if count <= 15:
        assert len(full) == count


def test_a_few_regions_get_full_labels_and_no_legend() -> None:
    records = [
        record([40, 60, 200, 200], "dog", 0.876),
        record([300, 60, 500, 300], "red car", 1.0),
    ]
    out = draw(grey(), records)
    assert out.size == (640, 480)
    assert len(find_name(out, "dog 0.88", "dog")) == 1
    assert len(find_name(out, "red car 1.00", "red car")) == 1


def test_scores_can_be_left_out_and_tiny_ones_are_not_rounded_to_zero() -> None:
    records = [record([40, 60, 200, 200], score=0.001)]
    scored, plain = draw(grey(), records), draw(grey(), records, NO_SCORES)
    assert len(find_name(scored, "dog <0.01", "dog")) == 1
    assert len(find_name(plain, "dog", "dog")) == 1
    assert not find_name(plain, "dog <0.01", "dog")


def test_labels_spare_small_regions() -> None:
    small = [[x, 100.0, x + 24, 124.0] for x in (100.0, 200.0, 300.0, 400.0)]
    large = [90.0, 126.0, 440.0, 300.0]
    out = draw(grey(), [record(large, "table"), *(record(b, "cup") for b in small)])
    labels = find_names(out, [("table 0.50", "table"), ("cup 0.50", "cup")])
    assert len(labels) == 5
    for text, (x0, y0, x1, y1) in labels:
        for sx0, sy0, sx1, sy1 in small:
            shared = max(0, min(x1, sx1) - max(x0, sx0)) * max(0, min(y1, sy1) - max(y0, sy0))
            assert shared <= 0.35 * 24 * 24, text


def test_every_region_is_in_the_picture_or_the_legend() -> None:
    kinds = [f"kind {i}" for i in range(3)]
    records = [record([10, 10, 50, 40], kinds[i % 3]) for i in range(600)]
    out = draw(grey(60, 80), records, NO_SCORES)
    picture, legend = out.crop((0, 0, 640, 480)), out.crop((0, 480, 640, out.height))
    full = find_names(picture, [(name, name) for name in kinds])
    numbers = find_names(picture, [(str(i + 1), kinds[i % 3]) for i in range(600)])
    assert numbers
    assert not overlapping(full + numbers)
    for k, name in enumerate(kinds):
        in_place = sum(text == name for text, _ in full)
        numbered = [int(text) for text, _ in numbers if (int(text) - 1) % 3 == k]
        rest = 200 - in_place - len(numbered)
        assert rest > 0
        assert in_legend(legend, f"and {rest} without a number")
    listed = [text for text, _ in numbers]
    assert legend_texts(legend, listed) == sorted(listed)
    # there is room for some 250 labels: those of the best scores have them
    records = [{**r, "score": i / 600} for i, r in enumerate(records)]
    picture = draw(grey(60, 80), records, NO_SCORES).crop((0, 0, 640, 480))
    numbers = find_names(picture, [(str(i + 1), kinds[i % 3]) for i in range(600)])
    assert numbers
    assert min(int(text) for text, _ in numbers) > 300


@pytest.mark.parametrize("count", [1, 15, 100])
def test_the_edges_of_a_box_have_its_colour_and_nothing_else_changes(count: int) -> None:
    for item in crowd(count, seed=7):
        picture = draw(grey(), [item])
        out, colour = np.asarray(picture), name_colour(item["label"])
        (label,) = find_name(picture, label_text(item), item["label"], sizes=[14])
        elsewhere = ~pixels_of(picture, label)
        low, high = np.array(item["box"][:2]), np.array(item["box"][2:])
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, 2.5)
        x0, y0 = (round(v) for v in (middle - half).clip(0, (640, 480)).tolist())
        x1, y1 = (round(v) - 1 for v in (middle + half).clip(0, (640, 480)).tolist())
        same = (out == colour).all(axis=2)
        for edge in (
            (y0, slice(x0, x1 + 1)),
            (y1, slice(x0, x1 + 1)),
            (slice(y0, y1 + 1), x0),
            (slice(y0, y1 + 1), x1),
        ):
            assert same[edge][elsewhere[edge]].all()
        changed = (out != GREY).any(axis=2) & elsewhere
        changed[max(0, y0 - 1) : y1 + 2, max(0, x0 - 1) : x1 + 2] = False
        assert not changed.any(), "outside the outline and its shadow"
        inner = (slice(y0 + 6, y1 - 5), slice(x0 + 6, x1 - 5))
        assert (out[inner][elsewhere[inner]] == GREY).all(), "within the box"


def test_a_region_of_one_pixel_can_be_seen() -> None:
    out = np.asarray(draw(grey(), [record([300, 200, 301, 201])]))
    assert (out[198:203, 298:303] == name_colour("dog")).all(axis=2).sum() >= 12


def test_small_regions_are_drawn_over_large_ones() -> None:
    mask = np.zeros((480, 640), bool)
    mask[50:450, 50:600] = True
    large = record([50, 50, 600, 450], "sofa", mask=encode_mask(mask))
    small = record([200, 200, 220, 220], "cat")
    for records in ([large, small], [small, large]):
        out = np.asarray(draw(grey(), records))
        assert (out[200, 205:215] == name_colour("cat")).all()


def test_masks_are_filled_lightly_and_contoured() -> None:
    y, x = np.mgrid[:480, :640]
    distance = np.hypot(x - 320, y - 240)
    disc = distance < 100
    picture = draw(grey(), [record([220, 140, 420, 340], "cat", mask=encode_mask(disc))])
    out, colour = np.asarray(picture).astype(int), np.array(name_colour("cat"))
    (label,) = find_name(picture, "cat 0.50", "cat")
    elsewhere = ~pixels_of(picture, label)
    # the contour has a soft edge, and a shadow beside it
    assert (out[(distance > 103) & elsewhere] == GREY).all(), "a mask tints inside only"
    contour = (np.abs(distance - 98.8) < 0.4) & elsewhere
    assert np.abs(out[contour] - colour).mean() <= 5
    assert np.abs(out[contour] - colour).max() < 100
    tint = out[(distance < 95) & elsewhere]
    assert np.ptp(tint, axis=0).max() == 0, "one tint"
    shares = (tint[0] - GREY) / (colour - GREY)
    assert np.abs(shares - shares.mean()).max() < 0.03
    assert 0.2 < shares.mean() < 0.5, "the image shows through"
    # of a mask that covers the picture more of the image is to be seen
    everything = record([0, 0, 640, 480], "cat", mask=encode_mask(np.ones((480, 640), bool)))
    tint = np.asarray(draw(grey(), [everything])).astype(int)[400, 40]
    assert 0.1 < float(((tint - GREY) / (colour - GREY)).mean()) < 0.2


def test_an_empty_mask_falls_back_on_the_box() -> None:
    empty = record([220, 140, 420, 340], "cat", mask=encode_mask(np.zeros((480, 640), bool)))
    plain = record([220, 140, 420, 340], "cat")
    assert draw(grey(), [empty]).tobytes() == draw(grey(), [plain]).tobytes()


def test_a_mask_is_labelled_where_it_is_thickest() -> None:
    mask = np.zeros((480, 640), bool)
    mask[100:110, 50:600] = True  # a thin arm, and a body at its right end
    mask[100:400, 400:600] = True
    out = draw(grey(), [record([50, 100, 600, 400], "crane", mask=encode_mask(mask))])
    ((x0, y0, x1, y1),) = find_name(out, "crane 0.50", "crane")
    assert 400 <= (x0 + x1) / 2 <= 600
    assert 110 <= (y0 + y1) / 2 <= 400


def test_points_are_marked_and_kinds_differ() -> None:
    box = [100, 100, 300, 300]
    plain = draw(grey(), [record(box)])
    colour = name_colour("dog")
    for label in (1, 0):
        marked = draw(grey(), [record(box, points=[[200, 150]], point_labels=[label])])
        x0, y0, x1, y1 = ImageChops.difference(plain, marked).getbbox()
        assert 4 <= x1 - x0 <= 16
        assert abs((x0 + x1) / 2 - 200) <= 1.5
        assert abs((y0 + y1) / 2 - 150) <= 1.5
        assert marked.getpixel((200, 150)) == colour
        # a disc for foreground; between the arms of a cross the image shows
        assert marked.getpixel((200, 145)) == (BLACK if label else (GREY,) * 3)


def test_labels_that_stand_apart_are_joined_to_their_regions_by_a_line() -> None:
    box = (300, 220, 340, 260)
    records = [record(list(box), score=i / 100 + 0.1) for i in range(40)]
    out = np.asarray(draw(grey(), records))[:480]
    texts = [(label_text(r), "dog") for r in records]
    labels = find_names(out, texts + [(str(i + 1), "dog") for i in range(40)])
    apart = 0
    for _, label in labels:
        low, high = np.array(label[:2]), np.array(label[2:])
        start = np.clip((np.array(box[:2]) + box[2:]) / 2, low, high)
        end = np.clip(start, box[:2], box[2:])
        if np.abs(end - start).max() > 12:
            apart += 1
            x, y = ((start + end) / 2).round().astype(int)
            # the label's rim is not part of the box that its text was found in
            assert (out[y - 2 : y + 3, x - 2 : x + 3] != GREY).any()
    assert apart >= 5


def test_no_regions_leave_the_image_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    assert (np.asarray(draw(pixels, [])) == pixels).all()


def test_the_image_is_not_changed() -> None:
    pixels = grey()
    draw(pixels, crowd(5))
    assert (pixels == GREY).all()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((48, 64), (640, 480)),
        ((480, 640), (640, 480)),
        ((600, 900), (900, 600)),
        ((3000, 4000), (2048, 1536)),
        ((1, 1), (480, 480)),
    ],
)
def test_small_images_grow_and_large_ones_shrink(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    out = draw(np.zeros((*shape, 3), np.uint8), [record([0, 0, shape[1], shape[0]])])
    assert out.size == size
    # the outline is that of the whole picture
    assert out.getpixel((0, size[1] - 1)) == out.getpixel((size[0] - 1, 0)) == name_colour("dog")


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 5)])
def test_strange_shapes_are_drawn(shape: tuple[int, int]) -> None:
    records = [record([0, 0, shape[1], shape[0]], "a"), record([0, 0, 1, 1], "b")]
    out = draw(np.zeros((*shape, 3), np.uint8), records)
    sizes = range(10, 30)
    for i, name in enumerate("ab", start=1):
        in_place = find_name(out, f"{name} 0.50", name, sizes=sizes)
        spelt_out = [in_legend(out, text) for text in (f"{i}: 0.50", "1 without a number")]
        assert in_place or (find_name(out, name, name, sizes=[13]) and any(spelt_out))


def test_max_side_is_kept() -> None:
    out = draw(grey(600, 1200), [record([0, 0, 9, 9])], PictureOptions(max_side=300))
    assert max(out.size) == 300


def test_three_hundred_regions_take_less_than_two_seconds() -> None:
    records = crowd(300)
    start = time.process_time()
    draw(grey(), records)
    assert time.process_time() - start < 2


def test_predictions_and_their_records_make_the_same_picture() -> None:
    regions = Regions.from_boxes([[20, 40, 200, 220], [300, 100, 380, 200]])
    y, x = np.mgrid[:480, :640]
    masks = tuple(encode_mask((x - c) ** 2 + (y - 140) ** 2 < 40**2) for c in (110, 340))
    predictions = Predictions(
        vocabulary=Vocabulary(("dog", "cat")),
        regions=regions,
        size=(480, 640),
        rows=np.arange(2),
        indices=np.array([[0, 1], [1, 0]]),
        scores=np.array([[0.9, 0.1], [0.8, 0.2]], np.float32),
        boxes=regions.boxes,
        embeddings=np.ones((2, 4), np.float32),
        masks=masks,
    )
    records = json.loads(json.dumps(predictions.to_records()))
    assert draw(grey(), predictions).tobytes() == draw(grey(), records).tobytes()


def test_a_colour_belongs_to_a_name_in_every_process() -> None:
    code = "from anyregion.drawing.palette import name_colour as c; print(c('dog'), c('red car'))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == f"{name_colour('dog')} {name_colour('red car')}"
    assert name_colour("dog") == (165, 45, 135)
    assert name_colour("Traffic_light") == name_colour("traffic light")


def test_the_names_met_most_differ_in_colour() -> None:
    common = ["person", "car", "chair", "dog", "cat", "bicycle", "bus", "truck", "motorcycle"]
    colours = np.array([name_colour(n) for n in common]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert apart[~np.eye(len(common), dtype=bool)].min() >= 90


def test_no_more_names_than_colours_never_share_one() -> None:
    names = [f"kind {i}" for i in range(len(PALETTE))]
    assert len({Colours(names)[name] for name in names}) == len(PALETTE)
    # the first name has its own colour, and what comes later changes none of those before
    assert Colours(names)[names[0]] == name_colour(names[0])
    assert [Colours(names[:7])[n] for n in names[:7]] == [Colours(names)[n] for n in names[:7]]
    # of larger vocabularies each name has its own, whatever the others are
    assert Colours([*names, "dog"])["dog"] == name_colour("dog")
    assert Colours(names)["Kind_3"] == Colours(names)["kind 3"]


def _seen(matrix: list[list[float]]) -> NDArray[np.float64]:
    """The palette in OKLab, as it is seen with a matrix on linear RGB."""
    c = np.array(PALETTE) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = (linear @ np.array(matrix).T).clip(0) @ [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
    return np.cbrt(lms) @ [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]


@pytest.mark.parametrize(
    ("least", "matrix"),
    [
        (0.11, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        # protanopia, deuteranopia: Machado et al. (2009), severity 1
        (
            0.045,
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ],
        ),
        (
            0.045,
            [
                [0.367322, 0.860646, -0.227968],
                [0.280085, 0.672501, 0.047413],
                [-0.01182, 0.04294, 0.968881],
            ],
        ),
    ],
)
def test_colours_are_apart_also_for_those_who_see_fewer(
    least: float, matrix: list[list[float]]
) -> None:
    lab = _seen(matrix)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert apart[~np.eye(len(lab), dtype=bool)].min() >= least


def test_doubtful_answers_are_pale_and_dashed() -> None:
    box = [100, 100, 500, 400]
    sure, unsure, worst = (
        drawing_room.draw(grey(), [record(box, score=score)]) for score in (0.5, 0.25, 0.0)
    )
    colour = name_colour("dog")
    edges = [np.asarray(p)[150:380, 100].astype(int) for p in (sure, unsure, worst)]
    assert (edges[0] == colour).all()
    for edge, tint in zip(edges[1:], (pale(colour, 0.5), pale(colour, 1.0)), strict=True):
        drawn = (edge == tint).all(axis=1)
        assert 0.3 < drawn.mean() < 0.8, "dashes and gaps"
    # the worst is the palest, and still coloured
    spreads = [np.ptp(tint) for tint in (colour, pale(colour, 0.5), pale(colour, 1.0))]
    assert spreads[0] > spreads[1] > spreads[2] > 30
    assert find_text(unsure, "dog 0.25", pale(colour, 0.5), sizes=SIZES)


def test_none_of_these_is_grey() -> None:
    out = draw(grey(), [record([100, 100, 500, 400], refused=True)])
    assert find_text(out, "none of these", NONE_COLOUR, sizes=SIZES)
    assert not (np.asarray(out) == name_colour("dog")).all(axis=2).any()


def test_options_choose_shapes_width_and_the_least_score() -> None:
    disc = np.hypot(*(np.mgrid[:480, :640] - np.array([240, 320])[:, None, None])) < 100
    item = record([220, 140, 420, 340], "cat", mask=encode_mask(disc))
    edges = {}
    for shapes in ("boxes", "masks", "both"):
        out = np.asarray(draw(grey(), [item], PictureOptions(draw=shapes, doubt=0)))
        colour = name_colour("cat")
        edges[shapes] = (out[330:340, 220] == colour).all(), (out[240, 300] != GREY).any()
    assert edges == {"boxes": (True, False), "masks": (False, True), "both": (True, True)}
    assert draw(grey(), [item], PictureOptions(width=1000)).size == (1000, 750)
    out = draw(grey(), [item], PictureOptions(min_score=0.6))
    assert (np.asarray(out) == GREY).all()


def test_crowded_pictures_are_drawn_larger_with_letters_of_the_same_size() -> None:
    records = crowd(100, seed=3)
    out = drawing_room.draw(grey(), records, PictureOptions(doubt=0))
    assert 640 < out.width <= 1280
    # letters have the size that they have in a picture of 640 x 480, and more labels have room
    texts = [(label_text(r), r["label"]) for r in records]
    roomy, narrow = (find_names(p, texts, sizes=[14]) for p in (out, draw(grey(), records)))
    assert len(roomy) > len(narrow)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"width": 9000}, "9000"),
        ({"width": 3}, "not 3"),
        ({"font": "no such font.ttf"}, "no such font.ttf"),
        ({"draw": "circles"}, "'circles'"),
        ({"doubt": 2.0}, "2.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        PictureOptions(**options)


def test_ink_contrasts_with_every_colour() -> None:
    names = {name_colour(name): name for name in map(str, range(1000, 1200))}
    assert len(names) == 20
    for ground, name in names.items():
        # find_text looks for the ink that contrasts more
        assert find_name(draw(grey(), [record([40, 60, 200, 200], name)]), f"{name} 0.50", name)
        assert max(contrast(BLACK, ground), contrast(WHITE, ground)) >= 4.5


def test_names_that_are_too_long_are_cut() -> None:
    name = "very " * 100 + "long"
    out = draw(grey(), [record([40, 60, 600, 400], name)])
    cuts = [(f"{name[:n].rstrip()}… 0.50", name) for n in range(4, 100)]
    ((_, (x0, _, x1, _)),) = find_names(out, cuts)
    assert 0.3 * 640 < x1 - x0 < 0.6 * 640


@pytest.mark.parametrize("name", ["دراجة", "велосипед", "Straße", "a\nb", "dog 🐕", "x" * 5000])
def test_any_name_is_drawn_somehow(name: str) -> None:
    out = draw(grey(), [record([40, 60, 600, 400], name)])
    if drawn_text.written(name) is None:
        assert name == "دراجة", "no font of this system has Arabic"
        return
    assert out.size == (640, 480)
    ground = (np.asarray(out)[:58] == name_colour(name)).all(axis=2)
    assert ground.sum() >= 300
    rows, columns = np.flatnonzero(ground.any(axis=1)), np.flatnonzero(ground.any(axis=0))
    label = ground[rows[0] + 2 : rows[-1] - 1, columns[0] + 2 : columns[-1] - 1]
    assert (~label).sum() >= 40, "ink"


@pytest.fixture
def own_font_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """A system without any font but Pillow's own; the fonts that were looked for."""
    tried: set[str] = set()
    own = ImageFont.truetype

    def missing(font: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(font, str):  # Pillow's own
            return own(font, *args, **options)
        tried.add(font)
        raise OSError

    caches = (drawn_text._font_with, drawn_text._face, drawn_text._has, drawn_text.measure_label)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(ImageFont, "truetype", missing)
    yield tried
    for cache in caches:
        cache.cache_clear()


def test_a_name_that_no_font_has_is_a_number_and_the_legend_says_so(
    own_font_alone: set[str],
) -> None:
    items = [record([40, 60, 300, 200], "cup"), record([40, 260, 600, 400], "自行车", 0.25)]
    with pytest.warns(InputWarning, match="no font here has"):
        out = draw(grey(), items)
    assert len(own_font_alone) > 5
    assert find_name(out, "2", "自行车")
    assert in_legend(out, "2: 0.25")
    assert find_text(out, drawn_text.NO_FONT, NONE_COLOUR, sizes=[13])


def test_symbols_that_no_font_has_are_left_out_where_words_remain(own_font_alone: set[str]) -> None:
    assert drawn_text.written("dog 🐕 ☃") == "dog"
    assert drawn_text.written("cat\u200d\n  house") == "cat\u200d house"
    with pytest.warns(InputWarning):
        assert drawn_text.written("dog 狗") is None
    with pytest.warns(InputWarning):
        assert drawn_text.written("🐕") is None


def test_what_follows_a_name_may_be_of_any_letters() -> None:
    """The name of a file, say: half a character ended the whole sheet."""
    crop, dots = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20))
    for further in (" \udcff.jpg", " a\nb.jpg", " \u65e5.jpg", ""):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            sheet = crop_sheet([crop, dots], [[("1", further)], [("", further or "2")]])
        assert sheet.width > 40


def test_a_chosen_font_comes_first() -> None:
    font = Path(ImageFont.truetype("DejaVuSerif.ttf", 12).path) if _has_serif() else None
    if font is None:
        pytest.skip("this system has no DejaVu Serif")
    items = [record([40, 60, 600, 400], "dog")]
    usual, chosen = (
        draw(grey(), items, PictureOptions(width=640, doubt=0, font=path)) for path in (None, font)
    )
    assert find_name(usual, "dog 0.50", "dog")
    assert not find_name(chosen, "dog 0.50", "dog")
    assert usual.tobytes() != chosen.tobytes()


def _has_serif() -> bool:
    try:
        ImageFont.truetype("DejaVuSerif.ttf", 12)
    except OSError:
        return False
    return True


def test_layout_refuses_a_spot_that_costs_too_much() -> None:
    layout = LabelLayout(np.array([[10.0, 10, 20, 20]] * 2), (30, 30), {})
    # every spot that a label of this size could take hides the other region
    assert layout.place(0, 28, 28, limit=0.5) is None
    assert layout.place(0, 28, 28, limit=5.0) is not None
    assert layout.place(1, 28, 28, limit=5.0) is None  # taken


def test_layout_joins_a_distant_label_by_a_line() -> None:
    layout = LabelLayout(np.array([[100.0, 100, 110, 110]]), (300, 300), {})
    place = layout.place(0, 40, 10, limit=1.0, reach=50)
    assert place is not None
    assert place.leader is not None
    x0, y0, x1, y1 = place.leader
    assert place.x <= x0 <= place.x + 40
    assert place.y <= y0 <= place.y + 10
    assert 100 <= x1 <= 110
    assert 100 <= y1 <= 110


def test_layout_prefers_the_anchor_of_a_shape() -> None:
    boxes = np.array([[0.0, 0, 200, 200]])
    layout = LabelLayout(boxes, (200, 200), {0: Anchor(150, 60, 100, 9000)})
    place = layout.place(0, 20, 10, limit=1)
    assert place is not None
    assert (place.x, place.y) == (140, 55)


@needs_shared
def test_real_photographs_with_many_objects() -> None:
    folder = SHARED / "data" / "coco"
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    rows: dict[int, list[dict[str, Any]]] = {}
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        rows.setdefault(a["image_id"], []).append(
            record([x, y, x + w, y + h], names[a["category_id"]])
        )
    largest = sorted(content["images"], key=lambda i: -len(rows.get(i["id"], [])))[:5]
    for image in largest:
        records = rows[image["id"]]
        pixels = np.asarray(Image.open(folder / "images" / image["file_name"]).convert("RGB"))
        out = draw(pixels, records)
        full = find_names(out, [(label_text(r), r["label"]) for r in records], sizes=range(10, 20))
        assert not overlapping(full)
        # most regions can be read in place, without the legend
        assert len(full) >= 0.8 * len(records)
