"""From settings to a task: opens the stores, and loads of the frozen models what is needed."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion import __version__
from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.features import CombinedReader, FeatureExtractor, FeatureReader, OnTheFly
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.io.vocabulary import load_vocabulary
from anyregion.localizers.loading import load_localizer
from anyregion.localizers.protocol import Localizer
from anyregion.regionspot.adapter import Adapter
from anyregion.regionspot.extractor import RegionSpotExtractor, described_features
from anyregion.regionspot.pretrained import WEIGHTS, Pretrained, load_adapter, read_config
from anyregion.regionspot.training.config import DataConfig, RegionSpotConfig
from anyregion.regionspot.training.sets import TrainingSet, training_set
from anyregion.regionspot.training.task import RegionSpotTask
from anyregion.regionspot.training.teacher import TeacherExtractor
from anyregion.regionspot.training.validation import Validation
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.seeds import seed_torch
from anyregion.training.task import ACCURACY_METRICS, check_best
from anyregion.vlms.loading import load_vlm
from anyregion.vlms.protocol import VisionLanguageModel
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, encode_vocabulary


def build(settings: RegionSpotConfig, *, loop: LoopConfig) -> RegionSpotTask:
    """Make the task.

    Raises:
        InputError: data or models that cannot be had, or do not fit each other.
        CheckpointError: the adapter to start from is broken.
    """
    models = _Models(settings, own_device(loop.device))
    # now: the frozen models are read next, and `fit` asks only after them
    check_best(loop, {} if settings.validation is None else ACCURACY_METRICS)
    sets = [
        _set(data, models, teacher=bool(settings.objective.distillation), flip=settings.flip > 0)
        for data in settings.data
    ]
    validation = None
    if settings.validation is not None:
        folder = settings.validation.images
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"{folder}: there is no such folder of images")
        validation = Validation(
            data=_set(settings.validation, models, teacher=False, flip=False),
            limit=settings.validation_images,
            images=None if folder is None else Path(folder),
        )
    return RegionSpotTask(
        _adapter(settings, loop.seed),
        sets,
        scale=models.vlm.logit_scale if settings.logit_scale is None else settings.logit_scale,
        about=Pretrained(
            adapter=settings.adapter,
            localizer=settings.localizer,
            vlm=settings.vlm,
            vlm_image_size=settings.vlm_image_size,
            source=settings.source,
            antialias=settings.antialias,
            licence=settings.licence,
            origin=f"trained with anyregion {__version__}, {loop.steps:,} steps on "
            + ", ".join(data.name for data in settings.data),
        ),
        objective=settings.objective,
        seed=loop.seed,
        batch=settings.batch,
        flip=settings.flip,
        max_regions=settings.max_regions,
        fill=settings.fill,
        validation=validation,
    )


class _Models:
    """The frozen models, each loaded when something needs it."""

    def __init__(self, settings: RegionSpotConfig, device: str) -> None:
        self.settings, self.device = settings, device

    @cached_property
    def vlm(self) -> VisionLanguageModel:
        size = self.settings.vlm_image_size
        return load_vlm(self.settings.vlm, device=self.device, image_size=size)

    @cached_property
    def localizer(self) -> Localizer:
        return load_localizer(self.settings.localizer, device=self.device)


def _set(data: DataConfig, models: _Models, *, teacher: bool, flip: bool) -> TrainingSet:
    reader, usable = _reader(data, models, teacher=teacher, flip=flip)
    return training_set(
        data.name,
        reader,
        _words(data, reader.annotations, models),
        images=usable,
        ratio=data.ratio,
        repeat_threshold=data.repeat_threshold,
        terms=data.terms,
    )


def _reader(
    data: DataConfig, models: _Models, *, teacher: bool, flip: bool
) -> tuple[FeatureReader, NDArray[np.int64] | None]:
    """What the store holds from there, what it does not computed; and the images it holds."""
    settings = models.settings
    wanted = {"tokens"} | ({"features"} if settings.adapter.use_features else set())
    wanted |= {"teacher"} if teacher else set()
    readers: list[FeatureReader] = []
    usable = None
    if data.store is not None:
        store = Store(data.store)
        _check_store(store, models, flip)
        readers.append(store)
        usable = store.usable()
        wanted -= store.info.extractor.keys()
        annotations = store.annotations
    else:
        annotations = read_annotations(str(data.annotations), images=data.images)
    extractors: list[FeatureExtractor] = []
    if wanted & {"tokens", "features"}:
        extractors.append(
            RegionSpotExtractor(
                models.localizer if "tokens" in wanted else None,
                models.vlm if "features" in wanted else None,
                source=settings.source,
                antialias=settings.antialias,
            )
        )
    if "teacher" in wanted:
        extractors.append(TeacherExtractor(models.vlm))
    if extractors and data.images is None:
        raise InputError(
            f"{data.name}: the store holds no {', '.join(sorted(wanted))}; name the folder of the "
            "images to compute them (slower), or make the store with them"
        )
    readers += [OnTheFly(e, annotations, str(data.images)) for e in extractors]
    return (readers[0] if len(readers) == 1 else CombinedReader(readers)), usable


def _check_store(store: Store, models: _Models, flip: bool) -> None:
    """What is learned states these models and sizes: it must have been trained on theirs."""
    settings, made_of = models.settings, store.info.extractor
    if flip and not store.info.mirrored:
        raise InputError(
            f"{store.folder}: made without mirror images: set regionspot.flip to 0, or make it anew"
        )
    for part, asked in (("localizer", settings.localizer), ("vlm", settings.vlm)):
        stated = made_of.get(part)
        if stated is not None and not _is_model(stated, part, asked, models):
            raise InputError(
                f"{store.folder}: made with {part} {stated}, but regionspot.{part} is {asked}"
            )
    tokens, features = made_of.get("tokens"), made_of.get("features")
    if tokens is not None and tokens.partition(",")[0] != settings.source:
        raise InputError(
            f"{store.folder}: its tokens are {tokens}, but regionspot.source is {settings.source}"
        )
    if features is not None and settings.adapter.use_features:
        ours = described_features(models.vlm, antialias=settings.antialias)
        if features != ours:
            raise InputError(
                f"{store.folder}: its feature maps are of {features}; regionspot.vlm_image_size "
                f"and antialias ask for {ours}"
            )


def _is_model(stated: str, part: str, asked: str, models: _Models) -> bool:
    """Whether a store's `NAME (hash)` is the model that is asked for; a copy elsewhere is."""
    name, _, mark = stated.rpartition(" (")
    if name == asked or not Path(asked).exists():
        return name == asked
    model = models.vlm if part == "vlm" else models.localizer
    return model.fingerprint.startswith(mark.removesuffix(")"))


