"""The built-in model and its faces: region encoder, image embedder, extractor.

They and the proposers (`compact.proposers`) stand on one `CompactModel`, so that graphs are loaded
once, and an image is encoded once when its regions are proposed and then named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from anyregion.baselines.embedder import DenseMap
from anyregion.baselines.pooling import DecodedMasks, pool
from anyregion.compact.assets import (
    CALIBRATION,
    CONSE,
    IMAGE_ENCODER,
    KEPT_REGIONS,
    MASK_HEAD,
    POINT_CHOICE,
    PROPOSAL_HEAD,
    RANKINGS,
    REGION_HEAD,
    asset_fingerprint,
    read_asset,
    start_session,
)
from anyregion.compact.calibration import (
    STACKED_LENGTH,
    Calibration,
    CompactAnswers,
)
from anyregion.compact.conse import BEST_CLASSES, TEMPERATURE, WIDTH, load_conse
from anyregion.compact.image_encoder import (
    ALL_MAPS,
    CHANNELS,
    LONG_SIDE,
    FeaturePyramid,
    ImageEncoder,
)
from anyregion.compact.mask_head import MaskHead
from anyregion.compact.point_choice import PointChoice
from anyregion.compact.proposal_head import ProposalHead
from anyregion.compact.ranking import Ranking, read_rankings
from anyregion.compact.region_head import (
    CONFIG,
    README,
    WEIGHTS,
    RegionHead,
    extract_region_features,
)
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.data.features import Features, to_half
from anyregion.errors import InputError
from anyregion.explanation import AnswerParts, Attention
from anyregion.files import atomic_path, writing
from anyregion.images import Pixels
from anyregion.masks import RLE
from anyregion.model_card import ModelCard, write_card
from anyregion.region_encoder import REGIONS_AT_ONCE, RegionEmbeddings
from anyregion.regions import Boxes, Regions
from anyregion.scoring import Score
from anyregion.tile_grids import TileOptions
from anyregion.vocabulary import Vocabulary

# long side of an image that is embedded as one: a crop needs no small cells
CROP_SIDE = 224

# Of large images: length in pixels of the smallest tiles, and most tiles of an image. In mosaics of
# 4 x 4 photographs a side of 320 names 66.0 % of the regions rightly, 368 66.1 %, 416 63.4 %; in a
# scale model of large photographs (`benchmarks/mosaics.py --frame 160`) 320 names 52.8 %, 416
# 54.1 % and 588 52.3 %.
TILE_SIDE, TILES = 368, 128

# of the training-free answer: the softmax scale with the lowest log loss on given boxes of COCO
# training images, 80 names, and then the bias with the lowest log loss of the sigmoid scores
LOGIT_SCALE = 8.0
LOGIT_BIAS = -4.75


def tile_options(limit: int | None = None) -> TileOptions:
    """How large images are seen in tiles; `limit` None for `TILES`."""
    # an image that is not shrunk shows all it has
    return TileOptions(limit=TILES if limit is None else limit, side=TILE_SIDE, whole=LONG_SIDE)


class CompactModel:
    """Graphs and numbers of the built-in model, each loaded when the first face needs it.

    Args:
        folder: of a region head that training made, in place of the built-in one; its image encoder
            too, if it has one.
        threads, device: see `start_session`.
        long_side: pixels of the longer side of what is encoded for regions.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: one of the model's files is missing or altered.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        threads: int | None = None,
        device: str = "cpu",
        long_side: int = LONG_SIDE,
    ) -> None:
        self.folder, self.threads, self.device = folder, threads, device
        self.long_side = long_side
        self._start_session = partial(start_session, threads=threads, device=device)
        # whether the folder brings an image encoder of its own
        self.foreign = folder is not None and (folder / IMAGE_ENCODER).is_file()
        graph = read_asset(IMAGE_ENCODER, folder if self.foreign else None)
        self.encoder_digest = hashlib.sha256(graph).hexdigest()
        # at once, since every face needs it: a device that cannot be used is an error here
        self.image_encoder = ImageEncoder(self._start_session(graph))

    def encode(self, pixels: Pixels) -> FeaturePyramid:
        """An image as the heads take it: all maps, at the model's `long_side`."""
        return self.image_encoder.encode(pixels, long_side=self.long_side)

    @cached_property
    def region_head(self) -> RegionHead:
        """From region features to embeddings."""
        graph, numbers = (read_asset(name, self.folder) for name in (REGION_HEAD, CALIBRATION))
        digest = hashlib.sha256(graph + numbers).hexdigest()
        return RegionHead(self._start_session(graph), Calibration.from_bytes(numbers), digest)

    @cached_property
    def _built_in_encoder(self) -> ImageEncoder:
        return ImageEncoder(self._start_session(read_asset(IMAGE_ENCODER)))

    def built_in_maps(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """An encoded image as the mask head and the proposal head know it: by the built-in encoder.

        Where the folder has an encoder of its own the image is encoded a second time.

        Raises:
            InputError: that needs the image, and the maps are of a store.
        """
        if not self.foreign:
            return pyramid
        if pyramid.frame is None:
            raise InputError("masks and boxes of points need the image itself, not a store's maps")
        return self._built_in_encoder.encode_frame(pyramid.frame, pyramid.span, pyramid.size)

    @cached_property
    def proposal_head(self) -> ProposalHead:
        """Boxes without a prompt, or at points."""
        choice = PointChoice.from_bytes(read_asset(POINT_CHOICE))
        return ProposalHead(self._start_session(read_asset(PROPOSAL_HEAD)), choice)

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """How proposals are ranked: the proposal head's `alone`, and `joint` with merge trees."""
        return read_rankings(read_asset(RANKINGS))

    @cached_property
    def mask_head(self) -> MaskHead:
        """From boxes to masks."""
        return MaskHead(self._start_session(read_asset(MASK_HEAD)))


class CompactEncoder:
    """`compact` with its trained heads, as a `RegionEncoder`.

    Raises:
        CheckpointError: one of the model's files is missing or altered.
    """

    name = "compact"

    def __init__(self, model: CompactModel) -> None:
        self.model = model
        # a backbone without a classifier has no training-free answer
        self.conse = None if model.foreign else load_conse()
        self.calibration = model.region_head.calibration
        # heads that were trained before there was a confidence have the sigmoid alone
        confidence = self.calibration.confidence
        self.answers = None if confidence is None else CompactAnswers(self.calibration, confidence)
        self.default_score: Score = "sigmoid" if confidence is None else "probability"
        self.text = CompactTextEncoder(self.calibration, threads=model.threads, device=model.device)
        self.logit_scale = self.calibration.scale * STACKED_LENGTH
        self.logit_bias = self.calibration.bias
        # of everything that an answer depends on: the last three decide boxes of points and masks,
        # whether or not they are loaded yet
        files = (IMAGE_ENCODER, CONSE, PROPOSAL_HEAD, POINT_CHOICE, MASK_HEAD)
        parts = [model.long_side, model.region_head.digest, self.logit_scale, self.logit_bias]
        parts += [model.encoder_digest] if model.foreign else []
        self.fingerprint = asset_fingerprint(files, *parts, self.text.fingerprint)

    @cached_property
    def everyday(self) -> RegionEmbeddings | None:
        """Regions of everyday photographs with their features, which `teaching` tells others from.

        Those that trainings keep (docs/results/compact.md); None of a head that was trained since,
        whose answers to them are not known. Where they lie is not kept: their boxes are the
        whole image.
        """
        if self.model.folder is not None or self.conse is None:
            return None
        kept = load(read_asset(KEPT_REGIONS))
        pooled, answers = (kept[name].astype(np.float32) for name in ("pooled", "answers"))
        conse = self.conse.project(pooled[:, -CHANNELS["last"] :])  # (R, 384)
        return RegionEmbeddings(
            answers,
            boxes=np.tile([0.0, 0.0, 1.0, 1.0], (len(pooled), 1)),
            features={"pooled": pooled, "conse": conse, "head": answers},
        )

    def save_pretrained(
        self,
        folder: Path,
        *,
        card: ModelCard,
        vocabulary: Vocabulary | None = None,
        include_frozen: bool = False,
    ) -> None:
        """Write the region head for `load_recognizer`. See `Recognizer.save_pretrained`."""
        del include_frozen  # the other parts come with the package
        source, weights = self.model.folder, [REGION_HEAD, CALIBRATION]
        if source is not None:
            optional = (CONFIG, WEIGHTS, IMAGE_ENCODER)
            weights += [name for name in optional if (source / name).is_file()]
        with writing(folder):
            for name in weights:
                with atomic_path(folder / name) as temporary:
                    temporary.write_bytes(read_asset(name, source))
        write_card(folder, card, weights=weights, vocabulary=vocabulary, readme=README)

    def encode_images(self, images: Sequence[Pixels]) -> list[FeaturePyramid]:
        """All maps of each image, one image after the other: a batch gains nothing."""
        return [self.model.encode(pixels) for pixels in images]

    def embed_regions(
        self,
        encoded: Sequence[FeaturePyramid],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,
    ) -> list[RegionEmbeddings]:
        """See `RegionEncoder`. A region of points is grown to a box, and a box to a mask.

        `mask_scores` are how well the mask probably fits (intersection over union); of a region
        grown from points, how well its box does, if that is less. Features are what the region head
        sees (`RegionFeatures`: pooled, conse), and its answer.
        """
        del multimask  # there is one candidate a region
        results = []
        for pyramid, prompts in zip(encoded, regions, strict=True):
            boxes = prompts.extents(pyramid.size)  # (N, 4)
            box_scores = np.ones(len(prompts))  # 1 where the place is stated
            has_mask = np.array([rle is not None for rle in prompts.masks], dtype=bool)
            at_points = np.flatnonzero(np.isnan(prompts.boxes[:, 0]) & ~has_mask)
            if len(at_points):
                grown, box_scores[at_points] = self.model.proposal_head.boxes_from_points(
                    self.model.built_in_maps(pyramid),
                    [prompts.points[i] for i in at_points],
                    [prompts.point_labels[i] for i in at_points],
                )
                # a box that was widened to a point may reach beyond the last pixel
                boxes[at_points] = np.clip(grown, 0, np.tile(pyramid.size[::-1], 2).astype(float))
            parts = []
            blocks: dict[str, list[NDArray[np.float32]]] = {"pooled": [], "conse": [], "head": []}
            # one empty block where there are no regions: it has the width of the others
            for start in range(0, max(len(prompts), 1), REGIONS_AT_ONCE):
                rows = slice(start, start + REGIONS_AT_ONCE)
                prompt_masks = DecodedMasks(prompts.masks[rows]) if has_mask.any() else None
                seen = extract_region_features(pyramid, boxes[rows], self.conse, prompt_masks)
                # (n, 384), and what is for names that were not trained: (n, 388)
                embedded = self.model.region_head.embed(seen)
                parts.append(self.calibration.stack_regions(embedded))
                if features:
                    blocks["pooled"].append(seen.pooled)
                    blocks["conse"].append(seen.conse)
                    blocks["head"].append(embedded)
            embeddings = np.concatenate(parts)  # (N, 388)
            decoded: tuple[RLE, ...] | None = None
            scores: NDArray[np.float32] | None = None
            if masks:
                decoded, mask_scores = self._decode_masks(pyramid, prompts, boxes)
                scores = np.minimum(mask_scores, box_scores).astype(np.float32)
            results.append(
                RegionEmbeddings(
                    embeddings,
                    boxes=boxes,
                    masks=decoded,
                    mask_scores=scores,
                    features={name: np.concatenate(block) for name, block in blocks.items()}
                    if features
                    else None,
                )
            )
        return results

    def explain_region(
        self, encoded: FeaturePyramid, region: Regions, matrix: NDArray[np.float32], *, layer: int
    ) -> tuple[Attention, AnswerParts]:
        """See `explanation.Explainer`."""
        from anyregion.compact.explain import explain_region

        (embedded,) = self.embed_regions([encoded], [region])
        return explain_region(self, encoded, region, embedded.boxes, matrix, layer=layer)

    def _decode_masks(
        self, pyramid: FeaturePyramid, prompts: Regions, boxes: Boxes
    ) -> tuple[tuple[RLE, ...], NDArray[np.float64]]:
        """The prompts' own masks, else masks grown from the boxes, and how well each fits."""
        if pyramid.frame is None:
            raise InputError("masks need the image itself: these features come from a store")
        rows = [i for i, mask in enumerate(prompts.masks) if mask is None]
        scores = np.ones(len(prompts))
        known = self.model.built_in_maps(pyramid)
        grown, scores[rows] = self.model.mask_head.masks_from_boxes(
            known, pyramid.frame, boxes[rows]
        )
        by_row = dict(zip(rows, grown, strict=True))
        return tuple(mask or by_row[i] for i, mask in enumerate(prompts.masks)), scores


class CompactEmbedder:
    """`compact` without its trained heads, as an `ImageEmbedder`.

    EfficientNet-Lite0 encodes images, all-MiniLM-L6-v2 texts, ConSE joins them.
    """

    name = "compact"
    logit_scale = LOGIT_SCALE
    logit_bias = LOGIT_BIAS

    def __init__(self, model: CompactModel) -> None:
        self.model = model
        self.conse = load_conse()
        self.text = CompactTextEncoder(threads=model.threads, device=model.device)
        # of the assets, as they were checked on loading, and of the constants in use
        constants = (LONG_SIDE, CROP_SIDE, TEMPERATURE, BEST_CLASSES, LOGIT_SCALE, LOGIT_BIAS)
        self.fingerprint = asset_fingerprint(
            (IMAGE_ENCODER, CONSE), *constants, self.text.fingerprint
        )

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Embed images of any sizes, `(len(images), 384)`, not normalised."""
        if not images:
            return np.zeros((0, WIDTH), dtype=np.float32)
        pooled = []
        for pixels in images:
            height, width = pixels.shape[:2]
            image_box = np.array([[0.0, 0.0, width, height]])  # without the padding
            pooled.append(pool(self._last_map(pixels, CROP_SIDE), image_box))
        return self.project(np.concatenate(pooled))

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """The last convolution of each image, 1,280 channels, a cell for 32 of 768 pixels."""
        return [self._last_map(pixels, LONG_SIDE) for pixels in images]

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means of the last convolution `(n, 1280)` into the space of the texts `(n, 384)`."""
        return self.conse.project(pooled)

    def _last_map(self, pixels: Pixels, long_side: int) -> DenseMap:
        encoder = self.model.image_encoder
        pyramid = encoder.encode(pixels, outputs=("last",), long_side=long_side)
        return DenseMap(pyramid.maps["last"], pyramid.span)


class CompactExtractor:
    """`compact`'s image encoder as a `FeatureExtractor`; the regions make no difference to it.

    Arrays: `stride8`, `stride16`, `stride32`, `last`, each `(h, w, C)` float16 (see
    `image_encoder.CHANNELS`), and `span` `(2,)` float32, the height and width in pixels that they
    cover.
    """

    def __init__(self, model: CompactModel) -> None:
        self.model = model

    @property
    def fingerprint(self) -> str:
        """Hash of the image encoder, as it was checked on loading, and of the size it works at."""
        content = repr((self.model.encoder_digest, LONG_SIDE, ALL_MAPS))
        return f"compact-eyes-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def describe(self) -> Mapping[str, str]:
        """See `FeatureExtractor`. The key is that of stores made before."""
        title = "image encoder of a folder" if self.model.foreign else "compact"
        return {"eyes": f"{title} ({self.model.encoder_digest[:12]}), long side {LONG_SIDE}"}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """See `FeatureExtractor`. Images go one by one: the encoder gains nothing from a batch."""
        extracted: list[Features] = []
        for pixels in images:
            pyramid = self.model.image_encoder.encode(pixels)
            maps = {str(name): to_half(name, values) for name, values in pyramid.maps.items()}
            extracted.append({**maps, "span": np.array(pyramid.span, dtype=np.float32)})
        return extracted
