"""The settings of a training of the region head."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyregion.compact.calibration import HIGHEST_GAIN
from anyregion.compact.training.dataset import StoreConfig
from anyregion.compact.training.region_head_module import RegionHeadConfig
from anyregion.errors import InputError


@dataclass(frozen=True)
class RegionObjective:
    """What the region head is trained for.

    Attributes:
        scale: of the cosines in the cross-entropy.
        class_power: a class of n regions weighs n to the minus this; 0 treats regions alike.
        distillation: pull of random boxes towards the training-free answer (1 - cosine): it keeps
            the names that are never trained.
        labelled_share: of that pull, on labelled regions.
        random_boxes: how many an image.
        keep: where training begins at the built-in head: pull of its stored regions towards its
            answers (1 - cosine).
        keep_here: the same, of random boxes of the images trained on; `distillation` and
            `labelled_share` have no say then.
        distractors: how many names of the built-in lists stand beside an image's own in the
            cross-entropy at most, so that lists of hundreds of names do not drown what is there;
            how many do is drawn anew for each image, small numbers as often as large ones.
    """

    scale: float = 20.0
    class_power: float = 0.3
    distillation: float = 1.0
    labelled_share: float = 0.1
    random_boxes: int = 8
    keep: float = 2.0
    keep_here: float = 0.2
    distractors: int = 0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"objective.scale must be above 0, not {self.scale}")
        if self.keep < 0 or self.keep_here < 0:
            raise InputError("objective.keep and objective.keep_here are 0 or more")
        if self.distractors < 0:
            raise InputError(f"objective.distractors is 0 or more, not {self.distractors}")
        if self.distillation and self.random_boxes < 1:
            raise InputError("objective.distillation needs random_boxes of at least 1")


@dataclass(frozen=True)
class RegionTaskConfig:
    """Training `compact`'s region head on stored features.

    Attributes:
        data: the data sets, each with its own vocabulary; an image of any is as likely as one of
            any other.
        validation: another one, for metrics and the calibration of scores.
        unseen: classes left out of training, by name, or `every:STEP:FIRST` by position in the
            order of ids (`every:4:1`: 1, 5, 9, ...), or `frequency:r` in LVIS; empty for none.
        batch: images a step.
        flip: chance of the mirror image.
        jitter: how far each side of a box moves at most, as a fraction of the box.
        novelty: the most that names unlike all that were trained gain, in cosine, so as not to
            drown under those (see `compact.calibration`).
        new_name_cost: share of the held-out regions of trained classes, named rightly, that may be
            called by a new name for that; chosen on validation data with `unseen` classes left out
            of training.
        module: sizes; where training begins at the built-in head, of its adapter alone.
        objective: losses.
        start: `none` trains a new head; `shipped` begins at the built-in one, which is frozen, and
            learns what is added to its answers; the folder of a head trained so goes on from it.
        keep_validation: where it begins at the built-in head: a store whose classes are to be named
            as well as before, measured before and after; None for none.
        names: a file of names that the trained folder is to know, and gives where none are asked
            for; None for those of `data`.
        licence: under which the weights may be used.
        image_encoder: a backbone whose features are used in place of the built-in encoder's: a run
            or a folder that holds one, `timm/NAME@WEIGHTS`, or a folder of a training with one. The
            stores say which images; their features are computed anew beside them. There is no
            training-free answer then: `start` is `none`, nothing is distilled, and the head knows
            little but the names that it is trained on.
    """

    data: tuple[StoreConfig, ...]
    validation: StoreConfig
    unseen: str = ""
    batch: int = 8
    flip: float = 0.5
    jitter: float = 0.1
    novelty: float = 0.2
    new_name_cost: float = 0.045
    module: RegionHeadConfig = field(default_factory=RegionHeadConfig)
    objective: RegionObjective = field(default_factory=RegionObjective)
    licence: str = "not stated"
    start: str = "none"
    keep_validation: StoreConfig | None = None
    names: str | None = None
    image_encoder: str | None = None

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("compact.data: name at least one data set")
        if self.batch < 1 or not 0 <= self.flip <= 1 or not 0 <= self.jitter < 0.5:
            raise InputError("compact: batch from 1, flip from 0 to 1, jitter from 0 to below 0.5")
        if not 0 <= self.novelty <= HIGHEST_GAIN or not 0 <= self.new_name_cost < 1:
            raise InputError(
                f"compact: novelty from 0 to {HIGHEST_GAIN}, new_name_cost from 0 to below 1"
            )
        if self.image_encoder is not None and self.start != "none":
            raise InputError(
                f"compact.start {self.start}: that head knows the built-in image encoder alone; "
                "with compact.image_encoder set compact.start to none"
            )
        if self.start == "none" and self.keep_validation is not None:
            raise InputError("compact.keep_validation needs compact.start: shipped, or a folder")
