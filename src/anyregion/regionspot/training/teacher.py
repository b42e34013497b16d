"""What a region would be named without any training: the teacher of the distillation term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anyregion.baselines.dense import DenseEncoder
from anyregion.baselines.embedder import ImageEmbedder
from anyregion.data.features import Features, to_half
from anyregion.images import Pixels
from anyregion.regions import Regions


class TeacherExtractor:
    """A `FeatureExtractor` of one array: `teacher`, `(N, E)` float16, rows of length 1.

    The VLM's dense features, averaged in each region's box, in the space of the words.

    Args:
        embedder: the VLM whose words the adapter learns.
    """

    def __init__(self, embedder: ImageEmbedder) -> None:
        self._encoder = DenseEncoder(embedder)

    @property
    def fingerprint(self) -> str:
        """Method and model."""
        return f"teacher {self._encoder.fingerprint}"

    def describe(self) -> Mapping[str, str]:
        """See `DescribedExtractor`."""
        return {"teacher": self._encoder.name}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """See `FeatureExtractor`."""
        found: list[Features] = []
        for image, asked in zip(images, regions, strict=True):
            encoded = self._encoder.encode_images([image])
            embedded = self._encoder.embed_regions(encoded, [asked])[0].embeddings
            length = np.linalg.norm(embedded, axis=1, keepdims=True)
            found.append({"teacher": to_half("teacher", embedded / np.maximum(length, 1e-7))})
        return found
