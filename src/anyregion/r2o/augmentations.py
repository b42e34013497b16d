"""Two views of an image, where each lies in it, and the spanning view that holds both.

The recipe is BYOL's (Grill et al. 2020, appendix B), as R2O uses it (arXiv 2208.11821, section 3):
crop, mirror, colour jitter, grey, blur, solarise. All that is random comes from one generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as PilImage

from anyregion.errors import InputError
from anyregion.images import Pixels, size_of
from anyregion.r2o import color_augmentations as colours

_TRIES = 10  # as torchvision's RandomResizedCrop


@dataclass(frozen=True)
class ViewConfig:
    """How views are drawn; the defaults are the paper's.

    Attributes:
        size: side of a view in pixels.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height of the crop, drawn uniformly in the logarithm.
        flip: probability of mirroring. 1.0 repeats the published code, which always mirrored.
        jitter: strengths of brightness, contrast, saturation and hue; see `colours.jitter`.
        jitter_p, grey: probabilities, of both views alike.
        blur, solarise: probabilities, one a view.
        blur_kernel: side of the blur's kernel, odd. None takes the odd number nearest to size / 10:
            23 at 224, 13 at 128, 9 at 96.
        blur_sigma: smallest and largest sigma, in pixels of the view whatever its size.
        solarise_at: values from here on are turned over.

    Raises:
        InputError: a value out of range, with its name.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    grey: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    blur_kernel: int | None = None
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: tuple[float, float] = (0.0, 0.2)
    solarise_at: int = 128

    def __post_init__(self) -> None:
        _check(self.size >= 1, "size", self.size, "at least 1")
        for name in ("scale", "ratio", "blur_sigma"):
            pair = getattr(self, name)
            ordered = len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf
            _check(ordered, name, pair, "two numbers above 0, the smaller first")
        _check(self.scale[1] <= 1, "scale", self.scale, "at most 1")
        for name in ("flip", "jitter_p", "grey"):
            chance = getattr(self, name)
            _check(0 <= chance <= 1, name, chance, "a probability, 0 to 1")
        for name in ("blur", "solarise"):
            pair = getattr(self, name)
            chances = len(pair) == 2 and all(0 <= chance <= 1 for chance in pair)
            _check(chances, name, pair, "two probabilities, 0 to 1, one a view")
        four = len(self.jitter) == 4 and all(0 <= x < math.inf for x in self.jitter)
        _check(four, "jitter", self.jitter, "four numbers from 0 on")
        _check(self.jitter[3] <= 0.5, "jitter", self.jitter, "at most 0.5 for the hue, its last")
        odd = self.blur_kernel is None or (self.blur_kernel >= 1 and self.blur_kernel % 2 == 1)
        _check(odd, "blur_kernel", self.blur_kernel, "odd, or None")
        _check(0 <= self.solarise_at <= 256, "solarise_at", self.solarise_at, "0 to 256")

    @property
    def kernel(self) -> int:
        """The blur's kernel, worked out where none is given."""
        return self.blur_kernel or 2 * round((self.size / 10 - 1) / 2) + 1


def _check(fine: bool, name: str, value: object, rule: str) -> None:
    if not fine:
        raise InputError(f"views: {name} must be {rule}; it is {value}")


@dataclass(frozen=True, eq=False)
class View:
    """One view and where it lies.

    Attributes:
        pixels: (S, S, 3) uint8.
        box: (4,) float32: top, left, bottom, right as fractions of the image.
        flipped: whether the pixels are mirrored left to right; the box is not.
    """

    pixels: Pixels
    box: NDArray[np.float32]
    flipped: bool


def make_views(image: Pixels, config: ViewConfig, rng: np.random.Generator) -> tuple[View, View]:
    """Draw the two views of `image`, (height, width, 3). The same `rng` state gives the same."""
    return _make_view(image, config, rng, index=0), _make_view(image, config, rng, index=1)


def _make_view(image: Pixels, config: ViewConfig, rng: np.random.Generator, *, index: int) -> View:
    box = crop_box(*size_of(image), config, rng)
    flipped = bool(rng.random() < config.flip)
    view = _cut(image, box, config.size, flipped)
    if any(config.jitter) and rng.random() < config.jitter_p:
        view = colours.jitter(view, config.jitter, rng)
    if rng.random() < config.grey:
        view = colours.grey(view)
    pixels = np.array(view)
    if rng.random() < config.blur[index]:
        sigma = float(rng.uniform(*config.blur_sigma))
        pixels = colours.blur(pixels, kernel=config.kernel, sigma=sigma)
    if rng.random() < config.solarise[index]:
        pixels = colours.solarise(pixels, threshold=config.solarise_at)
    return View(pixels=pixels, box=box_fractions(box, *size_of(image)), flipped=flipped)


def crop_box(
    height: int, width: int, config: ViewConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop: top, left, height, width in pixels, inside the image.

    The rule of torchvision's RandomResizedCrop: an area and an aspect ratio are drawn up to ten
    times until the crop fits. Where none does, the largest central crop of an allowed ratio.
    """
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*config.scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < config.ratio[0]:
        h = max(1, round(width / config.ratio[0]))
    elif width / height > config.ratio[1]:
        w = max(1, round(height * config.ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def box_fractions(box: tuple[int, int, int, int], height: int, width: int) -> NDArray[np.float32]:
    """A crop (top, left, height, width in pixels) as `View.box` has it: (4,) float32."""
    i, j, h, w = box
    edges = (i / height, j / width, (i + h) / height, (j + w) / width)
    return np.array(edges, dtype=np.float32)


def cut(image: Pixels, box: tuple[int, int, int, int], *, size: int, flipped: bool) -> Pixels:
    """Cut `box` (top, left, height, width) out, resize it to (size, size, 3), then mirror it.

    Pillow's bicubic, with antialiasing; nothing outside the box is looked at.

    Raises:
        InputError: the box is empty or not inside the image.
    """
    i, j, h, w = box
    height, width = size_of(image)
    if not (0 <= i < i + h <= height and 0 <= j < j + w <= width):
        raise InputError(f"the crop {box} is not inside an image of {height} x {width}")
    return np.array(_cut(image, box, size, flipped))


def _cut(image: Pixels, box: tuple[int, int, int, int], size: int, flipped: bool) -> PilImage:
    i, j, h, w = box
    # the crop alone is copied into Pillow: cheaper than the image, and the same as crop, resize
    crop = Image.fromarray(image[i : i + h, j : j + w])
    view = crop.resize((size, size), Image.Resampling.BICUBIC)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else view


def spanning_view(image: Pixels, size: int) -> Pixels:
    """The whole image squashed to (size, size, 3), unchanged otherwise."""
    return cut(image, (0, 0, *size_of(image)), size=size, flipped=False)
