"""Data augmentation of R2O: two random views of an image and the spanning view that holds both.

The recipe is BYOL's (Grill et al. 2020, appendix B), as R2O uses it (arXiv 2208.11821, section 3):
random resized crop, flip, color jitter, grayscale, Gaussian blur, solarize. All that is random
comes from one generator. The color functions give what torchvision's functions of the same names
give on Pillow images, byte for byte; blur and solarize work on arrays, where a view is finished.
Nearly all the time goes into Pillow's and numpy's loops, most of which let other threads run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as PilImage

from anyregion.errors import InputError
from anyregion.images import Pixels

_FACTORS = ("brightness", "contrast", "saturation")  # the hue's shift is the fourth of the jitter
_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
# numbers blurred at once: 16-bit buffers of 80 kB stay in a core's second-level cache
_BLUR_STRIP = 40_000


@dataclass(frozen=True)
class ViewConfig:
    """How views are drawn; the defaults are the paper's.

    Attributes:
        size: side of a view in pixels.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height of the crop, drawn uniformly in the logarithm.
        flip: probability of mirroring. 1.0 repeats the published code, which always mirrored.
        jitter: strengths of brightness, contrast, saturation and hue; see `color_jitter`.
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
        """Side of the blur's kernel; by default a tenth of the view's, as 23 is of 224."""
        return self.blur_kernel or 2 * round((self.size / 10 - 1) / 2) + 1


def _check(valid: bool, name: str, value: object, rule: str) -> None:
    if not valid:
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
    height, width = image.shape[:2]
    views = []
    for blur_p, solarize_p in zip(config.blur, config.solarise, strict=True):
        # the order of the draws is the seed's contract: another order gives other views
        i, j, h, w = random_crop_box(height, width, config, rng)
        flipped = bool(rng.random() < config.flip)
        view = crop_and_resize(image, (i, j, h, w), size=config.size, flipped=flipped)
        if any(config.jitter) and rng.random() < config.jitter_p:
            view = color_jitter(view, config.jitter, rng)
        if rng.random() < config.grey:
            view = to_grayscale(view)
        pixels = np.array(view)  # (S, S, 3)
        if rng.random() < blur_p:
            sigma = float(rng.uniform(*config.blur_sigma))
            pixels = gaussian_blur(pixels, kernel=config.kernel, sigma=sigma)
        if rng.random() < solarize_p:
            pixels = solarize(pixels, threshold=config.solarise_at)
        edges = (i / height, j / width, (i + h) / height, (j + w) / width)
        views.append(View(pixels, np.array(edges, dtype=np.float32), flipped))
    return views[0], views[1]


