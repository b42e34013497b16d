"""Boxes of several kinds in one ranking."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anyregion import factory
from anyregion.compact.model import CompactModel
from anyregion.compact.proposal_head import ProposalOptions
from anyregion.compact.proposers import CompactProposer
from anyregion.compact.ranking import (
    HEAD_FEATURES,
    TREE_FEATURES,
    Logistic,
    Ranking,
    head_features,
    logits,
    read_rankings,
)
from anyregion.errors import CheckpointError, InputError
from anyregion.images import read_image
from anyregion.masks import mask_box
from anyregion.proposals import box_iou
from anyregion.region_trees.proposer import TreeOptions
from tests.helpers.shared import SHARED, needs_shared

BOXES = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 40, 30]])


def test_overlapping_boxes_come_later_with_less() -> None:
    plain = Ranking(Logistic((1.0,), 0.0), None, decay=0.5, calibration=Logistic((1.0,), 0.0))
    rows, scores = plain.rank(BOXES, np.array([0.9, 0.8, 0.5]), limit=3)
    assert rows.tolist() == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.5, 0.8 * np.exp(-(0.9**2) / 0.5)])
    calibrated = Ranking(plain.head, None, decay=0.5, calibration=Logistic((2.0,), -1.0))
    _, scores = calibrated.rank(BOXES, np.array([0.9, 0.8, 0.5]), limit=1)
    assert scores == pytest.approx([1 / (1 + np.exp(-(2 * np.log(9) - 1)))])


def test_features_of_the_heads_boxes() -> None:
    scores, agreement = np.array([0.5, 0.2, 0.3]), np.array([1.0, 0, 0])
    alone = head_features(BOXES, scores, agreement, (40, 40))
    assert alone.shape == (3, 4)
    assert alone[:, 0] == pytest.approx(logits(scores))
    assert alone[0, 1] == pytest.approx(np.log(2))
    assert alone[:, 2] == pytest.approx(np.log([100 / 1600, 90 / 1600, 200 / 1600]))
    assert alone[:, 3].tolist() == [2, 2, 1], "sides at the image's border"
    overlaps = np.array([[0.5, 0.1], [0.2, 0.8], [0.0, 0.0]])
    both = head_features(
        BOXES, scores, agreement, (40, 40), overlaps=overlaps, heights=np.array([1.0, 0.5])
    )
    assert both[:, 4:].tolist() == [[0.5, 0.5], [0.8, 0.4], [0, 0]]


def test_shipped_rankings() -> None:
    rankings = CompactModel(threads=1).rankings
    alone, joint = rankings["alone"], rankings["joint"]
    assert len(alone.head.weights) == 4
    assert alone.tree is None
    assert joint.tree is not None
    assert len(joint.head.weights) == len(HEAD_FEATURES)
    assert len(joint.tree.weights) == len(TREE_FEATURES)
    # the surer a box is, the higher its score
    assert alone.calibration.weights[0] > 0 < joint.calibration.weights[0]
    assert alone.head.weights[0] > 0 < joint.head.weights[0]
    again = read_rankings(json.dumps({k: r.to_dict() for k, r in rankings.items()}).encode())
    assert again == rankings


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"alone": {}}', b'{"alone": 3}', b"[1]"])
def test_damaged_rankings(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="no rankings"):
        read_rankings(content)


def test_options_belong_to_their_proposer() -> None:
    for name, options in (
        ("compact+r2o:compact", TreeOptions()),
        ("r2o:compact", ProposalOptions()),
        ("compact", TreeOptions()),
    ):
        with pytest.raises(InputError, match=r"takes (Proposal|Tree)Options"):
            factory.load_proposer(name, options=options)


@needs_shared
def test_both_kinds_are_among_the_regions_of_a_photograph() -> None:
    pytest.importorskip("skimage")
    image = read_image(next(iter(sorted((SHARED / "data" / "coco" / "images").glob("*.jpg")))))
    options = ProposalOptions(limit=100, min_score=0.0)
    recognizer = factory.load_recognizer("compact", tiles=0, cache=None)
    proposer = factory.load_proposer("compact+r2o:compact", recognizer=recognizer, options=options)
    regions = proposer.propose(image)
    of_tree = [row for row, mask in enumerate(regions.masks) if mask is not None]
    assert 0 < len(of_tree) < len(regions) == 100
    for row in of_tree:
        code = regions.masks[row]
        assert code is not None
        assert mask_box(code).tolist() == regions.boxes[row].tolist()
    assert regions.scores is not None
    assert (np.diff(regions.scores) <= 0).all()
    (encoded,) = recognizer.encoder.encode_images([image])
    shared = proposer.propose_encoded(encoded)  # type: ignore[attr-defined]
    assert shared.boxes.tolist() == regions.boxes.tolist()
    # beside the proposal head's own first ones
    first = CompactProposer(CompactModel(threads=1)).propose(image).boxes[:3]
    assert (box_iou(first, regions.boxes).max(axis=1) > 0.9).all()