def _words(data: DataConfig, annotations: Annotations, models: _Models) -> EncodedVocabulary:
    settings = models.settings
    vocabulary: Vocabulary | EncodedVocabulary
    if data.vocabulary is None:
        categories = annotations.categories
        vocabulary = Vocabulary.from_names(
            categories.names,
            synonyms=categories.synonyms,
            templates=settings.templates,
            cleaning=settings.cleaning,
        )
    else:
        vocabulary = load_vocabulary(data.vocabulary, cleaning=settings.cleaning)
    if isinstance(vocabulary, EncodedVocabulary):
        if vocabulary.model != models.vlm.text.fingerprint:
            raise InputError(
                f"{data.vocabulary}: encoded by another text model than {settings.vlm}'s; encode "
                "it with that one, or give the names"
            )
        return vocabulary
    return encode_vocabulary(vocabulary, models.vlm.text)


def _adapter(settings: RegionSpotConfig, seed: int) -> Adapter:
    if settings.init_from is None:
        seed_torch(seed, "weights")
        return Adapter(settings.adapter)
    folder = Path(settings.init_from)
    theirs = read_config(folder).adapter
    ours = asdict(settings.adapter)
    if changed := [
        f"{key}: {value}, not {ours[key]}"
        for key, value in asdict(theirs).items()
        # what changes no weight's shape may be chosen anew
        if key not in ("dropout", "attention") and value != ours[key]
    ]:
        raise InputError(f"{folder}: another adapter ({'; '.join(changed)})")
    adapter = Adapter(settings.adapter)
    adapter.load_state_dict(load_adapter(folder / WEIGHTS, theirs).state_dict())
    return adapter
