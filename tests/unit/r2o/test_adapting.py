"""What a backbone keeps of the weights that it starts from, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
for needed in ("lightning_fabric", "jsonargparse", "torchvision", "timm", "skimage"):
    pytest.importorskip(needed)

from safetensors.torch import load_file  # noqa: E402

from anyregion.backbones.loading import build_encoder, load_encoder, save_encoder  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.r2o.adapting import (  # noqa: E402
    AdaptConfig,
    anchor_losses,
    freeze_stages,
    rate_scales,
    stages_of,
)
from anyregion.r2o.training.config import R2OConfig  # noqa: E402
from anyregion.training.logs import read_log  # noqa: E402
from anyregion.training.run_folder import last_checkpoint  # noqa: E402
from tests.helpers.pretraining import pretrain, write_photos  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 8)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone whose BatchNorms have statistics of their own."""
    torch.manual_seed(3)
    encoder = build_encoder("timm/test_resnet", size=32)
    for _ in range(20):
        encoder(torch.randn(4, 3, 32, 32))
    folder = tmp_path_factory.mktemp("start")
    save_encoder(encoder, folder)
    return folder


def adapt(photos: Path, start: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Train for four steps of 32 pixels; the tensors of the backbone that comes out."""
    quick = {
        "precision": "fp32",
        "r2o__start": start,
        "r2o__views__size": 32,
        "r2o__prior__kind": "grid",
        "r2o__shown": 0,
        "r2o__warmup_epochs": 0,
    }
    assert pretrain(photos, out, **quick | changes) == 0
    return load_encoder(out).state_dict()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("torchvision/resnet18", 5),
        ("timm/tf_efficientnet_lite0", 8),
        ("timm/convnext_atto", 5),
        ("timm/vit_tiny_patch16_224", 13),
        ("timm/regnety_002", 5),
        ("timm/densenet121", 5),
    ],
)
def test_stages_follow_the_network(name: str, count: int) -> None:
    encoder = build_encoder(name, size=224)
    numbers = list(stages_of(encoder).values())
    assert sorted(set(numbers)) == list(range(count))
    assert numbers == sorted(numbers), "parameters come in the order of the network"


def test_rates_fall_towards_the_image() -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    scales = rate_scales(encoder, AdaptConfig(rate=0.1, stage_decay=0.5))
    assert scales["body.layer4.1.conv2.weight"] == pytest.approx(0.1)
    assert scales["body.layer3.0.conv1.weight"] == pytest.approx(0.05)
    assert scales["body.conv1.weight"] == pytest.approx(0.1 * 0.5**4)
    assert set(rate_scales(encoder, AdaptConfig(rate=0.1)).values()) == {0.1}


def test_frozen_stages_keep_weights_and_statistics(
    photos: Path, start: Path, tmp_path: Path
) -> None:
    before = load_encoder(start).state_dict()
    after = adapt(photos, start, tmp_path / "run", r2o__adapt__frozen_stages=2)
    stages = stages_of(load_encoder(start))
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {name for name, stage in stages.items() if stage < 2}


def test_frozen_norms_keep_statistics_alone(photos: Path, start: Path, tmp_path: Path) -> None:
    before = load_encoder(start).state_dict()
    after = adapt(photos, start, tmp_path / "run", r2o__adapt__frozen_norms="true")
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert {n for n, value in before.items() if torch.equal(value, after[n])} == statistics
    # the target's as well: it names the regions and is what the online network predicts
    kept = load_file(last_checkpoint(tmp_path / "run"))
    for name in statistics:
        assert torch.equal(kept[f"module.networks.target.encoder.{name}"], before[name])


def test_rates_and_anchor_decide_how_far_it_goes(photos: Path, start: Path, tmp_path: Path) -> None:
    before = load_encoder(start).state_dict()
    weights = [name for name, value in before.items() if value.ndim > 1]
    first, last = weights[0], weights[-1]

    def distances(case: str, **changes: Any) -> tuple[dict[str, float], list[float]]:
        changes |= {"r2o__adapt__frozen_norms": "true"}
        after = adapt(photos, start, tmp_path / case, **changes)
        anchors = [line["anchor"] for line in read_log(tmp_path / case) if "anchor" in line]
        return {name: float((after[name] - before[name]).norm()) for name in weights}, anchors

    whole, free = distances("whole", r2o__adapt__anchor=1e-6)
    slow, _ = distances("slow", r2o__adapt__rate=0.1, r2o__adapt__stage_decay=0.5)
    _, held = distances("held", r2o__adapt__anchor=100)
    # AdamW's first steps are as long as the rate: a tenth behind, a tenth of 1 / 16 in front
    assert slow[last] / whole[last] == pytest.approx(0.1, rel=0.5)
    assert slow[first] / whole[first] == pytest.approx(0.1 / 16, rel=0.5)
    assert free[0] == pytest.approx(held[0], abs=1e-6) == pytest.approx(0, abs=1e-5)
    assert held[-1] < 0.7 * free[-1]


def test_anchor_is_the_cosine_to_the_start() -> None:
    features, start = torch.randn(2, 6, 5, 2, 3, generator=torch.manual_seed(0))
    cells = 1 - torch.nn.functional.cosine_similarity(features, start, dim=1).mean(dim=(1, 2))
    expected = (cells[:3] + cells[3:]) / 2  # view 1 and view 2 of three images
    assert torch.allclose(anchor_losses(features, start, on="cell"), expected)
    pooled = torch.nn.functional.cosine_similarity(
        features.mean(dim=(2, 3)), start.mean(dim=(2, 3)), dim=1
    )
    mean = anchor_losses(features, start, on="mean")
    assert torch.allclose(mean, 1 - (pooled[:3] + pooled[3:]) / 2)
    assert torch.equal(anchor_losses(start, start, on="cell").round(decimals=5), torch.zeros(3))


def test_settings_that_cannot_be(start: Path) -> None:
    with pytest.raises(InputError, match="give one as"):
        R2OConfig(adapt=AdaptConfig(anchor=1))
    with pytest.raises(InputError, match="8 stages; 8 frozen"):
        freeze_stages(
            build_encoder("timm/tf_efficientnet_lite0", size=64), AdaptConfig(frozen_stages=8)
        )
    wrong: dict[str, Any] = {
        "rate": 1.5,
        "stage_decay": 0,
        "frozen_stages": -1,
        "anchor": float("nan"),
        "anchor_on": "pixel",
    }
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"adapt.{name}"):
            AdaptConfig(**{name: value})
