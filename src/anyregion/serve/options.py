"""`ServeOptions`: where the service listens, whom it answers, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from anyregion.errors import InputError

MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions:
    """Where the images of Label Studio's tasks are read from.

    Attributes:
        url: its address (`http://localhost:8080`); the only host that is ever asked. None for none.
        key: a token of a user: a personal access token, or a legacy one. Without it the token that
            Label Studio hands over with a project is tried.
        files: the folder that it serves as `/data/local-files/`: images are read there.
        uploads: the same for `/data/upload/`: `media/upload` of its data folder.
    """

    url: str | None = None
    key: str | None = None
    files: Path | None = None
    uploads: Path | None = None

    def __post_init__(self) -> None:
        if self.url is None:
            return
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            sound = False
        if not sound or parts.query or parts.fragment or parts.username is not None:
            raise InputError(
                f"the address of Label Studio must be http://HOST or https://HOST, perhaps with a "
                f"port and a path, not {self.url!r:.100}"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Settings of the service.

    Attributes:
        host, port: where it listens; on 127.0.0.1 only programs of this machine reach it.
        allowed_hosts: further names under which it may be addressed (`Host` header), beside
            `host`, `localhost`, `127.0.0.1` and `[::1]`: else a web page could reach it by a
            domain name that it points here (DNS rebinding).
        allowed_origins: origins of web pages that may call it from a browser (`https://...`); its
            own always may.
        token: if set, what `Authorization: Bearer` has to say.
        vocabulary: what regions are named by where a request says nothing, as `load_vocabulary`
            takes it; None for the names that the model knows.
        folder: where vocabularies are kept, a file each; None keeps them in memory.
        project: the folder of a person's work on the page, photographs, regions and names; None for
            no page.
        photographs: a folder whose photographs are in the project, by reference.
        uploads: where the files of images are kept while they are in use; None for a folder that
            is removed at the end. Processes that share it answer for each other's images.
        max_body: bytes of a request.
        max_pixels: pixels of an image.
        max_regions, max_names: of one request.
        max_vocabularies: how many are kept by name; and of others, how many stay encoded.
        image_memory: bytes of encoded images in memory; the least recently used are dropped, and
            encoded again when they are needed.
        upload_space: bytes of image files; the least recently used are removed.
        queue: requests that wait for the model; more are refused with 429.
        batch: requests that go through the model together.
        timeout: seconds for a request, from its first byte to its answer.
        label_studio: for the back end of Label Studio.
    """

    host: str = "127.0.0.1"
    port: int = 8750
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    token: str | None = None
    vocabulary: str | None = None
    folder: Path | None = None
    project: Path | None = None
    photographs: Path | None = None
    uploads: Path | None = None
    max_body: int = 32 * MEBIBYTE
    max_pixels: int = 100_000_000
    max_regions: int = 2000
    max_names: int = 20_000
    max_vocabularies: int = 64
    image_memory: int = 512 * MEBIBYTE
    upload_space: int = 4096 * MEBIBYTE
    queue: int = 64
    batch: int = 8
    timeout: float = 60.0
    label_studio: LabelStudioOptions = LabelStudioOptions()

    def __post_init__(self) -> None:
        for name in (
            *("max_body", "max_pixels", "max_regions", "max_names", "max_vocabularies"),
            *("image_memory", "upload_space", "queue", "batch", "timeout"),
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must lie in 0 to 65535, not {self.port}")
        if self.photographs is not None and self.project is None:
            raise InputError("photographs need a project, in which the work on them is kept")
        if self.token is not None and len(self.token) < 8:
            raise InputError("a token of less than 8 characters is no secret")
