"""Color augmentations against torchvision, OpenCV and the published code's arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from anyregion.errors import InputError
from anyregion.r2o import augmentations
from tests.helpers.shared import SHARED, needs_shared


@pytest.fixture
def noise() -> Image.Image:
    """Every pixel a colour of its own, some of them grey, black and white."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    pixels[:20] = pixels[:20, :, :1]
    pixels[20:22], pixels[22:24] = 0, 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6, 1.0, 1.01, 1.4, 3.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_do_what_torchvisions_do(noise: Image.Image, name: str, factor: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    expected = getattr(functional, f"adjust_{name}")(noise, factor)
    assert np.array_equal(augmentations.adjust_color(noise, name, factor), expected)


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.003, 0.0, 0.05, 0.1, 0.5])
def test_hue_does_what_torchvisions_does(noise: Image.Image, shift: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    assert np.array_equal(
        augmentations.adjust_hue(noise, shift), functional.adjust_hue(noise, shift)
    )


def test_grey_does_what_torchvisions_does(noise: Image.Image) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    assert np.array_equal(augmentations.to_grayscale(noise), functional.to_grayscale(noise, 3))


def test_a_hue_shift_beyond_half_a_turn_is_refused(noise: Image.Image) -> None:
    with pytest.raises(InputError, match="hue shift"):
        augmentations.adjust_hue(noise, 0.51)


def test_jitter_draws_factors_and_order_as_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = pytest.importorskip("scipy.stats")
    steps = ("brightness", "contrast", "saturation", "hue")
    seen: dict[str, list[float]] = {name: [] for name in steps}
    orders: list[tuple[str, ...]] = []
    calls: list[str] = []

    def note(image: Image.Image, name: str, value: float) -> Image.Image:
        seen[name].append(value)
        calls.append(name)
        return image

    monkeypatch.setattr(augmentations, "adjust_color", note)
    monkeypatch.setattr(augmentations, "adjust_hue", lambda image, shift: note(image, "hue", shift))
    rng, image = np.random.default_rng(0), Image.new("RGB", (1, 1))
    for _ in range(2400):
        calls.clear()
        augmentations.color_jitter(image, (0.4, 1.5, 0.2, 0.1), rng)
        orders.append(tuple(calls))
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.8, 1.2)}
    for name, (low, high) in (ranges | {"hue": (-0.1, 0.1)}).items():
        uniform = stats.uniform(loc=low, scale=high - low)
        assert stats.kstest(seen[name], uniform.cdf).pvalue > 0.01
    # 24 orders, a hundred times each
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


def test_a_strength_of_zero_changes_nothing(noise: Image.Image) -> None:
    rng = np.random.default_rng(0)
    assert np.array_equal(augmentations.color_jitter(noise, (0, 0, 0, 0), rng), noise)


@needs_shared
def test_blur_and_solarise_equal_the_published_arrays() -> None:
    with np.load(SHARED / "fixtures" / "r2o" / "data.npz") as data:
        view, sigma = data["view1_uint8"][0], float(data["augment_blur_sigma"])
        blurred = augmentations.gaussian_blur(view, kernel=23, sigma=sigma)
        assert np.array_equal(blurred, data["augment_blur_uint8"])
        solarised = augmentations.solarize(view, threshold=128)
        assert np.array_equal(solarised, data["augment_solarize_uint8"])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (96, 96), (224, 224), (50, 600)])
@pytest.mark.parametrize(("kernel", "sigma"), [(1, 1.0), (9, 0.1), (9, 2.0), (23, 0.7), (23, 5.0)])
def test_blur_is_opencvs_bit_for_bit(size: tuple[int, int], kernel: int, sigma: float) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = cv2.GaussianBlur(pixels, (kernel, kernel), sigma).reshape(pixels.shape)
    assert np.array_equal(augmentations.gaussian_blur(pixels, kernel=kernel, sigma=sigma), expected)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_close_to_an_exact_gaussian(sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    pixels = np.random.default_rng(2).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    exact = ndimage.gaussian_filter(
        pixels.astype(float), (sigma, sigma, 0), mode="mirror", radius=(11, 11, 0)
    )
    assert np.abs(augmentations.gaussian_blur(pixels, kernel=23, sigma=sigma) - exact).max() < 1.5


def test_blur_leaves_the_input_and_flat_colours_alone() -> None:
    flat = np.full((30, 30, 3), (0, 128, 255), dtype=np.uint8)
    for sigma in (0.1, 2.0):
        blurred = augmentations.gaussian_blur(flat, kernel=23, sigma=sigma)
        assert np.array_equal(blurred, flat)
        assert not np.shares_memory(blurred, flat)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.9, 1.7, 2.0, 30.0])
def test_the_weights_are_whole(sigma: float) -> None:
    middle, *rest = augmentations.gaussian_weights(23, sigma)
    assert middle + 2 * sum(rest) == 256
    assert min(rest) >= 0


@pytest.mark.parametrize(("kernel", "sigma"), [(4, 1.0), (0, 1.0), (3, 0.0), (3, float("nan"))])
def test_a_blur_that_makes_no_sense_is_refused(kernel: int, sigma: float) -> None:
    with pytest.raises(InputError, match="odd kernel and a sigma above 0"):
        augmentations.gaussian_blur(np.zeros((4, 4, 3), np.uint8), kernel=kernel, sigma=sigma)


@pytest.mark.parametrize("threshold", [0, 128, 256])
def test_solarise_is_pillows(noise: Image.Image, threshold: int) -> None:
    expected = ImageOps.solarize(noise, threshold)
    assert np.array_equal(augmentations.solarize(np.array(noise), threshold=threshold), expected)
