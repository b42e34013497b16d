"""Proposers that need no labels, on pictures of plain shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyregion import factory
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.masks import decode_mask, mask_box
from anyregion.proposals import box_iou
from anyregion.region_trees.proposer import (
    ColourFeatures,
    Joining,
    TreeOptions,
    TreeProposer,
)

pytest.importorskip("skimage")


def shapes(height: int = 90, width: int = 120) -> Pixels:
    """A red and a blue rectangle on green, each with some noise."""
    pixels = np.zeros((height, width, 3), dtype=np.int64)
    pixels[:] = [30, 160, 40]
    pixels[20:60, 10:50] = [200, 30, 30]
    pixels[30:80, 70:105] = [30, 40, 210]
    noise = np.random.default_rng(0).integers(-8, 9, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


THINGS = np.array([[10.0, 20, 50, 60], [70, 30, 105, 80]])


@pytest.mark.parametrize("join", ["tree", "kmeans"])
def test_shapes_are_among_the_first_regions(join: Joining) -> None:
    options = TreeOptions(join=join, superpixels=60, clusters=(2, 3, 4), limit=12)
    regions = TreeProposer(ColourFeatures(), options).propose(shapes())
    assert (box_iou(regions.boxes, THINGS).max(axis=0) > 0.8).all()
    assert regions.scores is not None
    assert (np.diff(regions.scores) <= 0).all()
    for box, code in zip(regions.boxes, regions.masks, strict=True):
        assert code is not None
        assert mask_box(code).tolist() == box.tolist()
    best = int(box_iou(regions.boxes, THINGS)[:, 0].argmax())
    mask = decode_mask(regions.masks[best])  # type: ignore[arg-type]
    assert mask[25:55, 15:45].all()
    assert not mask[40:70, 75:100].any()


def test_superpixels_alone_are_none_of_the_shapes() -> None:
    options = TreeOptions(join="none", superpixels=60, limit=100)
    regions = TreeProposer(ColourFeatures(), options).propose(shapes())
    assert len(regions) > 30
    assert box_iou(regions.boxes, THINGS).max() < 0.5


def test_large_images_are_segmented_smaller() -> None:
    large = np.repeat(np.repeat(shapes(), 3, axis=0), 3, axis=1)
    options = TreeOptions(superpixels=60, limit=20, side=120)
    regions = TreeProposer(ColourFeatures(), options).propose(large)
    assert (box_iou(regions.boxes, 3 * THINGS).max(axis=0) > 0.8).all()
    assert all(
        mask_box(code).tolist() == box.tolist()  # type: ignore[arg-type]
        for box, code in zip(regions.boxes, regions.masks, strict=True)
    )


def test_limits() -> None:
    every = TreeProposer(ColourFeatures(), TreeOptions(superpixels=60, limit=1000)).propose(
        shapes()
    )
    few = TreeOptions(superpixels=60, limit=5)
    assert len(TreeProposer(ColourFeatures(), few).propose(shapes())) == 5
    high = TreeOptions(superpixels=60, min_score=0.5)
    scores = TreeProposer(ColourFeatures(), high).propose(shapes()).scores
    assert scores is not None
    assert 0 < len(scores) < len(every)
    assert scores.min() >= 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 2)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 120, dtype=np.uint8)
    for join in ("tree", "kmeans", "none"):
        regions = TreeProposer(ColourFeatures(), TreeOptions(join=join)).propose(pixels)
        assert regions.scores is None or np.isfinite(regions.scores).all()


def test_compact_encodes_an_image_once() -> None:
    recognizer = factory.load_recognizer("compact", tiles=0, cache=None)
    proposer = factory.load_proposer("r2o:compact", recognizer=recognizer)
    (encoded,) = recognizer.encoder.encode_images([shapes()])
    shared = proposer.propose_encoded(encoded)  # type: ignore[attr-defined]
    alone = factory.load_proposer("r2o:compact").propose(shapes())
    assert shared.boxes.tolist() == alone.boxes.tolist()
    assert shared.masks == alone.masks
    assert (box_iou(shared.boxes, THINGS).max(axis=0) > 0.7).all()
    assert proposer.encoder is recognizer.encoder  # type: ignore[attr-defined]


def test_fingerprints_tell_settings_apart() -> None:
    prints = {
        factory.load_proposer(name, options=options).fingerprint
        for name in ("r2o:colour", "r2o:compact")
        for options in (None, TreeOptions(superpixels=100))
    }
    assert len(prints) == 4


def test_a_backbone_is_a_source(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    import torch

    from anyregion.backbones.loading import build_encoder, save_encoder

    torch.manual_seed(0)
    encoder = build_encoder("torchvision/resnet18", size=64)
    save_encoder(encoder, tmp_path / "run" / "model")
    proposer = factory.load_proposer(f"r2o:{tmp_path / 'run'}", options=TreeOptions(limit=7))
    assert len(proposer.propose(shapes())) == 7
    other = factory.load_proposer("r2o:torchvision/resnet18@random")
    assert other.fingerprint != proposer.fingerprint
    again = factory.load_proposer("r2o:torchvision/resnet18@random")
    assert other.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r2o:torchvision/resnet18", "say which weights"),
        ("r2o:nowhere", "say which weights"),
        ("r2o:torchvision/resnet1@random", "no such model"),
    ],
)
def test_sources_that_cannot_be(name: str, message: str) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match=message):
        factory.load_proposer(name)
    with pytest.raises(InputError, match="uses no localizer"):
        factory.load_proposer(name, localizer="sam")
