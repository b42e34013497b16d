"""RegionSpot of an exported folder as a `RegionEncoder`: graphs on ONNX Runtime, and no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import DecodedMasks, pool
from anyregion.compact.assets import start_session
from anyregion.errors import CheckpointError
from anyregion.exported.folder import (
    HEAD,
    LOCALIZER_IMAGE,
    LOCALIZER_MASKS,
    LOCALIZER_TOKENS,
    VLM_IMAGE,
    read_exported,
)
from anyregion.exported.preprocess import localizer_input, logits_to_masks, prompts, vlm_input
from anyregion.exported.text import ExportedText
from anyregion.images import Pixels
from anyregion.localizers.square import Frame
from anyregion.masks import RLE, mask_box
from anyregion.model_card import CARD, read_card
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.scoring import Score

Floats = NDArray[np.float32]

# prompts in one pass of the mask decoder; each has image tokens of its own there
PROMPTS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image after both image encoders.

    Attributes:
        embedding: `(1, C, h, w)` of the localizer.
        features: `(T, D)` of the VLM.
        frame: where the image lies in the localizer's square.
    """

    embedding: Floats
    features: Floats
    frame: Frame


class ExportedRegionSpot:
    """RegionSpot as `anyregion export-onnx` wrote it.

    Args:
        folder: the graphs, `onnx.json` and `card.json`, whose hashes are checked.
        device: see `start_session`.

    Raises:
        CheckpointError: files that are missing or altered.
        InputError: this ONNX Runtime cannot use the device.
    """

    default_score: Score = "softmax"

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        self.folder, self.device = Path(folder), device
        self.model = read_exported(self.folder)
        card = read_card(self.folder)
        if card is None:
            raise CheckpointError(f"{self.folder / CARD}: missing")
        for name in card.sha256:
            card.check(self.folder, name)
        digest = hashlib.sha256(repr((card.fingerprint, self.model)).encode())
        self.fingerprint = f"onnx-{digest.hexdigest()[:32]}"
        self.text = ExportedText(self.folder, self.model, device=device)
        self.name = f"{self.model.name}, ONNX{' int8' if self.model.int8 else ''}"
        self.image_size = self.model.image_size
        self.logit_scale, self.logit_bias = self.model.logit_scale, self.model.logit_bias

    def encode_images(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """The localizer's embedding and the VLM's feature map of each image."""
        encoded = []
        for image in images:
            pixels, frame = localizer_input(image, self.model)
            (embedding,) = self._localizer.run(None, {"pixels": pixels})
            (features,) = self._vlm.run(None, {"pixels": vlm_input(image, self.model)})
            encoded.append(EncodedImage(embedding, features, frame))
        return encoded

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
        return [
            self._embed(image, r, masks=masks, multimask=multimask, features=features)
            for image, r in zip(encoded, regions, strict=True)
        ]

    def _embed(
        self,
        image: EncodedImage,
        regions: Regions,
        *,
        masks: bool,
        multimask: bool,
        features: bool,
    ) -> RegionEmbeddings:
        candidates = [1, 2, 3] if multimask else [0]
        count, ranks = len(regions), len(candidates)
        graph = self._masks if masks else self._tokens
        tokens = np.empty((count, ranks, self.model.token_width), np.float32)
        scores = np.empty((count, ranks), np.float32)
        side = 4 * image.embedding.shape[-1]
        logits = np.empty((count, ranks, side, side), np.float32) if masks else None
        for members, points, labels in prompts(regions, image.frame, chunk=PROMPTS_AT_ONCE):
            feed = {"embedding": image.embedding, "points": points, "labels": labels}
            # all four masks of each prompt: the single one, then the three candidates
            outputs = graph.run(None, feed)
            tokens[members], scores[members] = (values[:, candidates] for values in outputs[:2])
            if logits is not None:
                logits[members] = outputs[2][:, candidates]
        # regions attend to each other within a rank, as the adapter's groups have it
        embeddings = np.stack(
            [self._head_rows(tokens[:, rank], image.features) for rank in range(ranks)], axis=1
        )  # (N, M, E)
        # stable: equal scores keep the decoder's order
        order = np.argsort(-scores, axis=1, kind="stable")  # (N, M)

        def ranked(values: Floats) -> Floats:
            best_first: Floats = values[np.arange(count)[:, None], order]
            return best_first.reshape(count * ranks, *values.shape[2:])

        rows = np.repeat(np.arange(count), ranks)
        boxes = regions.extents(image.frame.size)[rows]
        rles: tuple[RLE, ...] | None = None
        if logits is not None:
            # one region at a time: the full-size logits of many would not fit in memory
            by_region = (
                logits_to_masks(values[ranking], image.frame)
                for values, ranking in zip(logits, order, strict=True)
            )
            rles = tuple(rle for region in by_region for rle in region)
            # a region that was prompted without a box gets the box of its mask
            for i in np.flatnonzero(np.isnan(regions.boxes[rows, 0])).tolist():
                box = mask_box(rles[i])
                if box[2] > box[0] and box[3] > box[1]:
                    boxes[i] = box
        seen = None
        if features:
            pooled = np.repeat(self._pool(image, regions)[:, None], ranks, axis=1)
            parts = {"token": tokens, "embedding": embeddings, "pooled": pooled}
            seen = {name: ranked(values) for name, values in parts.items()}
        return RegionEmbeddings(
            embeddings=ranked(embeddings),
            boxes=boxes,
            rows=rows,
            masks=rles,
            mask_scores=ranked(scores) if masks or multimask else None,
            mask_logits=None if logits is None else ranked(logits),
            features=seen,
        )

    def _head_rows(self, tokens: Floats, features: Floats) -> Floats:
        """Tokens `(N, C)` of one image to embeddings `(N, E)`; names are scored elsewhere."""
        names = np.zeros((0, self.model.embed_width), np.float32)
        feed = {"tokens": np.ascontiguousarray(tokens), "features": features, "names": names}
        (embeddings,) = self._head.run(["embeddings"], feed)
        rows: Floats = embeddings
        return rows

    def _pool(self, image: EncodedImage, regions: Regions) -> Floats:
        """The VLM's map averaged in each region, `(N, D)`."""
        height, width = self.model.grid
        # without what stands before the cells: a class token
        cells = image.features[-height * width :].reshape(height, width, -1)
        dense = DenseMap(cells, image.frame.size)  # the image is squashed
        return pool(dense, regions.extents(image.frame.size), DecodedMasks(regions.masks))

    def _session(self, name: str) -> Any:
        return start_session((self.folder / name).read_bytes(), threads=None, device=self.device)

    @cached_property
    def _localizer(self) -> Any:
        return self._session(LOCALIZER_IMAGE)

    @cached_property
    def _tokens(self) -> Any:
        return self._session(LOCALIZER_TOKENS)

    @cached_property
    def _masks(self) -> Any:
        return self._session(LOCALIZER_MASKS)

    @cached_property
    def _vlm(self) -> Any:
        return self._session(VLM_IMAGE)

    @cached_property
    def _head(self) -> Any:
        return self._session(HEAD)
