"""Few bytes that ask for gigabytes or minutes."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from anyregion import masks
from anyregion.errors import CheckpointError, InputError


def zigzag(width: int, height: int, points: int) -> list[int]:
    """A ring from corner to corner and back."""
    return [v for i in range(points) for v in ((0, 0) if i % 2 else (width, height))]


@pytest.mark.parametrize(
    ("segmentation", "size", "message"),
    [
        ([zigzag(60000, 2000, 10000)], (2000, 60000), "outlines of"),
        ([zigzag(451, 300, 300_000)], (300, 451), "345,700 are drawn at most"),
        ([zigzag(60000, 35000, 6)], (35000, 60000), "more than 178,956,970 pixels"),
        ([[0, 0, 9, 0, 9, 9]] * 10_001, (300, 451), "more than 10,000 polygons"),
        ({"size": [35000, 60000], "counts": [2_100_000_000]}, (35000, 60000), "pixels"),
    ],
)
def test_masks_that_would_take_gigabytes(
    segmentation: Any, size: tuple[int, int], message: str
) -> None:
    started = time.process_time()
    with pytest.raises(InputError, match=message):
        masks.segmentation_to_rle(segmentation, *size)
    assert time.process_time() - started < 2


def test_a_fine_outline_is_drawn() -> None:
    comb = [v for x in range(0, 400, 2) for v in (x, 0, x, 200, x + 1, 200, x + 1, 0)]
    rle = masks.segmentation_to_rle([[*comb, 400, 0]], 300, 401)
    # 200 teeth, each a pixel wide
    assert masks.mask_area(rle) == pytest.approx(200 * 200, rel=0.05)


def test_weights_that_unpack_to_much_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from anyregion.torch_utils import weights
    from anyregion.torch_utils.weights import read_state_dict

    path = tmp_path / "weights.pth"
    torch.save({"a.weight": torch.zeros(1_000_000)}, path)
    assert read_state_dict(path)["a.weight"].shape == (1_000_000,)
    with (
        zipfile.ZipFile(path) as stored,
        zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    # a gigabyte may be unpacked, as published checkpoints that were packed again are
    assert read_state_dict(tmp_path / "deflated.pth")["a.weight"].shape == (1_000_000,)
    monkeypatch.setattr(weights, "LARGEST_UNPACKED", 2**20)
    with pytest.raises(CheckpointError, match=r"bytes that unpack to 4,0\d\d,\d\d\d"):
        read_state_dict(tmp_path / "deflated.pth")


def test_a_broken_archive(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from anyregion.torch_utils.weights import read_state_dict

    path = tmp_path / "weights.pth"
    torch.save({"a.weight": torch.zeros(10)}, path)
    content = bytearray(path.read_bytes())
    # the directory's first entry no longer begins as one; the end of the file still does
    at = content.index(b"PK\x01\x02")
    content[at : at + 4] = b"XXXX"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken"):
        read_state_dict(path)
