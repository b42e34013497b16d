"""Views against torchvision's random resized crop and the published code's arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anyregion.errors import InputError
from anyregion.r2o import augmentations
from anyregion.r2o.augmentations import (
    View,
    ViewConfig,
    crop_and_resize,
    make_views,
    random_crop_box,
    spanning_view,
)
from tests.helpers.shared import SHARED, needs_shared

PLAIN = ViewConfig(
    size=32, flip=0.0, jitter=(0, 0, 0, 0), grey=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0)
)


def photo(height: int = 60, width: int = 80) -> np.ndarray:
    """Smooth colours with some noise on them."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)


@needs_shared
def test_geometry_equals_the_published_arrays_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SHARED / "fixtures" / "r2o"
    with np.load(folder / "data.npz") as data, np.load(folder / "images.npz") as images:
        for number, transforms in enumerate(data["roi_transforms"]):
            image = images[f"image_{number}"]
            whole = data["raw_uint8"][number]
            assert np.array_equal(spanning_view(image, 224), whole)
            crops = [*data["crop_boxes_ijhw"][number], [0, 0, *image.shape[:2]]]
            for row, crop in enumerate(crops):
                box, flipped = tuple(int(value) for value in crop), bool(transforms[row, 4])
                monkeypatch.setattr(augmentations, "random_crop_box", lambda *_, box=box: box)
                config = replace(PLAIN, size=224, flip=float(flipped))
                view, _ = make_views(image, config, np.random.default_rng(0))
                expected = data[f"view{row + 1}_uint8"][number] if row < 2 else whole
                assert np.array_equal(view.pixels, expected)
                assert view.box.dtype == np.float32
                assert np.array_equal(view.box, transforms[row, :4])


def test_a_cut_is_crop_then_resize_then_mirror() -> None:
    image = photo()
    crop = Image.fromarray(image).crop((7, 11, 7 + 41, 11 + 23))
    expected = np.array(crop.resize((32, 32), Image.Resampling.BICUBIC))
    box = (11, 7, 23, 41)
    assert np.array_equal(np.array(crop_and_resize(image, box, size=32)), expected)
    mirrored = np.array(crop_and_resize(image, box, size=32, flipped=True))
    assert np.array_equal(mirrored, expected[:, ::-1])


