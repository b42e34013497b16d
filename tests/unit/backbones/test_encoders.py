"""Encoders of both libraries: read at two depths, at any size, with no parameter unused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from anyregion.backbones.encoder import IMAGENET_MEAN
from anyregion.backbones.loading import build_encoder
from anyregion.errors import InputError
from tests.helpers.small_backbones import scrambled, small_vits

SMALL = ["torchvision/resnet18", "timm/resnet18", "timm/convnext_atto", "timm/vit_tiny_patch16_224"]
LARGER = ["torchvision/convnext_tiny"]
OTHERS = [
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv3_small_050",
    "timm/test_vit3",
    "timm/test_vit4",
    "torchvision/mobilenet_v3_small",
]


@pytest.mark.parametrize("name", SMALL + LARGER + OTHERS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    encoder = build_encoder(name, size=64)
    encoder(torch.rand(2, 3, 64, 64)).square().sum().backward()
    learning = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert [n for n, p in learning.items() if p.grad is None] == []
    if name in SMALL + LARGER:
        assert len(learning) == len(list(encoder.parameters()))


def test_every_parameter_of_torchvisions_vit_gets_a_gradient() -> None:
    encoder = small_vits()[0]
    encoder(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "last", "intermediate"),
    [
        ("torchvision/resnet18", (512, 3, 2), (256, 6, 4)),
        ("timm/resnet18", (512, 3, 2), (256, 6, 4)),
        ("timm/convnext_atto", (320, 3, 2), (160, 6, 4)),
        ("timm/vit_tiny_patch16_224", (192, 6, 4), (192, 6, 4)),
        ("timm/tf_efficientnet_lite0", (1280, 3, 2), (112, 6, 4)),
    ],
)
def test_maps_of_any_size(
    name: str, last: tuple[int, int, int], intermediate: tuple[int, int, int]
) -> None:
    encoder = build_encoder(name, size=64)
    images = torch.rand(2, 3, 96, 64)
    assert encoder(images).shape == (2, *last)
    assert encoder.intermediate(images).shape == (2, *intermediate)
    grid = encoder.grid((96, 64), intermediate=True)
    assert (grid.channels, *grid.height_width) == intermediate
    assert encoder.grid(64).height_width == ((4, 4) if "vit" in name else (2, 2))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_intermediate_does_not_run_layer4(name: str) -> None:
    encoder = build_encoder(name, size=64)
    encoder.intermediate(torch.rand(2, 3, 64, 64))
    counted = {
        n: int(b) for n, b in encoder.body.named_buffers() if n.endswith("num_batches_tracked")
    }
    assert {count for n, count in counted.items() if n.startswith("layer4")} == {0}
    assert {count for n, count in counted.items() if not n.startswith("layer4")} == {1}


@pytest.mark.parametrize(
    ("name", "deeper"),
    [
        ("timm/convnext_atto", ("stages.3.",)),
        (
            "timm/vit_tiny_patch16_224",
            ("blocks.8.", "blocks.9.", "blocks.10.", "blocks.11.", "norm."),
        ),
        ("torchvision/convnext_tiny", ("features.6.", "features.7.")),
        (
            "torchvision/vit_b_32",
            (*(f"encoder.layers.encoder_layer_{i}." for i in (8, 9, 10, 11)), "encoder.ln"),
        ),
        ("timm/tf_efficientnet_lite0", ("blocks.5.", "blocks.6.", "conv_head", "bn2")),
    ],
)
def test_intermediate_runs_nothing_deeper(name: str, deeper: tuple[str, ...]) -> None:
    encoder, run = build_encoder(name, size=64), set()
    for part, module in encoder.body.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, part=part: run.add(f"{part}."))
    encoder.intermediate(torch.rand(1, 3, 64, 64))
    assert [part for part in run if part.startswith(deeper)] == []
    everything = set(run)
    encoder(torch.rand(1, 3, 64, 64))
    assert [part for part in run - everything if part.startswith(deeper)]


@torch.no_grad()
def test_maps_are_the_libraries_own() -> None:
    images = torch.rand(1, 3, 64, 64)

    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
    encoder = build_encoder("timm/vit_tiny_patch16_224", size=64).eval()
    scrambled(encoder)
    model.load_state_dict(encoder.body.state_dict(), strict=False)
    tokens = model.forward_features(images)[:, 1:]
    assert torch.allclose(encoder(images).flatten(2).transpose(1, 2), tokens, atol=1e-5)

    encoder = small_vits()[0].eval()
    scrambled(encoder)
    vit: Any = copy.deepcopy(encoder.body)
    outputs: list[torch.Tensor] = []
    for part in (vit.encoder.layers[3], vit.encoder):
        part.register_forward_hook(lambda _m, _i, output: outputs.append(output[:, 1:]))
    vit(images)
    for features, expected in zip(
        (encoder.intermediate(images), encoder(images)), outputs, strict=True
    ):
        assert torch.allclose(features.flatten(2).transpose(1, 2), expected, atol=1e-5)

    resnet = torchvision.models.resnet18().eval()
    encoder = build_encoder("torchvision/resnet18", size=64).eval()
    scrambled(encoder)
    resnet.load_state_dict(encoder.body.state_dict(), strict=False)
    layers = torchvision.models.feature_extraction.create_feature_extractor(
        resnet, ["layer3", "layer4"]
    )(images)
    assert torch.equal(encoder.intermediate(images), layers["layer3"])
    assert torch.equal(encoder(images), layers["layer4"])


def test_both_libraries_give_the_same_maps() -> None:
    images = torch.rand(1, 3, 64, 64)
    torchvision_encoder = build_encoder("torchvision/resnet18", size=64)
    scrambled(torchvision_encoder)
    timm_encoder = build_encoder("timm/resnet18", size=64)
    timm_encoder.body.load_state_dict(torchvision_encoder.body.state_dict())
    torchvision_encoder.eval()
    timm_encoder.eval()
    assert torch.allclose(torchvision_encoder(images), timm_encoder(images), atol=1e-5)
    assert torch.allclose(
        torchvision_encoder.intermediate(images), timm_encoder.intermediate(images), atol=1e-5
    )


def test_a_grid_leaves_no_trace() -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    encoder.body.layer2.eval()
    before = copy.deepcopy(encoder.state_dict())
    encoder.grid(96)
    assert all(torch.equal(tensor, before[n]) for n, tensor in encoder.state_dict().items())
    assert encoder.body.layer1.training
    assert not encoder.body.layer2.training


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_follow_torchs_seed(name: str) -> None:
    torch.manual_seed(3)
    first = build_encoder(name, size=64).state_dict()
    torch.manual_seed(3)
    again = build_encoder(name, size=64).state_dict()
    other = build_encoder(name, size=64).state_dict()
    assert all(torch.equal(tensor, again[n]) for n, tensor in first.items())
    assert not all(torch.equal(tensor, other[n]) for n, tensor in first.items())


def test_what_an_encoder_says_of_itself() -> None:
    encoder = build_encoder("timm/resnet18", size=96)
    assert (encoder.name, encoder.size, encoder.mean) == ("timm/resnet18", 96, IMAGENET_MEAN)
    twin = copy.deepcopy(encoder)
    assert torch.equal(
        twin.eval()(torch.ones(1, 3, 64, 64)), encoder.eval()(torch.ones(1, 3, 64, 64))
    )
    assert twin.body is not encoder.body
    assert isinstance(encoder.body, nn.Module)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/vit_b_16"])
def test_a_vit_takes_multiples_of_its_patch(name: str) -> None:
    with pytest.raises(InputError, match=r"100 x 100 .* 16 x 16; 96 x 96"):
        build_encoder(name, size=100)


def test_a_vits_images_of_another_extent() -> None:
    encoder = build_encoder("timm/vit_tiny_patch16_224", size=64)
    with pytest.raises(InputError, match="64 x 50"):
        encoder(torch.rand(1, 3, 64, 50))
    encoder = build_encoder("torchvision/vit_b_32", size=64)
    assert encoder(torch.rand(1, 3, 96, 64)).shape == (1, 768, 3, 2)
    with pytest.raises(InputError, match="64 x 50"):
        encoder.intermediate(torch.rand(1, 3, 64, 50))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet51", r"near are .*resnet50"),
        ("timm/vit_tiny_patch16_225", r"near are .*vit_tiny_patch16_224"),
        ("timm/qqqqqqqqqqqq", "nothing there is near"),
        ("resnet18", r"torchvision/resnet18 or timm/resnet18"),
        ("keras/resnet18", r"torchvision/resnet18 or timm/resnet18"),
        ("", "LIBRARY/MODEL"),
        ("torchvision/swin_t", "two depths"),
        ("torchvision/inception_v3", "two depths"),
        ("torchvision/fcn_resnet50", "no such model"),
    ],
)
def test_names_that_cannot_be_built(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder(name, size=96)


def test_a_size_of_nothing() -> None:
    with pytest.raises(InputError, match="0 pixels"):
        build_encoder("torchvision/resnet18", size=0)
