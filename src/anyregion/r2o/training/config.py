"""The settings of R2O's pretraining; the loop's are in `training.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from anyregion.errors import InputError
from anyregion.r2o.adapting import AdaptConfig
from anyregion.r2o.augmentations import ViewConfig
from anyregion.r2o.curriculum import CurriculumConfig
from anyregion.r2o.method import MethodConfig
from anyregion.r2o.superpixels import PriorConfig


@dataclass(frozen=True)
class HeadConfig:
    """Projector and predictor: their inner width, and the width of what is compared."""

    hidden: int = 4096
    out: int = 256

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.out < 2:
            raise InputError(f"heads: {self.hidden} -> {self.out} is too narrow")


@dataclass(frozen=True)
class ImagesConfig:
    """One data set.

    Attributes:
        images: a folder of unlabelled images, searched through.
        terms: licence or terms of use, for the card.
    """

    images: str
    terms: str = "not stated"


@dataclass(frozen=True)
class R2OConfig:
    """R2O's pretraining. The defaults are the paper's; what counts in epochs decides the loop's
    `steps`, `schedule.warmup_steps`, `checkpoint_every`, `validate_every` and `samples_every`.

    Attributes:
        data: the images; at least one folder is needed.
        backbone: `torchvision/resnet50`, `timm/convnext_tiny`, ...: see `backbones.loading`.
        start: weights to start from: None for random ones, `pretrained` for the library's own, or
            a file or folder.
        adapt: how the backbone is kept near its start.
        epochs: how often each image is seen.
        warmup_epochs: of them, with a rising learning rate.
        batch: images of a step, of all processes together. Taken in parts (`micro_batch`), each
            part is a batch of its own, of all processes together, to BatchNorm, to k-means of
            scope `batch` and to the mean over masks; the gradient is the mean of the parts'. The
            target follows once a step, in its first part.
        base_batch: `optimizer.lr` is meant for this many; the rate grows with the batch. None
            takes it as it is.
        momentum: of the target network at the start; it rises to 1 by a cosine.
        rate_per: scale the learning rate by the number of regions over this one (published: 16;
            at most 128 regions count). None does not.
        views: the two views.
        prior: what the regions start from.
        curriculum: how many regions, by epoch. Without `epochs` of its own it spans the run.
        method: how a step goes.
        heads: projector and predictor.
        sync_norm: BatchNorms count over all processes.
        channels_last: memory order of images and weights: faster in bf16, and on GPUs.
        keep: which encoder is saved, the `online` or the `target` one.
        cache: folder of the label maps; None for `priors` beside the run (`anyregion train`: in the
            working folder).
        workers: threads that compute them, in each process; None for one a core.
        max_broken: share of the images that may be unreadable; above it the run does not start.
        epoch_images: how many images count as an epoch; None for as many as can be used. A run
            that `anyregion pretrain` began has its number here, so that it goes on with as many
            steps though an image was lost.
        checkpoint_epochs: epochs between checkpoints.
        look_epochs: epochs between looks at features (the collapse watch) and pictures.
        shown: images in the pictures; 0 for none.
    """

    data: tuple[ImagesConfig, ...] = ()
    backbone: str = "torchvision/resnet50"
    start: str | None = None
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    epochs: float = 300
    warmup_epochs: float = 3
    batch: int = 4096
    base_batch: int | None = 256
    momentum: float = 0.99
    rate_per: int | None = None
    views: ViewConfig = field(default_factory=ViewConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    sync_norm: bool = True
    channels_last: bool = False
    keep: Literal["online", "target"] = "online"
    cache: str | None = None
    workers: int | None = None
    max_broken: float = 0.01
    epoch_images: int | None = None
    checkpoint_epochs: float = 1
    look_epochs: float = 5
    shown: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "checkpoint_epochs", "look_epochs"):
            if not getattr(self, name) > 0:
                raise InputError(f"r2o.{name} must be above 0, not {getattr(self, name)}")
        for name in ("base_batch", "rate_per", "workers", "epoch_images"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"r2o.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"r2o.warmup_epochs must lie in 0 to epochs ({self.epochs}): {self.warmup_epochs}"
            )
        for name in ("momentum", "max_broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"r2o.{name} must lie in 0 to 1, not {getattr(self, name)}")
        if self.keep not in ("online", "target"):
            raise InputError(f"r2o.keep: {self.keep!r} is not online or target")
        if self.shown < 0:
            raise InputError(f"r2o.shown must not be negative: {self.shown}")
        if self.start in (None, "random") and self.adapt != AdaptConfig():
            raise InputError("r2o.adapt keeps a backbone near its start: give one as r2o.start")
