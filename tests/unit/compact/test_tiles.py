"""Tiles with the built-in model: small photographs as before, things of large ones named again."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from anyregion import Recognizer, Regions, Vocabulary, load_recognizer, read_image
from anyregion.compact.model import LONG_SIDE, CompactEncoder, CompactModel, tile_options
from anyregion.compact.proposers import CompactProposer
from anyregion.errors import InputError
from anyregion.factory import load_proposer
from anyregion.masks import decode_mask
from anyregion.proposals import box_iou
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Boxes
from anyregion.tiles import TiledEncoder, TiledProposer, untiled
from tests.helpers.shared import SHARED, needs_shared

COCO = SHARED / "data" / "coco"


@cache
def compact() -> CompactEncoder:
    return CompactEncoder(CompactModel(threads=1))


@cache
def photographs(count: int) -> tuple[list[tuple[np.ndarray, Boxes, list[str]]], Vocabulary]:
    """The first photographs of `val` with their boxes and names, and all names."""
    content = json.loads((COCO / "annotations" / "instances_val.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    chosen = []
    for image in content["images"][:count]:
        rows = [
            a
            for a in content["annotations"]
            if a["image_id"] == image["id"] and not a.get("iscrowd")
        ]
        boxes = np.array([a["bbox"] for a in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pixels = read_image(COCO / "images" / image["file_name"])
        chosen.append((pixels, boxes, [names[a["category_id"]] for a in rows]))
    return chosen, Vocabulary.from_names(list(names.values()))


def mosaic(count: int, side: int) -> tuple[np.ndarray, Boxes, list[str]]:
    """Photographs in rows of `side`, each in a square of 512 pixels, as one image."""
    canvas = np.full((count // side * 512, side * 512, 3), 127, dtype=np.uint8)
    boxes, labels = [], []
    for i, (pixels, of_photo, names) in enumerate(photographs(count)[0]):
        y, x = i // side * 512, i % side * 512
        canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        boxes.append(of_photo + np.tile([x, y], 2))
        labels += names
    return canvas, np.concatenate(boxes), labels


def share_right(recognizer: Recognizer, image: np.ndarray, boxes: Boxes, names: list[str]) -> float:
    recognizer.set_image(image)
    answer = recognizer.predict(Regions.from_boxes(boxes), photographs(9)[1])
    return float(np.mean([a == b for a, b in zip(answer.labels, names, strict=True)]))


def answers(
    encoder: CompactEncoder | TiledEncoder, image: np.ndarray, regions: Regions
) -> RegionEmbeddings:
    encoded = encoder.encode_images([image])
    return encoder.embed_regions(encoded, [regions], masks=True)[0]  # type: ignore[arg-type]


def test_what_is_loaded_has_tiles_by_default_where_the_model_is_compact() -> None:
    encoder = load_recognizer().encoder
    assert isinstance(encoder, TiledEncoder)
    assert encoder.options == tile_options()
    proposer = load_proposer(recognizer=load_recognizer())
    assert isinstance(proposer, TiledProposer)
    assert isinstance(load_proposer(recognizer=load_recognizer(tiles=0)), CompactProposer)
    assert isinstance(load_recognizer(tiles=0).encoder, CompactEncoder)
    assert not isinstance(load_recognizer(method="dense").encoder, TiledEncoder)
    assert isinstance(load_recognizer(method="dense", tiles=9).encoder, TiledEncoder)
    with pytest.raises(InputError, match="no use for tiles"):
        load_recognizer(method="crop", tiles=9)
    with pytest.raises(InputError, match="must be at least 0"):
        load_recognizer(tiles=-1)


def test_an_image_is_encoded_once_with_its_proposals() -> None:
    recognizer = load_recognizer()
    proposer = load_proposer(recognizer=recognizer)
    assert isinstance(proposer, TiledProposer)
    assert proposer.encoder is recognizer.encoder
    assert proposer.proposer.encoder is untiled(recognizer.encoder)  # type: ignore[attr-defined]


@needs_shared
def test_photographs_that_are_not_shrunk_are_answered_to_the_bit_as_without_tiles() -> None:
    tiled = TiledEncoder(compact(), tile_options())
    proposers = (
        CompactProposer(compact().model),
        TiledProposer(CompactProposer(compact().model), tile_options(), nms_iou=0.5),
    )
    for pixels, boxes, _ in photographs(4)[0]:
        enlarged = np.zeros((LONG_SIDE, LONG_SIDE, 3), dtype=np.uint8)
        enlarged[: pixels.shape[0], : pixels.shape[1]] = pixels
        middles = (boxes[:2, :2] + boxes[:2, 2:]) / 2
        regions = Regions.from_prompts(
            boxes=[*boxes, *([[np.nan] * 4] * len(middles))],
            points=[*([None] * len(boxes)), *middles[:, None]],
        )
        for image in (pixels, enlarged):
            one, other = (answers(e, image, regions) for e in (compact(), tiled))
            assert np.array_equal(one.embeddings, other.embeddings)
            assert np.array_equal(one.boxes, other.boxes)
            assert one.masks == other.masks
            first, second = (p.propose(image) for p in proposers)
            assert np.array_equal(first.boxes, second.boxes)
            assert np.array_equal(first.scores, second.scores)


@needs_shared
def test_things_of_a_large_image_are_named_as_in_single_photographs() -> None:
    plain = Recognizer(compact(), cache=None)
    tiled = Recognizer(TiledEncoder(compact(), tile_options()), cache=None)
    image, boxes, names = mosaic(9, 3)
    single, counts = [], []
    for pixels, of_photo, of_names in photographs(9)[0]:
        single.append(share_right(plain, pixels, of_photo, of_names))
        counts.append(len(of_names))
    alone = float(np.average(single, weights=counts))
    whole, in_tiles = (share_right(r, image, boxes, names) for r in (plain, tiled))
    assert in_tiles > alone - 0.1, f"{alone} alone, {in_tiles} in tiles, {whole} in the whole"
    assert in_tiles > whole + 0.1, f"{alone} alone, {in_tiles} in tiles, {whole} in the whole"


@needs_shared
def test_masks_boxes_of_points_and_proposals_of_a_large_image_come_from_tiles() -> None:
    image, boxes, _ = mosaic(9, 3)
    tiled = TiledEncoder(compact(), tile_options())
    pixels, alone = photographs(9)[0][4][:2]  # the one in the middle
    place = np.tile([512, 512], 2)
    result = answers(tiled, image, Regions.from_boxes(alone + place))
    assert result.masks is not None
    assert result.mask_scores is not None
    for mask, (x0, y0, x1, y1) in zip(result.masks, alone + place, strict=True):
        inside = decode_mask(mask)
        assert inside.shape == image.shape[:2]
        rows, columns = np.nonzero(inside)
        assert x0 - 1 <= columns.min() <= columns.max() < x1 + 1
        assert y0 - 1 <= rows.min() <= rows.max() < y1 + 1
    found = TiledProposer(CompactProposer(compact().model), tile_options(), nms_iou=0.5)
    met, met_before = (
        (box_iou(boxes, regions.boxes).max(axis=1) >= 0.5).mean()
        for regions in (found.propose(image), CompactProposer(compact().model).propose(image))
    )
    assert met > met_before + 0.05
    assert pixels.shape[0] <= 512


@needs_shared
def test_an_answer_in_a_tile_depends_on_its_region_alone() -> None:
    image, boxes, _ = mosaic(9, 3)
    tiled = TiledEncoder(compact(), tile_options())
    together = answers(tiled, image, Regions.from_boxes(boxes))
    order = np.random.default_rng(0).permutation(len(boxes))[:5]
    some = answers(tiled, image, Regions.from_boxes(boxes[order]))
    assert np.allclose(some.embeddings, together.embeddings[order], atol=1e-5)
