"""A run as one HTML file: what it shows, and what a browser saves from it for `teach`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from anyregion import InputError
from anyregion.cli.main import main
from anyregion.runs.review import write_review
from tests.helpers.halves import picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run over three pictures, named by the built-in model."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for i, (left, right) in enumerate([("red", "blue"), ("lime", "white"), ("navy", "gold")]):
        picture(tmp_path / "photos" / f"{i}.png", left, right)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(3)],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": 1, "bbox": [20 * j, 2, 18, 25]}
            for i in range(3)
            for j in range(2)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    Path("boxes.json").write_text(json.dumps(content))
    words = "rug, </script><b>, sky"
    command = ["recognize", "photos", "--regions", "boxes.json", "--vocabulary", words]
    assert main([*command, "--out", "run", "--no-pictures"]) == 0
    return tmp_path / "run"


def content_of(page: Path) -> dict[str, Any]:
    match = re.search(r"^const content = (.*);$", page.read_text(), re.MULTILINE)
    assert match is not None
    content: dict[str, Any] = json.loads(match.group(1))
    return content


def test_the_doubtful_ones_come_first(run: Path) -> None:
    report = write_review(run, run / "review.html", most=4)
    assert (report.regions, report.left, report.set_aside) == (4, 2, ())
    content = content_of(report.path)
    margins = [region["scores"][0] - region["scores"][1] for region in content["regions"]]
    assert margins == sorted(margins)
    assert {c["name"] for c in content["categories"]} == {
        "rug", "</script><b>", "sky", "none of these"
    }  # fmt: skip
    assert all(r["crop"].startswith("data:image/jpeg;base64,") for r in content["regions"])
    assert report.path.read_text().count("</script>") == 1, "no name ends the script"


def test_what_cannot_be_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "1.png").unlink()
    assert main(["review", "run"]) == 3
    printed = capsys.readouterr()
    assert "1.png" in printed.err
    assert "4 regions" in printed.out
    with pytest.raises(InputError, match="not the results folder"):
        write_review(tmp_path / "boxes.json", run / "r.html")
    with pytest.raises(InputError, match="no such folder of images"):
        write_review(run, run / "r.html", images=tmp_path / "nothing")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_corrected_in_a_browser_and_taught(run: Path, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    page_file = write_review(run, run / "review.html").path
    first, second = content_of(page_file)["regions"][:2]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(90_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(page_file.as_uri())
        page.keyboard.press("2")  # the second name of the first
        page.keyboard.press("Enter")  # another name for the second
        page.keyboard.type("carpet")
        page.keyboard.press("Enter")
        page.keyboard.press("0")
        page.get_by_role("button", name="Undo").click()
        page.reload()
        page.locator("#state", has_text="2 of 6").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save").click()
        download.value.save_as(tmp_path / "corrections.json")
        assert problems == []
        browser.close()
    coco = json.loads((tmp_path / "corrections.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert [names[a["category_id"]] for a in coco["annotations"]] == [first["labels"][1], "carpet"]
    assert coco["annotations"][1]["bbox"][:2] == second["box"][:2]
    assert main(["teach", "corrections.json", "--images", "photos", "--out", "my.vocab"]) == 0
