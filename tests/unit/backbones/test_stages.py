"""Encoders for dense tasks: dilated as torchvision's own, read at several depths at once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
for needed in ("torchvision", "timm"):
    pytest.importorskip(needed)

import torchvision  # noqa: E402
from torchvision.models._utils import IntermediateLayerGetter  # noqa: E402

from anyregion.backbones.encoder import Encoder  # noqa: E402
from anyregion.backbones.loading import build_encoder  # noqa: E402
from anyregion.backbones.stages import (  # noqa: E402
    dilate_last_stage,
    intermediate_module,
    maps_along,
    pyramid_modules,
)
from anyregion.errors import InputError  # noqa: E402
from tests.helpers.small_backbones import scrambled, small_convnexts, small_vits  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def encoders_of(name: str) -> list[Encoder]:
    return [*small_convnexts()] if name == "convnexts" else [build_encoder(name, size=64)]


def test_a_dilated_resnet_is_torchvisions() -> None:
    encoder = build_encoder("torchvision/resnet50", size=64).eval()
    scrambled(encoder)
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True])
    reference.load_state_dict(encoder.body.state_dict(), strict=False)
    reference = IntermediateLayerGetter(reference.eval(), {"layer4": "last"})
    images = torch.randn(1, 3, 70, 64)
    dilate_last_stage(encoder)
    with torch.no_grad():
        assert torch.equal(encoder(images), reference(images)["last"])
    assert encoder.grid((70, 64)).height_width == (5, 4)


@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "timm/tf_efficientnet_lite0", "convnexts"]
)
def test_the_last_map_is_as_fine_as_the_intermediate(name: str) -> None:
    for encoder in encoders_of(name):
        weights = {key: value.clone() for key, value in encoder.state_dict().items()}
        intermediate = encoder.eval().intermediate(torch.ones(1, 3, 64, 96))
        assert encoder.grid((64, 96)).height_width == (2, 3)
        dilate_last_stage(encoder)
        assert encoder.grid((64, 96)).height_width == (4, 6)
        assert torch.equal(encoder.intermediate(torch.ones(1, 3, 64, 96)), intermediate)
        assert all(torch.equal(encoder.state_dict()[key], weights[key]) for key in weights)
        dilate_last_stage(encoder)  # once more changes nothing
        assert encoder.grid((64, 96)).height_width == (4, 6)


def test_what_has_one_stride_stays_and_what_cannot_be_dilated_is_refused() -> None:
    for vit in small_vits():
        dilate_last_stage(vit)
        assert vit.grid(64).height_width == (4, 4)
    # a ResNet-D makes its shortcut coarse by a pooling
    with pytest.raises(InputError, match="cannot be dilated"):
        dilate_last_stage(build_encoder("timm/test_resnet", size=64))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torchvision/resnet18", "layer3"),
        ("timm/tf_efficientnet_lite0", "blocks.4"),
        ("timm/test_convnext", "stages.2"),
    ],
)
def test_both_maps_in_one_pass(name: str, part: str) -> None:
    encoder = build_encoder(name, size=64).eval()
    assert intermediate_module(encoder) == part
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last, (intermediate,) = maps_along(encoder, images, [part])
        assert torch.equal(last, encoder(images))
        assert torch.equal(intermediate, encoder.intermediate(images))


def test_a_vit_hands_on_tokens() -> None:
    assert [intermediate_module(vit) for vit in small_vits()] == [None, None]


@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "timm/tf_efficientnet_lite0", "timm/test_resnet", "convnexts"]
)
def test_the_maps_of_a_pyramid(name: str) -> None:
    for encoder in encoders_of(name):
        modules = pyramid_modules(encoder)
        maps = maps_along(encoder.eval(), torch.randn(1, 3, 64, 96), modules)[1]
        assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_vit_has_no_pyramid() -> None:
    for vit in small_vits():
        with pytest.raises(InputError, match="no maps of strides 4, 8, 16 and 32"):
            pyramid_modules(vit)
