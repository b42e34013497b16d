"""The notebooks of `examples/notebooks` run from their scripts, and show pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[3] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.py"))
# what a person is to see in each: (pictures, words of what is printed)
SHOWN: dict[str, tuple[int, list[str]]] = {
    "evaluation": (1, ["10 regions", "names:"]),
    "first_regions": (3, ["rocket"]),
    "r2o_regions_growing": (2, ["superpixels", "epoch 300: 4 regions"]),
    "regionspot_attention": (3, ["of its attention", "football helmet"]),
    "teaching": (2, ["->"]),
}


def test_each_is_known() -> None:
    assert sorted(SHOWN) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if name == "r2o_regions_growing":
        pytest.importorskip("torch")
        pytest.importorskip("skimage")
    # Jupyter and IPython keep settings and a history: not in the home of who runs the tests
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("ANYREGION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYREGION_REGIONSPOT", raising=False)
    before = set(FOLDER.iterdir())
    notebook = jupytext.read(FOLDER / f"{name}.py")
    resources = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    ).execute()
    assert {path for path in FOLDER.iterdir() if path.name != "__pycache__"} <= before
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    complaints = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not complaints
    count, words = SHOWN[name]
    assert len(pictures) >= count
    assert all(word in printed for word in words), printed
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert min(image.size) >= 200
        assert np.asarray(image.convert("L")).std() > 10
