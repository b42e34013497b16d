"""The gallery says what the built-in model says."""

from __future__ import annotations

import re
import runpy

import anyregion
from tests.helpers.docs import ROOT


def test_the_scores_of_the_gallery_are_the_models() -> None:
    """`python tools/gallery.py` draws anew; the text of a picture has its scores, to 0.02."""
    gallery = runpy.run_path(str(ROOT / "tools/gallery.py"))
    page = (ROOT / "docs/results/gallery.md").read_text("utf-8")
    pictures = re.findall(r"!\[([^\]]+)\]\(\.\./images/gallery/(\w+)\.jpg\)", page)
    texts = {name: text for text, name in pictures}
    recognizer, proposer = anyregion.load_recognizer(), anyregion.load_proposer()
    assert texts.keys() == {picture.name for picture in gallery["PICTURES"]}
    for picture in gallery["PICTURES"]:
        assert (ROOT / f"docs/images/gallery/{picture.name}.jpg").is_file()
        predictions = gallery["named"](picture, recognizer, proposer)
        for stated in re.findall(r"\b[01]\.\d\d", texts[picture.name]):
            distances = [abs(float(stated) - p.score) for p in predictions]
            assert min(distances) < 0.02, f"{picture.name}: {stated}"
        if not len(predictions):
            assert "without any region" in texts[picture.name]
