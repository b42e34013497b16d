"""Building RegionSpot's task: data sets, and the frozen models for what the stores do not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyregion import __version__
from anyregion.baselines.dense import DenseEncoder
from anyregion.baselines.embedder import ImageEmbedder
from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.features import (
    CombinedReader,
    FeatureExtractor,
    FeatureReader,
    Features,
    OnTheFly,
    to_half,
)
from anyregion.data.region_dataset import RegionDataset, region_dataset, share_of_images
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.evaluation.regions.seen_unseen import unseen_of
from anyregion.images import Pixels
from anyregion.io.vocabulary import load_vocabulary
from anyregion.localizers.protocol import Localizer
from anyregion.regions import Regions
from anyregion.regionspot.adapter import Adapter
from anyregion.regionspot.extractor import RegionSpotExtractor, described_features
from anyregion.regionspot.pretrained import Pretrained, load_adapter, read_config
from anyregion.regionspot.prompting import load_region_localizer
from anyregion.regionspot.training.config import DataConfig, RegionSpotConfig, StepConfig
from anyregion.regionspot.training.task import RegionSpotTask, Validation
from anyregion.torch_utils.devices import resolve_dtype
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.seeds import seed_torch
from anyregion.training.task import ACCURACY_METRICS, resolve_best
from anyregion.vlms.loading import load_vlm
from anyregion.vlms.protocol import VisionLanguageModel
from anyregion.vocabulary import EncodedVocabulary, Vocabulary, encode_vocabulary


def build(settings: RegionSpotConfig, *, loop: LoopConfig) -> RegionSpotTask:
    """Make the task.

    Raises:
        InputError: data or models that cannot be had, or do not fit each other.
        CheckpointError: the adapter to start from is broken.
    """
    # now: the frozen models are read next, and `fit` checks it only after them
    resolve_best(loop, {} if settings.validation is None else ACCURACY_METRICS)
    models = _FrozenModels(settings, own_device(loop.device))
    with_teacher = bool(settings.objective.distillation)
    datasets = [
        _dataset(data, models, teacher=with_teacher, flip=settings.flip > 0, unseen=settings.unseen)
        for data in settings.data
    ]
    validation = None
    if settings.validation is not None:
        folder = settings.validation.images
        if folder is not None and not Path(folder).is_dir():
            raise InputError(f"{folder}: there is no such folder of images")
        held_out = _dataset(settings.validation, models, teacher=False, flip=False)
        validation = Validation(held_out, settings.validation_images)
    return RegionSpotTask(
        _adapter(settings, loop.seed),
        datasets,
        scale=models.vlm.logit_scale if settings.logit_scale is None else settings.logit_scale,
        pretrained=Pretrained(
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
        step=StepConfig(settings.batch, settings.flip, settings.max_regions, settings.fill),
        seed=loop.seed,
        validation=validation,
    )


class TeacherExtractor:
    """A `FeatureExtractor` of one array: `teacher`, `(N, E)` float16, rows of length 1.

    The dense features of `embedder`, the VLM whose text embeddings the adapter learns, averaged in
    each region's box, in the space of the text embeddings: what a region is named without any
    training, and the teacher of the distillation term.
    """

    def __init__(self, embedder: ImageEmbedder) -> None:
        self._encoder = DenseEncoder(embedder)

    @property
    def fingerprint(self) -> str:
        """Method and model."""
        return f"teacher {self._encoder.fingerprint}"

    def describe(self) -> Mapping[str, str]:
        """See `FeatureExtractor`."""
        return {"teacher": self._encoder.name}

    def extract(self, images: Sequence[Pixels], regions: Sequence[Regions]) -> list[Features]:
        """See `FeatureExtractor`."""
        features: list[Features] = []
        for image, of_image in zip(images, regions, strict=True):
            encoded = self._encoder.encode_images([image])
            rows = self._encoder.embed_regions(encoded, [of_image])[0].embeddings  # (N, E)
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            features.append({"teacher": to_half("teacher", rows / np.maximum(length, 1e-7))})
        return features


class _FrozenModels:
    """The frozen models, each loaded when something needs it."""

    def __init__(self, settings: RegionSpotConfig, device: str) -> None:
        self.settings, self.device = settings, device
        self.dtype = resolve_dtype(settings.dtype, device)

    @cached_property
    def vlm(self) -> VisionLanguageModel:
        size = self.settings.vlm_image_size
        return load_vlm(self.settings.vlm, device=self.device, image_size=size, dtype=self.dtype)

    @cached_property
    def localizer(self) -> Localizer:
        return load_region_localizer(
            self.settings.localizer, device=self.device, encoder_dtype=self.dtype
        )


def _dataset(
    data: DataConfig, models: _FrozenModels, *, teacher: bool, flip: bool, unseen: str = ""
) -> RegionDataset:
    reader, with_features = _reader(data, models, teacher=teacher, flip=flip)
    images = np.arange(len(reader.annotations)) if with_features is None else with_features
    excluded = unseen_of(unseen, reader.annotations.categories)
    return region_dataset(
        data.name,
        reader,
        _vocabulary(data, reader.annotations, models, excluded),
        excluded=excluded,
        images=share_of_images(images, data.share),
        folder=None if data.images is None else Path(data.images),
        ratio=data.ratio,
        repeat_threshold=data.repeat_threshold,
        terms=data.terms,
    )


def _reader(
    data: DataConfig, models: _FrozenModels, *, teacher: bool, flip: bool
) -> tuple[FeatureReader, NDArray[np.int64] | None]:
    """What the store holds from there, what it lacks computed; and the images that it holds."""
    settings = models.settings
    # `teacher` only to train: a validation measures names, not the pull
    missing = {"tokens"} | ({"features"} if settings.adapter.use_features else set())
    missing |= {"teacher"} if teacher else set()
    readers: list[FeatureReader] = []
    images = None
    if data.store is not None:
        store = Store(data.store)
        _check_store(store, models, flip)
        readers.append(store)
        images = store.usable()
        missing -= store.info.extractor.keys()
        annotations = store.annotations
    else:
        annotations = read_annotations(str(data.annotations), images=data.images)
    extractors: list[FeatureExtractor] = []
    if missing & {"tokens", "features"}:
        extractors.append(
            RegionSpotExtractor(
                models.localizer if "tokens" in missing else None,
                models.vlm if "features" in missing else None,
                source=settings.source,
                antialias=settings.antialias,
            )
        )
    if "teacher" in missing:
        extractors.append(TeacherExtractor(models.vlm))
    if extractors and data.images is None:
        raise InputError(
            f"{data.name}: the store holds no {', '.join(sorted(missing))}; name the folder of the "
            "images to compute them (slower), or make the store with them"
        )
    # where two readers have an array of one name the later one counts: the one that is computed
    readers += [OnTheFly(e, annotations, str(data.images)) for e in extractors]
    return (readers[0] if len(readers) == 1 else CombinedReader(readers)), images


def _check_store(store: Store, models: _FrozenModels, flip: bool) -> None:
    """What is learned states the settings' models and sizes: the store must be made with them."""
    settings, parts = models.settings, store.info.extractor
    if flip and not store.info.mirrored:
        raise InputError(
            f"{store.folder}: made without mirror images: set regionspot.flip to 0, or make it anew"
        )
    for part, name in (("localizer", settings.localizer), ("vlm", settings.vlm)):
        stated = parts.get(part)
        if stated is not None and not _is_model(stated, part, name, models):
            raise InputError(
                f"{store.folder}: made with {part} {stated}, but regionspot.{part} is {name}"
            )
    tokens, features = parts.get("tokens"), parts.get("features")
    if tokens is not None and tokens.partition(",")[0] != settings.source:
        raise InputError(
            f"{store.folder}: its tokens are {tokens}, but regionspot.source is {settings.source}"
        )
    if features is not None and settings.adapter.use_features:
        configured = described_features(models.vlm, antialias=settings.antialias)
        if features != configured:
            raise InputError(
                f"{store.folder}: its feature maps are of {features}; regionspot.vlm_image_size "
                f"and antialias ask for {configured}"
            )


