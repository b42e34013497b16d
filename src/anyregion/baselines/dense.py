"""Dense features averaged in the box or mask: the image is encoded once for all its regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.crop import split_by_image
from anyregion.baselines.embedder import DenseMap, ImageEmbedder
from anyregion.baselines.pooling import DecodedMasks, pool
from anyregion.images import Pixels, size_of
from anyregion.region_encoder import REGIONS_AT_ONCE, RegionEmbeddings
from anyregion.regions import Regions
from anyregion.scoring import Score

EncodedImage = tuple[DenseMap, tuple[int, int]]


class DenseEncoder:
    """A `RegionEncoder` that averages the model's dense features over each region.

    Args:
        embedder: `compact`'s, or any vision-language model.
    """

    default_score: Score = "softmax"

    def __init__(self, embedder: ImageEmbedder) -> None:
        self.embedder = embedder
        self.name = f"{embedder.name} (dense)"
        self.text = embedder.text
        self.logit_scale = embedder.logit_scale
        self.logit_bias = embedder.logit_bias

    @property
    def fingerprint(self) -> str:
        """Method and model."""
        return f"dense {self.embedder.fingerprint}"

    def encode_images(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """The dense map of each image, and the image's `(height, width)`."""
        sizes = [size_of(image) for image in images]
        return list(zip(self.embedder.dense_features(images), sizes, strict=True))

    def embed_regions(
        self,
        encoded: Sequence[EncodedImage],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. The masks are the prompts' own, else the filled boxes.

        Features are the averages before and after they are projected.
        """
        del multimask  # there is one candidate a region
        if not len(regions):
            return []
        embeddings: list[NDArray[np.float32]] = []
        waiting: list[NDArray[np.float32]] = []  # means that are projected together
        means: list[NDArray[np.float32]] = []
        for (dense, _), prompts in zip(encoded, regions, strict=True):
            # boxes are not clipped: one around a point near the border may reach into the padding
            boxes = prompts.extents()
            # one empty block where there are no regions: it has the width of the others
            for start in range(0, max(len(prompts), 1), REGIONS_AT_ONCE):
                rows = slice(start, start + REGIONS_AT_ONCE)
                waiting.append(pool(dense, boxes[rows], DecodedMasks(prompts.masks[rows])))
                if features:
                    means.append(waiting[-1])
                if len(prompts) > REGIONS_AT_ONCE:
                    embeddings.append(self.embedder.project(np.concatenate(waiting)))  # (n, E)
                    waiting = []
        if waiting:
            embeddings.append(self.embedder.project(np.concatenate(waiting)))
        joined = np.concatenate(embeddings)
        seen = {"pooled": np.concatenate(means), "embedding": joined} if features else None
        return split_by_image(
            joined,
            regions,
            [size for _, size in encoded],
            masks=masks,
            features=seen,
        )
