"""Pictures: labels apart and inside, every region outlined, colours that stay."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from anyregion.drawing import draw, draw_records
from anyregion.drawing import picture as drawing
from anyregion.drawing.layout import Anchor, Layout
from anyregion.drawing.style import font_for, ink_on, name_colour
from anyregion.masks import encode_mask
from anyregion.predictions import Predictions
from anyregion.regions import Regions
from anyregion.vocabulary import Vocabulary
from tests.helpers.shared import SHARED, needs_shared

NAMES = ["person", "car", "chair", "dog", "cat", "bicycle", "bus", "truck", "bottle", "cup", "book"]


def grey(height: int = 480, width: int = 640) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


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
        record(b.tolist(), NAMES[int(rng.integers(len(NAMES)))], float(rng.uniform()))
        for b in boxes
    ]


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float, float, float]]:
    """Text and rectangle of every label that is drawn, the legend's included."""
    drawn: list[tuple[str, float, float, float, float]] = []
    original = drawing._draw_label

    def spy(pen: Any, text: str, letters: int, left: float, top: float, colour: Any) -> None:
        width, height = drawing._label_size(text, letters)
        drawn.append((text, round(left), round(top), round(left) + width, round(top) + height))
        original(pen, text, letters, left, top, colour)

    monkeypatch.setattr(drawing, "_draw_label", spy)
    return drawn


def overlapping(labels: list[tuple[str, float, float, float, float]]) -> Iterator[tuple[str, str]]:
    for (s, a0, b0, a1, b1), (t, c0, d0, c1, d1) in itertools.combinations(labels, 2):
        if min(a1, c1) - max(a0, c0) > 1 and min(b1, d1) - max(b0, d0) > 1:
            yield s, t


@pytest.mark.parametrize("count", [1, 5, 15, 40, 100, 300])
def test_labels_neither_overlap_nor_leave_the_picture(
    count: int, labels: list[tuple[str, float, float, float, float]]
) -> None:
    out = draw_records(grey(), crowd(count, seed=count))
    assert len(labels) >= count
    assert not list(overlapping(labels))
    for _, x0, y0, x1, y1 in labels:
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= out.width
        assert y1 <= out.height


