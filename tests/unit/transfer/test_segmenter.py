"""The segmentation network: heads, windows, crops, its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("torchvision", "timm"):
    pytest.importorskip(needed)

from anyregion.backbones.loading import build_encoder  # noqa: E402
from anyregion.errors import CheckpointError  # noqa: E402
from anyregion.transfer.config import CropConfig, WindowConfig  # noqa: E402
from anyregion.transfer.crops import random_crop  # noqa: E402
from anyregion.transfer.segmenter import (  # noqa: E402
    Segmenter,
    SegmenterInfo,
    load_segmenter,
    save_segmenter,
    window_starts,
)
from tests.helpers.small_backbones import scrambled  # noqa: E402
from tests.helpers.transfer_runs import BACKBONE  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("road", "sky", "car")


def segmenter(*, seed: int = 0, name: str = BACKBONE, **changes: Any) -> Segmenter:
    torch.manual_seed(seed)
    options = {key: changes.pop(key) for key in ("frozen", "auxiliary") if key in changes}
    settings: dict[str, Any] = {"head": "fcn", "dilate": True, "crop": (32, 32), "short_side": None}
    info = SegmenterInfo(CLASSES, **(settings | changes))
    made = Segmenter(build_encoder(name, size=64), info, **options)
    scrambled(made, seed)
    return made


def test_both_heads_learn_and_the_auxiliary_one_only_in_training() -> None:
    module = segmenter(auxiliary=True).train()
    logits, auxiliary = module(torch.randn(2, 3, 32, 48))
    assert logits.shape == auxiliary.shape == (2, 3, 32, 48)
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    assert module.eval()(torch.randn(2, 3, 32, 48))[1] is None


def test_the_auxiliary_head_of_a_vit() -> None:
    module = segmenter(name="timm/test_vit", auxiliary=True).train()
    logits, auxiliary = module(torch.randn(2, 3, 64, 64))
    assert logits.shape == auxiliary.shape == (2, 3, 64, 64)


def test_a_frozen_backbone_stays_as_it_is() -> None:
    module = segmenter(frozen=True, head="linear").train()
    before = {name: value.clone() for name, value in module.encoder.state_dict().items()}
    assert not module.encoder.training
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module(torch.randn(2, 3, 32, 32))[0].square().mean().backward()
    optimizer.step()
    assert all(
        torch.equal(value, before[name]) for name, value in module.encoder.state_dict().items()
    )
    # one linear layer behind channels that are standardised
    assert [tuple(p.shape) for p in module.parameters() if p.requires_grad] == [
        (3, module.encoder.grid(64).channels, 1, 1), (3,),
    ]  # fmt: skip


def test_windows_cover_an_image() -> None:
    assert window_starts(10, 10, 0.5) == [0]
    assert window_starts(11, 10, 0.5) == [0, 1]
    assert window_starts(25, 10, 0.5) == [0, 5, 10, 15]
    for length in range(7, 40):
        starts = window_starts(length, 7, 2 / 3)
        assert {p for start in starts for p in range(start, start + 7)} == set(range(length))


def test_one_window_is_the_whole_image_and_several_are_averaged() -> None:
    module = segmenter(crop=(48, 64)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    slide = WindowConfig("slide", 1.0)
    whole = module.logits(pixels, WindowConfig())
    assert whole.shape == (3, 48, 64)
    assert torch.allclose(module.logits(pixels, slide), whole, atol=1e-6)
    # two windows side by side, without an overlap: each is an image of its own
    halves = segmenter(crop=(48, 32)).eval()
    left = halves.logits(np.ascontiguousarray(pixels[:, :32]), WindowConfig())
    right = halves.logits(np.ascontiguousarray(pixels[:, 32:]), WindowConfig())
    assert torch.allclose(halves.logits(pixels, slide), torch.cat([left, right], dim=2), atol=1e-6)
    # half of each in common: there the mean of both
    both = halves.logits(np.ascontiguousarray(pixels[:, :48]), WindowConfig("slide", 0.5))
    shifted = halves.logits(np.ascontiguousarray(pixels[:, 16:48]), WindowConfig())
    assert torch.allclose(both[:, :, 16:32], (left[:, :, 16:] + shifted[:, :, :16]) / 2, atol=1e-6)


def test_an_image_smaller_than_the_window_and_one_that_is_scaled() -> None:
    module = segmenter(crop=(64, 64), short_side=20).eval()
    pixels = np.zeros((50, 31, 3), dtype=np.uint8)
    for mode in ("whole", "slide"):
        assert module.logits(pixels, WindowConfig(mode)).shape == (3, 50, 31)  # type: ignore[arg-type]
        assert module.predict(pixels).shape == (50, 31)


def test_crops_scale_and_mirror_image_and_classes_alike() -> None:
    # the red channel says the class: whatever is done to one is done to the other
    classes = (np.arange(40)[None] // 10 + 0 * np.arange(30)[:, None]).astype(np.int32)
    pixels = np.repeat((60 * classes)[:, :, None], 3, axis=2).astype(np.uint8)
    config = CropConfig(crop=(24, 24), scale=(0.5, 2.0))
    mirrored = []
    for seed in range(12):
        crop, labels = random_crop(
            pixels, classes, config, np.random.default_rng(seed), fill=(7, 8, 9)
        )
        assert (crop.shape, labels.shape) == ((24, 24, 3), (24, 24))
        inside = labels >= 0
        assert (np.abs(crop[inside][:, 0].astype(int) - 60 * labels[inside]) <= 31).all()
        assert (crop[~inside] == (7, 8, 9)).all()
        row = labels[0][labels[0] >= 0]
        mirrored.append(bool((np.diff(row) < 0).any()))
        again = random_crop(pixels, classes, config, np.random.default_rng(seed), fill=(7, 8, 9))
        assert np.array_equal(again[0], crop)
    assert True in mirrored
    assert False in mirrored


@pytest.mark.parametrize("head", ["fcn", "linear"])
def test_a_saved_network_is_the_same(tmp_path: Path, head: str) -> None:
    made = segmenter(head=head, short_side=40, auxiliary=head == "fcn").eval()
    save_segmenter(made, tmp_path / "run" / "model", licence="MIT")
    loaded = load_segmenter(tmp_path / "run")
    assert loaded.info == made.info
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with torch.no_grad():
        assert torch.equal(
            loaded.logits(pixels, WindowConfig()), made.logits(pixels, WindowConfig())
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"format": "x"}, "not of the format"),
        (lambda c: c | {"classes": ["one"]}, "malformed"),
        (lambda c: c | {"crop": [32, 0]}, "malformed"),
        (lambda c: c | {"head": "mlp"}, "malformed"),
        (lambda c: c | {"fingerprint": "0"}, "not the one that"),
        (lambda c: c | {"classes": ["a", "b"]}, "of another head"),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    save_segmenter(segmenter(), tmp_path)
    path = tmp_path / "segmenter.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        load_segmenter(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no segmenter\.json"):
        load_segmenter(tmp_path)
