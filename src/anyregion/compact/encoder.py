"""The built-in model as a `RegionEncoder`: trained eyes for regions, names, masks, points."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import read_manifest
from anyregion.compact.calibrated_stacking import LENGTH, CalibratedTextEncoder, stack_regions
from anyregion.compact.conse import NUMBERS as BRIDGE
from anyregion.compact.conse import load_conse
from anyregion.compact.image_encoder import CHANNELS, LONG_SIDE, FeaturePyramid, ImageEncoder
from anyregion.compact.mask_head import MaskHead, load_mask_head
from anyregion.compact.proposal_head import ProposalHead, load_proposal_head
from anyregion.compact.region_features import extract_region_features
from anyregion.compact.region_head import load_region_head
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.images import Pixels, size_of
from anyregion.masks import RLE
from anyregion.recognizer import RegionEmbeddings
from anyregion.regions import Boxes, Regions
from anyregion.scoring import Score


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image and what the eyes see of it."""

    pixels: Pixels
    maps: FeaturePyramid


class CompactEncoder:
    """`compact` with its trained module.

    Args:
        namer: a folder that training made, in place of the built-in module.
        threads: of ONNX Runtime, for one operator; None leaves it to it (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for (`cuda`, `cuda:1`, `mps`).

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: one of the model's files is missing or altered.
    """

    name = "compact"
    default_score: Score = "sigmoid"

    def __init__(
        self, namer: Path | None = None, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self._options = {"threads": threads, "device": device}
        self.eyes = ImageEncoder(threads=threads, device=device)
        self.bridge = load_conse()
        self.namer, numbers, self._identity = load_region_head(
            namer, threads=threads, device=device
        )
        self.text = CalibratedTextEncoder(
            CompactTextEncoder(self.bridge, threads=threads, device=device),
            numbers.trained,
            numbers.novelty,
        )
        self.logit_scale = numbers.scale * LENGTH
        self.logit_bias = numbers.bias

    @property
    def fingerprint(self) -> str:
        """Hash of everything that an answer depends on."""
        manifest = read_manifest()
        files = ("eyes.onnx", BRIDGE, "finder.onnx", "mask_head.onnx")
        content = [
            *(manifest[name]["sha256"] for name in files),
            *(LONG_SIDE, self._identity, self.logit_scale, self.logit_bias),
            self.text.fingerprint,
        ]
        return f"compact-{hashlib.sha256(repr(content).encode()).hexdigest()[:32]}"

    def encode_images(self, images: Sequence[Pixels]) -> list[SeenImage]:
        """All maps of each image, in one pass of the eyes."""
        outputs = tuple(CHANNELS)
        return [SeenImage(p, self.eyes.encode(p, outputs=outputs)) for p in images]

    def embed_regions(
        self,
        encoded: Sequence[SeenImage],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. A region of points is grown to a box, and a box to a mask.

        `mask_scores` are how well the mask probably fits (intersection over union); of a region
        grown from points, how well its box does, if that is less.
        """
        del multimask  # there is one candidate a region
        return [self._embed(e, r, masks) for e, r in zip(encoded, regions, strict=True)]

    def _embed(self, seen: SeenImage, regions: Regions, masks: bool) -> RegionEmbeddings:
        size = size_of(seen.pixels)
        placed, sure = self._placed(seen, regions)
        evidence = extract_region_features(seen.maps, size, placed, self.bridge)
        boxes = placed.extents(size)
        found: tuple[RLE, ...] | None = None
        scores: NDArray[np.float32] | None = None
        if masks:
            found, quality = self._masks(seen, placed, boxes)
            scores = np.minimum(quality, sure).astype(np.float32)
        return RegionEmbeddings(
            embeddings=stack_regions(self.namer.embed(evidence), self.text.trained),
            boxes=boxes,
            masks=found,
            mask_scores=scores,
        )

    def _placed(self, seen: SeenImage, regions: Regions) -> tuple[Regions, NDArray[np.float64]]:
        """Every region with a box or a mask, and how sure its place is (1 where it was given)."""
        sure = np.ones(len(regions))
        given = regions.has_box() | np.array([m is not None for m in regions.masks], dtype=bool)
        alone = np.flatnonzero(~given)
        if not len(alone):
            return regions, sure
        boxes: Boxes = regions.boxes.copy()
        boxes[alone], sure[alone] = self.finder.boxes_from_points(
            seen.maps,
            size_of(seen.pixels),
            [regions.points[i] for i in alone],
            [regions.point_labels[i] for i in alone],
        )
        return replace(regions, boxes=boxes), sure

    def _masks(
        self, seen: SeenImage, regions: Regions, boxes: Boxes
    ) -> tuple[tuple[RLE, ...], NDArray[np.float64]]:
        """The masks that were given, else grown from the boxes, and how well each fits."""
        wanted = [i for i, mask in enumerate(regions.masks) if mask is None]
        made, quality = self.mask_head.masks_from_boxes(seen.maps, seen.pixels, boxes[wanted])
        scores = np.ones(len(regions))
        scores[wanted] = quality
        grown = dict(zip(wanted, made, strict=True))
        return tuple(m or grown[i] for i, m in enumerate(regions.masks)), scores

    @cached_property
    def finder(self) -> ProposalHead:
        """What finds regions, loaded when the first is looked for."""
        return load_proposal_head(**self._options)  # type: ignore[arg-type]

    @cached_property
    def mask_head(self) -> MaskHead:
        """What grows masks, loaded when the first is asked for."""
        return load_mask_head(**self._options)  # type: ignore[arg-type]
