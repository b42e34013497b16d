"""RegionSpot in tiles: a region of a large image is answered as in its tile alone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from anyregion import Regions
from anyregion.masks import mask_area, mask_box
from anyregion.tile_grids import TileOptions, grid_sides, plan_tiles
from anyregion.tiles import TiledEncoder, cut_tile, regions_in_tile
from tests.helpers.toy_regionspot import toy_encoder

OPTIONS = TileOptions(limit=20, side=64, whole=64)
SMALL_BOXES = [[300, 200, 310, 215], [20, 30, 26, 36], [5, 5, 390, 290], [22, 28, 30, 40]]


@pytest.mark.parametrize("multimask", [False, True])
def test_a_region_is_answered_as_in_its_tile_alone(multimask: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    regions = Regions.from_boxes(SMALL_BOXES)
    encoder = toy_encoder()
    tiled = TiledEncoder(encoder, OPTIONS)
    (answer,) = tiled.embed_regions(
        tiled.encode_images([image]), [regions], masks=True, multimask=multimask
    )
    per_region = 3 if multimask else 1
    assert answer.rows is not None
    assert answer.rows.tolist() == np.repeat(range(4), per_region).tolist()
    assert np.allclose(answer.boxes, np.repeat(SMALL_BOXES, per_region, axis=0))
    assert answer.mask_logits is None, "of a tile they would be no prompt for the image"
    sides = grid_sides(image, OPTIONS)
    movable = np.ones(4, dtype=bool)
    windows, _ = plan_tiles(regions.boxes, (300, 400), sides, OPTIONS, movable=movable)
    assert windows[2] is None
    assert windows[1] == windows[3] != windows[0]
    assert answer.masks is not None
    assert answer.mask_scores is not None
    for rows in ([0], [1, 3], [2]):
        window = windows[rows[0]] or (0, 0, 400, 300)
        (alone,) = encoder.embed_regions(
            encoder.encode_images([cut_tile(image, window)]),
            [regions_in_tile(regions[rows], window)],
            masks=True,
            multimask=multimask,
        )
        place = np.flatnonzero(np.isin(answer.rows, rows))
        assert np.allclose(answer.embeddings[place], alone.embeddings, atol=1e-5)
        assert np.allclose(answer.mask_scores[place], alone.mask_scores, atol=1e-6)
        # the toy's masks are all that it is shown
        for i in place.tolist():
            assert mask_box(answer.masks[i]).tolist() == list(window)
            assert mask_area(answer.masks[i]) == (window[2] - window[0]) * (window[3] - window[1])
            assert answer.masks[i]["size"] == [300, 400]


def test_small_images_keep_all_that_the_method_gives() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    regions = Regions.from_boxes([[3, 4, 20, 30], [1, 1, 9, 8]])
    encoder = toy_encoder()
    tiled = TiledEncoder(encoder, OPTIONS)
    one, other = (
        e.embed_regions(e.encode_images([image]), [regions], masks=True, multimask=True)[0]
        for e in (encoder, tiled)
    )
    assert np.array_equal(one.embeddings, other.embeddings)
    assert np.array_equal(one.mask_logits, other.mask_logits)
    assert one.masks == other.masks
