"""What computes one shard of an index: its images through the pipeline, and into its files."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from anyregion.compact.assets import THREADS
from anyregion.data.image_files import in_threads
from anyregion.data.store.locks import try_lock
from anyregion.errors import InputError
from anyregion.images import image_digest
from anyregion.index.duplicates import image_hash
from anyregion.index.manifest import PLAN, IndexManifest, shard_paths
from anyregion.index.plan import PlannedSample, read_plan
from anyregion.index.shards import IndexedImage, ShardLayout, ShardWriter
from anyregion.index.sources import ImageReader
from anyregion.proposals import RegionProposer
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions
from anyregion.runs.pipeline import ProposedRegions, ReadSample, Sample, run_pipeline
from anyregion.runs.processes import CountDone

# images whose bytes are in memory together, where they are no plain files
_AT_ONCE = 16
# shards of a small collection are so many that several workers end together. One costs 0.013 CPU s
# beside its images, of which 16 take `compact` 1.3
_MOST_IMAGES_OF_SHARD, _FEWEST_IMAGES_OF_SHARD, _SHARDS = 512, 16, 64
# side of the image that tells how wide a model's embeddings are
_SIDE = 64


@dataclass(frozen=True)
class IndexOptions:
    """What is stored of each region beside its embedding.

    Attributes:
        masks: also decode its mask.
        features: also what taught vocabularies need (`compact`: nine times the embedding's size).
        use_masks: give masks that regions bring as prompts.
        batch_size: images at once.
        shard_images: images of a shard; None for 512, or a 64th of a smaller collection, at least
            16.

    Raises:
        InputError: a number below 1.
    """

    masks: bool = False
    features: bool = False
    use_masks: bool = False
    batch_size: int = 4
    shard_images: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.shard_images is not None and self.shard_images < 1):
            raise InputError("batch size and images of a shard must be at least 1")

    def images_of_shard(self, images: int) -> int:
        """How many of so many images are a shard: the same for however many workers."""
        own = min(_MOST_IMAGES_OF_SHARD, max(_FEWEST_IMAGES_OF_SHARD, images // _SHARDS))
        return self.shard_images or own


@dataclass(frozen=True)
class IndexModel:
    """How a process gets the model that embeds regions; it can be sent to another process.

    Attributes:
        load: makes the recogniser.
        proposed: how regions are found; None where they are stated.
        options: what is stored of each region.
    """

    load: Callable[[], Recognizer]
    proposed: ProposedRegions | None
    options: IndexOptions


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard.

    Attributes:
        number: which.
        images: of the shard that can be used.
        regions: how many they have.
        warnings: what the pipeline had to say.
        seconds: what it took.
    """

    number: int
    images: int
    regions: int
    warnings: tuple[str, ...]
    seconds: float


class ShardBuilder:
    """A loaded model that computes shards. Every engine works with these.

    Args:
        model: loaded at once.
    """

    def __init__(self, model: IndexModel) -> None:
        self.options = model.options
        self.recognizer = model.load()
        self.proposer: RegionProposer | None = None
        if model.proposed is not None:
            self.proposer = model.proposed.load(self.recognizer)
        self._reader = ImageReader()

    def models(self) -> dict[str, str]:
        """Fingerprints by the part of the model, as a run's folder states them."""
        encoder = self.recognizer.encoder
        stated = {"words": encoder.text.fingerprint, "encoder": encoder.fingerprint}
        if self.proposer is not None:
            stated["proposer"] = self.proposer.fingerprint
        return stated

    def layout(self) -> ShardLayout:
        """The columns that this model fills: seen at a small image."""
        encoder, options = self.recognizer.encoder, self.options
        pixels = np.full((_SIDE, _SIDE, 3), 128, dtype=np.uint8)
        box = Regions.from_boxes([[0, 0, _SIDE, _SIDE]])
        encoded = encoder.encode_images([pixels])
        (embedded,) = encoder.embed_regions(
            encoded, [box], masks=options.masks, features=options.features
        )
        return ShardLayout.of(embedded, masks=options.masks)

    def build(
        self, folder: Path, number: int, count: CountDone = lambda images: None
    ) -> ShardReport | None:
        """Compute a shard, unless it is whole; None where somebody else is at it.

        Args:
            folder: of the index.
            number: of the shard.
            count: told of images as they are done.

        Raises:
            InputError: another model than the index's, or a plan that cannot be read.
            AnyRegionError: the shard cannot be written.
        """
        manifest = IndexManifest.load(folder)
        if (models := self.models()) != manifest.models:
            raise InputError(f"{folder}: the models are {models}, not {manifest.models}")
        paths = shard_paths(folder, number)
        with try_lock(paths.lock) as locked:
            if not locked:
                return None
            if paths.is_whole(manifest.fingerprint):
                return ShardReport(number, 0, 0, (), 0.0)
            paths.remove_leftovers()
            started = time.perf_counter()
            said: list[str] = []
            with ShardWriter(paths, manifest.fingerprint, manifest.layout) as writer:
                planned = read_plan(folder / PLAN, number)
                # with other threads sums have other last bits, and shards other bytes
                threads = int(os.environ.get(THREADS, "1"))
                with warnings.catch_warnings(record=True) as caught, threadpool_limits(threads):
                    warnings.simplefilter("always")
                    self._add(planned, writer, count)
                said += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
                writer.finish()
            usable = sum(image.quarantined is None for image in writer.images)
            seconds = time.perf_counter() - started
            return ShardReport(number, usable, writer.regions, tuple(said), seconds)

    def _add(self, planned: Sequence[PlannedSample], writer: ShardWriter, count: CountDone) -> None:
        """Send the images of a shard through the pipeline, in order."""
        encoder, options = self.recognizer.encoder, self.options
        places = {p.image.name: p for p in planned}
        order = {name: i for i, name in enumerate(places)}

        def embed(encoded: Sequence[Any], items: Sequence[ReadSample]) -> list[RegionEmbeddings]:
            prompts = [item.regions for item in items]
            if not options.use_masks:
                prompts = [replace(r, masks=(None,) * len(r)) for r in prompts]
            return encoder.embed_regions(
                encoded, prompts, masks=options.masks, features=options.features
            )

        for samples, reasons in self._readable(planned):
            results: dict[str, tuple[ReadSample, RegionEmbeddings]] = {}
            names = sorted([*(s.name for s in samples), *reasons], key=order.__getitem__)
            done = 0
            batches = run_pipeline(
                samples, encoder, embed, proposer=self.proposer, ask_empty=True,
                batch_size=options.batch_size,
            )  # fmt: skip
            for batch in batches:
                results |= {item.sample.name: (item, e) for item, e in batch.results}
                reasons |= {sample.name: reason for sample, reason in batch.skipped}
                # in the order of the plan, as far as it is known by now
                while done < len(names) and (names[done] in results or names[done] in reasons):
                    name = names[done]
                    _write(places[name], results.pop(name, None), reasons.get(name), writer)
                    done += 1
                    count(1)
            for name in names[done:]:  # of a part where no image can be read there is no batch
                _write(places[name], None, reasons[name], writer)
                count(1)

    def _readable(
        self, planned: Sequence[PlannedSample]
    ) -> Iterator[tuple[list[Sample], dict[str, str]]]:
        """Samples, a part of the shard at a time, and the reasons of images that cannot be had."""
        # paths are read by the pipeline itself, a few ahead; the bytes of others are fetched here
        files = all(p.image.kind == "file" for p in planned)
        size = len(planned) if files else _AT_ONCE
        # containers are read from one place after the other, storages by several requests at once
        threads = 8 if all(p.image.kind == "address" for p in planned) else 1
        fetched = in_threads(self._fetch, planned, threads=threads, ahead=_AT_ONCE)
        while part := list(islice(fetched, size)):
            samples = [s for _, s in part if isinstance(s, Sample)]
            yield samples, {p.image.name: s for p, s in part if isinstance(s, str)}

    def _fetch(self, planned: PlannedSample) -> tuple[PlannedSample, Sample | str]:
        if planned.reason is not None:
            return planned, planned.reason
        try:
            image = self._reader.read(planned.image)
        except InputError as error:
            return planned, str(error)
        name = planned.image.name
        return planned, Sample(name, image, planned.regions, planned.key, planned.size)


def _write(
    planned: PlannedSample,
    result: tuple[ReadSample, RegionEmbeddings] | None,
    reason: str | None,
    writer: ShardWriter,
) -> None:
    """Add one image to a shard, or the reason why it cannot be used."""
    if result is not None and reason is None:
        item, embedded = result
        image = IndexedImage(
            planned.image,
            item.size,
            len(item.regions),
            item.sample.key,
            tuple(item.set_aside),
            image_hash(item.pixels),
            image_digest(item.sample.image).hex(),
        )
        try:
            writer.add(image, item.regions, embedded)
            return
        except InputError as error:
            reason = str(error)
    writer.quarantine(planned.image, reason or "no answer")
