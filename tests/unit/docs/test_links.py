"""Every link of the documentation leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers.docs import PAGES, ROOT

OTHERS = [ROOT / name for name in ("benchmarks/README.md", "examples/README.md")]


def without_code(text: str) -> str:
    """Text without its fenced blocks and without what stands between backticks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def on_github(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def on_the_site(heading: str) -> str:
    """The anchor that Python-Markdown makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page that are the same on GitHub and on the site."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} (.+?)\s*$", text, re.MULTILINE)
    return frozenset(map(on_github, headings)) & frozenset(map(on_the_site, headings))


def test_anchors_are_those_of_both() -> None:
    assert on_github("What lies in the run's folder") == "what-lies-in-the-runs-folder"
    assert on_the_site("What lies in the run's folder") == "what-lies-in-the-runs-folder"
    assert on_github("a / b") != on_the_site("a / b")


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8")))
    assert links or page.name != "README.md"
    dead = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            dead.append(link)
    assert not dead


DOCS = [page for page in PAGES if ROOT / "docs" in page.parents]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_of_the_site_link_to_pages_of_the_site(page: Path) -> None:
    """What lies outside `docs/` is no part of the site: it is named, not linked."""
    links = re.findall(r"\]\(([^)#\s]+)", without_code(page.read_text("utf-8")))
    inside = [link for link in links if not re.match(r"[a-z]+:", link)]
    outside = [k for k in inside if ROOT / "docs" not in (page.parent / k).resolve().parents]
    assert not outside


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_are_an_outline(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    levels = [len(hashes) for hashes in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    assert levels.count(1) == 1, "one title"
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_page_can_be_reached() -> None:
    """From the entry of the documentation one comes to every page by links."""
    reached, waiting = set(), [ROOT / "docs/index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+\.md)", without_code(page.read_text("utf-8"))):
            waiting.append((page.parent / link).resolve())
    assert not set(DOCS) - reached
