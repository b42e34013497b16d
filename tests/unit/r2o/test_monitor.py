"""The monitor of a training: its metrics, and a picture in which regions can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from anyregion.backbones.loading import build_encoder  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.r2o.augmentations import ViewConfig  # noqa: E402
from anyregion.r2o.label_store.image_list import list_images  # noqa: E402
from anyregion.r2o.label_store.store import LabelStore  # noqa: E402
from anyregion.r2o.method import R2O, MethodConfig  # noqa: E402
from anyregion.r2o.model import Networks  # noqa: E402
from anyregion.r2o.superpixels import PriorConfig  # noqa: E402
from anyregion.r2o.training.config import ImagesConfig, R2OConfig  # noqa: E402
from anyregion.r2o.training.monitor import Monitor, region_picture  # noqa: E402
from tests.helpers.pretraining import write_photos  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def small_monitor(tmp_path: Path, *, scope: str = "batch", shown: int = 2) -> tuple[Monitor, R2O]:
    photos = write_photos(tmp_path / "photos", 4)
    config = R2OConfig(
        data=(ImagesConfig(str(photos)),),
        views=ViewConfig(size=32),
        prior=PriorConfig(kind="grid", segments=16),
        method=MethodConfig(scope=scope),  # type: ignore[arg-type]
        shown=shown,
    )
    store = LabelStore.open_or_fill(tmp_path / "priors", list_images(photos), 32, config.prior)
    torch.manual_seed(0)
    encoder = build_encoder("timm/test_resnet", size=32)
    width = encoder.grid(32).channels
    method = R2O(Networks(encoder, width=width, hidden=16, out=8), config.method).train()
    return Monitor(store, config, seed=0), method


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_figures_and_pictures_leave_no_trace(tmp_path: Path, scope: str) -> None:
    monitor, method = small_monitor(tmp_path, scope=scope)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    figures = monitor.metrics(method, 4)
    assert figures == monitor.metrics(method, 4)
    assert figures["clusters"] == 4
    assert 0 <= figures["cluster_entropy"] <= 1
    assert "clusters" not in monitor.metrics(method, None)
    (picture,) = monitor.pictures(method, 4).values()
    np.testing.assert_array_equal(picture, monitor.pictures(method, 4)["regions"])
    assert method.training
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_pictures_show_as_many_images_as_set(tmp_path: Path) -> None:
    monitor, method = small_monitor(tmp_path, shown=3)
    assert monitor.pictures(method, None)["regions"].shape == (18 + 3 * 166, 3 * 160 + 4 * 6, 3)
    monitor, method = small_monitor(tmp_path / "none", shown=0)
    assert monitor.pictures(method, None) == {}


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    monitor, method = small_monitor(tmp_path)
    (tmp_path / "photos" / "photo2.png").unlink()
    with pytest.raises(InputError, match=r"photo2\.png: .*could be read when the label maps were"):
        monitor.metrics(method, 4)


def test_a_picture_shows_image_superpixels_and_regions() -> None:
    image = np.full((32, 32, 3), 200, dtype=np.uint8)
    quarter = np.arange(32) // 16
    superpixels = quarter[:, None] * 2 + quarter
    regions = np.broadcast_to(quarter, (32, 32))
    picture = region_picture([(image, superpixels, regions)], "K = 2").astype(int)

    def at(column: int, down: float, right: float) -> list[int]:
        x = 6 + column * 166 + round(160 * right)
        colour: list[int] = picture[18 + round(160 * down), x].tolist()
        return colour

    grey, yellow = [200, 200, 200], [255, 255, 0]
    assert at(0, 0.5, 0.5) == at(0, 0.25, 0.25) == grey
    assert at(1, 0.25, 0.25) == grey
    assert yellow in (at(1, 0.5, 0.25), at(1, 0.495, 0.25)), "superpixels have outlines"
    assert at(2, 0.25, 0.25) == at(2, 0.75, 0.25) != at(2, 0.25, 0.75), "regions have colours"
    assert yellow not in (at(2, 0.5, 0.25), at(2, 0.495, 0.25)), "they were joined"
