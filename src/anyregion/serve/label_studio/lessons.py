"""`Lessons`: what annotations say, noted at once and learnt in the background."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyregion.errors import AnyRegionError, InputError
from anyregion.io.vocabulary import BUILT_IN_NAMES
from anyregion.serve.engine import OverloadError
from anyregion.serve.images import EncodedImage
from anyregion.serve.label_studio.config import LabelConfig
from anyregion.serve.label_studio.results import prompts, read_drawn
from anyregion.serve.service import Correction, Service, learn_correction
from anyregion.serve.vocabularies import VocabularyStore
from anyregion.teaching.corrections import NONE_OF_THESE, region_keys
from anyregion.teaching.teacher import Teacher
from anyregion.vocabulary import Vocabulary, name_key

log = logging.getLogger("anyregion.serve")
PART = 16
"""Annotations that are learnt together: between two parts others may use the model."""
MOST_PENDING = 10_000
TRIES = 5
_KEY = re.compile(r"\d{1,12}\.\d{1,12}")

Load = Callable[[str, LabelConfig, Mapping[str, Any]], Awaitable[EncodedImage]]


@dataclass(frozen=True)
class Lesson:
    """One annotation as it is now, or that it is gone.

    Attributes:
        task, annotation: their ids; None stands for every one.
        results: its results; None where it was deleted or cancelled.
        data: of the task.
    """

    task: int | None
    annotation: int | None
    results: Sequence[Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, annotation: Mapping[str, Any], task: Mapping[str, Any]) -> Lesson:
        """Of Label Studio's JSON.

        Raises:
            InputError: no ids, or results that are no list.
        """
        results = annotation.get("result")
        if not isinstance(results, list) or not isinstance(task.get("data"), dict):
            raise InputError("an annotation needs a result, and its task data")
        number, place = whole(annotation.get("id"), "annotation"), whole(task.get("id"), "task")
        gone = annotation.get("was_cancelled") is True
        return cls(place, number, None if gone else results, task["data"])


@dataclass(eq=False)
class _Pending:
    """What is not learnt yet of one project; of each annotation the latest counts."""

    config: LabelConfig
    lessons: OrderedDict[tuple[int | None, int | None], Lesson] = field(default_factory=OrderedDict)
    export: Callable[[], Any] | None = None


class Lessons:
    """Teaches each project's vocabulary what its annotations say.

    A project's vocabulary is one of the service's, `label-studio-ID-TIME`; its words are the labels
    of the labelling interface, and follow them. Where the interface names a kept vocabulary
    (`model_vocabulary`), that one is taught. The ids of its regions say which annotation they are
    of, so that nothing else need be kept.

    Args:
        service: the model and its vocabularies.
        load: gives the image of a task.
    """

    def __init__(self, service: Service, load: Load) -> None:
        self.service, self._load = service, load
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._taught_at: dict[str, int] = {}  # of vocabularies in memory

    def start(self) -> None:
        """Begin to learn."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End; what waits is not learnt (`Start training` says it again)."""
        if self._task is not None:
            self._task.cancel()
        if self._pending:
            log.warning("annotations of %d projects are not learnt", len(self._pending))

    def note(
        self,
        project: str,
        config: LabelConfig,
        lessons: Sequence[Lesson] = (),
        export: Callable[[], Any] | None = None,
    ) -> None:
        """Learn annotations soon.

        Args:
            project: its key.
            config: its labelling interface.
            lessons: the annotations; none where only the interface changed.
            export: gives all tasks of the project, to learn them all and forget all others.

        Raises:
            OverloadError: too many wait.
        """
        if sum(len(p.lessons) for p in self._pending.values()) + len(lessons) > MOST_PENDING:
            raise OverloadError(f"{MOST_PENDING} annotations wait to be learnt")
        pending = self._pending.setdefault(project, _Pending(config))
        pending.config = config
        pending.export = export or pending.export
        for lesson in lessons:
            key = (lesson.task, lesson.annotation)
            pending.lessons.pop(key, None)
            pending.lessons[key] = lesson
        self._changed.set()

    def taught_at(self, project: str, config: LabelConfig) -> int | None:
        """When the vocabulary that answers a project was taught last, in ns; None for never."""
        name = vocabulary_name(project, config)
        folder = self.service.options.folder
        if folder is None:
            return self._taught_at.get(name)
        try:
            return (folder / f"{name}.vocab").stat().st_mtime_ns
        except OSError:
            return None

    async def source(self, project: str, config: LabelConfig) -> str | Vocabulary:
        """What regions of a project are named by: a vocabulary that was taught, or its labels."""
        if config.vocabulary is not None:
            return config.vocabulary
        name, names = vocabulary_name(project, config), config.names()

        def look(vocabularies: VocabularyStore) -> str | Vocabulary:
            taught = vocabularies.get(name)
            if taught is None:
                return names
            if taught.vocabulary != names:  # the interface was changed
                with vocabularies.teaching(name) as teacher:
                    teacher.rename(names)
                self._taught_at[name] = time.time_ns()
            return name

        return await self.service.with_vocabularies(look)

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._pending:
                project, pending = self._pending.popitem(last=False)
                try:
                    await self._learn_all(project, pending)
                except AnyRegionError as error:
                    log.warning("Label Studio's project %s was not learnt: %s", project, error)
                except Exception:
                    log.exception("Label Studio's project %s was not learnt", project)

    async def _learn_all(self, project: str, pending: _Pending) -> None:
        config = pending.config
        if config.vocabulary in BUILT_IN_NAMES:
            log.warning("%s is a built-in list, which cannot be taught", config.vocabulary)
            return
        lessons, current = list(pending.lessons.values()), None
        if pending.export is not None:
            tasks = await asyncio.to_thread(pending.export)
            lessons = _exported(tasks)
            current = {_prefix(project, lesson) for lesson in lessons}
        parts = [lessons[i : i + PART] for i in range(0, len(lessons), PART)] or [[]]
        for part in parts:
            await self._learn(project, config, part, current)
            current = None  # others are forgotten once

    async def _learn(
        self,
        project: str,
        config: LabelConfig,
        lessons: Sequence[Lesson],
        current: set[str] | None,
    ) -> None:
        """Learn a few annotations, and keep what was learnt."""
        stated: list[tuple[str, Correction | None]] = []
        for lesson in lessons:
            prefix = _prefix(project, lesson)
            try:
                stated.append((prefix, await self._correction(project, config, lesson)))
            except OverloadError:
                raise
            except AnyRegionError as error:
                log.warning("an annotation of Label Studio's is not learnt: %s", error)
        name = vocabulary_name(project, config)
        names = None if config.vocabulary else config.names()

        def learn(vocabularies: VocabularyStore) -> None:
            with vocabularies.teaching(name, create=names) as teacher:
                if names is not None:
                    teacher.rename(names)
                if current is not None:
                    _forget(teacher, f"{project}/", lambda name: _annotation(name) not in current)
                for prefix, correction in stated:
                    present: set[tuple[str, str]] = set()
                    if correction is not None:
                        keys = region_keys(correction.regions)
                        present = {(correction.image.id, key) for key in keys}
                    _forget_others(teacher, prefix, present)
                    if correction is not None and len(correction.regions):
                        learn_correction(teacher, correction)

        for attempt in range(TRIES):
            try:
                await self.service.with_vocabularies(learn)
                break
            except OverloadError:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(2**attempt)
        self._taught_at[name] = time.time_ns()

    async def _correction(
        self, project: str, config: LabelConfig, lesson: Lesson
    ) -> Correction | None:
        """The labelled regions of an annotation; None where it is gone."""
        if lesson.results is None:
            return None
        labelled, names = [], []
        for region in read_drawn(lesson.results, config):
            owner = config.labeller(region.control)
            label = None if region.label is None or owner is None else owner.name_of(region.label)
            if label is not None:
                labelled.append(region)
                names.append(None if name_key(label) == name_key(NONE_OF_THESE) else label)
        task = {"id": lesson.task, "data": lesson.data}
        image = await self._load(project, config, task)
        prefix = _prefix(project, lesson)
        usable, regions, problems = prompts(labelled, image.size, self.service.options, prefix)
        for problem in problems:
            log.warning("annotation %s of Label Studio's, %s", lesson.annotation, problem)
        right = dict(zip((region.id for region in labelled), names, strict=True))
        return Correction(
            image, regions, [right[region.id] for region in usable], f"task {lesson.task}"
        )


