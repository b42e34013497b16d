"""What `compact`'s trainings draw: stored maps of a `RegionDataset`, and the regions of a step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anyregion.compact.image_encoder import CHANNELS, FeaturePyramid
from anyregion.compact.text_encoder import CompactTextEncoder
from anyregion.data.region_dataset import (
    RegionDataset,
    check_share,
    region_dataset,
    share_of_images,
)
from anyregion.data.store.store import Store
from anyregion.errors import InputError
from anyregion.evaluation.regions.seen_unseen import unseen_of
from anyregion.training.seeds import generator
from anyregion.training.task import Task
from anyregion.vocabulary import Vocabulary, encode_vocabulary


@dataclass(frozen=True)
class StoreConfig:
    """One data set of a training on stored features.

    Attributes:
        store: folder made by `anyregion cache --model compact`.
        terms: licence or terms of use, for the card.
        share: draw only this share of its images, from above 0 to 1; see `share_of_images`.
    """

    store: str
    terms: str = "not stated"
    share: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share)


@dataclass(frozen=True)
class PhotoStoreConfig(StoreConfig):
    """One data set of a training that sees pixels too: a store of annotations with masks.

    Attributes:
        images: folder of its image files; None for that of the first of `data`.
    """

    images: str | None = None


def read_pyramid(
    dataset: RegionDataset,
    image: int,
    *,
    flipped: bool = False,
    channels: Sequence[int] = tuple(CHANNELS.values()),
) -> FeaturePyramid:
    """The maps that `CompactExtractor` stored of an image or of its mirror image, float32 again.

    `channels` are those of the four maps.

    Raises:
        InputError: the store holds something else of the image, naming it.
    """
    # the maps of a mirror image are no mirrored maps: the encoder saw the mirrored image
    features = dataset.reader.read(image, flipped=flipped)
    lacking = [name for name in ("span", *CHANNELS) if name not in features]
    # torch converts half precision ten times sooner than numpy
    maps = {
        name: torch.from_numpy(np.asarray(features[name])).float().numpy()
        for name in CHANNELS
        if name in features
    }
    span = np.asarray(features.get("span", ())).reshape(-1)
    shapes = {name: values.shape for name, values in maps.items()}
    whole = all(
        len(shapes[name]) == 3 and min(shapes[name]) > 0 and shapes[name][2] == width
        for name, width in zip(CHANNELS, channels, strict=True)
        if name in maps
    )
    # a sum of finite halves is finite, and that of others is not
    finite = all(np.isfinite(values.sum()) for values in (span, *maps.values()))
    if lacking or not whole or span.shape != (2,) or not finite or span.min() <= 0:
        fault = f"no {', '.join(lacking)}" if lacking else f"maps {shapes}, span {span.tolist()}"
        name = dataset.reader.annotations.file_names[image]
        raise InputError(f"{name}: the store does not hold its maps ({fault}); make it anew")
    height, width = map(float, span)
    return FeaturePyramid(maps, (height, width), dataset.size(image))


def open_named_dataset(
    store: Store,
    text_encoder: CompactTextEncoder,
    *,
    unseen: str = "",
    terms: str = "not stated",
    share: float = 1.0,
) -> RegionDataset:
    """A store as a data set with all its class names as the vocabulary.

    Args:
        store: its features, with mirror images where these are to be used.
        unseen, terms, share: see `RegionTaskConfig` and `StoreConfig`.

    Raises:
        InputError: images of unknown size, names that repeat, or nothing to learn from.
    """
    annotations = store.annotations
    if len(annotations) and annotations.sizes.min() < 1:
        raise InputError(f"{store.folder}: images of unknown size; state them in the annotations")
    excluded = unseen_of(unseen, annotations.categories)
    categories = dict(
        zip(annotations.categories.ids.tolist(), annotations.categories.names, strict=True)
    )
    names = [name for category, name in categories.items() if category not in excluded]
    vocabulary = Vocabulary.from_names(names)
    if len(vocabulary) != len(names):
        raise InputError(f"{store.folder}: {vocabulary.set_aside[0]}")
    encoded = encode_vocabulary(vocabulary, text_encoder, cache=None)
    images = share_of_images(store.usable(), share)
    return region_dataset(str(store.folder), store, encoded, images=images, terms=terms)


def open_unnamed_datasets(
    task: str,
    data: Sequence[StoreConfig],
    validation: StoreConfig | None,
) -> tuple[list[RegionDataset], RegionDataset | None]:
    """What a mask head or a proposal head is trained and validated on: regions without names.

    `task` is what messages call the settings. Of a store without mirror images each image is seen
    as it is alone: photographs that were augmented before are varied enough.

    Raises:
        InputError: stores that cannot be had, or were made by another encoder.
    """
    if not data:
        raise InputError(f"{task}.data: name at least one data set")
    configs = [*data, *([] if validation is None else [validation])]
    stores = open_stores(configs, masks=True)
    datasets = []
    for config, store in zip(configs, stores, strict=True):
        # a head that sees no pixels has no folder of images
        images = getattr(config, "images", None) or getattr(data[0], "images", None)
        folder = None if images is None else Path(images)
        datasets.append(
            region_dataset(
                config.store,
                store,
                images=share_of_images(store.usable(), config.share),
                folder=folder,
                terms=config.terms,
                mirrored=store.info.mirrored,
            )
        )
    return datasets[: len(data)], None if validation is None else datasets[-1]


def open_stores(configs: Sequence[StoreConfig], *, masks: bool = False) -> list[Store]:
    """The stores of a training, with features of compact's image encoder, all of the same one.

    Raises:
        InputError: a store that cannot be had, or of another encoder.
    """
    stores = [Store(config.store, masks=masks) for config in configs]
    for store in stores:
        # `eyes` is what `CompactExtractor.describe` calls the image encoder
        if store.fingerprint != stores[0].fingerprint or "eyes" not in store.info.extractor:
            raise InputError(
                f"{store.folder}: not the features that compact is trained on; make the store with "
                "`anyregion cache --model compact`"
            )
    return stores


def check_mirrored(stores: Sequence[Store], remedy: str) -> None:
    """Refuse stores without mirror images, with the remedy in the `InputError`."""
    for store in stores:
        if not store.info.mirrored:
            raise InputError(f"{store.folder}: made without mirror images: {remedy}")


def describe_datasets(datasets: Sequence[RegionDataset]) -> dict[str, str]:
    """Lines of a run's card."""
    lines = {}
    for data in datasets:
        names = "" if data.vocabulary is None else f", {len(data.vocabulary.vocabulary):,} names"
        lines[f"data: {data.name}"] = f"{len(data.images):,} images{names}; terms: {data.terms}"
    return lines


