"""Exports: opened by the library they are for, and the same features there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.export import FORMATS, export_encoder
from anyregion.backbones.export import common as export_common
from anyregion.backbones.export.torchvision_timm import timm_name, torchvision_name
from anyregion.backbones.loading import build_encoder
from anyregion.errors import CheckpointError, InputError
from tests.helpers.small_backbones import scrambled, small_convnexts, small_vits

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def small(name: str) -> Encoder:
    encoder = build_encoder(name, size=64)
    scrambled(encoder)
    return encoder


def features_of(encoder: Encoder) -> Tensor:
    with torch.no_grad():
        return encoder.eval()(IMAGES)


def close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_a_resnet_for_torchvision_and_timm(name: str, suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    encoder = small(name)
    read: Any = load_file if suffix == ".safetensors" else torch.load
    for to in ("torchvision", "timm"):
        export = export_encoder(encoder, tmp_path / f"{to}{suffix}", to=to)
        assert (export.architecture, export.path) == ("resnet18", tmp_path / f"{to}{suffix}")
        assert export.difference < 1e-5
    model: Any = torchvision.models.resnet18()
    result = model.load_state_dict(read(tmp_path / f"torchvision{suffix}"), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    model.fc = nn.Identity()
    assert close(model.eval()(IMAGES), features_of(encoder).mean(dim=(2, 3)))
    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(read(tmp_path / f"timm{suffix}"))
    assert close(model.eval().forward_features(IMAGES), features_of(encoder))


@torch.no_grad()
def test_a_convnext_for_torchvision_and_timm(tmp_path: Path) -> None:
    encoder = small("timm/convnext_tiny")
    export = export_encoder(encoder, tmp_path / "c.pth", to="torchvision")
    model: Any = torchvision.models.convnext_tiny()
    result = model.load_state_dict(torch.load(tmp_path / "c.pth"), strict=False)
    assert export.architecture == "convnext_tiny"
    assert not result.unexpected_keys
    assert {name.split(".")[0] for name in result.missing_keys} == {"classifier"}
    assert close(model.eval().features(IMAGES), features_of(encoder))

    back = build_encoder("torchvision/convnext_tiny", size=64, weights=tmp_path / "c.pth")
    assert close(features_of(back), features_of(encoder))
    export_encoder(back, tmp_path / "t.pth", to="timm")
    model = timm.create_model("convnext_tiny", num_classes=0)
    model.load_state_dict(torch.load(tmp_path / "t.pth"))
    assert close(model.eval().forward_features(IMAGES), features_of(encoder))


@torch.no_grad()
def test_a_vit_for_timm(tmp_path: Path) -> None:
    encoder = small("timm/test_vit")
    export = export_encoder(encoder, tmp_path / "v.pth", to="timm")
    assert "img_size=64" in export.usage
    model: Any = timm.create_model("test_vit", num_classes=0, img_size=64)
    model.load_state_dict(torch.load(tmp_path / "v.pth"))
    tokens = model.eval().forward_features(IMAGES)[:, 1:]
    assert close(tokens.transpose(1, 2).reshape(2, 64, 4, 4), features_of(encoder))


@torch.no_grad()
def test_a_vit_for_torchvision(tmp_path: Path) -> None:
    encoder = build_encoder("torchvision/vit_b_32", size=32)
    export = export_encoder(encoder, tmp_path / "v.pth", to="torchvision")
    assert "image_size=32" in export.usage
    with torch.device("meta"):
        model: Any = torchvision.models.vit_b_32(image_size=32)
    state = torch.load(tmp_path / "v.pth", mmap=True)
    result = model.load_state_dict(state, strict=False, assign=True)
    assert not result.unexpected_keys
    assert {name.split(".")[0] for name in result.missing_keys} == {"heads"}


@pytest.mark.parametrize(
    ("torchvision_s", "timm_s"),
    [
        ("vit_b_16", "vit_base_patch16_224"),
        ("vit_l_32", "vit_large_patch32_224"),
        ("vit_h_14", "vit_huge_patch14_224"),
        ("vit_b_16", "deit_base_patch16_384"),
    ],
)
def test_what_vits_are_called(torchvision_s: str, timm_s: str) -> None:
    vit, timm_vit = small_vits()
    vit.name, timm_vit.name = f"torchvision/{torchvision_s}", f"timm/{timm_s}.some_tag"
    assert torchvision_name(timm_vit) == torchvision_s
    assert timm.is_model(timm_name(vit))
    if "deit" not in timm_s:
        assert timm_name(vit) == timm_s


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: small("torchvision/resnet18"), "ResNetModel"),
        (lambda: small("timm/resnet50"), "ResNetModel"),
        (lambda: small_vits()[0], "ViTModel"),
        (lambda: small("timm/test_vit"), "ViTModel"),
        (lambda: small_convnexts()[0], "ConvNextModel"),
        (lambda: small_convnexts()[1], "ConvNextModel"),
        (lambda: small("timm/test_convnext"), "TimmWrapperModel"),
        (lambda: small("timm/test_resnet"), "TimmWrapperModel"),
        (lambda: small("timm/test_vit4"), "TimmWrapperModel"),
        (lambda: small("timm/tf_efficientnet_lite0"), "TimmWrapperModel"),
    ],
    ids=[
        "resnet18", "resnet50", "vit of torchvision", "vit of timm", "convnext of torchvision",
        "convnext of timm", "test_convnext", "test_resnet", "test_vit4", "lite0",
    ],
)  # fmt: skip
@torch.no_grad()
def test_hugging_face(build: Callable[[], Encoder], kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = build()
    scrambled(encoder, seed=1)
    encoder.mean, encoder.std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    export = export_encoder(encoder, tmp_path / "hf", to="huggingface")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert export.architecture == kind
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True, local_files_only=True
    )
    assert type(model).__name__ == kind
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    actual = model.eval()(pixel_values=IMAGES).last_hidden_state
    expected = features_of(encoder)
    if actual.ndim == 3:
        prefix = actual.shape[1] - 16
        actual = actual[:, prefix:].transpose(1, 2).reshape(expected.shape)
    assert close(actual, expected)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    shown = processor(Image.new("RGB", (30, 20), "white"), return_tensors="pt")
    assert shown["pixel_values"].shape == (1, 3, 64, 64)
    assert torch.allclose(
        shown["pixel_values"][0, :, 0, 0], torch.tensor([3.0, 0.5 / 0.3, 1.0]), atol=1e-4
    )


def detectron2_resnet(state: dict[str, Tensor], x: Tensor, *, blocks: list[int]) -> Tensor:
    """detectron2's forward pass, written anew for the tests from its documentation."""

    def layer(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[name + ".weight"]
        x = functional.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)
        scale = state[name + ".norm.weight"] * (state[name + ".norm.running_var"] + 1e-5).rsqrt()
        bias = state[name + ".norm.bias"] - state[name + ".norm.running_mean"] * scale
        return x * scale[:, None, None] + bias[:, None, None]

    x = functional.max_pool2d(layer(x, "stem.conv1", 2).relu(), 3, 2, 1)
    for res, count in enumerate(blocks, start=2):
        for block in range(count):
            at, stride = f"res{res}.{block}", 2 if res > 2 and block == 0 else 1
            shortcut = layer(x, f"{at}.shortcut", stride) if f"{at}.shortcut.weight" in state else x
            if f"{at}.conv3.weight" in state:
                y = layer(x, f"{at}.conv1").relu()
                groups = y.shape[1] // state[f"{at}.conv2.weight"].shape[1]
                y = layer(layer(y, f"{at}.conv2", stride, groups).relu(), f"{at}.conv3")
            else:
                y = layer(layer(x, f"{at}.conv1", stride).relu(), f"{at}.conv2")
            x = (y + shortcut).relu()
    return x


