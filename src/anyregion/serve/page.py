"""The page: its files, which are served as they are, and the words that it offers."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from anyregion.io.vocabulary import load_vocabulary
from anyregion.serve.http import route
from anyregion.vocabulary import Vocabulary

FILES = files("anyregion.serve") / "page_files"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
OFFERED = ("coco", "objects365", "lvis")
"""Built-in lists whose names the page offers while one types."""


def page_routes() -> list[BaseRoute]:
    """`/`, and a route for each file of the page: nothing else of the disk can be asked for."""
    routes: list[BaseRoute] = [route("/", _file("index.html"), "GET")]
    for entry in sorted(FILES.iterdir(), key=lambda entry: entry.name):
        if any(entry.name.endswith(suffix) for suffix in TYPES):
            routes.append(route(f"/page/{entry.name}", _file(entry.name), "GET"))
    routes.append(route("/v1/words", words, "GET"))
    return routes


def _file(name: str):  # type: ignore[no-untyped-def]
    content = (FILES / name).read_bytes()
    media_type = TYPES[name[name.rindex(".") :]]

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


async def words(_: Request) -> Response:
    """Names that are offered while one types, each with its synonyms."""
    return JSONResponse({"words": _words()})


@cache
def _words() -> list[list[str]]:
    """`[name, synonym, ...]` of each, every name once."""
    offered: dict[str, list[str]] = {}
    for name in OFFERED:
        vocabulary = load_vocabulary(name)
        assert isinstance(vocabulary, Vocabulary)
        for word, synonyms in zip(vocabulary.names, vocabulary.synonyms, strict=True):
            plain = word.replace("_", " ").strip()
            offered.setdefault(plain.casefold(), [plain, *synonyms])
    return sorted(offered.values())