def test_a_few_regions_get_full_labels_and_no_legend(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
    records = [
        record([40, 60, 200, 200], "dog", 0.876),
        record([300, 60, 500, 300], "red car", 1.0),
    ]
    out = draw_records(grey(), records)
    assert out.size == (640, 480)
    assert sorted(text for text, *_ in labels) == ["dog 0.88", "red car 1.00"]


def test_scores_can_be_left_out_and_tiny_ones_are_not_rounded_to_zero(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
    draw_records(grey(), [record([40, 60, 200, 200], score=0.001)])
    draw_records(grey(), [record([40, 60, 200, 200], score=0.001)], show_scores=False)
    assert [text for text, *_ in labels] == ["dog <0.01", "dog"]


def test_labels_spare_small_regions(labels: list[tuple[str, float, float, float, float]]) -> None:
    small = [[x, 100.0, x + 24, 124.0] for x in (100.0, 200.0, 300.0, 400.0)]
    large = [90.0, 126.0, 440.0, 300.0]
    draw_records(grey(), [record(large, "table"), *(record(b, "cup") for b in small)])
    for text, x0, y0, x1, y1 in labels:
        for sx0, sy0, sx1, sy1 in small:
            shared = max(0, min(x1, sx1) - max(x0, sx0)) * max(0, min(y1, sy1) - max(y0, sy0))
            assert shared <= 0.35 * 24 * 24, text


def test_every_region_is_in_the_picture_or_the_legend(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
    records = [record([10, 10, 50, 40], f"kind {i % 3}") for i in range(600)]
    draw_records(grey(60, 80), records, show_scores=False)
    texts = Counter(text for text, *_ in labels)
    numbers = {text for text in texts if text.isdigit()}
    rest = sum(int(t.split()[-4]) for t in texts.elements() if t.endswith("without a number"))
    named = sum(n for text, n in texts.items() if text.startswith("kind")) - 3
    assert all(texts[number] == 2 for number in numbers)  # on the picture and in the legend
    assert rest > 0
    assert len(numbers) + rest + named == 600
    assert not list(overlapping(labels))


@pytest.mark.parametrize("count", [1, 15, 100])
def test_every_region_is_outlined_in_its_colour(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_draw_labels", lambda *a: {})
    for item in crowd(count, seed=7):
        out = np.asarray(draw_records(grey(), [item]))
        x0, y0, x1, y1 = (round(v) for v in item["box"])
        around = out[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3]
        same = (around == name_colour(item["label"])).all(axis=2)
        assert same.any(axis=1).sum() >= min(5, y1 - y0)
        assert same.any(axis=0).sum() >= min(5, x1 - x0)
        # nothing changes far from the region
        changed = (out != 128).any(axis=2)
        changed[max(0, y0 - 5) : y1 + 5, max(0, x0 - 5) : x1 + 5] = False
        assert not changed.any()


def test_a_region_of_one_pixel_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_draw_labels", lambda *a: {})
    out = np.asarray(draw_records(grey(), [record([300, 200, 301, 201])]))
    assert (out == name_colour("dog")).all(axis=2).sum() >= 12


def test_small_regions_are_drawn_over_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_draw_labels", lambda *a: {})
    mask = np.zeros((480, 640), bool)
    mask[50:450, 50:600] = True
    large = record([50, 50, 600, 450], "sofa", mask=encode_mask(mask))
    small = record([200, 200, 220, 220], "cat")
    for records in ([large, small], [small, large]):
        out = np.asarray(draw_records(grey(), records))
        assert (out[200, 205:215] == name_colour("cat")).all()


def test_masks_are_filled_lightly_and_contoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_draw_labels", lambda *a: {})
    y, x = np.mgrid[:480, :640]
    disc = (x - 320) ** 2 + (y - 240) ** 2 < 100**2
    out = np.asarray(
        draw_records(grey(), [record([220, 140, 420, 340], "cat", mask=encode_mask(disc))])
    ).astype(int)
    colour = np.array(name_colour("cat"))
    assert (out[240, 220:224] == colour).all(axis=1).any()
    inside = 128 + drawing._FILL * (colour - 128)
    assert np.abs(out[240, 320] - inside).max() <= 2
    assert (out[145, 225] == 128).all()  # the corner of the box lies outside the mask
    # an empty mask falls back on the box
    empty = record([220, 140, 420, 340], "cat", mask=encode_mask(np.zeros((480, 640), bool)))
    assert (np.asarray(draw_records(grey(), [empty]))[140, 300] == colour).all()


def test_a_mask_is_labelled_where_it_is_thickest(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
    mask = np.zeros((480, 640), bool)
    mask[100:110, 50:600] = True  # a thin arm, and a body at its right end
    mask[100:400, 400:600] = True
    draw_records(grey(), [record([50, 100, 600, 400], "crane", mask=encode_mask(mask))])
    ((_, x0, y0, x1, y1),) = labels
    assert 400 <= (x0 + x1) / 2 <= 600
    assert 110 <= (y0 + y1) / 2 <= 400


def test_points_are_marked_and_kinds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_draw_labels", lambda *a: {})
    box = [100, 100, 300, 300]
    plain = draw_records(grey(), [record(box)])
    for label in (1, 0):
        marked = draw_records(grey(), [record(box, points=[[200, 150]], point_labels=[label])])
        x0, y0, x1, y1 = ImageChops.difference(plain, marked).getbbox()
        assert 4 <= x1 - x0 <= 16
        assert abs((x0 + x1) / 2 - 200) <= 1.5
        assert abs((y0 + y1) / 2 - 150) <= 1.5
    both = [
        np.asarray(draw_records(grey(), [record(box, points=[[200, 150]], point_labels=[k])]))
        for k in (0, 1)
    ]
    assert (both[0] != both[1]).any()


def test_no_regions_leave_the_image_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    assert (np.asarray(draw_records(pixels, [])) == pixels).all()


def test_the_image_given_is_not_changed() -> None:
    pixels = grey()
    draw_records(pixels, crowd(5))
    assert (pixels == 128).all()


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
    box = [0, 0, shape[1], shape[0]]
    assert draw_records(np.zeros((*shape, 3), np.uint8), [record(box)]).size == size


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 5)])
def test_strange_shapes_are_drawn(
    shape: tuple[int, int], labels: list[tuple[str, float, float, float, float]]
) -> None:
    records = [record([0, 0, shape[1], shape[0]], "a"), record([0, 0, 1, 1], "b")]
    out = draw_records(np.zeros((*shape, 3), np.uint8), records)
    for _, x0, y0, x1, y1 in labels:
        assert 0 <= x0 < x1 <= out.width
        assert 0 <= y0 < y1 <= out.height


def test_max_side_is_kept() -> None:
    assert max(draw_records(grey(600, 1200), [record([0, 0, 9, 9])], max_side=300).size) == 300


def test_three_hundred_regions_take_less_than_two_seconds() -> None:
    records = crowd(300)
    start = time.process_time()
    draw_records(grey(), records)
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
    kept = json.loads(json.dumps(predictions.to_records()))
    assert draw(grey(), predictions).tobytes() == draw_records(grey(), kept).tobytes()


def test_a_colour_belongs_to_a_name_in_every_process() -> None:
    code = "from anyregion.drawing.style import name_colour as c; print(c('dog'), c('red car'))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == f"{name_colour('dog')} {name_colour('red car')}"
    assert name_colour("dog") == (150, 75, 255)
    assert name_colour("Traffic_light") == name_colour("traffic light")


def test_the_names_met_most_differ_in_colour() -> None:
    common = ["person", "car", "chair", "dog", "cat", "bicycle", "bus", "truck", "motorcycle"]
    colours = np.array([name_colour(n) for n in common]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert apart[~np.eye(len(common), dtype=bool)].min() >= 100


def test_ink_contrasts_with_every_colour() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        c = np.array(colour) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for name in map(str, range(200)):
        a, b = sorted((luminance(name_colour(name)), luminance(ink_on(name_colour(name)))))
        assert (b + 0.05) / (a + 0.05) >= 4.5


def test_names_that_are_too_long_are_cut(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
    draw_records(grey(), [record([40, 60, 600, 400], "very " * 100 + "long")])
    ((text, x0, _, x1, _),) = labels
    assert text.endswith("… 0.50")
    assert x1 - x0 < 0.6 * 640


@pytest.mark.parametrize(
    "name", ["自行车", "دراجة", "велосипед", "Straße", "🐕", "a\nb", "x" * 5000]
)
def test_any_name_is_drawn_somehow(name: str) -> None:
    out = draw_records(grey(), [record([40, 60, 600, 400], name)])
    assert out.size == (640, 480)


def test_a_font_without_the_letters_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    font_for.cache_clear()
    monkeypatch.setattr("anyregion.drawing.style._font", lambda name, size: asked.append(name))
    assert font_for("自行车", 14).getname()[0] == font_for("dog", 14).getname()[0]
    assert len(asked) > 5
    font_for.cache_clear()


def test_layout_refuses_a_spot_that_costs_too_much() -> None:
    layout = Layout(np.array([[10.0, 10, 20, 20]] * 2), 30, 30, {})
    # every spot that a label of this size could take hides the other region
    assert layout.put(0, 28, 28, limit=0.5) is None
    assert layout.put(0, 28, 28, limit=5.0) is not None
    assert layout.put(1, 28, 28, limit=5.0) is None  # taken


def test_layout_joins_a_distant_label_by_a_line() -> None:
    layout = Layout(np.array([[100.0, 100, 110, 110]]), 300, 300, {})
    place = layout.put(0, 40, 10, limit=1.0, reach=50)
    assert place is not None
    assert place.leader is not None
    x0, y0, x1, y1 = place.leader
    assert place.box[0] <= x0 <= place.box[2]
    assert place.box[1] <= y0 <= place.box[3]
    assert 100 <= x1 <= 110
    assert 100 <= y1 <= 110


def test_layout_prefers_the_anchor_of_a_shape() -> None:
    boxes = np.array([[0.0, 0, 200, 200]])
    place = Layout(boxes, 200, 200, {0: Anchor(150, 60, 100, 9000)}).put(0, 20, 10, limit=1)
    assert place is not None
    assert place.box == (140, 55, 160, 65)


@needs_shared
def test_real_photographs_with_many_objects(
    labels: list[tuple[str, float, float, float, float]],
) -> None:
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
        labels.clear()
        pixels = np.asarray(Image.open(folder / "images" / image["file_name"]).convert("RGB"))
        draw_records(pixels, rows[image["id"]])
        assert not list(overlapping(labels))
        # most regions can be read in place, without the legend
        full = sum(text.endswith("0.50") and ":" not in text for text, *_ in labels)
        assert full >= 0.8 * len(rows[image["id"]])
