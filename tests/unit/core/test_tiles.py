"""Large images in tiles: which regions have which tile, and that all comes back in its place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyregion.errors import InputError, InputWarning
from anyregion.images import read_image
from anyregion.masks import decode_mask, encode_mask, mask_box
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.tile_grids import TileOptions, covering_tiles, grid_sides, plan_tiles, spare_scale
from anyregion.tiles import (
    KEPT,
    TiledEncoder,
    TiledProposer,
    mask_from_tile,
    region_spans,
    regions_in_tile,
    tiled,
    untiled,
)
from tests.helpers.colours import ColourEncoder
from tests.helpers.halves import MaskedHalves

EXAMPLES = Path(__file__).parents[3] / "examples"
OPTIONS = TileOptions(limit=20, side=100, whole=150)


def random_boxes(count: int, width: int, height: int, longest: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    sides = draw.uniform(1, longest, (count, 2))
    low = draw.uniform(0, 1, (count, 2)) * ([width, height] - sides)
    return np.concatenate([low, low + sides], axis=1)


def sides_of(size: tuple[int, int], options: TileOptions) -> list[float]:
    return grid_sides(photograph(*size), options)


def planned(boxes: np.ndarray, size: tuple[int, int], options: TileOptions) -> tuple[Any, bool]:
    movable = np.ones(len(boxes), dtype=bool)
    return plan_tiles(boxes, size, sides_of(size, options), options, movable=movable)


def photograph(height: int, width: int) -> np.ndarray:
    """Every pixel another colour than those around it."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestPlan:
    def test_small_images_have_no_grids(self) -> None:
        assert sides_of((150, 150), OPTIONS) == []
        assert sides_of((10, 151), OPTIONS) == [100]
        assert sides_of((1000, 10), TileOptions(limit=0, side=100, whole=150)) == []
        assert len(sides_of((300, 2000), OPTIONS)) >= 3

    def test_enlarged_images_have_larger_tiles_or_none(self) -> None:
        sharp = read_image(EXAMPLES / "coffee.jpg")
        height, width = sharp.shape[:2]
        assert spare_scale(sharp, 8) == 1
        assert spare_scale(np.zeros((300, 400, 3), dtype=np.uint8), 8) == 1, "nothing is known"
        for factor in (2, 4):
            size = (width * factor, height * factor)
            image = np.asarray(Image.fromarray(sharp).resize(size, Image.Resampling.BICUBIC))
            assert spare_scale(image, 8) == factor
            assert grid_sides(image, OPTIONS)[0] == 100 * factor
            assert grid_sides(image, TileOptions(limit=9, side=100, whole=width)) == []

    @pytest.mark.parametrize("size", [(700, 1000), (1000, 60), (151, 151), (613, 997)])
    def test_a_tile_holds_its_regions_and_what_is_around_them(self, size: tuple[int, int]) -> None:
        height, width = size
        boxes = random_boxes(300, width, height, min(size) * 0.9)
        windows, limited = planned(boxes, size, TileOptions(limit=9999, side=100, whole=150))
        assert not limited
        for (x0, y0, x1, y1), window in zip(boxes, windows, strict=True):
            if window is None:
                continue
            left, top, right, bottom = window
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            for low, high, start, end, length in (
                (x0, x1, left, right, width),
                (y0, y1, top, bottom, height),
            ):
                around = (high - low) * (OPTIONS.context - 1) / 2
                assert start <= max(0, low - around) + 1.001
                assert end >= min(length, high + around) - 1.001

    def test_small_regions_have_small_tiles_and_large_ones_the_whole_image(self) -> None:
        boxes = np.array([[500, 500, 510, 510], [440, 440, 540, 540], [0, 0, 900, 900]], float)
        windows, _ = planned(boxes, (1000, 1000), OPTIONS)
        sides = [None if w is None else w[2] - w[0] for w in windows]
        assert sides[0] == 100
        assert sides[1] is not None
        assert 200 <= sides[1] <= 400
        assert sides[2] is None

    def test_the_tile_of_a_region_depends_on_the_region_alone(self) -> None:
        boxes = random_boxes(40, 1000, 700, 80)
        options = TileOptions(limit=9999, side=100, whole=150)
        together, _ = planned(boxes, (700, 1000), options)
        for i in range(len(boxes)):
            assert planned(boxes[i : i + 1], (700, 1000), options)[0] == [together[i]]

    def test_the_limit_holds_by_larger_tiles(self) -> None:
        boxes = random_boxes(200, 1000, 1000, 30)
        for limit in (1, 4, 20, 50):
            options = TileOptions(limit=limit, side=100, whole=150)
            windows, limited = planned(boxes, (1000, 1000), options)
            assert len(set(windows) - {None}) <= limit
            assert limited
            assert (None not in windows) == (limit > 4), "larger tiles before the whole image"
        assert not planned(boxes[:10], (1000, 1000), OPTIONS)[1]
        assert planned(boxes[:0], (1000, 1000), OPTIONS) == ([], False)

    def test_covering_tiles_leave_nothing_out_and_keep_the_limit(self) -> None:
        for limit in (3, 10, 100):
            windows = covering_tiles((700, 1000), sides_of((700, 1000), OPTIONS), limit)
            assert len(windows) <= limit
            seen = np.zeros((700, 1000), dtype=bool)
            for x0, y0, x1, y1 in windows:
                seen[y0:y1, x0:x1] = True
            assert seen.all() or not windows
        assert covering_tiles((100, 100), [], 10) == []

    def test_a_region_reaches_as_far_as_all_of_its_prompt(self) -> None:
        mask = np.zeros((50, 60), dtype=bool)
        mask[10:20, 30:45] = True
        regions = Regions.from_prompts(
            boxes=[[5, 6, 7, 8], [np.nan] * 4, [1, 2, 3, 4]],
            points=[None, [[3, 4], [9, 7]], [[40, 30]]],
            masks=[mask, None, None],
        )
        expected = [[5, 6, 45, 20], [3, 4, 10, 8], [1, 2, 41, 31]]
        assert region_spans(regions).tolist() == expected

    @pytest.mark.parametrize(
        "wrong",
        [{"limit": -1}, {"side": 0}, {"whole": 99}, {"context": 0.5}],
    )
    def test_numbers_out_of_range_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="tiles"):
            TileOptions(**{"limit": 4, "side": 100, "whole": 100, **wrong})


