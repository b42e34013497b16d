"""`Localizer`, what RegionSpot needs of a segmenter: an image encoded once, prompts to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from anyregion.images import Pixels
from anyregion.masks import RLE
from anyregion.regions import Regions

TokenSource: TypeAlias = Literal["decoder", "prompt"]


@dataclass(frozen=True, eq=False)
class RegionTokens:
    """The position-aware tokens of one image's regions.

    Attributes:
        tokens: `(N, M, W)`; M is 1, or 3 candidates in the decoder's own order with multimask.
        mask_scores: `(N, M)`, the IoU that the localizer predicts for each mask, or None where
            there are neither masks nor candidates.
        mask_logits: `(N, M, h, h)` logits over the model's square at a quarter of its side, or None
            unless `masks` is set.
    """

    tokens: Tensor
    mask_scores: Tensor | None = None
    mask_logits: Tensor | None = None


class Localizer(Protocol):
    """A frozen model that turns the prompts of regions into tokens and masks.

    Every SAM is one, by `PromptableSegmenter`; so is any object with these methods.

    Attributes:
        name: hub name or folder it came from; a folder that is saved states it.
        token_width: `W`.
    """

    name: str
    token_width: int

    @property
    def fingerprint(self) -> str:
        """Changes whenever a token would: weights, configuration, input and precision."""
        ...

    def encode(self, images: Sequence[Pixels]) -> list[Any]:
        """Encode each image once; what comes back is handed to `tokens` and `masks`."""
        ...

    def tokens(
        self,
        encoded: Any,
        regions: Regions,
        *,
        multimask: bool = False,
        masks: bool = False,
        source: TokenSource = "decoder",
    ) -> RegionTokens:
        """Tokens of the regions of one image, in their order; `N` may be 0.

        Args:
            encoded: one entry of what `encode` returned.
            regions: one prompt each: a box, points, a mask, or any mix.
            multimask: tokens of the three candidate masks in place of the single one; without
                meaning for prompt tokens.
            masks: also compute mask logits; tokens alone never pay for them.
            source: the mask decoder's output token, or the mean of the prompt encoder's tokens
                (the paper's ablation; then M is 1).
        """
        ...

    def masks(self, encoded: Any, mask_logits: Tensor) -> list[list[RLE]]:
        """Logits `(N, M, h, w)` to binary masks at the image's size, N lists of M."""
        ...