def project_key(value: Any) -> str:
    """A project as Label Studio's requests state it: `ID.TIME`.

    Raises:
        InputError: something else.
    """
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise InputError(f"project must be ID.TIME, not {value!r:.60}")
    return value


def vocabulary_name(project: str, config: LabelConfig) -> str:
    """The name of the vocabulary that answers a project, and is taught by it."""
    return config.vocabulary or f"label-studio-{project.replace('.', '-')}"


def whole(value: Any, what: str) -> int:
    """An id.

    Raises:
        InputError: no whole number.
    """
    if type(value) is not int or not 0 <= value < 2**63:
        raise InputError(f"the id of {what} must be a whole number, not {value!r:.40}")
    return value


def _exported(tasks: Any) -> list[Lesson]:
    """The annotations of an export; those that cannot be read are left out, and logged."""
    lessons: list[Lesson] = []
    for task in tasks if isinstance(tasks, list) else []:
        annotations = task.get("annotations") if isinstance(task, dict) else None
        for annotation in annotations if isinstance(annotations, list) else []:
            try:
                if not isinstance(annotation, dict):
                    raise InputError("an annotation that is no object")
                lessons.append(Lesson.of(annotation, task))
            except InputError as error:
                log.warning("an annotation of an export is not learnt: %s", error)
    return lessons


def _prefix(project: str, lesson: Lesson) -> str:
    """How the ids of an annotation's regions begin."""
    if lesson.task is None:
        return f"{project}/*/{lesson.annotation}/"
    if lesson.annotation is None:
        return f"{project}/{lesson.task}/"
    return f"{project}/{lesson.task}/{lesson.annotation}/"


def _annotation(region: str) -> str:
    """The prefix of a region's id."""
    return region[: len(region) - len(region.split("/", 3)[-1])]


def _forget_others(teacher: Teacher, prefix: str, present: set[tuple[str, str]]) -> None:
    """Forget regions of an annotation that it does not have any more, by image and prompt."""
    project, task, rest = prefix.split("/", 2)

    def is_gone(name: str) -> bool:
        # `*` is any task: of an annotation that was deleted only its own id is known
        return name.startswith(prefix) or (task == "*" and name.split("/", 2)[-1].startswith(rest))

    _forget(teacher, f"{project}/", is_gone, present)


def _forget(
    teacher: Teacher,
    prefix: str,
    is_gone: Callable[[str], bool],
    present: set[tuple[str, str]] | frozenset[tuple[str, str]] = frozenset(),
) -> None:
    corrections = teacher.corrections
    if corrections is None:
        return
    rows = zip(corrections.ids, corrections.image_of.tolist(), corrections.keys, strict=True)
    gone = [
        (corrections.images[image].digest, name)
        for name, image, key in rows
        if isinstance(name, str)
        and name.startswith(prefix)
        and is_gone(name)
        and (corrections.images[image].digest, key) not in present
    ]
    for digest, name in gone:
        teacher.forget(digest, name)
