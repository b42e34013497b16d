"""The fixture of the published code, within its own tolerance; and the judge can say no."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.shared import SHARED, needs_shared

pytest.importorskip("torch")
pytest.importorskip("open_clip")

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
