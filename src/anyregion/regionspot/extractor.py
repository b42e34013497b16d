"""RegionSpot's frozen half as a `FeatureExtractor`: localizer tokens and VLM feature maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from anyregion.data.features import Features, to_half
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.localizers.protocol import Localizer, TokenSource
from anyregion.regions import Regions
from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.protocol import VisionLanguageModel


class RegionSpotExtractor:
    """RegionSpot's frozen half as a `FeatureExtractor`: each model that is given adds its array.

    Arrays: `tokens` `(N, W)` of the localizer, one row a region, and `features` `(T, D)` of the
    VLM, both float16.

    Args:
        localizer, vlm: frozen; one of them may be None.
        source, antialias: see `RegionSpotEncoder`.
        images_at_once: images that go through the models together. 1 gives the same numbers
            whatever the batch, which a CPU has for nothing; more are quicker on a GPU, and then a
            number may differ by one unit of half precision now and then.

    Raises:
        InputError: neither of the two.
    """

    def __init__(
        self,
        localizer: Localizer | None,
        vlm: VisionLanguageModel | None = None,
        *,
        source: TokenSource = "decoder",
        antialias: bool = True,
        images_at_once: int = 1,
    ) -> None:
        if localizer is None and vlm is None:
            raise InputError("neither tokens nor feature maps: give a localizer, a VLM, or both")
        if images_at_once < 1:
            raise InputError("images_at_once must be at least 1")
        self.localizer = localizer
        self.vlm = vlm
        self.source = source
        self.antialias = antialias
        self.images_at_once = images_at_once

    @property
    def fingerprint(self) -> str:
        """Localizer, VLM, and how they are run."""
        localizer = self.localizer and (self.localizer.fingerprint, self.source)
        vlm = self.vlm and (self.vlm.fingerprint, self.antialias)
        return f"regionspot-{fingerprint((), localizer, vlm)}"

    def describe(self) -> Mapping[str, str]:
        """See `FeatureExtractor`."""
        parts: dict[str, str] = {}
        if self.localizer is not None:
            parts["localizer"] = f"{self.localizer.name} ({self.localizer.fingerprint[:12]})"
            parts["tokens"] = f"{self.source}, width {self.localizer.token_width}"
        if self.vlm is not None:
            parts["vlm"] = f"{self.vlm.name} ({self.vlm.fingerprint[:12]})"
            parts["features"] = described_features(self.vlm, antialias=self.antialias)
        return parts

    @torch.no_grad()
    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """See `FeatureExtractor`.

        Raises:
            InputError: a number beyond half precision's range.
        """
        extracted: list[Features] = []
        for start in range(0, len(images), self.images_at_once):
            part = slice(start, start + self.images_at_once)
            extracted += self._extract_batch(images[part], regions[part])
        return extracted

    def _extract_batch(
        self, images: Sequence[Pixels], regions: Sequence[Regions]
    ) -> list[Features]:
        arrays: list[dict[str, NDArray[np.float16]]] = [{} for _ in images]
        if self.localizer is not None:
            # an image without regions needs no embedding, which is what SAM takes its time for
            rows = [i for i, r in enumerate(regions) if len(r)]
            empty = np.zeros((0, self.localizer.token_width), dtype=np.float16)
            for of_image in arrays:
                of_image["tokens"] = empty
            localized = self.localizer.encode([images[i] for i in rows])
            for i, encoded in zip(rows, localized, strict=True):
                tokens = self.localizer.tokens(encoded, regions[i], source=self.source).tokens
                # (N, 1, W) to (N, W): one candidate a region
                arrays[i]["tokens"] = to_half("tokens", tokens[:, 0].float().cpu().numpy())
        if self.vlm is not None:
            maps = self.vlm.feature_map(images, antialias=self.antialias).tokens  # (B, T, D)
            for of_image, tokens in zip(arrays, maps, strict=True):
                of_image["features"] = to_half("features", tokens.float().cpu().numpy())
        return list(arrays)


def described_features(vlm: VisionLanguageModel, *, antialias: bool) -> str:
    """A VLM's feature maps in words, as stores state them: width, input size, resize."""
    resize = "antialiased" if antialias else "not antialiased"
    return f"width {vlm.feature_width}, image {vlm.image_size} px, {resize}"