def random_crop_box(
    height: int, width: int, config: ViewConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop: top, left, height, width in pixels, inside the image.

    The rule of torchvision's RandomResizedCrop: an area and an aspect ratio are drawn up to ten
    times until the crop fits. Where none does, the largest central crop of an allowed ratio.
    """
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    for _ in range(_CROP_ATTEMPTS):
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


def crop_and_resize(
    image: Pixels, box: tuple[int, int, int, int], *, size: int, flipped: bool = False
) -> PilImage:
    """Cut `box` (top, left, height, width) out, resize it to (size, size), then mirror it.

    Pillow's bicubic, with antialiasing; nothing outside the box is looked at.

    Raises:
        InputError: the box is empty or not inside the image.
    """
    i, j, h, w = box
    height, width = image.shape[:2]
    if not (0 <= i < i + h <= height and 0 <= j < j + w <= width):
        raise InputError(f"the crop {box} is not inside an image of {height} x {width}")
    # the crop alone is copied into Pillow: cheaper than the image, and the same as crop, resize
    crop = Image.fromarray(image[i : i + h, j : j + w])
    view = crop.resize((size, size), Image.Resampling.BICUBIC)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else view


def spanning_view(image: Pixels, size: int) -> Pixels:
    """The whole image squashed to (size, size, 3), unchanged otherwise."""
    height, width = image.shape[:2]
    return np.array(crop_and_resize(image, (0, 0, height, width), size=size))


def color_jitter(
    image: PilImage, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> PilImage:
    """Change brightness, contrast, saturation and hue of an RGB image, in random order.

    With a strength x a factor is uniform in `[max(0, 1 - x), 1 + x]`, the hue's shift in `[-x, x]`
    of a full turn, x at most 0.5. A strength of 0 leaves that step out.
    """
    for step in rng.permutation(4):
        strength = strengths[step]
        if strength == 0:
            continue
        if step == 3:
            image = adjust_hue(image, rng.uniform(-strength, strength))
        else:
            factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
            image = adjust_color(image, _FACTORS[step], factor)
    return image


def adjust_color(image: PilImage, kind: str, factor: float) -> PilImage:
    """Blend with black (`brightness`), with the mean of the grey image (`contrast`) or with the
    grey image (`saturation`): 0 gives that, 1 the image itself, more than 1 goes beyond it."""
    if kind == "saturation":
        blank = to_grayscale(image)
    else:
        level = int(np.asarray(image.convert("L")).mean() + 0.5) if kind == "contrast" else 0
        blank = Image.new("RGB", image.size, (level, level, level))
    return Image.blend(blank, image, factor)


def adjust_hue(image: PilImage, shift: float) -> PilImage:
    """Turn the hue by `shift`, -0.5 to 0.5 of a full turn, in Pillow's 8-bit HSV."""
    if not -0.5 <= shift <= 0.5:
        raise InputError(f"a hue shift is -0.5 to 0.5 of a turn, not {shift}")
    turn = int(shift * 255) % 256
    hues, saturations, values = image.convert("HSV").split()
    brightest = np.asarray(values, dtype=np.float32)
    spread = brightest * np.asarray(saturations)
    spread *= np.float32(1 / 255**2)
    brightest += np.float32(0.5)  # so that cutting off the fraction rounds
    hue_bytes = hues.tobytes()
    channels = []
    for table in _hue_tables():
        # looked up as bytes: numpy would turn every index into 64 bits first
        depths = hue_bytes.translate(table[turn:] + table[:turn])
        depth = np.frombuffer(depths, dtype=np.uint8).reshape(spread.shape)
        channels.append(Image.fromarray((brightest - spread * depth).astype(np.uint8)))
    return Image.merge("RGB", channels)


@lru_cache(maxsize=1)
def _hue_tables() -> tuple[bytes, ...]:
    """How far R, G and B lie below the brightest channel, for each of Pillow's 256 hues."""
    # in 255ths of the way to the darkest channel: a channel is value - value x saturation x depth.
    # Pillow's own way back from HSV gives the same bytes, pixel by pixel in twice the time
    # a turn is six legs of 255 steps, and hue h stands at step 6 h: a channel goes down on one
    # leg, stays down for two, comes back on the next and stays up for two
    tables = []
    for start in (1275, 765, 255):  # red, green, blue
        steps = (6 * np.arange(256) + start) % 1530
        tables.append(np.clip(np.minimum(steps, 1020 - steps), 0, 255).astype(np.uint8).tobytes())
    return tuple(tables)


def to_grayscale(image: PilImage) -> PilImage:
    """Luma (ITU-R 601-2) in all three channels."""
    return image.convert("L").convert("RGB")


def gaussian_blur(pixels: Pixels, *, kernel: int, sigma: float) -> Pixels:
    """Gaussian blur of `kernel` x `kernel` pixels, mirrored at the border without its edge pixel.

    Bit for bit the 8-bit blur of OpenCV: weights in 256ths, both passes in whole numbers, and one
    rounding at the end. `pixels` are (height, width, 3), `kernel` is odd, `sigma` in pixels.
    """
    if kernel < 1 or kernel % 2 == 0 or not sigma > 0:
        raise InputError(f"a blur needs an odd kernel and a sigma above 0: {kernel}, {sigma}")
    weights = gaussian_weights(kernel, sigma)
    reach = max(offset for offset, weight in enumerate(weights) if weight)
    if reach == 0:
        return pixels.copy()
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    lines = padded.reshape(height + 2 * reach, -1)  # (H + 2 reach, (W + 2 reach) * 3)
    blurred = np.empty((height, width * 3), dtype=np.uint8)
    rows = max(1, _BLUR_STRIP // (width * 3))
    for top in range(0, height, rows):
        strip = lines[top : top + rows + 2 * reach]
        blurred[top : top + rows] = _blur_strip(strip, weights[: reach + 1])
    return blurred.reshape(pixels.shape)


def _blur_strip(lines: Pixels, weights: tuple[int, ...]) -> NDArray[np.uint32]:
    """Blur rows of width * 3 numbers with `len(weights) - 1` pixels of border on each side."""
    # buffers are written over instead of made anew: fresh memory costs more than the sums do
    reach = len(weights) - 1
    height, width = lines.shape[0] - 2 * reach, lines.shape[1] - 6 * reach
    # sideways first, a pixel being 3 numbers; sums are at most 255 * 256, which 16 bits hold
    values = lines.astype(np.uint16)
    # (h + 2 reach, w * 3)
    across = values[:, 3 * reach : 3 * reach + width] * np.uint16(weights[0])
    pair = np.empty_like(across)
    for offset in range(1, reach + 1):
        if weights[offset]:
            left, right = 3 * (reach - offset), 3 * (reach + offset)
            np.add(values[:, left : left + width], values[:, right : right + width], out=pair)
            np.multiply(pair, np.uint16(weights[offset]), out=pair)
            np.add(across, pair, out=across)
    # then up and down, where 32 bits are needed
    tall = across.astype(np.uint32)  # (h + 2 reach, w * 3)
    total = tall[reach : reach + height] * np.uint32(weights[0])
    both = np.empty_like(total)
    for offset in range(1, reach + 1):
        if weights[offset]:
            above, below = reach - offset, reach + offset
            np.add(tall[above : above + height], tall[below : below + height], out=both)
            np.multiply(both, np.uint32(weights[offset]), out=both)
            np.add(total, both, out=total)
    np.add(total, np.uint32(1 << 15), out=total)
    np.right_shift(total, np.uint32(16), out=total)
    return total


def gaussian_weights(kernel: int, sigma: float) -> tuple[int, ...]:
    """A Gaussian's `kernel // 2 + 1` weights in 256ths, of the middle and then outwards."""
    # rounded from the outside inwards, each rounding error handed on to the next and the middle
    # taking what remains, so that middle + 2 x the others = 256 exactly
    half = kernel // 2
    exact = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(half + 1)]
    total = exact[0] + 2 * sum(exact[1:])
    weights = [0] * (half + 1)
    error = 0.0
    for offset in range(half, 0, -1):
        target = exact[offset] / total * 256 + error
        weights[offset] = round(target)
        error = target - weights[offset]
    weights[0] = 256 - 2 * sum(weights)
    return tuple(weights)


def solarize(pixels: Pixels, *, threshold: int) -> Pixels:
    """Turn every value of `threshold` or more into its complement to 255. Of any shape."""
    # 255 - x is x with all bits turned
    return pixels ^ np.where(pixels >= threshold, np.uint8(255), np.uint8(0))
