"""Settings of RegionSpot's training; the loop's are in `training.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from anyregion.data.region_dataset import check_share
from anyregion.errors import InputError
from anyregion.localizers.protocol import TokenSource
from anyregion.regionspot.adapter import AdapterConfig


@dataclass(frozen=True)
class DataConfig:
    """One data set. Its vocabulary is the text side of the steps that it gives.

    Attributes:
        store: folder of frozen features, as `anyregion cache` made it. None computes them all.
        annotations: COCO, LVIS, VOC or OpenImages annotations; needed without a store.
        images: folder of the images; needed for whatever the store does not hold.
        vocabulary: names, a file of names, a built-in list, or an encoded vocabulary; None for the
            annotations' categories.
        ratio: its share of the steps, against the other data sets' ratios.
        repeat_threshold: repeat-factor sampling: an image with a class that fewer than this share
            of the images have is drawn more often (published: 0.001). 0 draws all alike.
        terms: licence or terms of use, for the card.
        share: draw only this share of its images, from above 0 to 1; see `share_of_images`.
    """

    store: str | None = None
    annotations: str | None = None
    images: str | None = None
    vocabulary: str | None = None
    ratio: int = 1
    repeat_threshold: float = 0.0
    terms: str = "not stated"
    share: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share)
        if self.store is None and (self.annotations is None or self.images is None):
            raise InputError("a data set needs a store, or annotations and images")
        if self.ratio < 1:
            raise InputError(f"ratio must be at least 1, not {self.ratio}")
        if not 0 <= self.repeat_threshold <= 1:
            raise InputError(f"repeat_threshold must lie in 0 to 1: {self.repeat_threshold}")

    @property
    def name(self) -> str:
        """The store, or else the annotations: for messages."""
        return self.store or str(self.annotations)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss.

    Attributes:
        kind: `focal`, sigmoid focal loss (published); `cross_entropy`, softmax over the vocabulary.
        alpha, gamma: of the focal loss; alpha below 0 weighs positives and negatives alike.
        distillation: weight of the pull towards the training-free embedding of the same region (the
            VLM's dense features, averaged in the box); keeps the vocabulary open. 0 for none.
    """

    kind: Literal["focal", "cross_entropy"] = "focal"
    alpha: float = 0.25
    gamma: float = 2.0
    distillation: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("focal", "cross_entropy"):
            raise InputError(f"objective.kind: {self.kind!r} is not focal or cross_entropy")
        if not 0 <= self.distillation < float("inf"):
            raise InputError(f"objective.distillation must not be negative: {self.distillation}")


@dataclass(frozen=True)
class StepConfig:
    """The settings of `RegionSpotConfig` that say what a step reads."""

    batch: int = 16
    flip: float = 0.5
    max_regions: int | None = None
    fill: Literal["pad", "repeat"] = "pad"


@dataclass(frozen=True)
class RegionSpotConfig:
    """RegionSpot's training.

    Attributes:
        data: the data sets.
        validation: another one, to measure `top1`, `top5` and `mean_class_accuracy` on.
        unseen: classes of the data left out of training, whose names are not among the texts: by
            name, `every:STEP:FIRST`, or `frequency:r`, LVIS's rare ones (the protocol of ViLD);
            empty for none.
        validation_images: no more than that many of its first images; 0 for all.
        localizer: name, folder or file of the localizer, or a name of `regionspot.prompting`;
            loaded only for tokens that no store has.
        vlm: name, folder or file of the vision-language model.
        vlm_image_size: side of its input in pixels; None for the model's own.
        source: which of the localizer's tokens.
        antialias: how images are squashed for the VLM.
        dtype: precision of the frozen encoders, as `load_recognizer` takes it; that of what learns
            is `loop.precision`.
        adapter: sizes and choices of what learns.
        init_from: a folder with an adapter to start from (stage 2 from stage 1); None for new
            weights.
        objective: the loss.
        logit_scale: of the cosine while training; None for the VLM's own, with which what is saved
            is used.
        batch: images of a step, of all processes.
        flip: share of images that are mirrored; token and feature map then come from the same
            mirror image.
        max_regions: no more than that many regions of an image, drawn anew each time; None for all.
        fill: images with fewer regions are padded (`pad`: the padding counts for nothing), or
            repeat theirs (`repeat`, published).
        templates: prompt templates; None for the model's own.
        cleaning: how names are spelled in prompts.
        licence: of what is learned.
    """

    data: tuple[DataConfig, ...] = ()
    validation: DataConfig | None = None
    unseen: str = ""
    validation_images: int = 0
    localizer: str = "facebook/sam-vit-base"
    vlm: str = "openai/clip-vit-base-patch16"
    vlm_image_size: int | None = None
    source: TokenSource = "decoder"
    antialias: bool = True
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    adapter: AdapterConfig = field(
        default_factory=lambda: AdapterConfig(feature_width=768, embed_width=512)
    )
    init_from: str | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    logit_scale: float | None = None
    batch: int = 16
    flip: float = 0.5
    max_regions: int | None = None
    fill: Literal["pad", "repeat"] = "pad"
    templates: tuple[str, ...] | None = None
    cleaning: Literal["plain", "published"] = "plain"
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("regionspot.data: name at least one data set")
        if self.batch < 1:
            raise InputError(f"regionspot.batch must be at least 1, not {self.batch}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"regionspot.flip must lie in 0 to 1, not {self.flip}")
        if self.max_regions is not None and self.max_regions < 1:
            raise InputError(f"regionspot.max_regions must be at least 1, not {self.max_regions}")
        if self.fill not in ("pad", "repeat"):
            raise InputError(f"regionspot.fill: {self.fill!r} is not pad or repeat")
        if self.logit_scale is not None and not 0 < self.logit_scale < float("inf"):
            raise InputError(f"regionspot.logit_scale must be above 0, not {self.logit_scale}")
        if self.validation_images < 0:
            raise InputError("regionspot.validation_images must not be negative")