class TestEncoder:
    def test_small_images_are_answered_to_the_bit_as_without_tiles(self) -> None:
        images = [photograph(100, 150), photograph(120, 90)]
        regions = [
            Regions.from_boxes(random_boxes(5, 150, 100, 60)),
            Regions.from_boxes(random_boxes(3, 90, 120, 60)),
        ]
        plain, with_tiles = ColourEncoder(), TiledEncoder(ColourEncoder(), OPTIONS)
        expected = plain.embed_regions(plain.encode_images(images), regions, masks=True)
        answers = with_tiles.embed_regions(with_tiles.encode_images(images), regions, masks=True)
        for answer, reference in zip(answers, expected, strict=True):
            assert np.array_equal(answer.embeddings, reference.embeddings)
            assert np.array_equal(answer.boxes, reference.boxes)
            assert answer.masks == reference.masks

    @pytest.mark.parametrize("multimask", [False, True])
    def test_answers_come_back_in_their_places(self, multimask: bool) -> None:
        # whole pixels, so that the mean colour of a box is the same wherever it is read
        boxes = random_boxes(60, 900, 700, 300).round()
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        mask = np.zeros((700, 900), dtype=bool)
        mask[300:320, 410:415] = mask[310:312, 400:430] = True
        regions = Regions.from_prompts(
            boxes=[*boxes, [np.nan] * 4], masks=[*[None] * len(boxes), mask]
        )
        image = photograph(700, 900)
        plain = ColourEncoder()
        with_tiles = TiledEncoder(ColourEncoder(), TileOptions(limit=999, side=100, whole=150))
        (expected,) = plain.embed_regions([image], [regions], masks=True, multimask=multimask)
        (answer,) = with_tiles.embed_regions(
            with_tiles.encode_images([image]), [regions], masks=True, multimask=multimask
        )
        assert with_tiles.encoder.images_encoded > 10, "by tiles"  # type: ignore[attr-defined]
        assert np.array_equal(answer.rows, expected.rows)
        assert np.allclose(answer.embeddings, expected.embeddings, atol=1e-3)
        assert np.allclose(answer.boxes, expected.boxes)
        assert answer.masks == expected.masks
        if multimask:
            assert np.array_equal(answer.mask_scores, expected.mask_scores)

    def test_points_are_seen_where_the_whole_image_puts_them(self) -> None:
        image = photograph(700, 900)
        regions = Regions.from_prompts(points=[[[500, 300]], [[10, 20], [600, 650]]])
        with_tiles = TiledEncoder(ColourEncoder(), OPTIONS)
        (encoded,) = with_tiles.encode_images([image])
        (answer,) = with_tiles.embed_regions([encoded], [regions])
        assert np.allclose(answer.boxes, regions.extents((700, 900)))
        assert len(encoded.tiles) == 1, "points far apart belong to the whole image"

    def test_mask_logits_belong_to_the_whole_image(self) -> None:
        logits = np.zeros((8, 8), dtype=np.float32)
        regions = Regions.from_prompts(boxes=[[5, 5, 20, 20]], mask_logits=[logits])
        with_tiles = TiledEncoder(ColourEncoder(), OPTIONS)
        (encoded,) = with_tiles.encode_images([photograph(700, 900)])
        with_tiles.embed_regions([encoded], [regions])
        assert not encoded.tiles
        with_tiles.embed_regions([encoded], [Regions.from_boxes([[5, 5, 20, 20]])])
        assert len(encoded.tiles) == 1

    def test_tiles_are_kept_for_the_next_question_but_few(self) -> None:
        with_tiles = TiledEncoder(ColourEncoder(), OPTIONS)
        (encoded,) = with_tiles.encode_images([photograph(700, 900)])
        for _ in range(2):
            with_tiles.embed_regions([encoded], [Regions.from_boxes([[5, 5, 20, 20]])])
            assert with_tiles.encoder.images_encoded == 2  # type: ignore[attr-defined]
        with_tiles.embed_regions([encoded], [Regions.from_boxes(random_boxes(30, 900, 700, 20))])
        assert len(encoded.tiles) <= KEPT

    def test_the_limit_is_said_once(self) -> None:
        with_tiles = TiledEncoder(ColourEncoder(), TileOptions(limit=2, side=100, whole=150))
        images = with_tiles.encode_images([photograph(700, 900)] * 2)
        regions = [Regions.from_boxes(random_boxes(50, 900, 700, 20))] * 2
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            with_tiles.embed_regions(images, regions)
        assert [w.category for w in caught] == [InputWarning]
        assert "need more than 2 tiles" in str(caught[0].message)

    def test_fingerprints_tell_tiles_apart(self) -> None:
        prints = {
            ColourEncoder().fingerprint,
            *(
                TiledEncoder(ColourEncoder(), TileOptions(limit=limit, side=side, whole=200))
                .fingerprint
                for limit, side in ((4, 100), (5, 100), (4, 200))
            ),
        }  # fmt: skip
        assert len(prints) == 4

    def test_a_recogniser_names_through_tiles(self) -> None:
        image = np.full((700, 900, 3), 255, dtype=np.uint8)
        image[300:310, 400:410] = (255, 0, 0)
        encoder = ColourEncoder()
        recognizer = Recognizer(tiled(encoder, OPTIONS), cache=None)
        assert untiled(recognizer.encoder) is encoder
        recognizer.set_image(image)
        answer = recognizer.predict(
            Regions.from_boxes([[400, 300, 410, 310], [0, 0, 900, 700]]), ["red", "white", "blue"]
        )
        assert answer.labels == ["red", "white"]
        assert encoder.images_encoded == 2
        assert tiled(encoder, TileOptions(limit=0, side=100, whole=150)) is encoder


