"""What trainings of `compact`'s modules need of an image: all maps of its eyes, in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from anyregion.compact.assets import read_manifest
from anyregion.compact.image_encoder import CHANNELS, LONG_SIDE, FeaturePyramid, ImageEncoder
from anyregion.data.features import Features, to_half
from anyregion.images import Pixels
from anyregion.regions import Regions


class CompactExtractor:
    """`compact`'s eyes as a `FeatureExtractor`; what it gives does not depend on the regions.

    Arrays: `stride8`, `stride16`, `stride32`, `last`, each `(h, w, C)` float16 (see
    `eyes.CHANNELS`), and `span` `(2,)` float32, the height and width in pixels that they cover.

    Args:
        threads: of ONNX Runtime, for one operator; None leaves it to it (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: the eyes' file is missing or altered.
    """

    def __init__(self, *, threads: int | None = None, device: str = "cpu") -> None:
        self._eyes = ImageEncoder(threads=threads, device=device)

    @property
    def fingerprint(self) -> str:
        """Hash of the eyes, as they were checked on loading, and of the size that they see."""
        content = repr((_hash_of_eyes(), LONG_SIDE, tuple(CHANNELS)))
        return f"compact-eyes-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def describe(self) -> Mapping[str, str]:
        """See `DescribedExtractor`."""
        return {"eyes": f"compact ({_hash_of_eyes()[:12]}), long side {LONG_SIDE}"}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """See `FeatureExtractor`. Images go one by one: the eyes gain nothing from a batch."""
        return [self._extract(pixels) for pixels in images]

    def _extract(self, pixels: Pixels) -> Features:
        found = self._eyes.encode(pixels, outputs=tuple(CHANNELS))
        maps = {str(name): to_half(name, values) for name, values in found.maps.items()}
        return {**maps, "span": np.array(found.span, dtype=np.float32)}


def stored_maps(features: Features) -> FeaturePyramid:
    """What `CompactExtractor` gave of one image, as the eyes would give it: float32 again."""
    height, width = (float(v) for v in np.asarray(features["span"]).reshape(-1))
    maps = {name: np.asarray(features[name], dtype=np.float32) for name in CHANNELS}
    return FeaturePyramid(maps, (height, width))


def _hash_of_eyes() -> str:
    return str(read_manifest()["eyes.onnx"]["sha256"])
