"""Regions that nobody gave, found by the built-in model."""

from __future__ import annotations

import hashlib

from anyregion.compact.assets import read_manifest
from anyregion.compact.image_encoder import CHANNELS, LONG_SIDE, ImageEncoder
from anyregion.compact.proposal_head import load_proposal_head
from anyregion.images import Pixels, size_of
from anyregion.regions import Regions


class CompactProposer:
    """A `RegionProposer`: boxes of whole things, whatever they are.

    Args:
        limit: most regions of an image.
        min_score: lowest objectness.
        threads: of ONNX Runtime, for one operator; None leaves it to it (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: one of the model's files is missing or altered.
    """

    name = "compact"

    def __init__(
        self,
        *,
        limit: int = 50,
        min_score: float = 0.35,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.limit, self.min_score = limit, min_score
        self._eyes = ImageEncoder(threads=threads, device=device)
        self._finder = load_proposal_head(threads=threads, device=device)

    @property
    def fingerprint(self) -> str:
        """Of the eyes, the finder and the limits."""
        manifest = read_manifest()
        content = [manifest[name]["sha256"] for name in ("eyes.onnx", "finder.onnx")]
        digest = hashlib.sha256(repr([*content, LONG_SIDE, self.limit, self.min_score]).encode())
        return f"compact-{digest.hexdigest()[:32]}"

    def propose(self, image: Pixels) -> Regions:
        """See `RegionProposer`."""
        maps = self._eyes.encode(image, outputs=tuple(CHANNELS))
        boxes, scores = self._finder.propose(
            maps, size_of(image), limit=self.limit, min_score=self.min_score
        )
        return Regions.from_boxes(boxes, scores=scores)