@pytest.mark.parametrize("box", [(0, 0, 61, 10), (-1, 0, 5, 5), (0, 70, 5, 11), (3, 3, 0, 4)])
def test_a_cut_outside_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="not inside an image of 60 x 80"):
        crop_and_resize(photo(), box, size=8, flipped=False)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 120)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    stats = pytest.importorskip("scipy.stats")
    config, rng, count = ViewConfig(), np.random.default_rng(0), 4000
    boxes = np.array([random_crop_box(height, width, config, rng) for _ in range(count)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = Image.new("RGB", (width, height))
        draw = transforms.RandomResizedCrop.get_params
        scale, ratio = list(config.scale), list(config.ratio)
        expected = np.array([draw(image, scale, ratio) for _ in range(count)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),  # share of the area
        lambda b: np.log(b[:, 3] / b[:, 2]),  # aspect ratio
        lambda b: b[:, 0] + b[:, 2] / 2,  # middle, down
        lambda b: b[:, 1] + b[:, 3] / 2,  # middle, across
    ):
        assert stats.ks_2samp(measure(boxes), measure(expected)).pvalue > 0.01


def test_where_no_crop_fits_the_central_one_of_an_allowed_ratio_is_taken() -> None:
    config, rng = ViewConfig(scale=(0.9, 1.0)), np.random.default_rng(0)
    assert random_crop_box(3, 5000, config, rng) == (0, 2498, 3, 4)
    assert random_crop_box(5000, 3, config, rng) == (2498, 0, 4, 3)
    narrow = ViewConfig(scale=(0.9, 1.0), ratio=(0.1, 0.3))
    assert random_crop_box(1, 9, narrow, rng) == (0, 4, 1, 1)


def test_the_same_seed_gives_the_same_views_and_another_seed_others() -> None:
    image, config = photo(), ViewConfig(size=32)
    first, again, other = (
        make_views(image, config, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.box, two.box)
        assert one.flipped == two.flipped
    assert not np.array_equal(first[0].pixels, other[0].pixels)
    assert not np.array_equal(first[0].box, first[1].box)


def test_a_view_tells_where_its_pixels_lie() -> None:
    image, rng = photo(), np.random.default_rng(1)
    config = replace(PLAIN, flip=0.5)
    flips = set()
    for _ in range(20):
        for view in make_views(image, config, rng):
            top, left, bottom, right = np.rint(view.box * [60, 80, 60, 80]).astype(int)
            box = (top, left, bottom - top, right - left)
            pixels = np.array(crop_and_resize(image, box, size=32, flipped=view.flipped))
            assert np.array_equal(pixels, view.pixels)
            flips.add(view.flipped)
    assert flips == {True, False}


@pytest.mark.parametrize(("chance", "low", "high"), [(0.0, 0, 0), (0.5, 0.46, 0.54), (1.0, 1, 1)])
def test_the_share_of_mirrored_views(chance: float, low: float, high: float) -> None:
    image, config = photo(8, 8), replace(PLAIN, size=4, flip=chance)
    rng = np.random.default_rng(2)
    pairs = [make_views(image, config, rng) for _ in range(1000)]
    assert low <= np.mean([view.flipped for pair in pairs for view in pair]) <= high


@pytest.mark.parametrize("name", ["jitter_p", "grey", "blur", "solarise"])
def test_each_step_happens_as_often_as_its_probability(name: str) -> None:
    image, count = photo(16, 16), 1000
    chances = (0.3, 0.3) if name in ("jitter_p", "grey") else (0.8, 0.1)
    value = 0.3 if name in ("jitter_p", "grey") else chances
    # the whole image at its own size: nothing but the step can change a pixel
    config = replace(PLAIN, size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0), blur_sigma=(1.0, 1.0))
    config = replace(config, blur_kernel=5, **{name: value})
    if name == "jitter_p":
        config = replace(config, jitter=(0.0, 0.0, 0.0, 0.5))
    rng = np.random.default_rng(4)
    pairs = [make_views(image, config, rng) for _ in range(count)]
    for view, chance in enumerate(chances):
        changed = np.mean([not np.array_equal(pair[view].pixels, image) for pair in pairs])
        assert abs(changed - chance) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (5000, 3), (1, 400), (2, 2)])
def test_degenerate_images_give_whole_views(shape: tuple[int, int]) -> None:
    image, rng = np.full((*shape, 3), 200, dtype=np.uint8), np.random.default_rng(0)
    views = [v for _ in range(20) for v in make_views(image, ViewConfig(size=16), rng)]
    for view in views:
        assert isinstance(view, View)
        assert view.pixels.shape == (16, 16, 3)
        assert view.pixels.dtype == np.uint8
        assert (view.box[:2] < view.box[2:]).all()
        assert view.box.min() >= 0
        assert view.box.max() <= 1
    assert (spanning_view(image, 16) == 200).all()


def test_a_view_may_be_written_to() -> None:
    view, _ = make_views(photo(), PLAIN, np.random.default_rng(0))
    view.pixels[0, 0] = 0
    spanning_view(photo(), 8)[0, 0] = 0


@pytest.mark.parametrize(
    ("size", "kernel"), [(16, 1), (32, 3), (96, 9), (128, 13), (224, 23), (384, 39)]
)
def test_the_kernel_follows_the_size(size: int, kernel: int) -> None:
    assert ViewConfig(size=size).kernel == kernel
    assert ViewConfig(size=size, blur_kernel=5).kernel == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"scale": (0.5, 0.2)},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.5)},
        {"ratio": (-1.0, 1.0)},
        {"flip": 1.5},
        {"flip": float("nan")},
        {"jitter": (0.4, 0.4, 0.2)},
        {"jitter": (0.4, 0.4, 0.2, 0.6)},
        {"jitter": (0.4, -0.1, 0.2, 0.1)},
        {"jitter_p": -0.1},
        {"grey": 2.0},
        {"blur": (1.0, 1.1)},
        {"blur": (1.0,)},
        {"blur_kernel": 22},
        {"blur_sigma": (0.0, 2.0)},
        {"solarise": (0.0, -0.2)},
        {"solarise_at": 300},
    ],
)
def test_a_setting_out_of_range_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"views: {next(iter(wrong))} must be"):
        ViewConfig(**wrong)
