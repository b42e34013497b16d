"""`Service`: what the routes do, without HTTP: images, names of regions, proposals, teaching."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anyregion import factory
from anyregion.errors import AnyRegionError, InputError
from anyregion.images import image_digest, read_image, size_of
from anyregion.predictions import Predictions
from anyregion.proposals import DuplicateOptions, RegionProposer, without_duplicates
from anyregion.recognizer import Recognizer
from anyregion.regions import Regions
from anyregion.serve.engine import Engine, NamingOptions
from anyregion.serve.images import EncodedImage, EncodedImages, UploadStore
from anyregion.serve.metrics import Metrics
from anyregion.serve.options import ServeOptions
from anyregion.serve.vocabularies import VocabularyStore
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.vocabulary import Vocabulary

T = TypeVar("T")
MOST_FOUND = 300
LEAST_OBJECTNESS = 0.01
DECODERS = 2
"""Images that are decoded at the same time; each may take several bytes a pixel."""


class UnknownItemError(AnyRegionError):
    """No such image or vocabulary."""


@dataclass(frozen=True)
class Correction:
    """What regions of one image are: their right names, None for none of the names."""

    image: EncodedImage
    regions: Regions
    labels: Sequence[str | None]
    name: str | None = None


class Service:
    """One model, its images and its vocabularies, for many callers.

    Args:
        load: loads the recogniser, in a thread of its own: the service answers `/health` before.
        options: see there.
        metrics: where work is counted.
    """

    def __init__(
        self, load: Callable[[], Recognizer], options: ServeOptions, metrics: Metrics
    ) -> None:
        self.options, self.metrics = options, metrics
        self._load = load
        # a project's photographs, which lie where they lie
        self.read_photograph: Callable[[str], bytes | None] = lambda _: None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        folder = options.uploads
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="anyregion-")
            folder = Path(self._temporary.name) / "images"
        self.uploads = UploadStore(folder, options.upload_space)
        self.images = EncodedImages(options.image_memory)
        self._encoding: dict[str, asyncio.Task[EncodedImage]] = {}
        self._decoders = ThreadPoolExecutor(DECODERS, "anyregion-decode")
        # the text side has a thread of its own: ten thousand new names take seconds
        self._words = ThreadPoolExecutor(1, "anyregion-words")
        self._loading: asyncio.Task[None] | None = None
        self.engine: Engine | None = None
        self.vocabularies: VocabularyStore | None = None
        self._proposer: RegionProposer | None = None
        metrics.gauge(
            "waiting", "Requests that wait for the model.",
            lambda: 0 if self.engine is None else self.engine.waiting,
        )  # fmt: skip
        metrics.gauge("images", "Encoded images in memory.", lambda: len(self.images))
        metrics.gauge("image_bytes", "Bytes of these.", lambda: self.images.bytes)

    def start(self) -> None:
        """Begin to load the model."""
        self._loading = asyncio.create_task(self._start())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        recognizer = await loop.run_in_executor(self._words, self._load)
        options = self.options
        self.vocabularies = VocabularyStore(
            recognizer, options.folder, options.max_vocabularies, default=options.vocabulary
        )
        self.engine = Engine(
            recognizer, queue=options.queue, batch=options.batch, metrics=self.metrics
        )

    @property
    def state(self) -> str:
        """`loading`, `ok` or `failed`."""
        if self._loading is None or not self._loading.done():
            return "loading"
        failed = self._loading.cancelled() or self._loading.exception() is not None
        return "failed" if failed else "ok"

    async def ready(self) -> tuple[Engine, VocabularyStore]:
        """The model, once it is loaded.

        Raises:
            AnyRegionError: it could not be loaded.
        """
        assert self._loading is not None
        await asyncio.shield(self._loading)
        assert self.engine is not None
        assert self.vocabularies is not None
        return self.engine, self.vocabularies

    async def stop(self) -> None:
        """Finish what waits, and remove what was for this run alone."""
        if self._loading is not None:
            self._loading.cancel()
            with suppress(BaseException):
                await self._loading
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close)
        self._decoders.shutdown(cancel_futures=True)
        self._words.shutdown(cancel_futures=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    async def add_image(self, content: bytes) -> EncodedImage:
        """Keep an image, and encode it.

        Raises:
            InputError: a file that is no image, or one that is too large.
            OverloadError: too much waits.
        """
        if not content:
            raise InputError("no bytes: send an image's file as the body")
        image = image_digest(content).hex()
        encoded = self.images.get(image)
        if encoded is None:
            encoded = await self._encode_once(image, content)
        await self._in_decoder(lambda: self.uploads.write(image, content))
        return encoded

    async def image(self, image: str) -> EncodedImage:
        """An image that was sent before.

        Raises:
            UnknownItemError: none with that id, or one that was removed for newer ones.
        """
        encoded = self.images.get(image)
        if encoded is not None:
            return encoded
        content = await self._in_decoder(
            lambda: self.uploads.read(image) or self.read_photograph(image)
        )
        if content is None:
            raise UnknownItemError(f"no image {image[:80]!r} (any more): send it again")
        return await self._encode_once(image, content)

    async def _encode_once(self, image: str, content: bytes) -> EncodedImage:
        """Encode an image; who asks for the same one meanwhile waits for the same work."""
        task = self._encoding.get(image)
        if task is None:
            task = asyncio.create_task(self._encode(image, content))
            self._encoding[image] = task
            task.add_done_callback(lambda _: self._encoding.pop(image, None))
        # shielded: one caller may give up while others wait
        return await asyncio.shield(task)

    async def _encode(self, image: str, content: bytes) -> EncodedImage:
        engine, _ = await self.ready()
        limit = self.options.max_pixels
        pixels = await self._in_decoder(lambda: read_image(content, max_pixels=limit))
        encoded = EncodedImage(
            image, await asyncio.wrap_future(engine.encode(pixels)), size_of(pixels)
        )
        self.images.put(encoded)
        return encoded

    async def name(
        self,
        image: EncodedImage,
        regions: Regions,
        source: str | list[str] | Vocabulary | None,
        options: NamingOptions,
    ) -> Predictions:
        """Name regions that fit their image.

        Raises:
            InputError: a vocabulary that cannot be used.
            OverloadError: too much waits.
        """
        engine, vocabularies = await self.ready()
        encode = functools.partial(vocabularies.encode, source)
        vocabulary = await asyncio.get_running_loop().run_in_executor(self._words, encode)
        predictions: Predictions = await _result(
            engine.name(image.encoded, regions, image.size, vocabulary, options)
        )
        self.images.put(image)  # tiles may have been added to it
        return predictions

    async def find(
        self, image: EncodedImage, *, most: int | None, min_objectness: float | None
    ) -> Regions:
        """Regions of anything, the likeliest first, with their objectness as scores.

        Args:
            image: where to look.
            most: how many; None for the proposer's own number.
            min_objectness: the least; None for the proposer's own.
        """
        engine, _ = await self.ready()

        def propose() -> Regions:
            from anyregion.compact.model import CompactEncoder
            from anyregion.compact.proposal_head import ProposalOptions
            from anyregion.tiles import untiled

            recognizer = engine.recognizer
            own: ProposalOptions | None = None
            if isinstance(untiled(recognizer.encoder), CompactEncoder):
                own = ProposalOptions()
            if self._proposer is None:
                self._proposer = factory.load_proposer(
                    recognizer=recognizer,
                    options=None
                    if own is None
                    else replace(own, limit=MOST_FOUND, min_score=LEAST_OBJECTNESS),
                )
            regions = self._proposer.propose_encoded(image.encoded)  # type: ignore[attr-defined]
            scores = np.ones(len(regions)) if regions.scores is None else regions.scores
            least, limit = min_objectness, most
            if own is not None:
                least = own.min_score if least is None else least
                limit = own.limit if limit is None else limit
            kept = np.flatnonzero(scores >= (0 if least is None else least))
            result: Regions = regions[kept[:limit]]
            return result

        regions: Regions = await _result(engine.call(propose))
        self.images.put(image)
        return regions

    def distinct(self, predictions: Predictions) -> Predictions:
        """Without regions of one name that are of one thing: the surest of them stays."""
        kept = without_duplicates(
            predictions.boxes, predictions.indices[:, 0], predictions.scores[:, 0],
            DuplicateOptions(),
        )  # fmt: skip
        return predictions[kept]

    async def make_vocabulary(self, name: str, names: Sequence[str]) -> TaughtVocabulary:
        """Keep names under a name.

        Raises:
            InputError: the name is taken, or cannot be one.
        """
        vocabulary = Vocabulary.from_names(list(names))

        def make(vocabularies: VocabularyStore) -> TaughtVocabulary:
            if vocabularies.get(name) is not None:
                raise InputError(f"there is a vocabulary {name} already: delete it first")
            with vocabularies.teaching(name, create=vocabulary):
                pass
            taught = vocabularies.get(name)
            assert taught is not None
            return taught

        return await self.with_vocabularies(make)

    async def read_vocabulary(self, name: str) -> TaughtVocabulary:
        """A vocabulary that is kept.

        Raises:
            UnknownItemError: there is none.
        """

        def read(vocabularies: VocabularyStore) -> TaughtVocabulary:
            taught = vocabularies.get(name)
            if taught is None:
                raise UnknownItemError(f"no vocabulary {name[:80]!r}")
            return taught

        return await self.with_vocabularies(read)

    async def delete_vocabulary(self, name: str) -> None:
        """Remove a vocabulary, and all that it was taught.

        Raises:
            UnknownItemError: there is none.
        """

        def delete(vocabularies: VocabularyStore) -> None:
            if not vocabularies.delete(name):
                raise UnknownItemError(f"no vocabulary {name!r}")

        await self.with_vocabularies(delete)

    async def teach(
        self,
        name: str,
        corrections: Sequence[Correction],
        forget: Sequence[tuple[str, int | str | None]] = (),
    ) -> tuple[TaughtVocabulary, int]:
        """Teach a vocabulary what regions are; every later answer with it knows.

        Args:
            name: of the vocabulary.
            corrections: image by image.
            forget: corrections to take back first: image and region, or None for all of the image.

        Returns:
            The vocabulary, and how many of the regions are new to it.

        Raises:
            UnknownItemError: no such vocabulary.
            InputError: a correction that cannot be used; then nothing of all this was learnt.
        """

        def learn(vocabularies: VocabularyStore) -> tuple[TaughtVocabulary, int]:
            if vocabularies.get(name) is None:
                raise UnknownItemError(f"no vocabulary {name[:80]!r}: make it first")
            added = 0
            with vocabularies.teaching(name) as teacher:
                for image, region in forget:
                    teacher.forget(image, region)
                for correction in corrections:
                    added += learn_correction(teacher, correction)
            taught = vocabularies.get(name)
            assert taught is not None
            return taught, added

        return await self.with_vocabularies(learn)

    async def with_vocabularies(self, function: Callable[[VocabularyStore], T]) -> T:
        """Run while nothing else uses the model: teaching embeds regions."""
        engine, vocabularies = await self.ready()
        result: T = await _result(engine.call(lambda: function(vocabularies)))
        return result

    async def _in_decoder(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    def describe(self) -> Mapping[str, Any]:
        """The model, for `/v1/models`."""
        assert self.engine is not None
        recognizer = self.engine.recognizer
        encoder, card = recognizer.encoder, recognizer.card
        return {
            "name": encoder.name,
            "names": None if recognizer.vocabulary is None else len(recognizer.vocabulary),
            "score": encoder.default_score,
            "licence": None if card is None else card.licence,
        }


def learn_correction(teacher: Teacher, correction: Correction) -> int:
    """Teach the regions of one image; returns how many are new."""
    image = correction.image
    record = CorrectedImage(correction.name or image.id[:12], image.id, image.size)
    return teacher.add_encoded(record, correction.regions, correction.labels, lambda: image.encoded)


async def _result(future: Future[Any]) -> Any:
    """What the engine answers; its work is not done where the caller has gone before it began."""
    wrapped: Awaitable[Any] = asyncio.wrap_future(future)
    return await wrapped
