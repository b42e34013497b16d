"""Regions without labels on `compact`'s frozen image encoder."""

from __future__ import annotations

import numpy as np

from anyregion.baselines.embedder import DenseMap
from anyregion.compact.assets import IMAGE_ENCODER, read_manifest
from anyregion.compact.image_encoder import LONG_SIDE, FeaturePyramid, MapName
from anyregion.compact.model import CompactEncoder, CompactModel
from anyregion.errors import InputError, require
from anyregion.images import Pixels
from anyregion.region_trees.proposer import (
    JoinedRegions,
    TreeOptions,
    join_superpixels,
    tree_fingerprint,
)
from anyregion.regions import Regions

# of the four maps this one's merge trees find most: average recall of 100 on 60 photographs was
# 0.124, at stride 32 0.081
FEATURES: MapName = "stride16"


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
        digest = read_manifest()[IMAGE_ENCODER]["sha256"]
        return tree_fingerprint(f"{digest} {LONG_SIDE} {FEATURES}", self.options)

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        return self.propose_encoded(self.model.image_encoder.encode(image))

    def propose_encoded(self, encoded: FeaturePyramid) -> Regions:
        """See `EncodedProposer`."""
        return joined_regions(encoded, self.options).best(self.options)


def joined_regions(encoded: FeaturePyramid, options: TreeOptions) -> JoinedRegions:
    """The superpixels of an encoded image, joined by its map `FEATURES`.

    Raises:
        InputError: the maps are of a store, so that there are no pixels.
    """
    dense = DenseMap(encoded.maps[FEATURES], encoded.span)
    return join_superpixels(frame_pixels(encoded), dense, encoded.size, options)


def frame_pixels(encoded: FeaturePyramid) -> Pixels:
    """The image as the encoder saw it, without the padding, `(h, w, 3)` uint8."""
    if encoded.frame is None:
        raise InputError("superpixels need the image itself: these features come from a store")
    scale = encoded.frame_scale()
    height, width = (round(side * s) for side, s in zip(encoded.size, scale[1::-1], strict=True))
    inner = encoded.frame[0, :, :height, :width]
    pixels = np.rint(inner.transpose(1, 2, 0) * 128 + 127).clip(0, 255)
    return np.ascontiguousarray(pixels.astype(np.uint8))