def _is_model(stated: str, part: str, name: str, models: _FrozenModels) -> bool:
    """Whether a store's `NAME (hash)` is the model that a setting names; a copy elsewhere is."""
    stored_name, _, mark = stated.rpartition(" (")
    if stored_name == name or not Path(name).exists():
        return stored_name == name
    model = models.vlm if part == "vlm" else models.localizer
    return model.fingerprint.startswith(mark.removesuffix(")"))


def _vocabulary(
    data: DataConfig,
    annotations: Annotations,
    models: _FrozenModels,
    excluded: frozenset[int] = frozenset(),
) -> EncodedVocabulary:
    settings = models.settings
    vocabulary: Vocabulary | EncodedVocabulary
    if data.vocabulary is None:
        categories = annotations.categories
        seen = [i for i, key in enumerate(categories.ids.tolist()) if key not in excluded]
        vocabulary = Vocabulary.from_names(
            [categories.names[i] for i in seen],
            synonyms=[categories.synonyms[i] for i in seen],
            templates=settings.templates,
            cleaning=settings.cleaning,
        )
    else:
        vocabulary = load_vocabulary(data.vocabulary, cleaning=settings.cleaning)
    # embeddings of another text model would be compared with this one's, and score nonsense
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
        # of a name of its own: the first weights do not depend on what was drawn before
        seed_torch(seed, "weights")
        return Adapter(settings.adapter)
    folder = Path(settings.init_from)
    earlier = read_config(folder).adapter
    configured = asdict(settings.adapter)
    if changed := [
        f"{key}: {value}, not {configured[key]}"
        for key, value in asdict(earlier).items()
        # what changes no weight's shape may be chosen anew
        if key not in ("dropout", "attention") and value != configured[key]
    ]:
        raise InputError(f"{folder}: another adapter ({'; '.join(changed)})")
    adapter = Adapter(settings.adapter)
    adapter.load_state_dict(load_adapter(folder, earlier).state_dict())
    return adapter
