"""Proposers on `compact`'s image encoder: its proposal head, merge trees, and both together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.compact.assets import IMAGE_ENCODER, PROPOSAL_HEAD, RANKINGS, asset_fingerprint
from anyregion.compact.image_encoder import FeaturePyramid, MapName
from anyregion.compact.model import CompactEncoder, CompactModel
from anyregion.compact.proposal_head import POOL, Candidates, ProposalOptions
from anyregion.compact.ranking import Ranking, head_features, tree_features
from anyregion.errors import CheckpointError, InputError, require
from anyregion.images import Pixels
from anyregion.proposals import box_iou
from anyregion.region_trees.proposer import (
    DenseFeatures,
    JoinedRegions,
    TreeOptions,
    join_superpixels,
    tree_fingerprint,
)
from anyregion.regions import Boxes, Regions

# of the four maps this one's merge trees find most: average recall of 100 on 60 photographs was
# 0.124, at stride 32 0.081
FEATURES: MapName = "stride16"
# so many nodes of a tree are ranked beside the head's boxes
NODES = 300


class CompactProposer:
    """`compact`'s proposal head as an `EncodedProposer`: boxes of objects of any kind.

    Args:
        model: may be the one of the recogniser that names the regions.
        encoder: that recogniser's encoder, so that an image is encoded once for both; None for
            another model's.
        options: which boxes are proposals.

    Raises:
        CheckpointError: one of the model's files is missing or altered.
    """

    name = "compact"

    def __init__(
        self,
        model: CompactModel,
        *,
        encoder: CompactEncoder | None = None,
        options: ProposalOptions | None = None,
    ) -> None:
        self.model, self.encoder = model, encoder
        self.options = options or ProposalOptions()
        # loaded now: a file that is missing is an error here, not at the first image
        self._head, self._ranking = model.proposal_head, model.rankings["alone"]

    @property
    def fingerprint(self) -> str:
        """Of the image encoder, the proposal head, its ranking and the options."""
        return asset_fingerprint(
            (IMAGE_ENCODER, PROPOSAL_HEAD, RANKINGS), self.model.long_side, self.options
        )

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        return self.propose_encoded(self.model.encode(image))

    def propose_encoded(self, encoded: FeaturePyramid) -> Regions:
        """See `EncodedProposer`."""
        options, encoded = self.options, self.model.built_in_maps(encoded)
        candidates = self._head.candidates(encoded, pool=max(POOL, options.limit))
        probabilities = candidate_probabilities(candidates, encoded.size, self._ranking)
        rows, scores = ranked(candidates.boxes, probabilities, self._ranking, options)
        return Regions.from_boxes(candidates.boxes[rows], scores=scores)


class CompactTreeProposer:
    """Merge trees of superpixels on `compact`'s maps, as an `EncodedProposer`.

    Args:
        model, encoder: as for `CompactProposer`.
        options: how superpixels become regions.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """

    name = "r2o:compact"

    def __init__(
        self,
        model: CompactModel,
        *,
        encoder: CompactEncoder | None = None,
        options: TreeOptions | None = None,
    ) -> None:
        require("regions", "skimage", "scipy")
        self.model, self.encoder = model, encoder
        self.options = options or TreeOptions()

    @property
    def fingerprint(self) -> str:
        """Of the image encoder and the options."""
        return tree_fingerprint(
            f"{self.model.encoder_digest} {self.model.long_side} {FEATURES}", self.options
        )

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        return self.propose_encoded(self.model.encode(image))

    def propose_encoded(self, encoded: FeaturePyramid) -> Regions:
        """See `EncodedProposer`."""
        return joined_regions(encoded, self.options).best(self.options)


class JointProposer:
    """The proposal head's boxes and a merge tree's nodes in one ranking, as an `EncodedProposer`.

    Regions of the tree have masks, those of the head are boxes.

    Args:
        model, encoder, options: as for `CompactProposer`.
        features: what superpixels are joined by; None for `compact`'s own.

    Raises:
        MissingExtraError: scikit-image is not installed.
        CheckpointError: one of the model's files is missing or altered.
    """

    def __init__(
        self,
        model: CompactModel,
        *,
        encoder: CompactEncoder | None = None,
        options: ProposalOptions | None = None,
        features: DenseFeatures | None = None,
    ) -> None:
        require("regions", "skimage", "scipy")
        self.model, self.encoder, self.features = model, encoder, features
        self.options = options or ProposalOptions()
        self.name = f"compact+r2o:{features.name if features else 'compact'}"
        self._head, self._ranking = model.proposal_head, model.rankings["joint"]

    @property
    def fingerprint(self) -> str:
        """Of the image encoder, the proposal head, the ranking, the features and the options."""
        content = self.features.fingerprint if self.features else FEATURES
        files = (IMAGE_ENCODER, PROPOSAL_HEAD, RANKINGS)
        return asset_fingerprint(
            files, self.model.long_side, content, TreeOptions(limit=NODES), self.options
        )

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        return self.propose_encoded(self.model.encode(image))

    def propose_encoded(self, encoded: FeaturePyramid) -> Regions:
        """See `EncodedProposer`."""
        encoded = self.model.built_in_maps(encoded)
        tree = TreeOptions(limit=max(NODES, self.options.limit))
        candidates = self._head.candidates(encoded, pool=max(POOL, self.options.limit))
        regions = joined_regions(encoded, tree, self.features)
        nodes = regions.select(tree)
        boxes, probabilities = joint_probabilities(candidates, regions, nodes, self._ranking)
        rows, scores = ranked(boxes, probabilities, self._ranking, self.options)
        first = len(candidates.boxes)  # of the tree's rows
        of_tree = np.flatnonzero(rows >= first)
        codes = regions.masks(nodes[rows[of_tree] - first])
        by_row = dict(zip(of_tree.tolist(), codes, strict=True))
        masks = [by_row.get(i) for i in range(len(rows))]
        return Regions.from_prompts(boxes=boxes[rows], masks=masks, scores=scores)


def candidate_probabilities(
    candidates: Candidates, size: tuple[int, int], ranking: Ranking
) -> NDArray[np.float64]:
    """What a ranking says of the head's candidates alone, `(K,)`."""
    c = candidates
    return ranking.head.probabilities(head_features(c.boxes, c.scores, c.agreement, size))


