"""The images of the service: their files by content, and what the model made of them in memory."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from anyregion.files import atomic_path, private_folder, writing

ID = re.compile(r"[0-9a-f]{64}")
"""An image's id: the SHA-256 of its file."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that the model has seen.

    Attributes:
        id: SHA-256 of its file.
        encoded: what `RegionEncoder.encode_images` made of it.
        size: `(height, width)` in pixels, upright.
    """

    id: str
    encoded: Any
    size: tuple[int, int]


class UploadStore:
    """Files of images in a folder, by their content; the least recently used go first.

    Several processes may share one.

    Args:
        folder: made if it is missing, for its owner alone.
        space: bytes; more are removed.
    """

    def __init__(self, folder: Path, space: int) -> None:
        self.folder, self.space = folder, space
        private_folder(folder)

    def write(self, image: str, content: bytes) -> None:
        """Keep a file."""
        path = self.folder / image
        if not path.is_file():
            with writing(path), atomic_path(path, private=True) as temporary:
                temporary.write_bytes(content)
            self._trim()

    def read(self, image: str) -> bytes | None:
        """A file's content, or None where it is not there (any more)."""
        if not ID.fullmatch(image):
            return None
        path = self.folder / image
        try:
            content = path.read_bytes()
            os.utime(path)  # now it is the one used last
        except OSError:
            return None
        return content

    def _trim(self) -> None:
        files = []
        for path in self.folder.iterdir():
            if not ID.fullmatch(path.name):
                continue
            with suppress(OSError):  # another process may remove one at the same time
                state = path.stat()
                files.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:  # the last one was just written
            if total <= self.space:
                break
            path.unlink(missing_ok=True)
            total -= size


class EncodedImages:
    """Encoded images in memory, bounded by their bytes; the least recently used go first.

    Args:
        memory: bytes. The image used last is kept, however large.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._images: OrderedDict[str, tuple[EncodedImage, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def get(self, image: str) -> EncodedImage | None:
        """An image, now the one used last; or None."""
        with self._lock:
            if image not in self._images:
                return None
            self._images.move_to_end(image)
            return self._images[image][0]

    def put(self, image: EncodedImage) -> None:
        """Keep an image; one that is here is measured anew, since tiles are added to it."""
        size = array_bytes(image.encoded)
        with self._lock:
            _, before = self._images.pop(image.id, (None, 0))
            self._images[image.id] = (image, size)
            self.bytes += size - before
            while self.bytes > self.memory and len(self._images) > 1:
                _, (_, freed) = self._images.popitem(last=False)
                self.bytes -= freed


def array_bytes(value: Any) -> int:
    """Bytes of the arrays and tensors in a nested value."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(array_bytes, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return sum(map(array_bytes, value))
    if is_dataclass(value):
        return sum(array_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