@pytest.mark.parametrize(
    ("name", "depth", "groups", "width", "res2"),
    [
        ("torchvision/resnet18", 18, 1, 64, 64),
        ("timm/resnet34", 34, 1, 64, 64),
        ("torchvision/resnet50", 50, 1, 64, 256),
        ("torchvision/resnext50_32x4d", 50, 32, 4, 256),
    ],
)
@torch.no_grad()
def test_detectron2(
    name: str, depth: int, groups: int, width: int, res2: int, tmp_path: Path
) -> None:
    yaml = pytest.importorskip("yaml")
    encoder = small(name)
    export = export_encoder(encoder, tmp_path / "d2.pth", to="detectron2")
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    assert content["__author__"] == "anyregion"
    assert content["matching_heuristics"] is True
    state = content["model"]
    assert not [key for key in state if key.endswith("num_batches_tracked")]
    for key, target in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer1.0.bn1.bias": "res2.0.conv1.norm.bias",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.running_mean": "res3.0.shortcut.norm.running_mean",
        "layer4.1.bn2.weight": "res5.1.conv2.norm.weight",
    }.items():
        assert torch.equal(state[target], encoder.body.state_dict()[key])
    blocks = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
    assert close(detectron2_resnet(state, IMAGES, blocks=blocks), features_of(encoder))
    settings = yaml.safe_load((tmp_path / "d2.yaml").read_text())
    assert settings["MODEL"]["RESNETS"] == {
        "DEPTH": depth,
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": width,
        "RES2_OUT_CHANNELS": res2,
        "STRIDE_IN_1X1": False,
    }
    assert settings["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert settings["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert settings["INPUT"]["FORMAT"] == "RGB"
    assert settings["MODEL"]["WEIGHTS"] == "d2.pth"
    assert export.settings["MODEL.RESNETS.DEPTH"] == depth


@torch.no_grad()
def test_what_was_exported_is_read_again(tmp_path: Path) -> None:
    encoder = small("torchvision/resnet18")
    for to in FORMATS:
        out = tmp_path / (to if to == "huggingface" else f"{to}.pth")
        export_encoder(encoder, out, to=to)
        again = build_encoder("timm/resnet18", size=64, weights=out)
        assert close(features_of(again), features_of(encoder))
    vit = small("timm/test_vit")
    vit.mean, vit.std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    export_encoder(vit, tmp_path / "vit", to="huggingface")
    again = build_encoder("timm/test_vit", size=64, weights=tmp_path / "vit")
    assert close(features_of(again), features_of(vit))
    assert (again.mean, again.std) == (vit.mean, vit.std), "as preprocessor_config.json says"
    stated = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (tmp_path / "vit/preprocessor_config.json").unlink()
    (tmp_path / "vit/config.json").write_text(json.dumps(stated))
    again = build_encoder("timm/test_vit", size=64, weights=tmp_path / "vit")
    assert again.mean == again.std == (0.5, 0.5, 0.5), "timm's own folders have it elsewhere"
    stated["pretrained_cfg"]["std"][1] = 0
    (tmp_path / "vit/config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"config\.json: std .* is not above 0"):
        build_encoder("timm/test_vit", size=64, weights=tmp_path / "vit")


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("timm/convnext_atto", "torchvision", "of timm's it has .*convnext_tiny"),
        ("timm/test_resnet", "torchvision", "no such architecture"),
        ("timm/convnext_atto", "detectron2", "plain ResNets 18 to 152"),
        ("timm/test_vit", "detectron2", "plain ResNets"),
        ("timm/resnet26", "detectron2", "ResNets 18, 34, 50, 101, 152"),
        ("torchvision/mobilenet_v3_small", "timm", "the ConvNeXts and the ViTs"),
        ("torchvision/mobilenet_v3_small", "huggingface", "every model of timm's"),
        ("timm/resnet18", "keras", "there are torchvision, timm, huggingface, detectron2"),
    ],
)
def test_what_a_format_does_not_have(name: str, to: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_encoder(build_encoder(name, size=64), tmp_path / "out.pth", to=to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", list(FORMATS))
def test_nothing_is_left_where_features_differ(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = small("torchvision/resnet18")
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda *arguments: run(*arguments) * 1.001)
    out = tmp_path / ("out" if to == "huggingface" else "out.pth")
    with pytest.raises(CheckpointError, match=r"differ by 0\.001"):
        export_encoder(encoder, out, to=to)
    assert list(tmp_path.iterdir()) == []


def test_an_older_export_survives_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = small("torchvision/resnet18")
    export_encoder(encoder, tmp_path / "out.pth", to="timm")
    before = (tmp_path / "out.pth").read_bytes()
    monkeypatch.setattr(export_common, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError):
        export_encoder(encoder, tmp_path / "out.pth", to="timm")
    assert (tmp_path / "out.pth").read_bytes() == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    encoder = build_encoder("torchvision/resnet18", size=64)
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "mine.yaml").write_text("task: r2o\n")
    for out, to, message in (
        ("out.bin", "timm", r"\.pth or \.pt or \.safetensors"),
        ("out.safetensors", "detectron2", r"ends in \.pth or \.pt"),
        ("folder.pth", "torchvision", "a folder, not a file"),
        ("file", "huggingface", "a file, not a folder"),
        ("full", "huggingface", "holds something else"),
        ("mine.pth", "detectron2", r"mine\.yaml: would be .* holds something else"),
    ):
        with pytest.raises(InputError, match=message):
            export_encoder(encoder, tmp_path / out, to=to)
    assert not (tmp_path / "mine.pth").exists()
    for _ in range(2):  # its own settings it replaces
        export_encoder(encoder, tmp_path / "again.pth", to="detectron2")


def test_the_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    encoder = small("torchvision/resnet18")
    encoder.train()
    encoder.body.layer1.eval()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    state = torch.get_rng_state()
    for to in ("torchvision", "timm", "detectron2"):
        export_encoder(encoder, tmp_path / f"{to}.pth", to=to)
    export_encoder(encoder, tmp_path / "hf", to="huggingface")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())
    assert encoder.body.layer4.training
    assert not encoder.body.layer1.training
    about = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert about["architectures"] == ["ResNetModel"]
