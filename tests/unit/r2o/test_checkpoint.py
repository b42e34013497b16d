"""Published R2O checkpoints: read, renamed there and back, recognised, refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from anyregion.backbones.loading import build_encoder  # noqa: E402
from anyregion.errors import CheckpointError  # noqa: E402
from anyregion.r2o.checkpoint import (  # noqa: E402
    from_published,
    load_networks,
    published_names,
    read_published,
    sizes_of,
)
from anyregion.r2o.model import Networks  # noqa: E402
from tests.helpers.published_r2o import networks_of, to_published  # noqa: E402
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402

FIXTURE = SHARED / "fixtures" / "r2o"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.manual_seed(0)
    networks = Networks(build_encoder("torchvision/resnet18", size=64), width=512, hidden=24, out=8)
    with torch.no_grad():  # a target that is not the online network
        for parameter in networks.target.parameters():
            parameter.add_(1)
    return networks


def published_file(networks: Networks, path: Path, **more: Any) -> Path:
    """As the authors' files are: `module.`, the second trunk, an optimiser."""
    state = to_published(networks.state_dict())
    trunk = "target_network.encoder."
    model = {f"module.{name}": tensor for name, tensor in state.items()}
    model |= {
        f"module._fpn.{n.removeprefix(trunk)}": t for n, t in state.items() if n.startswith(trunk)
    }
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 7, "steps": 1234, "model": model, "optimizer": optimizer} | more, path)
    return path


def test_names_there_and_back(networks: Networks) -> None:
    state = networks.state_dict()
    published = to_published(state)
    assert "online_network.encoder.0.weight" in published
    assert "online_network.encoder.5.0.downsample.1.running_var" in published
    assert "target_network.projetion.bn1.num_batches_tracked" in published
    assert "predictor.predictor.l2.bias" in published
    back = from_published(published)
    assert back.keys() == state.keys()
    assert all(
        back[name] is published[published_name]
        for name, published_name in published_names(state).items()
    )


def test_a_file_is_read_and_loaded(networks: Networks, tmp_path: Path) -> None:
    checkpoint = read_published(published_file(networks, tmp_path / "r2o.pth"))
    assert (checkpoint.epoch, checkpoint.steps) == (7, 1234)
    sizes = checkpoint.sizes
    assert (sizes.backbone, sizes.width, sizes.hidden, sizes.out) == ("resnet18", 512, 24, 8)
    again = networks_of(checkpoint, size=64)
    expected = networks.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_its_online_network_starts_a_backbone(networks: Networks, tmp_path: Path) -> None:
    path = published_file(networks, tmp_path / "r2o.pth")
    for name in ("torchvision/resnet18", "timm/resnet18"):
        body = build_encoder(name, size=64, weights=path).body.state_dict()
        online = networks.online.encoder.body.state_dict()
        assert all(torch.equal(tensor, online[name]) for name, tensor in body.items())


@needs_shared
def test_the_shared_fixtures_layout(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("fixture_weights", FIXTURE / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    weights: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    config = json.loads((FIXTURE / "config.json").read_text())
    state, digest = weights.make_weights(config["weights"]["state"], config["config"]["seed"])
    assert digest == config["weights"]["sha256"]
    content = weights.published_checkpoint(state)
    content["model"] = {n: torch.from_numpy(np.array(v)) for n, v in content["model"].items()}
    torch.save(content, tmp_path / "published.pth")

    checkpoint = read_published(tmp_path / "published.pth")
    assert (checkpoint.epoch, checkpoint.steps) == (7, 1234)
    assert (checkpoint.sizes.backbone, checkpoint.sizes.hidden, checkpoint.sizes.out) == (
        "resnet18",
        96,
        32,
    )
    networks = networks_of(checkpoint, size=64)
    # the fixture's names are, one for one, ours
    assert set(published_names(networks.state_dict()).values()) == set(state)
    for name, published_name in published_names(networks.state_dict()).items():
        assert np.array_equal(networks.state_dict()[name].numpy(), state[published_name])
    encoder = build_encoder("torchvision/resnet18", weights=tmp_path / "published.pth")
    stem = encoder.body.state_dict()["conv1.weight"].numpy()
    assert np.array_equal(stem, state["online_network.encoder.0.weight"])
    assert not np.array_equal(stem, state["target_network.encoder.0.weight"])


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101"])
def test_architectures_are_recognised(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(f"torchvision/{name}")
        width = encoder.body.layer4[-1].conv2.out_channels * (1 if name == "resnet34" else 4)
        state = Networks(encoder, width=width, hidden=16, out=4).state_dict()
    sizes = sizes_of(from_published(to_published(state)))
    assert (sizes.backbone, sizes.width, sizes.hidden, sizes.out) == (name, width, 16, 4)


def test_another_width_is_refused_by_name(networks: Networks, tmp_path: Path) -> None:
    checkpoint = read_published(published_file(networks, tmp_path / "r2o.pth"))
    other = Networks(build_encoder("torchvision/resnet18"), width=512, hidden=32, out=8)
    with pytest.raises(CheckpointError, match=r"resnet18, heads 24 and 8 .*projector\.hidden"):
        load_networks(other, checkpoint)
    other = Networks(build_encoder("torchvision/resnet34"), width=512, hidden=24, out=8)
    with pytest.raises(CheckpointError, match=r"missing .*layer1\.2"):
        load_networks(other, checkpoint)


def test_other_files_are_refused(networks: Networks, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth"
    torch.save(networks.online.encoder.body.state_dict(), plain)
    with pytest.raises(CheckpointError, match=r"plain\.pth: not the names .*conv1\.weight"):
        read_published(plain)
    without = tmp_path / "without.pth"
    state = to_published(networks.state_dict())
    torch.save({"model": {n: t for n, t in state.items() if "online" not in n}}, without)
    with pytest.raises(CheckpointError, match="no ResNet"):
        read_published(without)
    with pytest.raises(CheckpointError, match="no such file"):
        read_published(tmp_path / "none.pth")


def test_a_configuration_that_is_an_object_is_not_opened(
    networks: Networks, tmp_path: Path
) -> None:
    path = published_file(networks, tmp_path / "r2o.pth", config=Path("somewhere"))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_published(path)


def test_other_backbones_have_no_published_names() -> None:
    encoder = build_encoder("timm/convnext_atto", size=64)
    with pytest.raises(CheckpointError, match="ResNets only"):
        published_names(Networks(encoder, width=320, hidden=16, out=4).state_dict())