@dataclass(frozen=True)
class SampledRegions:
    """Some regions of one image, at one place of a training.

    Attributes:
        kind: the name of its sampler.
        position: how many items of the kind came before it; what is random about it follows from
            both.
        image: its number (see `LocalizingTask`).
        flipped: whether it is the mirror image.
        rows: of the annotations.
    """

    kind: str
    position: int
    image: int
    flipped: bool
    rows: tuple[int, ...]


class RegionSampler:
    """Every region once an epoch, in an order of its own, the image mirrored in every other epoch.

    It has no state: an item follows from the seed and its position alone.

    Args:
        rows: by image the rows to train on; images without any are left out.
        at_most: regions of an image in one item; None for all.
        seed: of everything random.
        kind: a name, so that two of them in one training differ.
        unmirrored: images that are never mirrored.

    Raises:
        InputError: no image has a row.
    """

    def __init__(
        self,
        rows: Mapping[int, NDArray[np.int64]],
        *,
        at_most: int | None,
        seed: int,
        kind: str = "rows",
        unmirrored: Collection[int] = (),
    ) -> None:
        self._unmirrored = frozenset(unmirrored)
        self._rows = {image: of_image for image, of_image in rows.items() if len(of_image)}
        self._at_most = at_most
        self._seed = seed
        self._kind = kind
        self.items = sum(-(-len(r) // (at_most or len(r))) for r in self._rows.values())
        if not self.items:
            raise InputError("no image has a region to train on")
        # reader threads are at most one epoch apart
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def item(self, position: int) -> SampledRegions:
        """The item that comes after `position` others."""
        epoch, place = divmod(position, self.items)
        image, rows = self._epoch(epoch)[place]
        flipped = bool((epoch + image + self._seed) % 2) and image not in self._unmirrored
        return SampledRegions(self._kind, position, image, flipped, rows)

    def _shuffled(self, epoch: int) -> list[tuple[int, tuple[int, ...]]]:
        random = generator(self._seed, self._kind, epoch)
        items = []
        # an image's regions are parted anew each epoch, and the parts of all images mixed
        for image, of_image in self._rows.items():
            rows = random.permutation(of_image).tolist()
            step = self._at_most or len(rows)
            items += [(image, tuple(rows[s : s + step])) for s in range(0, len(rows), step)]
        return [items[i] for i in random.permutation(len(items))]


class LocalizingTask(Task):
    """What the trainings of the mask head and of the proposal head share: regions without names.

    Attributes:
        datasets: what it learns from.
        validation: what `validate` measures on, or None.
        images: data set and position of each image, by a number of its own: of one data set, its
            positions.
        unmirrored: numbers of the images of which there are no mirror images.
        sampler: the regions of every step.
    """

    sampler: RegionSampler

    def __init__(
        self, datasets: Sequence[RegionDataset], validation: RegionDataset | None, licence: str
    ) -> None:
        self.datasets, self.validation, self._licence = tuple(datasets), validation, licence
        self.images: dict[int, tuple[RegionDataset, int]] = {}
        start = 0
        for dataset in datasets:
            self.images |= {start + image: (dataset, image) for image in dataset.images.tolist()}
            start += len(dataset.annotations)
        self.unmirrored = frozenset(n for n, (data, _) in self.images.items() if not data.mirrored)

    def describe(self, item: SampledRegions) -> str:
        """See `Task`."""
        dataset, image = self.images[item.image]
        return dataset.describe(image, flipped=item.flipped)

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        return {
            **describe_datasets(self.datasets),
            "licence": self._licence,
            "image encoder": self.datasets[0].reader.fingerprint,
        }
