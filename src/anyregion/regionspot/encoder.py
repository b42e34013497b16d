"""RegionSpot as a `RegionEncoder`: localizer, VLM and adapter joined, with folders to load from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import DecodedMasks, pool
from anyregion.errors import InputError
from anyregion.explanation import Attention
from anyregion.images import Pixels
from anyregion.localizers.protocol import Localizer, RegionTokens, TokenSource
from anyregion.masks import RLE, mask_box
from anyregion.model_card import ModelCard
from anyregion.region_encoder import REGIONS_AT_ONCE, RegionEmbeddings
from anyregion.regions import Regions
from anyregion.regionspot.adapter import Adapter, stack_tokens
from anyregion.regionspot.pretrained import (
    Pretrained,
    copy_part,
    load_adapter,
    read_config,
    resolve_part,
    write_folder,
)
from anyregion.regionspot.prompting import load_region_localizer
from anyregion.scoring import Score
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.loading import load_vlm
from anyregion.vlms.protocol import VisionLanguageModel
from anyregion.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image after both frozen encoders, before any region.

    Attributes:
        localized: what the localizer's `encode` returned.
        features: `(T, D)` of the VLM, or None where the adapter does without.
        grid: `(h, w)` of the features.
        size: `(height, width)` of the image.
    """

    localized: Any
    features: Tensor | None
    grid: tuple[int, int]
    size: tuple[int, int]


