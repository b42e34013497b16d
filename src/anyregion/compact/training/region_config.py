"""The settings of `compact`'s module; the loop's are in `training.config`."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyregion.compact.training.region_head_module import RegionHeadConfig
from anyregion.errors import InputError


@dataclass(frozen=True)
class RegionObjective:
    """What the module is trained for.

    Attributes:
        scale: of the cosines in the cross-entropy.
        class_power: a class of n regions weighs n to the minus this; 0 treats regions alike.
        distillation: pull of random boxes towards the training-free answer (1 - cosine): it keeps
            the names that are never trained.
        labelled_share: of that pull, on labelled regions.
        random_boxes: how many an image.
    """

    scale: float = 20.0
    class_power: float = 0.3
    distillation: float = 1.0
    labelled_share: float = 0.1
    random_boxes: int = 8

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"objective.scale must be above 0, not {self.scale}")
        if self.distillation and self.random_boxes < 1:
            raise InputError("objective.distillation needs random_boxes of at least 1")


@dataclass(frozen=True)
class RegionTaskConfig:
    """Training `compact`'s module on frozen features.

    Attributes:
        stores: folders made by `anyregion cache --model compact`, each with its own vocabulary; an
            image of any is as likely as one of any other.
        validation: a store that is not trained on: figures, and the calibration of scores.
        unseen: classes left out of training, by name, or `every:STEP:FIRST` by position in the
            order of ids (`every:4:1`: 1, 5, 9, ...); empty for none.
        batch: images a step.
        flip: chance of the mirror image.
        jitter: how far each side of a box moves at most, as a fraction of the box.
        novelty: what names unlike all that were trained gain, in cosine, so as not to drown under
            those (see `compact.familiar`); chosen on validation data with `unseen` classes left
            out of training.
        module: sizes.
        objective: losses.
        licence: under which the weights may be used.
        terms: of the data, for the card.
    """

    stores: tuple[str, ...]
    validation: str
    unseen: str = ""
    batch: int = 8
    flip: float = 0.5
    jitter: float = 0.1
    novelty: float = 0.24
    module: RegionHeadConfig = field(default_factory=RegionHeadConfig)
    objective: RegionObjective = field(default_factory=RegionObjective)
    licence: str = "unstated"
    terms: str = "unstated"

    def __post_init__(self) -> None:
        if not self.stores:
            raise InputError("compact.stores is empty: name at least one folder")
        if self.batch < 1 or not 0 <= self.flip <= 1 or not 0 <= self.jitter < 0.5:
            raise InputError("compact: batch from 1, flip from 0 to 1, jitter from 0 to below 0.5")
