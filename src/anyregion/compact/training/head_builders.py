"""The settings of the heads' trainings, and how their tasks are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anyregion.compact.mask_head import MaskHead
from anyregion.compact.training.mask_task import MaskTask, MaskTaskConfig
from anyregion.compact.training.named_set import check_features
from anyregion.compact.training.photographs import Photographs
from anyregion.compact.training.proposal_task import ProposalTask, ProposalTaskConfig
from anyregion.compact.training.torch_session import MaskHeadSession, read_mask_head
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.training.config import LoopConfig


@dataclass(frozen=True)
class MaskTrainingConfig:
    """Training `compact`'s mask head: from boxes to masks.

    Attributes:
        store: folder made by `anyregion cache --model compact` of annotations with masks.
        images: folder of its image files: the head also sees the pixels.
        validation: a store that is not trained on, for figures.
        validation_images: folder of its image files; None where it is `images` too.
        teacher: `mask_head.safetensors` of a training before, for `task.taught_images`.
        task: how it is trained.
        licence: under which the weights may be used.
        terms: of the data, for the card.
    """

    store: str
    images: str
    validation: str
    validation_images: str | None = None
    teacher: str | None = None
    task: MaskTaskConfig = field(default_factory=MaskTaskConfig)
    licence: str = "unstated"
    terms: str = "unstated"


@dataclass(frozen=True)
class ProposalTrainingConfig:
    """Training `compact`'s finder: proposals without a prompt, and boxes at points.

    Attributes:
        store: folder made by `anyregion cache --model compact`.
        validation: a store that is not trained on, for figures; points need its masks.
        task: how it is trained.
        licence: under which the weights may be used.
        terms: of the data, for the card.
    """

    store: str
    validation: str
    task: ProposalTaskConfig = field(default_factory=ProposalTaskConfig)
    licence: str = "unstated"
    terms: str = "unstated"


def build_mask_task(settings: MaskTrainingConfig, *, loop: LoopConfig) -> MaskTask:
    """Make the mask head's task.

    Raises:
        InputError: stores that cannot be had, hold no masks, or were made by other eyes.
    """
    store, validation = _stores(settings.store, settings.validation)
    held_out = settings.validation_images or settings.images
    teacher = None
    if settings.teacher is not None:
        teacher = MaskHead(MaskHeadSession(read_mask_head(Path(settings.teacher))))
    return MaskTask(
        Photographs(store, Path(settings.images)),
        config=settings.task,
        held_out=Photographs(validation, Path(held_out)),
        teacher=teacher,
        seed=loop.seed,
        terms=settings.terms,
        licence=settings.licence,
    )


def build_proposal_task(settings: ProposalTrainingConfig, *, loop: LoopConfig) -> ProposalTask:
    """Make the finder's task.

    Raises:
        InputError: stores that cannot be had, or were made by other eyes.
    """
    store, validation = _stores(settings.store, settings.validation)
    return ProposalTask(
        Photographs(store),
        config=settings.task,
        held_out=Photographs(validation),
        seed=loop.seed,
        terms=settings.terms,
        licence=settings.licence,
    )


def _stores(train: str, validation: str) -> tuple[Store, Store]:
    found = Store(train, masks=True), Store(validation, masks=True)
    check_features(found, found[0])
    if not found[0].info.mirrored:
        raise InputError(f"{train}: made without mirror images; make it anew")
    return found
