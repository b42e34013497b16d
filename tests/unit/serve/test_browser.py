"""The page in a real browser: the whole story, and nothing is asked of any other host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anyregion.serve.client import Client
from tests.unit.serve.test_serve_command import free_port, wait_until

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium runs the page's tests"
)
EXAMPLES = Path(__file__).parents[3] / "examples"
PHOTOGRAPHS = [EXAMPLES / f"{name}.jpg" for name in ("astronaut", "cat", "coffee")]
SLOW = 90_000  # milliseconds, for busy machines


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Served:
    """A service of a project that can be killed and started again at the same place."""

    def __init__(self, project: Path) -> None:
        self.project, self.port = project, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "anyregion", "serve", "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, "--project", str(self.project)], stderr=subprocess.DEVNULL, env=environment
        )
        wait_until(lambda: Client(self.url).health()["status"] == "ok")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    service = Served(tmp_path / "project")
    service.start()
    yield service
    service.kill()


def open_page(browser: Any, url: str, **options: Any) -> Any:
    """A page that fails the test where anything goes wrong, or anywhere else is asked."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
    page.set_default_timeout(SLOW)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))

    def check(request: Any) -> None:
        if not request.url.startswith((url, "blob:", "data:")):
            page.problems.append(f"asked {request.url}")

    page.on("request", check)
    page.goto(url)
    return page


