"""Localizers made of other models: several boxes a region, and crops in place of a segmenter.

Both are named where a localizer is: for `anyregion cache --localizer`, in a training's settings, in
the folder of what was trained. So the paper's prompt engineering and its trained linear baseline
are configurations of the commands that there are.

| name | token of a region |
| --- | --- |
| `boxes:0.8,1,1.25:SAM` | mean of SAM's tokens of the region's box at these sizes |
| `crop:CLIP` | CLIP's embedding of the region cut out as an image |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.baselines.crop import cut
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.localizers.loading import load_localizer
from anyregion.localizers.protocol import Localizer, RegionTokens, TokenSource
from anyregion.masks import RLE
from anyregion.regions import Regions
from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.loading import load_vlm
from anyregion.vlms.protocol import VisionLanguageModel

BOXES, CROP = "boxes:", "crop:"
MOST_BOXES = 16


def load_region_localizer(
    name: str, *, device: str = "cpu", encoder_dtype: torch.dtype = torch.float32
) -> Localizer:
    """`load_localizer`, also of the names in this module's table.

    Raises:
        InputError, CheckpointError, MissingExtraError: as `load_localizer` and `load_vlm`.
    """
    prefix, inner = split_prompting(name)
    if prefix == CROP:
        return CropLocalizer(load_vlm(inner, device=device, dtype=encoder_dtype), device=device)
    if prefix:
        sizes = _parse_sizes(prefix)  # before a model is loaded for nothing
        localizer = load_region_localizer(inner, device=device, encoder_dtype=encoder_dtype)
        return SeveralBoxes(localizer, sizes, name=name)
    return load_localizer(name, device=device, encoder_dtype=encoder_dtype)


def split_prompting(name: str) -> tuple[str, str]:
    """`crop:` or `boxes:SIZES:`, and the name of the model behind it; "" and the name without."""
    if name.startswith(CROP):
        return CROP, name.removeprefix(CROP)
    if name.startswith(BOXES):
        sizes, separator, inner = name.removeprefix(BOXES).partition(":")
        if not separator or not inner:
            raise InputError(f"{name}: sizes and a localizer are meant, as boxes:0.8,1,1.25:NAME")
        return f"{BOXES}{sizes}:", inner
    return "", name


def _parse_sizes(prefix: str) -> tuple[float, ...]:
    text = prefix.removeprefix(BOXES).removesuffix(":")
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= MOST_BOXES or not all(0.1 <= size <= 10 for size in sizes):
        raise InputError(
            f"{prefix}: 1 to {MOST_BOXES} sizes of the box are meant, each from 0.1 to 10 times "
            "its own, as boxes:0.8,1,1.25:NAME"
        )
    return sizes


class SeveralBoxes:
    """A `Localizer` that prompts another one with several boxes of each region.

    The boxes have the region's middle and `sizes` times its width and height, cut off at the
    image's border; points and masks stay as they are. The token is the mean over the boxes. Masks
    and their scores are those of the box whose size is nearest to 1.

    Args:
        localizer: prompted once for each size: tokens cost as many times as much.
        sizes: of the boxes, in units of the region's own.
        name: as `load_region_localizer` takes it.
    """

    def __init__(self, localizer: Localizer, sizes: Sequence[float], *, name: str) -> None:
        self.localizer, self.sizes, self.name = localizer, tuple(sizes), name
        self.token_width = localizer.token_width

    @property
    def fingerprint(self) -> str:
        """See `Localizer`."""
        return fingerprint((), "boxes", self.localizer.fingerprint, self.sizes)

    def encode(self, images: Sequence[Pixels]) -> list[Any]:
        """Each image with its `(height, width)`, at which boxes are cut off."""
        encoded = self.localizer.encode(images)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return list(zip(encoded, sizes, strict=True))

    def tokens(
        self,
        encoded: Any,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: TokenSource = "decoder",
    ) -> RegionTokens:
        """See `Localizer`."""
        image, size = encoded
        nearest = min(self.sizes, key=lambda each: abs(each - 1))
        results = {
            factor: self.localizer.tokens(
                image,
                resize_boxes(regions, factor, size),
                multimask=multimask,
                masks=masks and factor == nearest,
                source=source,
            )
            for factor in self.sizes
        }
        own = results[nearest]
        tokens = torch.stack([result.tokens for result in results.values()]).mean(0)  # (N, M, W)
        return RegionTokens(tokens, own.mask_scores, own.mask_logits)

    def masks(self, encoded: Any, mask_logits: Tensor) -> list[list[RLE]]:
        """See `Localizer`."""
        return self.localizer.masks(encoded[0], mask_logits)


class CropLocalizer:
    """A `Localizer` whose token of a region is a VLM's embedding `(E,)` of its crop, as it comes.

    It knows neither where the region lies nor what is around it. With an adapter of no layers and
    without the feature map this is the paper's baseline of CLIP with a trained linear adapter.
    """

    def __init__(self, vlm: VisionLanguageModel, *, device: str = "cpu") -> None:
        self.vlm, self.device = vlm, device
        self.name = f"{CROP}{vlm.name}"
        self.token_width = vlm.embed_width

    @property
    def fingerprint(self) -> str:
        """See `Localizer`."""
        return fingerprint((), "crop", self.vlm.fingerprint)

    def encode(self, images: Sequence[Pixels]) -> list[Pixels]:
        """The images as they are."""
        return list(images)

    def tokens(
        self,
        encoded: Pixels,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: TokenSource = "decoder",
    ) -> RegionTokens:
        """See `Localizer`.

        Raises:
            InputError: masks, candidates or the prompt's token, which crops do not have.
        """
        if multimask or masks or source != "decoder":
            raise InputError(f"{self.name}: crops have no masks, no candidates and no prompt token")
        embeddings = self.vlm.embed_images(cut(encoded, regions, masked=False))  # (N, E)
        return RegionTokens(torch.from_numpy(embeddings)[:, None].to(self.device))

    def masks(self, encoded: Pixels, mask_logits: Tensor) -> list[list[RLE]]:
        """See `Localizer`; there is nothing to make masks of."""
        raise InputError(f"{self.name}: crops have no masks")


def resize_boxes(regions: Regions, factor: float, size: tuple[int, int]) -> Regions:
    """The regions with boxes of `factor` times their sides about the same middle, in the image.

    Regions without a box keep their prompt. `size` is `(height, width)`.
    """
    boxes = regions.boxes
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    resized = np.concatenate([middle - factor * half, middle + factor * half], axis=1)
    # of a region at the border, that part is cut off which no pixel shows; NaN stays NaN
    return replace(regions, boxes=resized.clip(0, [size[1], size[0], size[1], size[0]]))
