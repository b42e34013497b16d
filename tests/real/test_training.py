"""The figures that a training states, against those that `evaluate` gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from anyregion.cli.main import main
from tests.helpers.shared import SHARED, needs_shared

CAMVID = SHARED / "data" / "camvid"


@needs_shared
def test_before_and_after_are_what_evaluate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of streets, where what new names gain changes answers; one class is never trained on."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("lightning_fabric")
    monkeypatch.chdir(tmp_path)
    photos = str(CAMVID / "images")
    everything = json.loads((CAMVID / "annotations" / "regions_val.json").read_text())
    for part, rows in (("mine", slice(0, 4)), ("held_out", slice(4, 10))):
        images = everything["images"][rows]
        ids = {image["id"] for image in images}
        regions = [a for a in everything["annotations"] if a["image_id"] in ids]
        content = {**everything, "images": images, "annotations": regions}
        Path(f"{part}.json").write_text(json.dumps(content))
        command = ["cache", "--annotations", f"{part}.json", "--images", photos, "--out", part]
        assert main(command) == 0

    def top1(*model: str) -> float:
        capsys.readouterr()
        assert main(["evaluate", "classification", "--annotations", "held_out.json",
                     "--images", photos, "--json", *model]) == 0  # fmt: skip
        return float(json.loads(capsys.readouterr().out)["top1"])

    command = ["train", "compact", "--compact.data", "[mine]", "--compact.validation", "held_out"]
    command += ["--compact.unseen", "every:4:1", "--steps", "12", "--out", "run"]
    assert main(command) == 0
    card = Path("run/README.md").read_text()
    regions = json.loads(Path("held_out.json").read_text())["annotations"]
    # By the threads that training adds up with, a region lies between two names so nearly that the
    # half precision of the store and of the saved weights decides: it is one of 131.
    one = 1 / len(regions)
    for when, expected, nearly in (
        ("before", top1(), 0.0), ("after", top1("--model", "run/model"), one)
    ):  # fmt: skip
        (share,) = re.findall(rf"\| {when} \| ([\d.]+)% of the own validation", card)
        assert float(share) == pytest.approx(100 * expected, abs=0.051 + 100 * nearly), when
    figures = json.loads(Path("run/model/namer.json").read_text())["figures"]
    assert figures["top1"] == pytest.approx(expected, abs=1e-6 + one)
    assert float(share) == pytest.approx(100 * figures["top1"], abs=0.051)
