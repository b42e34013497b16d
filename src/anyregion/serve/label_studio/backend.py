"""`LabelStudioBackend`: names the regions of tasks, and learns from annotations."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from anyregion.errors import AnyRegionError, InputError
from anyregion.io.writers.label_studio import prediction
from anyregion.regions import Regions
from anyregion.serve.engine import NamingOptions, OverloadError
from anyregion.serve.images import EncodedImage
from anyregion.serve.label_studio.config import SHAPES, LabelConfig
from anyregion.serve.label_studio.images import TaskImages
from anyregion.serve.label_studio.lessons import Lesson, Lessons, project_key, whole
from anyregion.serve.label_studio.results import (
    VERSION,
    DrawnRegion,
    NamedRegion,
    answer_drawn,
    answer_found,
    choose_label,
    point_prompt,
    prompts,
    read_drawn,
    results_of_task,
)
from anyregion.serve.service import Service

log = logging.getLogger("anyregion.serve")
FRESH = 60.0
"""Seconds for which an image is not fetched again: one is asked for at every stroke."""
MOST_NAMES = 1000
"""Names of a region that are looked through for one that its tag has, where tags differ."""
SHARE_OF_TIMEOUT = 0.4
"""Of the seconds of a request, after which no further task is begun."""
ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
    "START_TRAINING",
)
"""Of the webhook, those that matter."""


class LabelStudioBackend:
    """What Label Studio's requests do, without HTTP.

    All methods belong to the event loop.

    Args:
        service: the model, its images and vocabularies.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.images = TaskImages(service.options.label_studio, service.options.max_body)
        self.lessons = Lessons(service, self.image)
        # by the image's address: its id, and when it was fetched
        self._fetched: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._tokens: OrderedDict[str, str] = OrderedDict()

    def start(self) -> None:
        """Begin to learn what annotations say."""
        self.lessons.start()

    async def stop(self) -> None:
        """End; what was learnt is on the disk."""
        await self.lessons.stop()

    def setup(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A project is connected, or looked at: the version that answers it. Does not wait."""
        project = project_key(body.get("project"))
        token = body.get("access_token")
        if isinstance(token, str) and 0 < len(token) <= 1000:
            _remember(self._tokens, project, token)
        try:
            config = LabelConfig.parse(_text(body, "schema"))
            if config.vocabulary is None:
                config.names()
        except InputError as error:
            # its interface may be made later; each prediction says what is wrong
            log.warning("Label Studio's project %s cannot be named: %s", project, error)
            return {"model_version": f"{VERSION}untaught"}
        return {"model_version": self.model_version(project, config)}

    def model_version(self, project: str, config: LabelConfig) -> str:
        """Changes whenever answers may: Label Studio asks each version once a task."""
        taught = self.lessons.taught_at(project, config)
        if taught is None:
            return f"{VERSION}untaught"
        at = datetime.fromtimestamp(taught // 10**9, UTC)
        return f"{VERSION}{at:%Y%m%dT%H%M%S}.{taught // 1000 % 10**6:06d}"

    async def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Name the regions of tasks.

        Returns:
            `results`, one a task: a prediction, or where that failed the `error` without a
            `result`, of which Label Studio keeps nothing. Where the tasks take longer than may be,
            only the first: Label Studio asks for each by itself then.
        """
        tasks, params = body.get("tasks"), body.get("params")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise InputError("tasks must be a list of objects")
        context = params.get("context") if isinstance(params, dict) else None
        project, interface = project_key(body.get("project")), _text(body, "label_config")
        until = time.monotonic() + SHARE_OF_TIMEOUT * self.service.options.timeout
        results: list[dict[str, Any]] = []
        for task in tasks:
            if results and time.monotonic() > until:
                return {"results": results[:1]}
            try:
                config = LabelConfig.parse(interface)
                results.append(await self._predict(project, config, task, context))
            except OverloadError:
                raise
            except AnyRegionError as error:
                log.warning("a task of Label Studio's project %s is not named: %s", project, error)
                # the page takes a list of what it drew
                empty: dict[str, Any] = {} if context is None else {"result": []}
                results.append({**empty, "error": str(error)})
        return {"results": results}

    async def _predict(
        self, project: str, config: LabelConfig, task: Mapping[str, Any], context: Any
    ) -> dict[str, Any]:
        image = await self.image(project, config, task)
        drawing = context.get("result") if isinstance(context, dict) else None
        results: list[dict[str, Any]]
        if isinstance(drawing, list) and drawing:
            drawn = read_drawn(drawing, config)
            extent = config.drawing("brush", "polygon", "rectangle", "ellipse")
            if drawn and extent is not None and all(region.is_point for region in drawn):
                point = point_prompt(drawn, image.size, self.service.options)
                (named,) = await self._name(project, config, image, point, masks=True)
                answer = choose_label(named, config, extent)
                results = answer_found(named, image.size, answer, config, extent)
            else:
                results = await self._name_drawn(project, config, image, drawn)
        elif drawn := read_drawn(results_of_task(task), config):
            results = await self._name_drawn(project, config, image, drawn)
        else:
            results = await self._find(project, config, image)
        version = self.model_version(project, config)
        return {**prediction(results), "model_version": version}

    async def _name_drawn(
        self, project: str, config: LabelConfig, image: EncodedImage, drawn: Sequence[DrawnRegion]
    ) -> list[dict[str, Any]]:
        usable, regions, problems = prompts(drawn, image.size, self.service.options)
        for problem in problems:
            log.warning("Label Studio's project %s: %s", project, problem)
        if not usable:
            raise InputError("; ".join(problems) or "no region of a tag that draws on the image")
        named = await self._name(project, config, image, regions)
        return [
            result
            for region, name in zip(usable, named, strict=True)
            for result in answer_drawn(region, choose_label(name, config, region.control), config)
        ]

    async def _find(
        self, project: str, config: LabelConfig, image: EncodedImage
    ) -> list[dict[str, Any]]:
        """The regions that the model finds itself; those without a label are left out."""
        control = config.drawing(*SHAPES)
        if control is None:
            raise InputError(
                "the labelling interface has no tag that regions can be drawn with: "
                "RectangleLabels, PolygonLabels, BrushLabels, KeyPointLabels, EllipseLabels, or "
                "one of these shapes with Labels"
            )
        regions = await self.service.find(image, most=None, min_objectness=None)
        masks = control.shape in ("brush", "polygon")
        named = await self._name(project, config, image, regions, masks=masks, distinct=True)
        results: list[dict[str, Any]] = []
        for region in named:
            answer = choose_label(region, config, control)
            if answer.label is not None:
                results += answer_found(region, image.size, answer, config, control)
        return results

    async def _name(
        self,
        project: str,
        config: LabelConfig,
        image: EncodedImage,
        regions: Regions,
        *,
        masks: bool = False,
        distinct: bool = False,
    ) -> list[NamedRegion]:
        """Names by the vocabulary of the project."""
        source = await self.lessons.source(project, config)
        # labels of several tags share one vocabulary, of which a region's own tag may have few
        several = sum(bool(c.labels) for c in (*config.controls, *config.labellers)) > 1
        options = NamingOptions(MOST_NAMES if several else 1, None, masks)
        predictions = await self.service.name(image, regions, source, options)
        if distinct:
            predictions = self.service.distinct(predictions)
        return NamedRegion.from_predictions(predictions)

    async def image(
        self, project: str, config: LabelConfig, task: Mapping[str, Any]
    ) -> EncodedImage:
        """The image of a task, encoded.

        Raises:
            InputError: none, or one that may not be read.
            UnreachableError: Label Studio does not hand it out.
        """
        data, identity = task.get("data"), task.get("id")
        reference = data.get(config.key) if isinstance(data, dict) else None
        if isinstance(reference, list):
            raise InputError(f"{config.key} is a list: only tasks of one image are named")
        if not isinstance(reference, str) or not reference:
            raise InputError(f"its data has no address of an image as {config.key!r:.60}")
        number = identity if isinstance(identity, int) else None
        place = f"{number} {reference}"
        known = self._fetched.get(place)
        if known is not None and time.monotonic() - known[1] < FRESH:
            with suppress(AnyRegionError):  # it may have made room for newer ones
                return await self.service.image(known[0])
        token = self._tokens.get(project)
        content = await asyncio.to_thread(self.images.read, reference, number, token)
        image = await self.service.add_image(content)
        if not reference.startswith("data:"):
            _remember(self._fetched, place, (image.id, time.monotonic()))
        return image

    def webhook(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Note what happened to annotations, to be learnt soon: Label Studio waits for a second.

        Returns:
            `status`: `noted` or `ignored`.
        """
        action, stated = body.get("action"), body.get("project")
        if action not in ACTIONS:
            return {"status": "ignored"}
        if not isinstance(stated, dict):
            raise InputError(f"{action}: no project: the webhook must send its payload")
        project = _stated_key(stated)
        try:
            config = LabelConfig.parse(_text(stated, "label_config"))
        except InputError as error:
            log.warning("Label Studio's project %s teaches nothing: %s", project, error)
            return {"status": "ignored"}
        lessons: list[Lesson] = []
        export = None
        if action == "START_TRAINING":
            path = f"/api/projects/{whole(stated.get('id'), 'the project')}/export?exportType=JSON"
            token = self._tokens.get(project)
            export = lambda: self.images.get_json(path, token)  # noqa: E731
        elif action == "ANNOTATIONS_DELETED":
            entries = _objects(body, "annotations")
            lessons = [Lesson(None, whole(e.get("id"), "an annotation")) for e in entries]
        elif action == "TASKS_DELETED":
            lessons = [Lesson(whole(e.get("id"), "a task"), None) for e in _objects(body, "tasks")]
        elif action != "PROJECT_UPDATED":
            annotations, tasks = _objects(body, "annotation"), _objects(body, "task")
            if len(annotations) != len(tasks):
                raise InputError(f"{len(annotations)} annotations of {len(tasks)} tasks")
            lessons = [Lesson.of(a, t) for a, t in zip(annotations, tasks, strict=True)]
        self.lessons.note(project, config, lessons, export)
        return {"status": "noted"}


def _stated_key(project: Mapping[str, Any]) -> str:
    """The key of a webhook's project, as other requests state it."""
    number = whole(project.get("id"), "the project")
    try:
        created = datetime.fromisoformat(str(project.get("created_at"))).timestamp()
    except (ValueError, OverflowError):
        raise InputError("the project has no created_at") from None
    return project_key(f"{number}.{int(created)}")


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key} must be a text, not {value!r:.40}")
    return value


def _objects(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """An object, or a list of some."""
    value = body.get(key)
    entries = value if isinstance(value, list) else [value]
    objects: list[Mapping[str, Any]] = [entry for entry in entries if isinstance(entry, dict)]
    if len(objects) != len(entries):
        raise InputError(f"{key} must be an object or a list of some")
    return objects


def _remember(memory: OrderedDict[str, Any], key: str, value: Any) -> None:
    """Keep a value; the oldest go."""
    memory.pop(key, None)
    memory[key] = value
    while len(memory) > 1000:
        memory.popitem(last=False)
