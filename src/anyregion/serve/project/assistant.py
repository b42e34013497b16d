"""`Assistant`: names for a project's regions, from what was taught so far, and what to ask next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.errors import AnyRegionError
from anyregion.region_encoder import RegionEmbeddings, name_embedded
from anyregion.serve.engine import Engine
from anyregion.serve.project.events import ProjectRegion, prompt_regions
from anyregion.serve.project.seen import Key, SeenRegions
from anyregion.serve.project.store import ProjectStore
from anyregion.serve.service import Service
from anyregion.teaching.classifier import word_probabilities
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.features import Layout, feature_rows, likeness
from anyregion.teaching.queue import doubt, order_regions
from anyregion.teaching.region_table import RegionTable
from anyregion.teaching.teacher import Teacher
from anyregion.teaching.vocabulary import TaughtVocabulary
from anyregion.vocabulary import Vocabulary, name_key

log = logging.getLogger("anyregion.serve")
TOP = 5
"""Names that are offered of a region: one a key."""
QUEUE = 200


@dataclass(frozen=True)
class Lesson:
    """What was learnt.

    Attributes:
        revision: one more each time that answers may have changed.
        corrections: regions that were learnt from.
        by_words: share of those with a name that words alone name rightly; None without any.
        taught: share of them that are named rightly by what was learnt without their image.
    """

    revision: int = 0
    corrections: int = 0
    by_words: float | None = None
    taught: float | None = None


class Assistant:
    """Names regions, learns from the names that a person gives, and says what to ask next.

    What the model makes of a region is kept in memory, a few kilobytes each, so that after every
    correction all regions can be named anew without their images. All methods belong to the event
    loop; what takes time runs in the engine's thread.

    Args:
        service: the model and its images.
        store: the project.
        stored: regions that the model saw before the service was started.
    """

    def __init__(
        self, service: Service, store: ProjectStore, stored: RegionTable | None = None
    ) -> None:
        self.service, self.store = service, store
        self.lesson = Lesson()
        self.learning = False
        self._seen = SeenRegions(stored)
        self._taught: TaughtVocabulary | None = None
        self._teacher: Teacher | None = None
        # what the teacher knows: prompt and label of each region
        self._learnt: dict[Key, tuple[Mapping[str, Any], str | None]] = {}
        self._words: tuple[str, ...] = ()
        self._names: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to learn whatever is said from now on, and what was said before."""
        self._changed.set()
        self._task = asyncio.create_task(self._learn_forever())

    async def stop(self) -> None:
        """End; what was taught is in the project's events."""
        if self._task is not None:
            self._task.cancel()

    def notice(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Learn what events changed, soon."""
        for event in events:
            if event["kind"] != "words":
                self._names.pop(event["image"], None)
                if event["kind"] in ("remove", "move", "add"):
                    self._seen.forget((event["image"], event["region"]))
        self._changed.set()

    async def names(self, image: str) -> dict[str, Any]:
        """The best names of every region of an image.

        Returns:
            `revision`, and `regions`: by id `box`, `labels`, `scores`, `none` and `refused`.
        """
        await self._embed(image)
        engine, _ = await self.service.ready()
        if not self.store.state.words:
            return {"revision": self.lesson.revision, "regions": {}}
        cached = self._names.get(image)
        if cached is None or cached[0] != self.lesson.revision:
            vocabulary, revision = self._taught, self.lesson.revision
            if vocabulary is None:
                return {"revision": revision, "regions": {}}
            names = await asyncio.wrap_future(
                engine.call(lambda: self._name(engine, image, vocabulary))
            )
            cached = (revision, names)
            self._names[image] = cached
        return {"revision": cached[0], "regions": cached[1]}

    async def queue(self) -> list[dict[str, Any]]:
        """Regions that nobody named yet, those first whose names would teach most.

        Only regions that the model has seen are among them.
        """
        engine, _ = await self.service.ready()
        taught = self._taught
        if taught is None:
            return []
        result: list[dict[str, Any]] = await asyncio.wrap_future(
            engine.call(lambda: self._order(engine, taught))
        )
        return result

    async def alike(self, image: str, region: str, count: int) -> list[dict[str, Any]]:
        """Regions that nobody named yet and that look most like one, the most alike first.

        Each with its `likeness`, from -1 to 1, and what it is called now: `label` and `score`.
        """
        await self._embed(image)
        others = [key for key in self._unnamed() if key != (image, region)]
        if (image, region) not in self._seen or not others:
            return []
        (one, layout), *rows = [self._row(key) for key in [(image, region), *others]]
        everything = np.concatenate([row for row, _ in rows])  # (N, F)
        alike = likeness(everything @ one.T, everything, one, layout)[:, 0]
        best = [others[i] for i in np.argsort(-alike, kind="stable")[:count].tolist()]
        likeness_of = dict(zip(others, alike.tolist(), strict=True))
        names = {key[0]: (await self.names(key[0]))["regions"] for key in best}
        return [
            {
                "image": key[0],
                "region": key[1],
                "likeness": round(float(likeness_of[key]), 4),
                "label": names[key[0]][key[1]]["labels"][0] if key[1] in names[key[0]] else None,
                "score": names[key[0]][key[1]]["scores"][0] if key[1] in names[key[0]] else 0.0,
            }
            for key in best
        ]

    def _row(self, key: Key) -> tuple[NDArray[np.float32], Layout]:
        """`(1, F)` features of a region, and their layout."""
        features = feature_rows(self._seen[key], self.store.images[key[0]].size)
        return features.rows, features.layout

    def _unnamed(self) -> list[Key]:
        """Regions that the model has seen and nobody named, in the images' order."""
        regions = self.store.state.regions
        return [
            (image, name)
            for image in self.store.images
            for name, region in regions.get(image, {}).items()
            if not region.named and (image, name) in self._seen
        ]

    async def _embed(self, image: str) -> None:
        """Let the model look at the regions of an image that it has not seen as they are."""
        missing = self.look_up(image)
        if not missing:
            return
        engine, _ = await self.service.ready()
        seen = await self.service.image(image)
        prompts = prompt_regions(missing, seen.size, self.store.limits)

        def embed() -> RegionEmbeddings:
            (embedded,) = engine.recognizer.encoder.embed_regions(
                [seen.encoded], [prompts], features=True
            )
            return embedded

        self._seen.add(image, missing, await asyncio.wrap_future(engine.call(embed)))
        self._names.pop(image, None)

    def look_up(self, image: str) -> Mapping[str, Mapping[str, Any]]:
        """The prompts of an image's regions that the model has to look at, by their ids."""
        regions = dict(self.store.state.regions.get(image, {}))
        return self._seen.look_up(image, {name: r.prompt for name, r in regions.items()})

    def _name(
        self, engine: Engine, image: str, vocabulary: TaughtVocabulary
    ) -> dict[str, dict[str, Any]]:
        """The names of an image's regions that the model has seen; in the engine's thread."""
        regions = self.store.state.regions.get(image, {})
        names = [name for name in list(regions) if (image, name) in self._seen]
        if not names:
            return {}
        encoder, size = engine.recognizer.encoder, self.store.images[image].size
        embedded = self._seen.stack([(image, name) for name in names])
        named = name_embedded(encoder, embedded, vocabulary, size, top_k=TOP, score=None)
        words = vocabulary.vocabulary.names
        return {
            name: {
                "box": [round(v, 3) for v in embedded.boxes[i].tolist()],
                "labels": [words[j] for j in named.indices[i]],
                "scores": [round(float(score), 6) for score in named.scores[i]],
                "none": None if named.none is None else round(float(named.none[i]), 6),
                "refused": named.refused is not None and bool(named.refused[i]),
            }
            for i, name in enumerate(names)
        }

    def _order(self, engine: Engine, taught: TaughtVocabulary) -> list[dict[str, Any]]:
        """`queue`, in the engine's thread."""
        keys = self._unnamed()
        if not keys:
            return []
        encoder, images = engine.recognizer.encoder, self.store.images
        rows, probabilities = [], []
        for image, name in keys:
            embedded, size = self._seen[image, name], images[image].size
            rows.append(self._row((image, name))[0])
            if taught.classifier is None:
                said = word_probabilities(encoder, embedded.embeddings, taught.matrix)
            else:
                answers = taught.classifier.answer(encoder, embedded, taught.matrix, size, None)
                said = np.concatenate([answers.probabilities, answers.none[:, None]], axis=1)
            probabilities.append(said)
        everything, said = np.concatenate(rows), np.concatenate(probabilities)
        corrections = taught.corrections
        known = np.zeros((0, everything.shape[1]), dtype=np.float32)
        if corrections is not None:
            known = corrections.rows.astype(np.float32)
        order = order_regions(everything, said, known, QUEUE)
        doubts = doubt(said)
        return [
            {
                "image": keys[i][0],
                "region": keys[i][1],
                "doubt": round(float(doubts[i]), 4),
                "alike": int(alike),
            }
            for i, alike in zip(order.rows.tolist(), order.alike, strict=True)
        ]

    async def _learn_forever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self.learning = True
            try:
                await self._learn()
            except AnyRegionError as error:
                log.warning("a project's corrections could not be learnt: %s", error)
            except Exception:
                log.exception("a project's corrections could not be learnt")
            finally:
                self.learning = False

    async def _learn(self) -> None:
        """Learn all that was said and is not learnt yet."""
        state = self.store.state
        words = tuple(state.words)
        named: dict[Key, ProjectRegion] = {
            (image, name): region
            for image, regions in state.regions.items()
            for name, region in regions.items()
            if region.named
        }
        if not words:
            return
        for image in {image for image, _ in named}:
            try:
                await self._embed(image)
            except AnyRegionError as error:
                log.warning("regions of a photograph were not learnt: %s", error)
        named = {key: region for key, region in named.items() if key in self._seen}
        wanted = {key: (region.prompt, region.label) for key, region in named.items()}
        if words == self._words and wanted == self._learnt and self._taught is not None:
            return
        engine, _ = await self.service.ready()
        labels = [label for _, label in wanted.values() if label is not None]
        names = list(dict.fromkeys([*words, *labels]))

        def learn() -> tuple[Teacher, TaughtVocabulary, Lesson]:
            teacher, learnt = self._teacher, self._learnt
            if teacher is None or _keys([*_listed(teacher), *labels]) != _keys(names):
                # a teacher takes names from corrections alone, and forgets none
                teacher, learnt = Teacher(engine.recognizer, Vocabulary.from_names(names)), {}
            gone = [key for key in learnt if wanted.get(key) != learnt[key]]
            for image, name in gone:
                teacher.forget(image, name)
            for image in self.store.images:
                new = [k for k in wanted if k[0] == image and (k not in learnt or k in gone)]
                if new:
                    self._teach(teacher, image, new, wanted)
            taught = teacher.vocabulary()
            return teacher, taught, self._grade(engine, taught)

        try:
            result = await asyncio.wrap_future(engine.call(learn))
        except BaseException:
            self._teacher, self._learnt = None, {}  # it may have learnt half of it
            raise
        self._teacher, self._taught, self.lesson = result
        self._words, self._learnt = words, wanted
        path = self.store.folder / "vocabulary.vocab"
        await asyncio.to_thread(self._taught.save, path, private=True)

    def _teach(
        self,
        teacher: Teacher,
        image: str,
        keys: Sequence[Key],
        wanted: Mapping[Key, tuple[Mapping[str, Any], str | None]],
    ) -> None:
        """Teach regions of one image, from what the model saw of them."""
        photograph = self.store.images[image]
        prompts = {name: wanted[image, name][0] for _, name in keys}
        regions = prompt_regions(prompts, photograph.size, self.store.limits)
        teacher.add_embedded(
            CorrectedImage(photograph.name, image, photograph.size),
            regions,
            self._seen.stack(keys),
            [wanted[key][1] for key in keys],
        )

    def _grade(self, engine: Engine, taught: TaughtVocabulary) -> Lesson:
        """How many corrected regions are named rightly, by words and by what was learnt."""
        revision, corrections = self.lesson.revision + 1, taught.corrections
        if corrections is None or taught.left_out is None:
            return Lesson(revision)
        labels = corrections.labels
        named = np.flatnonzero(labels >= 0)
        if not len(named):
            return Lesson(revision, len(labels))
        by_words = word_probabilities(
            engine.recognizer.encoder, corrections.embeddings.astype(np.float32), taught.matrix
        )[:, :-1].argmax(axis=1)
        return Lesson(
            revision,
            len(labels),
            round(float((by_words == labels)[named].mean()), 4),
            round(float((taught.left_out.best == labels)[named].mean()), 4),
        )


def _listed(teacher: Teacher) -> Sequence[str]:
    return () if teacher.names is None else teacher.names.names


def _keys(names: Sequence[str]) -> set[str]:
    """Names as far as they are told apart."""
    return {name_key(name) for name in names}
