"""`ProjectStore`: the folder of a project: photographs by reference, and events line by line."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from anyregion.data.store.locks import try_lock
from anyregion.errors import InputError
from anyregion.files import atomic_path, private_folder, reading, to_line, valid_text, writing
from anyregion.images import image_digest, read_image, read_size
from anyregion.serve.options import ServeOptions
from anyregion.serve.project.events import ProjectState, check_event

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
LOCK_WAIT = 3.0
"""Seconds."""
JOURNAL, IMAGES = "corrections.jsonl", "images.jsonl"
_CONTROLS = re.compile("[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class ProjectImage:
    """One photograph.

    Attributes:
        id: SHA-256 of its file.
        name: what it is called; its path from the folder of the photographs, where it lies there.
        path: its file.
        size: `(height, width)` of the upright image.
    """

    id: str
    name: str
    path: Path
    size: tuple[int, int]


class ProjectStore:
    """A folder of plain files, which one service at a time works in.

    - `corrections.jsonl`: every event (see `events`), appended and fsynced before it is answered.
    - `images.jsonl`: every photograph: its id, name, file and size.
    - `photographs/`: those that were dropped on the page; others stay where they are.
    - `previews/`: smaller pictures of them; may be deleted.
    - `vocabulary.vocab`: what was taught, for `recognize`; made again from the events.

    Args:
        folder: made if it is missing, for its owner alone.
        limits: how much may be given.

    Raises:
        InputError: another service works in it, or its files are damaged.
    """

    def __init__(self, folder: Path, limits: ServeOptions) -> None:
        self.folder, self.limits = folder, limits
        if not folder.exists():
            private_folder(folder)
        self._open = ExitStack()
        end = time.monotonic() + LOCK_WAIT
        # one that was killed this moment may not be gone yet
        while not self._open.enter_context(try_lock(folder / ".lock")):
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            raise InputError(f"{folder}: another service works in this project")
        self._lock = threading.Lock()
        self.state = ProjectState()
        self.events: list[dict[str, Any]] = []
        self.images: dict[str, ProjectImage] = {}
        # whose a name is, of photographs and (None) of the folders that they lie in
        self._taken: dict[str, str | None] = {}
        self._read_lines(IMAGES, self._apply_image)
        self._read_lines(JOURNAL, self._apply_event)

    def close(self) -> None:
        """Let another service work in it."""
        self._open.close()

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """`(height, width)` of each photograph."""
        return {image.id: image.size for image in self.images.values()}

    def append(self, events: Iterable[Any], tab: str) -> list[dict[str, Any]]:
        """Check events, keep them, and apply them: all, or none where one is wrong.

        Returns:
            The events as they were kept, with `seq`, 1 for the first of the project.

        Raises:
            InputError: an event that cannot be used, by its position.
        """
        with self._lock:
            checked, sizes = [], self.sizes
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            for i, event in enumerate(events):
                try:
                    sound = check_event(event, sizes, self.limits)
                except InputError as error:
                    raise InputError(f"event {i}: {error}") from None
                seq = len(self.events) + i + 1
                checked.append({"seq": seq, "at": now, "tab": tab, **sound})
            self._append(JOURNAL, checked)
            for event in checked:
                self.state.apply(event)
            self.events += checked
            return checked

    def since(self, seq: int) -> Sequence[dict[str, Any]]:
        """The events after that one."""
        return self.events[max(0, seq) :]

    def add_file(self, name: str, content: bytes) -> ProjectImage:
        """Keep a photograph that was dropped on the page.

        Raises:
            InputError: no image.
        """
        digest = image_digest(content).hex()
        if digest in self.images:
            return self.images[digest]
        height, width = read_image(content, max_pixels=self.limits.max_pixels).shape[:2]
        # of a name of another system nothing but its last part, without what paths are made of
        plain = _CONTROLS.sub("", valid_text(name).replace("\\", "/").rpartition("/")[2])
        stem, suffix = _split(plain)
        # bytes, not characters, are what file systems count
        stem = stem.encode()[:200].decode(errors="ignore").strip(". ") or "photograph"
        path = self.folder / "photographs" / f"{digest}{suffix}"
        with writing(path), atomic_path(path, private=True) as temporary:
            temporary.write_bytes(content)
        return self._add(ProjectImage(digest, f"{stem}{suffix}", path, (height, width)))

    def add_folder(self, folder: Path) -> Iterator[ProjectImage | None]:
        """The photographs of a folder and those below it, by reference: each new one as it is read.

        Files that are no images give None. Those whose path is known are not read. A photograph
        whose own file is gone is found again by its content.
        """
        known = {image.path: image for image in self.images.values()}
        with reading(folder):
            paths = sorted(
                path for path in folder.rglob("*")
                if path.suffix.casefold() in SUFFIXES and path.is_file()
            )  # fmt: skip
        for path in paths:
            path = path.absolute()
            if path in known:
                continue
            try:
                digest = image_digest(path).hex()
                if digest in self.images:
                    if not self.images[digest].path.is_file():
                        self._add(replace(self.images[digest], path=path))
                    continue
                # names on the disk need not be UTF-8, answers have to be
                name = valid_text(str(path.relative_to(folder.absolute())))
                image = ProjectImage(digest, name, path, read_size(path).upright)
            except InputError:
                yield None
                continue
            yield self._add(image)

    def add_known(self, image: ProjectImage) -> None:
        """Add a photograph by reference whose size and digest are known: its file is not read."""
        if image.id not in self.images:
            self._add(image)

    def read(self, image: str) -> bytes | None:
        """A photograph's file; None where it is not one of the project's, or is not there."""
        if image not in self.images:
            return None
        with suppress(OSError):
            content = self.images[image].path.read_bytes()
            # a file that was changed is another photograph
            if image_digest(content).hex() == image:
                return content
        return None

    def preview(self, image: str, side: int) -> bytes | None:
        """A JPEG whose longer side is at most `side` pixels; None as `read`."""
        path = self.folder / "previews" / f"{image}-{side}.jpg"
        with suppress(OSError):
            return path.read_bytes()
        content = self.read(image)
        if content is None:
            return None
        pixels = Image.fromarray(read_image(content, max_pixels=self.limits.max_pixels))
        pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
        with writing(path), atomic_path(path, private=True) as temporary:
            pixels.save(temporary, "JPEG", quality=88)
        return path.read_bytes()

    def _free(self, image: ProjectImage) -> str:
        """The name of a photograph, with a number where another one, or a folder, has it.

        A folder that is called as a photograph has a number, too: an export writes both.
        """
        folder = ""
        for part in PurePosixPath(image.name).parts[:-1]:
            path, number = f"{folder}{part}", 2
            while self._taken.get(path) is not None:
                path, number = f"{folder}{part}-{number}", number + 1
            folder = f"{path}/"
        stem, suffix = _split(PurePosixPath(image.name).name)
        name, number = f"{folder}{stem}{suffix}", 2
        while self._taken.get(name, image.id) != image.id:
            name, number = f"{folder}{stem}-{number}{suffix}", number + 1
        return name

    def _keep(self, image: ProjectImage) -> None:
        self.images[image.id] = image
        self._taken[image.name] = image.id
        for folder in PurePosixPath(image.name).parents:
            self._taken.setdefault(str(folder), None)

    def _apply_image(self, line: Mapping[str, Any]) -> None:
        path = self.folder / line["path"]
        image = ProjectImage(line["id"], line["name"], path, (line["height"], line["width"]))
        self._keep(replace(image, name=self._free(image)))

    def _apply_event(self, event: Mapping[str, Any]) -> None:
        self.state.apply(event)
        self.events.append(dict(event))

    def _add(self, image: ProjectImage) -> ProjectImage:
        path = image.path
        if path.is_relative_to(self.folder.absolute()) or path.is_relative_to(self.folder):
            path = path.relative_to(self.folder)
        with self._lock:
            image = replace(image, name=self._free(image))
            self._append(
                IMAGES,
                [
                    {
                        "id": image.id,
                        "name": image.name,
                        "path": str(path),
                        "width": image.size[1],
                        "height": image.size[0],
                    }
                ],
            )
            self._keep(image)
        return image

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        path = self.folder / name
        with writing(path), path.open("ab") as file:
            end = file.tell()
            try:
                file.write(b"".join(map(to_line, lines)))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # on a full disk half of it may be there, and the next line would go on in it
                file.truncate(end)
                raise

    def _read_lines(self, name: str, apply: Callable[[Mapping[str, Any]], None]) -> None:
        """Go through a file; half a line at its end was never answered for, and is cut off."""
        path = self.folder / name
        if not path.exists():
            return
        with reading(path):
            content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            with writing(path), path.open("rb+") as file:
                file.truncate(end)
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                apply(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise InputError(
                    f"{path}, line {number}: damaged; restore it, or remove it"
                ) from None


def _split(name: str) -> tuple[str, str]:
    """The name of a photograph without its suffix, and that, in small letters."""
    suffix = next((s for s in SUFFIXES if name.casefold().endswith(s)), "")
    return name[: len(name) - len(suffix)], suffix
