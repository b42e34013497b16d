"""The site: built without a warning and without a network, whole, and an outline for a reader."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.docs import PAGES, ROOT

pytest.importorskip("zensical", reason="pip install '.[docs]' builds the site")
pytest.importorskip("mkdocstrings")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SLOW = 90_000  # milliseconds, for busy machines
# pages of every kind: prose, tables, pictures, made from parsers, made from docstrings
SHOWN = [
    "", "guides/label_photos/", "guides/teaching/", "results/gallery/", "results/compact/",
    "reference/commands/anyregion_recognize/", "reference/python/recognizer/", "reference/input/",
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; it fails where the build has anything to remark."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "src").symlink_to(ROOT / "src", target_is_directory=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)
    assert result.returncode == 0, printed
    # what mkdocstrings and griffe say of docstrings is not counted by --strict
    expected = ("Build started", "No issues found", "Build finished")
    assert not [line for line in printed.splitlines() if not line.startswith(expected)], printed
    return folder / "site"


class Reader(HTMLParser):
    """What a page links to, loads, and calls its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[int] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") != "canonical":
            self.loaded.append(values.get("href", ""))
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Reader]:
    read = {}
    for path in sorted(site.rglob("*.html")):
        read[path] = Reader()
        read[path].feed(path.read_text("utf-8"))
    return read


def test_every_page_of_the_documentation_is_in_the_menu() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]

    def files(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from files(part)

    written = {str(p.relative_to(ROOT / "docs")) for p in PAGES if ROOT / "docs" in p.parents}
    assert sorted(files(nav)) == sorted(written)


def test_every_link_of_the_site_leads_somewhere(site: Path, pages: dict[Path, Reader]) -> None:
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links count from wherever it is shown
            continue
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = pages[target].ids if target in pages else set()
            if not target.is_file() or (anchor and anchor not in known | {"__skip"}):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Reader]) -> None:
    assert not [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc]


def test_headings_are_an_outline(pages: dict[Path, Reader]) -> None:
    for path, page in pages.items():
        assert page.headings.count(1) == 1, path
        steps = pairwise(page.headings)
        assert all(after - before <= 1 for before, after in steps), (path, page.headings)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize(("system", "scheme"), [("light", "default"), ("dark", "slate")])
def test_in_a_browser(address: str, system: str, scheme: str) -> None:
    """No other host is asked, nothing fails, the search finds, axe has no serious fault."""
    sync_api = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    problems: list[str] = []

    def check(request: Any) -> None:
        if not request.url.startswith((address, "blob:", "data:")):
            problems.append(f"asked {request.url}")

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=system)
        page.set_default_timeout(SLOW)
        page.on("request", check)
        page.on("pageerror", lambda error: problems.append(str(error)))
        for place in SHOWN:
            page.goto(address + place)
            assert page.locator("h1").count() == 1, place
            found = axe.run(page).response["violations"]
            problems += [
                f"{place}: {v['id']}: {v['nodes'][0]['html'][:200]}"
                for v in found
                if v["impact"] in ("serious", "critical")
            ]
        page.goto(address)
        colours = page.locator("body")
        assert colours.get_attribute("data-md-color-scheme") == scheme  # as the system has it
        for chosen in ("default", "slate"):
            page.locator("label[for^=__palette]:visible").click()
            sync_api.expect(colours).to_have_attribute("data-md-color-scheme", chosen)
        page.reload()
        sync_api.expect(colours).to_have_attribute("data-md-color-scheme", "slate")
        page.keyboard.press("/")
        page.wait_for_timeout(1000)
        page.keyboard.type("calibration")
        page.wait_for_timeout(3000)
        page.keyboard.press("Enter")  # the first of the matches
        page.wait_for_url(re.compile("evaluat|calibration"))
        browser.close()
    assert not problems