def events(served: Served) -> list[dict[str, Any]]:
    journal = served.project / "corrections.jsonl"
    return (
        [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    )


def wait_for_event(served: Served, count: int, kind: str) -> None:
    wait_until(lambda: sum(event["kind"] == kind for event in events(served)) >= count)


def draw(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a box from one place of the canvas to another, as fractions of it."""
    frame = page.locator("#canvas").bounding_box()
    x, y, width, height = (frame[key] for key in ("x", "y", "width", "height"))
    page.mouse.move(x + start[0] * width, y + start[1] * height)
    page.mouse.down()
    page.mouse.move(x + (start[0] + end[0]) / 2 * width, y + (start[1] + end[1]) / 2 * height)
    page.mouse.move(x + end[0] * width, y + end[1] * height)
    page.mouse.up()


def test_the_whole_story(browser: Any, served: Served, tmp_path: Path) -> None:
    page = open_page(browser, served.url)
    page.set_input_files("#files", PHOTOGRAPHS)
    page.locator("#photograph-list li").nth(2).wait_for()
    page.fill("#word", "person, flag, helmet")
    page.press("#word", "Enter")
    wait_for_event(served, 1, "words")
    page.locator("#photograph-list button").first.click()
    page.get_by_role("button", name="Fit").click()
    # a box is drawn and named by the model, then by a person, with a key
    page.wait_for_timeout(500)
    draw(page, (0.30, 0.06), (0.62, 0.95))
    wait_for_event(served, 1, "add")
    page.locator("#region .answers button").nth(3).wait_for()
    page.locator("#region kbd", has_text="1").first.wait_for()
    page.locator("#stage").focus()
    page.keyboard.press("1")
    wait_for_event(served, 1, "name")
    # another word by typing, then "none of these"
    draw(page, (0.66, 0.10), (0.80, 0.55))
    wait_for_event(served, 2, "add")
    page.fill("#other", "rocket")
    # the model's answer, which comes meanwhile, takes nothing of it away
    page.locator("#region kbd", has_text="1").first.wait_for()
    assert page.locator("#other").input_value() == "rocket"
    page.press("#other", "Enter")
    wait_for_event(served, 2, "name")
    page.locator("#word-list li", has_text="rocket").wait_for()
    page.keyboard.press("c")
    wait_for_event(served, 3, "add")
    page.keyboard.press("0")
    wait_for_event(served, 3, "name")
    assert events(served)[-1]["label"] is None
    page.locator("#lesson td", has_text="3").first.wait_for()
    # undo brings a region back with its name
    page.keyboard.press("Delete")
    wait_for_event(served, 1, "remove")
    page.keyboard.press("Control+z")
    wait_for_event(served, 4, "name")
    assert [event["kind"] for event in events(served)[-2:]] == ["add", "name"]
    # undo takes back what was done last
    page.keyboard.press("Control+z")
    wait_for_event(served, 1, "unname")
    # regions are found in the next photograph and wait to be named
    page.keyboard.press(".")
    page.locator("#photograph-list [aria-current=true] >> text=cat").wait_for()
    page.get_by_role("button", name="Find regions").click()
    page.locator("#message", has_text="found").wait_for()
    page.locator("#queue li").first.wait_for()
    page.locator("#photograph-list button").first.focus()
    page.keyboard.press("n")
    page.locator("#region .answers").wait_for()
    # the service is killed at any time: nothing is lost
    before = events(served)
    served.kill()
    page.locator("#status", has_text="does not answer").wait_for()
    served.start()
    assert events(served)[: len(before)] == before
    page.reload()
    page.locator("#photograph-list li").nth(2).wait_for()
    page.locator("#word-list li", has_text="rocket").wait_for()
    # and the labels are taken along
    for name in ("coco", "yolo"):
        page.get_by_role("button", name="Export").click()
        page.select_option("#export-format", name)
        with page.expect_download() as download:
            page.click("#export-start")
        download.value.save_as(tmp_path / f"{name}.zip")
        page.get_by_role("button", name="Close").click()
    coco = json.loads(zipfile.ZipFile(tmp_path / "coco.zip").read("annotations.json"))
    assert len(coco["annotations"]) == 2
    names = zipfile.ZipFile(tmp_path / "yolo.zip").namelist()
    assert "data.yaml" in names
    assert page.problems == []
    page.close()


def test_two_tabs_see_each_other(browser: Any, served: Served) -> None:
    first, second = open_page(browser, served.url), open_page(browser, served.url)
    first.set_input_files("#files", PHOTOGRAPHS[:1])
    second.locator("#photograph-list li").first.wait_for()
    first.fill("#word", "cat")
    first.press("#word", "Enter")
    second.locator("#word-list li", has_text="cat").wait_for()
    second.fill("#word", "dog")
    second.press("#word", "Enter")
    first.locator("#word-list li", has_text="dog").wait_for()
    assert first.locator("#word-list li").count() == 2
    # undo takes back this tab's word alone
    first.click("#undo")
    wait_for_event(served, 3, "words")
    last = events(served)[-1]
    assert (last["added"], last["removed"]) == ([], ["cat"])
    # keys that come faster than the service answers all count
    first.locator("#photograph-list button").first.click()
    first.locator("#stage").focus()
    first.keyboard.press("c")
    wait_for_event(served, 1, "add")
    first.locator("#region .answers").wait_for()
    for _ in range(8):
        first.keyboard.press("ArrowRight")
    wait_for_event(served, 8, "move")
    lefts = [event["prompt"]["box"][0] for event in events(served) if event["kind"] == "move"]
    assert lefts[-1] - lefts[0] == pytest.approx(7 * (lefts[1] - lefts[0]))
    assert lefts[1] > lefts[0]
    assert first.problems == second.problems == []
    first.close()
    second.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_serious_fault_of_accessibility(
    browser: Any, served: Served, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(
        browser,
        served.url,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        bypass_csp=True,  # axe is put into the page
    )
    page.set_input_files("#files", PHOTOGRAPHS[:1])
    page.locator("#photograph-list li").first.wait_for()
    page.fill("#word", "person, flag")
    page.press("#word", "Enter")
    page.locator("#word-list li").nth(1).wait_for()
    page.locator("#stage").focus()
    page.keyboard.press("c")
    page.locator("#region .answers button").nth(2).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs out"
    for dialog in (None, "#open-help", "#open-export"):
        if dialog is not None:
            page.click(dialog)
        found = axe.run(page).response["violations"]
        serious = [
            (v["id"], [node["html"] for node in v["nodes"]])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == []
        if dialog is not None:
            page.keyboard.press("Escape")
            time.sleep(0.1)
    page.close()
