"""The crop and the masked crop: every region is an image of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import ImageEmbedder
from anyregion.images import Pixels, size_of
from anyregion.masks import RLE, filled_box
from anyregion.region_encoder import REGIONS_AT_ONCE, RegionEmbeddings
from anyregion.regions import Regions
from anyregion.scoring import Score

# what a masked crop shows outside the mask: mid grey, which is near zero once normalised
BACKGROUND = 127


class CropEncoder:
    """A `RegionEncoder` that cuts each region out and embeds the cut as an image.

    Args:
        embedder: `compact`'s, or any vision-language model.
        masked: paint over what lies outside the region's mask (a region without one is its box).
    """

    default_score: Score = "softmax"

    def __init__(self, embedder: ImageEmbedder, *, masked: bool = False) -> None:
        self.embedder = embedder
        self.masked = masked
        self.name = f"{embedder.name} ({'masked crop' if masked else 'crop'})"
        self.text = embedder.text
        self.logit_scale = embedder.logit_scale
        self.logit_bias = embedder.logit_bias

    @property
    def fingerprint(self) -> str:
        """Method and model."""
        return f"{'masked crop' if self.masked else 'crop'} {self.embedder.fingerprint}"

    def encode_images(self, images: Sequence[Pixels]) -> list[Pixels]:
        """The images as they are: there is nothing to compute before the regions are known."""
        return list(images)

    def embed_regions(
        self,
        encoded: Sequence[Pixels],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. The masks are the prompts' own, else the filled boxes."""
        del multimask, features  # there is one candidate a region, and nothing but its embedding
        if not len(regions):
            return []
        embeddings: list[NDArray[np.float32]] = []
        crops: list[Pixels] = []  # that are embedded together
        for pixels, prompts in zip(encoded, regions, strict=True):
            # one empty block where there are no regions: it has the width of the others
            for start in range(0, max(len(prompts), 1), REGIONS_AT_ONCE):
                rows = slice(start, start + REGIONS_AT_ONCE)
                crops += cut(pixels, prompts[rows], masked=self.masked)
                if len(prompts) > REGIONS_AT_ONCE:
                    embeddings.append(self.embedder.embed_images(crops))  # (n, E)
                    crops = []
        if crops or not embeddings:
            embeddings.append(self.embedder.embed_images(crops))
        return split_by_image(
            np.concatenate(embeddings), regions, [size_of(p) for p in encoded], masks=masks
        )


def split_by_image(
    embeddings: NDArray[np.float32],
    regions: Sequence[Regions],
    sizes: Sequence[tuple[int, int]],
    *,
    masks: bool,
    features: Mapping[str, NDArray[np.float32]] | None = None,
) -> list[RegionEmbeddings]:
    """The rows `(sum of N, E)` of all images' regions, image by image; masks are the prompts'."""
    ends = np.cumsum([len(prompts) for prompts in regions])[:-1]
    parts = {name: np.split(values, ends) for name, values in (features or {}).items()}
    return [
        RegionEmbeddings(
            embeddings=rows,
            boxes=prompts.extents(size),
            masks=prompt_masks(prompts, size) if masks else None,
            features=None if features is None else {name: part[i] for name, part in parts.items()},
        )
        for i, (rows, prompts, size) in enumerate(
            zip(np.split(embeddings, ends), regions, sizes, strict=True)
        )
    ]


def cut(pixels: Pixels, regions: Regions, *, masked: bool) -> list[Pixels]:
    """Each region cut out of its image, to whole pixels outwards and at least one each way."""
    height, width = size_of(pixels)
    crops: list[Pixels] = []
    for i, box in enumerate(regions.extents((height, width))):
        # the upper left pixel lies in the image, and the lower right one beyond it
        x0 = min(max(int(np.floor(box[0])), 0), width - 1)
        y0 = min(max(int(np.floor(box[1])), 0), height - 1)
        x1 = min(max(int(np.ceil(box[2])), x0 + 1), width)
        y1 = min(max(int(np.ceil(box[3])), y0 + 1), height)
        crop = pixels[y0:y1, x0:x1]
        mask = regions.mask(i) if masked else None
        if mask is not None:
            # (h, w, 3), the mask broadcast over the colours
            crop = np.where(mask[y0:y1, x0:x1, None], crop, np.uint8(BACKGROUND))
        crops.append(crop)
    return crops


def prompt_masks(regions: Regions, size: tuple[int, int]) -> tuple[RLE, ...]:
    """The regions' own masks; of those without one, the filled box."""
    return tuple(
        filled_box(box, size) if rle is None else rle
        for rle, box in zip(regions.masks, regions.extents(size), strict=True)
    )
