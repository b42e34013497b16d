"""The routes of a project: photographs, events, names, what to ask next, export."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from anyregion.errors import InputError, SetAside
from anyregion.io.labels import ClassNames, LabelledImage, LabelledRegion
from anyregion.io.writers.formats import WRITERS
from anyregion.io.writers.writing import WriteOptions
from anyregion.masks import segmentation_to_rle
from anyregion.serve.http import json_body, route, text_of
from anyregion.serve.project.assistant import Assistant
from anyregion.serve.project.events import prompt_regions
from anyregion.serve.project.imports import (
    Import,
    ImportReport,
    add_photographs,
    import_regions,
    statistics,
)
from anyregion.serve.project.store import ProjectImage, ProjectStore
from anyregion.serve.requests import known_keys
from anyregion.serve.service import Service, UnknownItemError

PREVIEW_SIDES = (240, 1600)
MOST_ALIKE = 60


class ProjectRoutes:
    """The handlers of one project."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        photographs: Path | None,
        content: Import | None = None,
    ) -> None:
        self.service, self.photographs, self.content = service, photographs, content
        self.store = ProjectStore(folder, service.options)
        service.read_photograph = self.store.read
        table = None if content is None else content.table
        self.assistant = Assistant(service, self.store, table)
        self.unreadable = 0
        self.imported: ImportReport | None = None
        self._scanning: asyncio.Task[None] | None = None
        self._exports: list[Path] = []

    def start(self) -> None:
        """Begin to read the folder of photographs, and to learn."""
        self.assistant.start()
        if self.photographs is not None or self.content is not None:
            self._scanning = asyncio.create_task(self._scan())

    async def stop(self) -> None:
        """Let another service work in the project."""
        if self._scanning is not None:
            self._scanning.cancel()
        await self.assistant.stop()
        self.store.close()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        image = "/v1/project/images/{image}"
        return [
            route("/v1/project", self.status, "GET"),
            route("/v1/project/events", self.events, "GET", "POST"),
            route("/v1/project/images", self.add_image, "POST"),
            route(f"{image}/file", self.file, "GET"),
            route(f"{image}/names", self.names, "POST"),
            route(f"{image}/find", self.find, "POST"),
            route(f"{image}/masks", self.masks, "POST"),
            route("/v1/project/queue", self.queue, "GET"),
            route("/v1/project/alike", self.alike, "POST"),
            route("/v1/project/export", self.export, "POST"),
        ]

    async def _scan(self) -> None:
        content = self.content
        if content is not None:
            await asyncio.to_thread(add_photographs, self.store, content)
        images = iter(()) if self.photographs is None else self.store.add_folder(self.photographs)
        while (image := await asyncio.to_thread(next, images, ...)) is not ...:
            self.unreadable += image is None
        if content is None:
            return
        before = len(self.store.events)
        self.imported = await asyncio.to_thread(import_regions, self.store, content)
        self.assistant.notice(self.store.since(before))
        # of regions that were seen before, queue and likeness know at once
        for name in list(self.store.state.regions):
            self.assistant.look_up(name)

    async def status(self, _: Request) -> Response:
        """Photographs, how many regions each has, and what was learnt."""
        state, scanning = self.store.state, self._scanning
        images = []
        for image in list(self.store.images.values()):
            regions = state.regions.get(image.id, {}).values()
            images.append(
                {
                    "id": image.id,
                    "name": image.name,
                    "width": image.size[1],
                    "height": image.size[0],
                    "regions": len(regions),
                    "named": sum(region.named for region in regions),
                }
            )
        return JSONResponse(
            {
                "model": self.service.state,
                "seq": len(self.store.events),
                "words": state.words,
                "images": images,
                "scanning": scanning is not None and not scanning.done(),
                "unreadable": self.unreadable,
                "imported": statistics(self.imported),
                "learning": self.assistant.learning,
                "lesson": asdict(self.assistant.lesson),
                "formats": list(WRITERS),
            }
        )

    async def events(self, request: Request) -> Response:
        """Append events, and give those that the caller does not know."""
        if request.method == "GET":
            since = request.query_params.get("since", "0")
            if not since.isdecimal() or len(since) > 12:
                raise InputError(f"since must be a whole number, not {since!r:.40}")
        else:
            body = await json_body(request)
            known_keys(body, ("since", "tab", "events"))
            since, events = body.get("since", 0), body.get("events")
            if type(since) is not int or since < 0:
                raise InputError("since must be a whole number")
            if not isinstance(events, list) or len(events) > 10_000:
                raise InputError("events must be a list of at most 10,000")
            tab = text_of(body, "tab")[:64]
            appended = await asyncio.to_thread(self.store.append, events, tab)
            self.assistant.notice(appended)
        return JSONResponse(
            {
                "seq": len(self.store.events),
                "images": len(self.store.images),
                "events": list(self.store.since(int(since))),
                "learning": self.assistant.learning,
                "lesson": asdict(self.assistant.lesson),
            }
        )

    async def add_image(self, request: Request) -> Response:
        """A photograph that was dropped; its name is in the header `X-Name`, percent-encoded."""
        name = unquote(request.headers.get("x-name", "photograph"))[:300]
        image = await asyncio.to_thread(self.store.add_file, name, await request.body())
        return JSONResponse({"id": image.id, "name": image.name})

    def _image(self, request: Request) -> ProjectImage:
        image = self.store.images.get(request.path_params["image"])
        if image is None:
            raise UnknownItemError("no such photograph in this project")
        return image

    async def file(self, request: Request) -> Response:
        """A smaller picture of a photograph, as JPEG."""
        image, side = self._image(request), request.query_params.get("side", "1600")
        if side not in map(str, PREVIEW_SIDES):
            raise InputError(f"side must be one of {', '.join(map(str, PREVIEW_SIDES))}")
        content = await asyncio.to_thread(self.store.preview, image.id, int(side))
        if content is None:
            raise UnknownItemError(f"{image.name}: its file is gone, or was changed")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def names(self, request: Request) -> Response:
        """The best names of each region of a photograph."""
        return JSONResponse(await self.assistant.names(self._image(request).id))

    async def find(self, request: Request) -> Response:
        """Regions of a photograph that nobody drew, as events that add them."""
        image = self._image(request)
        seen = await self.service.image(image.id)
        regions = await self.service.find(seen, most=None, min_objectness=None)
        scores = [1.0] * len(regions) if regions.scores is None else regions.scores.tolist()
        return JSONResponse(
            {
                "regions": [
                    {"box": [round(v, 1) for v in box], "objectness": round(score, 4)}
                    for box, score in zip(regions.boxes.tolist(), scores, strict=True)
                ]
            }
        )

    async def masks(self, request: Request) -> Response:
        """The mask of each region of a photograph, as COCO's RLE."""
        image = self._image(request)
        return JSONResponse({"regions": await self._masks(image)})

    async def _masks(self, image: ProjectImage) -> dict[str, Any]:
        regions = dict(self.store.state.regions.get(image.id, {}))
        if not regions:
            return {}
        engine, _ = await self.service.ready()
        seen = await self.service.image(image.id)
        prompts = prompt_regions(
            {name: region.prompt for name, region in regions.items()}, image.size, self.store.limits
        )
        encoder = engine.recognizer.encoder
        (embedded,) = await asyncio.wrap_future(
            engine.call(lambda: encoder.embed_regions([seen.encoded], [prompts], masks=True))
        )
        if embedded.masks is None:
            raise InputError(f"{encoder.name} makes no masks")
        return {
            name: {"mask": mask, "box": [round(v, 2) for v in box]}
            for name, mask, box in zip(
                regions, embedded.masks, embedded.boxes.tolist(), strict=True
            )
        }

    async def queue(self, _: Request) -> Response:
        """Regions that are best named next."""
        return JSONResponse({"regions": await self.assistant.queue()})

    async def alike(self, request: Request) -> Response:
        """Regions that look most like one."""
        body = await json_body(request)
        known_keys(body, ("image", "region"))
        image, region = text_of(body, "image"), text_of(body, "region")
        if image not in self.store.images:
            raise UnknownItemError("no such photograph in this project")
        return JSONResponse({"regions": await self.assistant.alike(image, region, MOST_ALIKE)})

    async def export(self, request: Request) -> Response:
        """All named regions in the format of a tool, as a ZIP file."""
        body = await json_body(request)
        known_keys(body, ("format", "masks", "images"))
        name, masks, images = (
            body.get("format"),
            body.get("masks", False),
            body.get("images", False),
        )
        if not isinstance(name, str) or name not in WRITERS:
            raise InputError(f"format must be one of {', '.join(WRITERS)}")
        if type(masks) is not bool or type(images) is not bool:
            raise InputError("masks and images must be true or false")
        by_image: dict[str, dict[str, Any]] = {}
        set_aside: list[SetAside] = []
        if masks:
            for image in list(self.store.images.values()):
                try:
                    by_image[image.id] = await self._masks(image)
                except UnknownItemError:
                    reason = "no masks: its file is gone, or was changed"
                    set_aside.append(SetAside(image.name, reason))
        path = await asyncio.to_thread(self._write, name, by_image, images, set_aside)
        return _Temporary(path, media_type="application/zip", filename=f"labels-{name}.zip")

    def _write(
        self,
        name: str,
        masks: dict[str, dict[str, Any]],
        images: bool,
        set_aside: Sequence[SetAside],
    ) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="anyregion-export-"))
        try:
            labelled = list(self._labelled(masks))
            if not labelled:
                raise InputError("nothing is named yet")
            names = [region.label for image in labelled for region in image.regions]
            classes = ClassNames.from_names([*self.store.state.words, *names])
            # photographs lie in several places: writers look in one
            links = folder / "photographs"
            for image in self.store.images.values():
                link = links / image.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(image.path.absolute())
            options = WriteOptions(images=links, copy_images=images)
            report = WRITERS[name](iter(labelled), classes, folder / "labels", options)
            if left_out := [*set_aside, *report.set_aside]:
                text = "".join(f"{item}\n" for item in left_out)
                (folder / "labels" / "left-out.txt").write_text(text, encoding="utf-8")
            return Path(shutil.make_archive(str(folder / "archive"), "zip", folder / "labels"))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _labelled(self, masks: dict[str, dict[str, Any]]) -> Iterator[LabelledImage]:
        """Photographs with regions that somebody gave one of the names."""
        for image in self.store.images.values():
            regions = []
            for name, region in self.store.state.regions.get(image.id, {}).items():
                if not region.named or region.label is None:
                    continue
                prompts = prompt_regions({name: region.prompt}, image.size, self.store.limits)
                x0, y0, x1, y1 = prompts.extents(image.size)[0].tolist()
                seen = masks.get(image.id, {}).get(name)
                mask = None if seen is None else seen["mask"]
                if "mask" in region.prompt:
                    mask = segmentation_to_rle(region.prompt["mask"], *image.size)
                elif seen is not None and "box" not in region.prompt:
                    x0, y0, x1, y1 = seen["box"]
                regions.append(LabelledRegion(name, (x0, y0, x1, y1), region.label, mask=mask))
            if regions:
                yield LabelledImage(image.name, image.size, tuple(regions))


class _Temporary(FileResponse):
    """A file that is removed, with its folder, once it was sent."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)
