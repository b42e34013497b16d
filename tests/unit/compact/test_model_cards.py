"""The page of model cards covers every shipped file, with the licence that the manifest states."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyregion.compact import assets

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "model_cards.md"
IMAGES = ROOT / "docs" / "images"


def manifest() -> dict[str, dict[str, Any]]:
    text = (Path(assets.__file__).parent / "assets" / "manifest.json").read_text(encoding="utf-8")
    files: dict[str, dict[str, Any]] = json.loads(text)["files"]
    return files


def rows() -> dict[str, tuple[str, str]]:
    """By file the anchor of its card, and the licence there."""
    text = PAGE.read_text(encoding="utf-8")
    cells = re.findall(r"^\| `([\w.]+)` \| \[[^]]+\]\(#([\w-]+)\)[^|]*\| ([^|]+) \|$", text, re.M)
    return {name: (anchor, licence) for name, anchor, licence in cells}


def test_every_shipped_file_has_a_card() -> None:
    shipped = {path.name for path in (Path(assets.__file__).parent / "assets").iterdir()}
    assert manifest().keys() == shipped - {"manifest.json"}
    assert rows().keys() == manifest().keys()


@pytest.mark.parametrize("name", sorted(manifest()))
def test_card(name: str) -> None:
    anchor, licence = rows()[name]
    assert licence == manifest()[name]["licence"]
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (card,) = (s for s in sections if s.partition("\n")[0].lower().replace(" ", "-") == anchor)
    assert "**On held-out data.**" in card
    assert "**Known faults.**" in card
    # figures stand once, in the results, where their commands are
    assert "](../results/compact.md#" in card


def test_pictures_of_faults() -> None:
    pictures = set(re.findall(r"\.\./images/(card-[\w-]+\.jpg)", PAGE.read_text(encoding="utf-8")))
    tool = (ROOT / "tools" / "card_pictures.py").read_text(encoding="utf-8")
    assert pictures == {path.name for path in IMAGES.glob("card-*.jpg")}
    assert pictures == set(re.findall(r'"(card-[\w-]+\.jpg)"', tool))
    assert len(pictures) >= 5
    for name in sorted(pictures):
        assert (IMAGES / name).stat().st_size < 200_000
        assert min(Image.open(IMAGES / name).size) >= 400


def test_data_sets_of_the_manifest_are_on_the_page() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for entry in manifest().values():
        for what in ("package", "upstream"):
            if what in entry and "timm" not in entry[what]:
                assert entry[what].split()[0].split("/")[-1].rstrip(",") in page, entry
        if match := re.match(r"COCO 2017, ([\d,]+) photographs", entry.get("data", "")):
            assert f"{match[1]} photographs of COCO 2017" in page