class RegionSpotEncoder:
    """Joins a localizer, a VLM and the adapter. It knows their protocols and no model's name.

    Args:
        localizer, vlm: frozen.
        adapter: its widths must be theirs.
        source: which of the localizer's tokens (the paper's ablation).
        antialias: how images are squashed for the VLM; False is the published predictor's way.
        images_at_once: images that go through the VLM and the adapter together.

    Raises:
        InputError: widths that do not fit each other.
    """

    default_score: Score = "softmax"

    def __init__(
        self,
        localizer: Localizer,
        vlm: VisionLanguageModel,
        adapter: Adapter,
        *,
        source: TokenSource = "decoder",
        antialias: bool = True,
        images_at_once: int = 8,
    ) -> None:
        config = adapter.config
        # an adapter of other models would give numbers without meaning, not an error
        for role, expected, width in (
            ("tokens", config.token_width, localizer.token_width),
            ("feature map", config.feature_width, vlm.feature_width),
            ("words", config.embed_width, vlm.embed_width),
        ):
            if width != expected:
                raise InputError(
                    f"the adapter expects {role} of width {expected}, but {localizer.name} with "
                    f"{vlm.name} gives {width}: it was trained with other models"
                )
        self.localizer = localizer
        self.vlm = vlm
        self.adapter = adapter.eval()
        self.source = source
        self.antialias = antialias
        self.images_at_once = images_at_once
        self.name = f"RegionSpot ({localizer.name} + {vlm.name})"
        self.text = vlm.text
        self.logit_scale = vlm.logit_scale
        self.logit_bias = vlm.logit_bias

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        localizer: str | Localizer | None = None,
        vlm: str | None = None,
        antialias: bool | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> RegionSpotEncoder:
        """Load the adapter of a folder and join it to its localizer and VLM.

        Args:
            folder: as `save_pretrained`, a training or `anyregion convert` wrote it.
            localizer, vlm: hub name, folder or file to use in place of the stated ones (the same
                models kept elsewhere; other widths are refused). A localizer may also be an object
                of your own, see `anyregion.localizers`.
            antialias: see the class; None for what the folder states.
            device: for all three.
            dtype: of the products in both frozen encoders; the decoder and the adapter are float32.

        Raises:
            CheckpointError: files missing, damaged, or not fitting the configuration.
            InputError: the localizer, the VLM or the device cannot be had.
        """
        check_device(device)
        folder = Path(folder)
        config = read_config(folder)
        adapter = load_adapter(folder, config.adapter)
        if localizer is None or isinstance(localizer, str):
            name = localizer or resolve_part(folder, config.localizer)
            localizer = load_region_localizer(name, device=device, encoder_dtype=dtype)
        return cls(
            localizer,
            load_vlm(
                vlm or resolve_part(folder, config.vlm),
                device=device,
                image_size=config.vlm_image_size,
                dtype=dtype,
            ),
            adapter.to(device),
            source=config.source,
            antialias=config.antialias if antialias is None else antialias,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        card: ModelCard | None = None,
        vocabulary: Vocabulary | None = None,
        include_frozen: bool = False,
    ) -> None:
        """Write the adapter, and where its localizer and VLM are; see `Recognizer.save_pretrained`.

        Raises:
            InputError: `include_frozen`, and one of them cannot be copied.
            AnyRegionError: the folder cannot be written.
        """
        folder, card = Path(folder), card or ModelCard()
        parts = {"localizer": self.localizer.name, "vlm": self.vlm.name}
        if include_frozen:
            parts = {part: copy_part(folder, part, name) for part, name in parts.items()}
        config = Pretrained(
            adapter=self.adapter.config,
            **parts,
            vlm_image_size=self.vlm.image_size,
            source=self.source,
            antialias=self.antialias,
            licence=card.licence,
            origin=card.origin,
        )
        weights = self.adapter.state_dict()
        write_folder(folder, config, weights, terms=card.terms, vocabulary=vocabulary)

    @property
    def fingerprint(self) -> str:
        """Adapter (weights and configuration), localizer, VLM, and how they are joined."""
        return fingerprint(
            self.adapter.state_dict().items(),
            self.adapter.config,
            self.source,
            self.antialias,
            self.localizer.fingerprint,
            self.vlm.fingerprint,
        )

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """The localizer's embedding and the VLM's feature map of each image."""
        encoded: list[EncodedImage] = []
        for start in range(0, len(images), self.images_at_once):
            batch = images[start : start + self.images_at_once]
            localized = self.localizer.encode(batch)
            features: Sequence[Tensor | None] = [None] * len(batch)
            grid = (0, 0)
            if self.adapter.config.use_features:
                maps = self.vlm.feature_map(batch, antialias=self.antialias)
                features, grid = list(maps.tokens), maps.grid  # (T, D) each
            for image, embedding, tokens in zip(batch, localized, features, strict=True):
                size = (image.shape[0], image.shape[1])
                encoded.append(EncodedImage(embedding, tokens, grid, size))
        return encoded

    @torch.inference_mode()
    def embed_regions(
        self,
        encoded: Sequence[EncodedImage],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. Candidates come ranked by the localizer's own estimate."""
        if multimask and self.source == "prompt":
            raise InputError("candidates are the mask decoder's: the prompt's token has none")
        results: list[RegionEmbeddings] = []
        for part in _batches(list(map(len, regions)), self.images_at_once):
            batch, prompts = encoded[part], regions[part]
            region_tokens = [
                self.localizer.tokens(
                    image.localized, r, multimask=multimask, masks=masks, source=self.source
                )
                for image, r in zip(batch, prompts, strict=True)
            ]
            # one batch for the adapter, whatever the numbers of regions
            embeddings = self.embed_tokens(batch, [result.tokens for result in region_tokens])
            for image, r, result, e in zip(batch, prompts, region_tokens, embeddings, strict=True):
                rles = None
                if masks and result.mask_logits is not None:
                    rles = self.localizer.masks(image.localized, result.mask_logits)
                seen = self._features(image, r, result.tokens, e) if features else None
                results.append(_rank_candidates(image, r, result, e, rles, seen))
        return results

    def explain_region(
        self, encoded: EncodedImage, region: Regions, matrix: NDArray[np.float32], *, layer: int
    ) -> tuple[Attention, None]:
        """See `explanation.Explainer`: what the cosines are the sum of is not known."""
        from anyregion.regionspot.attention import attention_maps

        del matrix
        weights = attention_maps(self, encoded, region, layer=layer)[0]  # (h, w)
        height, width = encoded.size
        config = self.adapter.config
        attention = Attention(
            weights=weights,
            extent=np.array([0, 0, width, height], dtype=np.float64),  # the image is squashed
            elsewhere=1 - float(weights.sum()),
            layer=layer % config.layers + 1,
            layers=config.layers,
            heads=config.heads,
        )
        return attention, None

    def _features(
        self, image: EncodedImage, regions: Regions, tokens: Tensor, embeddings: Tensor
    ) -> dict[str, Tensor]:
        """The localizer's tokens `(N, M, W)`, the VLM's map averaged in each region, embeddings."""
        seen = {"token": tokens, "embedding": embeddings}
        if image.features is not None and all(image.grid):
            height, width = image.grid
            # without what stands before the cells: a class token, registers
            cells = image.features[-height * width :].float().cpu().numpy()
            dense = DenseMap(cells.reshape(height, width, -1), image.size)  # the image is squashed
            boxes = regions.extents(image.size)
            pooled = torch.from_numpy(pool(dense, boxes, DecodedMasks(regions.masks)))  # (N, D)
            seen["pooled"] = pooled[:, None].expand(-1, tokens.shape[1], -1)
        return seen

    @torch.no_grad()
    def embed_tokens(
        self,
        encoded: Sequence[EncodedImage],
        tokens: list[Tensor],
        weights: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Tokens `(N, M, W)` of each image to embeddings `(N, M, E)`; see `Adapter.forward`."""
        if not any(map(len, tokens)):
            return [t.new_zeros(0, t.shape[1], self.adapter.config.embed_width) for t in tokens]
        stacked, groups = stack_tokens(tokens)  # (B, R, W), (B, R)
        features = None
        if self.adapter.config.use_features:
            features = torch.stack([e.features for e in encoded if e.features is not None])
        out = self.adapter(stacked, features, groups=groups, weights=weights)  # (B, R, E)
        return [
            rows[: t.shape[0] * t.shape[1]].reshape(t.shape[0], t.shape[1], rows.shape[-1])
            for rows, t in zip(out, tokens, strict=True)
        ]


def _batches(counts: Sequence[int], limit: int) -> list[slice]:
    """Which images, of so many regions each, go through the adapter together: neighbours.

    The regions of an image attend to each other, so they stay together, and the other images are
    padded to their number: an image of over `REGIONS_AT_ONCE` goes alone.
    """
    batches: list[slice] = []
    start = 0
    for i, count in enumerate(counts):
        # of the one before it, or full
        if i > start and (max(count, counts[i - 1]) > REGIONS_AT_ONCE or i - start == limit):
            batches.append(slice(start, i))
            start = i
    return [*batches, slice(start, len(counts))] if counts else []


def _rank_candidates(
    image: EncodedImage,
    regions: Regions,
    result: RegionTokens,
    embeddings: Tensor,
    rles: list[list[RLE]] | None,
    features: Mapping[str, Tensor] | None = None,
) -> RegionEmbeddings:
    """Embeddings `(N, M, E)` of one image and what goes with them as rows, best candidate first."""
    count, candidates = embeddings.shape[:2]
    order = torch.arange(candidates).expand(count, candidates)  # (N, M)
    if candidates > 1 and result.mask_scores is not None:
        # stable: equal scores keep the decoder's order
        order = result.mask_scores.float().cpu().argsort(dim=1, descending=True, stable=True)
    rows = np.repeat(np.arange(count), candidates)
    boxes = regions.extents(image.size)[rows]
    masks: tuple[RLE, ...] | None = None
    if rles is not None:
        masks = tuple(rles[i][j] for i, ranked in enumerate(order.tolist()) for j in ranked)
        # a region that was prompted without a box gets the box of its mask
        for i in np.flatnonzero(np.isnan(regions.boxes[rows, 0])).tolist():
            box = mask_box(masks[i])
            if box[2] > box[0] and box[3] > box[1]:
                boxes[i] = box
    scores, logits = result.mask_scores, result.mask_logits
    return RegionEmbeddings(
        embeddings=_ordered(embeddings, order),
        boxes=boxes,
        rows=rows,
        masks=masks,
        mask_scores=None if scores is None else _ordered(scores, order),
        mask_logits=None if logits is None else _ordered(logits, order),
        features=None
        if features is None
        else {name: _ordered(values, order) for name, values in features.items()},
    )


def _ordered(values: Tensor, order: Tensor) -> NDArray[np.float32]:
    """`(N, M, ...)` with each region's candidates in order `(N, M)`: `(N M, ...)`."""
    rows = torch.arange(len(order))[:, None]
    ordered: NDArray[np.float32] = values.float().cpu()[rows, order].flatten(0, 1).numpy()
    return ordered