def joint_probabilities(
    candidates: Candidates, regions: JoinedRegions, nodes: NDArray[np.int64], ranking: Ranking
) -> tuple[Boxes, NDArray[np.float64]]:
    """The boxes `(K + N, 4)` of the head's candidates and of nodes, and what a ranking says."""
    of_head, of_tree = joint_features(candidates, regions, nodes)
    if ranking.tree is None:
        raise CheckpointError("this ranking knows no merge trees")
    boxes = np.concatenate([candidates.boxes, regions.boxes[nodes]])
    parts = [ranking.head.probabilities(of_head), ranking.tree.probabilities(of_tree)]
    return boxes, np.concatenate(parts)


def joint_features(
    candidates: Candidates, regions: JoinedRegions, nodes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`HEAD_FEATURES` of the candidates `(K, 6)` and `TREE_FEATURES` of the nodes `(N, 8)`."""
    c = candidates
    overlaps = box_iou(c.boxes, regions.boxes[nodes])  # (K, N)
    of_head = head_features(
        c.boxes,
        c.scores,
        c.agreement,
        regions.size,
        overlaps=overlaps,
        heights=regions.scores[nodes],
    )
    of_tree = tree_features(regions, nodes, c.dense_boxes, c.dense_scores, overlaps=overlaps.T)
    return of_head, of_tree


def ranked(
    boxes: Boxes, probabilities: NDArray[np.float64], ranking: Ranking, options: ProposalOptions
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions and scores of the boxes that the options let through, best first."""
    rows, scores = ranking.rank(boxes, probabilities, limit=options.limit, nms_iou=options.nms_iou)
    enough = scores >= options.min_score
    return rows[enough], scores[enough]


def joined_regions(
    encoded: FeaturePyramid, options: TreeOptions, features: DenseFeatures | None = None
) -> JoinedRegions:
    """The superpixels of an encoded image, joined by its map `FEATURES`, or by other features.

    Raises:
        InputError: the maps are of a store, so that there are no pixels.
    """
    pixels = frame_pixels(encoded)
    if features is None:
        dense = DenseMap(encoded.maps[FEATURES], encoded.span)
    else:
        (dense,) = features.dense_features([pixels])
        # in pixels of the image, not of the frame
        factors = np.array(encoded.size) / pixels.shape[:2]
        span = (float(dense.span[0] * factors[0]), float(dense.span[1] * factors[1]))
        dense = replace(dense, span=span)
    return join_superpixels(pixels, dense, encoded.size, options)


def frame_pixels(encoded: FeaturePyramid) -> Pixels:
    """The image as the encoder saw it, without the padding, `(h, w, 3)` uint8."""
    if encoded.frame is None:
        raise InputError("superpixels need the image itself: these features come from a store")
    scale = encoded.frame_scale()
    height, width = (round(side * s) for side, s in zip(encoded.size, scale[1::-1], strict=True))
    return np.ascontiguousarray(encoded.frame[:height, :width])
