"""`FrozenVLM`, the `VisionLanguageModel` of every library; what differs is a `VisionTower`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyregion.baselines.embedder import DenseMap
from anyregion.images import Pixels
from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.dense import Dense
from anyregion.vlms.preprocess import squash
from anyregion.vlms.protocol import FeatureMap, VlmOptions
from anyregion.vlms.text import BatchedTextEncoder
from anyregion.vocabulary import TextEncoder

# stands for no image at all: the shapes of what it gives are right but for the count
_BLACK: Pixels = np.zeros((1, 1, 3), np.uint8)


class VisionTower(Protocol):
    """The image side of one model in one library; pixels are `(B, 3, S, S)`, normalised.

    Attributes:
        image_size: `S`.
        stride: pixels a cell is wide.
        grid: `(h, w)` cells.
        feature_width, embed_width: `D` and `E`.
        mean, std: of the input.
    """

    image_size: int
    stride: int
    grid: tuple[int, int]
    feature_width: int
    embed_width: int
    mean: Sequence[float]
    std: Sequence[float]

    def tokens(self, pixels: Tensor) -> Tensor:
        """The last layer's output `(B, T, D)`, class token first, before the final norm."""
        ...

    def embed(self, pixels: Tensor) -> Tensor:
        """The model's own embedding of the whole image, `(B, E)`."""
        ...

    def dense(self, pixels: Tensor, dense: Dense) -> Tensor:
        """Every cell in the words' space, `(B, h * w, E)`."""
        ...

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """All tensors that the image side's outputs depend on, by name."""
        ...

    def describe(self) -> str:
        """What the outputs depend on beside the weights: activation, heads, eps; no paths."""
        ...


class FrozenVLM:
    """A frozen vision-language model: a `VisionLanguageModel`, and so an `ImageEmbedder`.

    Made by `load_vlm` and `clip_from_openai_state_dict`.

    Attributes:
        tokenize: texts to the ids that the text side reads, padded to its full context.
        preprocess: images to the model's input `(B, 3, S, S)`: `squash` with the model's settings.

    Args:
        logit_scale: the factor itself, not its logarithm.
        logit_bias: added to the scaled cosine; sigmoid models have one.
    """

    def __init__(
        self,
        *,
        name: str,
        vision: VisionTower,
        text: BatchedTextEncoder,
        logit_scale: float,
        logit_bias: float = 0.0,
        options: VlmOptions,
    ) -> None:
        self.name = name
        self.text: TextEncoder = text
        self.tokenize = text.tokenize
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.vision = vision
        self.feature_width = vision.feature_width
        self.embed_width = vision.embed_width
        self.image_size = vision.image_size
        self.preprocess = partial(
            squash, size=vision.image_size, mean=vision.mean, std=vision.std, device=options.device
        )
        self._options = options
        self._dense: Dense = options.dense or "sclip"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the image side (weights, configuration, input), how it runs, and the text side.

        Computed on first use: the weights are frozen, and may be gigabytes.
        """
        return fingerprint(
            self.vision.weights(),
            type(self.vision).__name__,
            self.vision.describe(),
            self.image_size,
            tuple(self.vision.mean),
            tuple(self.vision.std),
            self._options.dtype,
            self._dense,
            self.logit_scale,
            self.logit_bias,
            self.text.fingerprint,
        )

    def feature_map(self, images: Sequence[Pixels], *, antialias: bool = True) -> FeatureMap:
        """See `VisionLanguageModel`: `(B, T, D)` float32 on the model's device, without gradient.

        ResNets: the last stage's grid row by row, before attention pooling.
        """
        parts = self._run(images, self.vision.tokens, antialias)
        return FeatureMap(torch.cat(parts), self.vision.grid)

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Embed whole images of any sizes, `(len(images), E)`, not normalised."""
        parts = self._run(images, self.vision.embed, True)
        embeddings: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return embeddings

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """Every cell of each image in the words' space; see `vlms.dense` for how.

        Raises:
            InputError: the architecture has no such cells.
        """
        parts = self._run(images, lambda pixels: self.vision.dense(pixels, self._dense), True)
        maps = [cells.reshape(*self.vision.grid, -1) for part in parts for cells in part]
        # patches that do not divide the input leave a strip right and below uncovered
        down, across = (side * self.vision.stride / self.image_size for side in self.vision.grid)
        return [
            DenseMap(cells.cpu().numpy(), (image.shape[0] * down, image.shape[1] * across))
            for image, cells in zip(images, maps, strict=True)
        ]

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dense features live in the words' space already."""
        return pooled

    def _run(
        self, images: Sequence[Pixels], forward: Callable[[Tensor], Tensor], antialias: bool
    ) -> list[Tensor]:
        """What `forward` makes of the images, `batch_size` at a time: `(b, ...)` float32 each."""
        if not images:  # the shapes of one black pixel's, cut to no rows
            return [part[:0] for part in self._run([_BLACK], forward, antialias)]
        size = self._options.batch_size
        parts = []
        for start in range(0, len(images), size):
            pixels = self.preprocess(images[start : start + size], antialias=antialias)
            # no_grad, not inference_mode: an adapter is trained on these feature maps
            with torch.no_grad(), self._options.autocast():
                parts.append(forward(pixels).float())
        return parts