class TestMasksAndRegions:
    def test_a_mask_goes_into_a_tile_and_back(self) -> None:
        mask = np.zeros((300, 400), dtype=bool)
        mask[120:140, 210:260] = np.random.default_rng(0).random((20, 50)) > 0.5
        regions = Regions.from_prompts(masks=[mask], ids=["thing"])
        window = (180, 100, 280, 200)
        inside = regions_in_tile(regions, window)
        assert inside.ids == ("thing",)
        inner = inside.mask(0)
        assert inner is not None
        assert np.array_equal(inner, mask[100:200, 180:280])
        back = mask_from_tile(encode_mask(inner), window, (300, 400))
        assert np.array_equal(decode_mask(back), mask)


class TestProposer:
    def test_small_images_are_as_without_tiles(self) -> None:
        image = photograph(100, 150)
        plain, proposer = MaskedHalves(), TiledProposer(MaskedHalves(), OPTIONS, nms_iou=0.5)
        expected, regions = plain.propose(image), proposer.propose(image)
        assert np.array_equal(regions.boxes, expected.boxes)
        assert regions.masks == expected.masks
        assert proposer.fingerprint != plain.fingerprint

    def test_what_a_border_of_a_tile_cuts_is_dropped(self) -> None:
        # each half of an image ends at three of its borders, so that no tile holds one whole
        image = photograph(700, 900)
        regions = TiledProposer(MaskedHalves(), OPTIONS, nms_iou=0.5).propose(image)
        assert np.array_equal(regions.boxes, MaskedHalves().propose(image).boxes)

    def test_what_only_tiles_show_is_found_once_and_in_its_place(self) -> None:
        image = np.zeros((700, 900, 3), dtype=np.uint8)
        image[330:345, 420:450] = (255, 0, 0)
        options = TileOptions(limit=500, side=100, whole=150)
        regions = TiledProposer(NearRed(), options, nms_iou=0.5).propose(image)
        assert [420, 330, 450, 345] in regions.boxes.tolist()
        assert regions.boxes.tolist().count([420, 330, 450, 345]) == 1
        place = regions.boxes.tolist().index([420, 330, 450, 345])
        mask = regions.mask(place)
        assert mask is not None
        assert np.array_equal(mask[330:345, 420:450], np.ones((15, 30), dtype=bool))
        assert mask.sum() == 15 * 30
        assert len(NearRed().propose(image)) == 0


class NearRed:
    """Finds all red together, but not in an image over 250 pixels."""

    name = "near red"
    fingerprint = "near-red-1"

    def propose(self, image: np.ndarray) -> Regions:
        red = image[:, :, 0] > 100
        if max(red.shape) > 250 or not red.any():
            return Regions.from_boxes(np.zeros((0, 4)), scores=[])
        box = mask_box(encode_mask(red))
        return Regions.from_prompts(boxes=[box], masks=[red], scores=[0.8])
