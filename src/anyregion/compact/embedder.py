"""The built-in model as an `ImageEmbedder`: no torch, no hub, nothing to download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import pool
from anyregion.compact.assets import read_manifest
from anyregion.compact.conse import BEST_CLASSES, NUMBERS, TEMPERATURE, load_conse
from anyregion.compact.image_encoder import LONG_SIDE, ImageEncoder
from anyregion.compact.text_encoder import WIDTH, CompactTextEncoder
from anyregion.images import Pixels
from anyregion.regions import Regions

CROP_SIDE = 224
"""Long side of an image that is embedded as one: a crop needs no small cells."""

# the softmax scale with the lowest log loss on given boxes of COCO training images, 80 names, and
# then the bias with the lowest log loss of the sigmoid scores
LOGIT_SCALE = 8.0
LOGIT_BIAS = -4.75


class CompactEmbedder:
    """`compact`: EfficientNet-Lite0 sees, all-MiniLM-L6-v2 reads, ConSE joins them.

    Args:
        threads: of ONNX Runtime, for one operator; None leaves it to it (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for (`cuda`, `cuda:1`, `mps`).

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: one of the model's files is missing or altered.
    """

    def __init__(self, *, threads: int | None = None, device: str = "cpu") -> None:
        self.name = "compact"
        self.eyes = ImageEncoder(threads=threads, device=device)
        self.bridge = load_conse()
        self.text = CompactTextEncoder(self.bridge, threads=threads, device=device)
        self.logit_scale = LOGIT_SCALE
        self.logit_bias = LOGIT_BIAS

    @property
    def fingerprint(self) -> str:
        """Hash of the assets, as they were checked on loading, and of the constants in use."""
        manifest = read_manifest()
        content = [
            *(manifest[name]["sha256"] for name in ("eyes.onnx", NUMBERS)),
            *(LONG_SIDE, CROP_SIDE, TEMPERATURE, BEST_CLASSES, LOGIT_SCALE, LOGIT_BIAS),
            self.text.fingerprint,
        ]
        return f"compact-{hashlib.sha256(repr(content).encode()).hexdigest()[:32]}"

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Embed whole images of any sizes, `(len(images), 384)`, not normalised."""
        if not images:
            return np.zeros((0, WIDTH), dtype=np.float32)
        rows = []
        for pixels in images:
            height, width = pixels.shape[:2]
            whole = Regions.from_boxes([[0, 0, width, height]])  # without the padding
            rows.append(pool(self._see(pixels, CROP_SIDE), whole))
        return self.project(np.concatenate(rows))

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """The last convolution of each image, 1,280 channels, a cell for 32 of 640 pixels."""
        return [self._see(pixels) for pixels in images]

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means of the last convolution `(n, 1280)` into the words' space `(n, 384)`."""
        return self.bridge.project(pooled)

    def _see(self, pixels: Pixels, long_side: int = LONG_SIDE) -> DenseMap:
        found = self.eyes.encode(pixels, long_side=long_side)
        return DenseMap(found.maps["last"], found.span)
