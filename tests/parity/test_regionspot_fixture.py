"""The fixture of the published code, within its own tolerance; and the judge can say no."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.shared import SHARED, needs_shared

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("lightning_fabric")

FIXTURE = SHARED / "fixtures" / "regionspot"
SCRIPT = Path(__file__).with_name("check_regionspot.py")


@needs_shared
def test_every_array_is_within_tolerance() -> None:
    out = subprocess.run(
        [sys.executable, str(SCRIPT), str(FIXTURE)], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "worst array" in out.stdout


@needs_shared
def test_the_judge_can_say_no() -> None:
    from tests.parity.check_regionspot import Fixture, compare

    fixture = Fixture(FIXTURE)
    right = fixture.outputs["box__logits_per_image"]
    assert compare(fixture, "box__logits_per_image", right)[0] == 0
    assert compare(fixture, "box__logits_per_image", right + 1e-3)[0] > 1
    packed = fixture.outputs["box__masks_packed"]
    assert compare(fixture, "box__masks_packed", ~packed)[0] > 1
    index = fixture.outputs["box__class_index"]
    assert compare(fixture, "box__class_index", index + 1)[0] == np.inf


@needs_shared
def test_a_converted_folder_answers_the_same(tmp_path: Path) -> None:
    from anyregion import Recognizer, Regions, load_recognizer
    from anyregion.regionspot.checkpoint import convert_checkpoint, load_published

    about = convert_checkpoint(FIXTURE / "checkpoint.pth", tmp_path)
    assert (about.localizer, about.vlm) == ("localizer.safetensors", "vlm.safetensors")
    inputs = np.load(FIXTURE / "inputs.npz")
    words = ["zebra", "fire hydrant", "airplane"]
    answers = []
    for recognizer in (
        Recognizer(load_published(FIXTURE / "checkpoint.pth"), cache=None),
        load_recognizer(tmp_path, cache=None),
    ):
        recognizer.set_image(inputs["in__image"])
        answers.append(recognizer.predict(Regions.from_boxes(inputs["in__boxes"]), words))
    assert answers[0].indices.tolist() == answers[1].indices.tolist()
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, rtol=1e-4)
    crop = load_recognizer(tmp_path, method="crop", cache=None)  # its VLM alone
    crop.set_image(inputs["in__image"])
    assert len(crop.predict(Regions.from_boxes(inputs["in__boxes"]), words)) == 5
