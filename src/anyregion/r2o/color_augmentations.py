"""How a view's colours are changed: jitter, grey, Gaussian blur, solarise.

The jitter, its four parts and grey work on Pillow images and give what torchvision's functions of
those names give, byte for byte. The blur and solarise work on `Pixels`, where a view is finished.
Nearly all the time goes into Pillow's and numpy's loops, and most of those let other threads run.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as PilImage

from anyregion.errors import InputError
from anyregion.images import Pixels

_STRIP = 40_000  # numbers blurred at once: their buffers stay in the cache and in reused memory


def jitter(
    image: PilImage, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> PilImage:
    """Change brightness, contrast, saturation and hue, in random order.

    Args:
        image: RGB.
        strengths: of the four. A factor is uniform in `[max(0, 1 - x), 1 + x]`, the hue's shift in
            `[-x, x]` of a full turn, x at most 0.5. A strength of 0 leaves that step out.
        rng: what draws the order and the factors.
    """
    for step in rng.permutation(4):
        strength = strengths[step]
        if strength == 0:
            continue
        if step == 3:
            image = hue(image, rng.uniform(-strength, strength))
        else:
            factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
            image = (brightness, contrast, saturation)[step](image, factor)
    return image


def brightness(image: PilImage, factor: float) -> PilImage:
    """Blend with black: 0 gives black, 1 the image itself, more than 1 a brighter one."""
    return Image.blend(Image.new("RGB", image.size), image, factor)


def contrast(image: PilImage, factor: float) -> PilImage:
    """Blend with the mean of the grey image: 0 gives that one grey, 1 the image itself."""
    level = int(np.asarray(image.convert("L")).mean() + 0.5)
    return Image.blend(Image.new("RGB", image.size, (level, level, level)), image, factor)


def saturation(image: PilImage, factor: float) -> PilImage:
    """Blend with the grey image: 0 gives grey, 1 the image itself."""
    return Image.blend(grey(image), image, factor)


def hue(image: PilImage, shift: float) -> PilImage:
    """Turn the hue by `shift`, -0.5 to 0.5 of a full turn, in Pillow's 8-bit HSV.

    Raises:
        InputError: a shift outside that range.
    """
    if not -0.5 <= shift <= 0.5:
        raise InputError(f"a hue shift is -0.5 to 0.5 of a turn, not {shift}")
    turn = int(shift * 255) % 256
    hues, saturations, values = image.convert("HSV").split()
    brightest = np.asarray(values, dtype=np.float32)
    spread = brightest * np.asarray(saturations)
    spread *= np.float32(1 / 255**2)
    brightest += np.float32(0.5)  # so that cutting off the fraction rounds
    found = hues.tobytes()
    channels = []
    for table in _hue_tables():
        # looked up as bytes: numpy would turn every index into 64 bits first
        depths = found.translate(table[turn:] + table[:turn])
        depth = np.frombuffer(depths, dtype=np.uint8).reshape(spread.shape)
        channels.append(Image.fromarray((brightest - spread * depth).astype(np.uint8)))
    return Image.merge("RGB", channels)


@lru_cache(maxsize=1)
def _hue_tables() -> tuple[bytes, ...]:
    """How far red, green and blue lie below the brightest channel, for each of Pillow's 256 hues.

    In 255ths of the way to the darkest channel, so that a channel is value - value x saturation x
    depth. Pillow's own way back from HSV gives the same bytes, pixel by pixel in twice the time.
    """
    # a turn is six legs of 255 steps, and hue h stands at step 6 h: a channel goes down on one
    # leg, stays down for two, comes back on the next and stays up for two
    return tuple(
        bytes(_depth((6 * h + start) % 1530) for h in range(256)) for start in (1275, 765, 255)
    )


def _depth(step: int) -> int:
    return max(0, min(step, 1020 - step, 255))


def grey(image: PilImage) -> PilImage:
    """Luma (ITU-R 601-2) in all three channels."""
    return image.convert("L").convert("RGB")


def blur(pixels: Pixels, *, kernel: int, sigma: float) -> Pixels:
    """Gaussian blur of `kernel` x `kernel` pixels, mirrored at the border without its edge pixel.

    Bit for bit the 8-bit blur of OpenCV: weights in 256ths, both passes in whole numbers, and one
    rounding at the end.

    Args:
        pixels: (height, width, 3).
        kernel: odd.
        sigma: in pixels, above 0.

    Raises:
        InputError: an even kernel, or a sigma that is not above 0.
    """
    if kernel < 1 or kernel % 2 == 0 or not sigma > 0:
        raise InputError(f"a blur needs an odd kernel and a sigma above 0: {kernel}, {sigma}")
    weights = gaussian_weights(kernel, sigma)
    reach = max(offset for offset, weight in enumerate(weights) if weight)
    if reach == 0:
        return pixels.copy()
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    lines = padded.reshape(height + 2 * reach, -1)
    blurred = np.empty((height, width * 3), dtype=np.uint8)
    rows = max(1, _STRIP // (width * 3))
    for top in range(0, height, rows):
        strip = lines[top : top + rows + 2 * reach]
        blurred[top : top + rows] = _blur_strip(strip, weights[: reach + 1])
    return blurred.reshape(pixels.shape)


def _blur_strip(lines: Pixels, weights: tuple[int, ...]) -> NDArray[np.uint32]:
    """Blur rows of width * 3 numbers that bring `len(weights) - 1` pixels of border on each side.

    Buffers are written over instead of made anew: fresh memory costs more than the sums do.
    """
    reach = len(weights) - 1
    height, width = lines.shape[0] - 2 * reach, lines.shape[1] - 6 * reach
    # sideways first, a step of 3 numbers; at most 255 * 256, which 16 bits hold
    values = lines.astype(np.uint16)
    across = values[:, 3 * reach : 3 * reach + width] * np.uint16(weights[0])
    pair = np.empty_like(across)
    for offset in range(1, reach + 1):
        if weights[offset]:
            left, right = 3 * (reach - offset), 3 * (reach + offset)
            np.add(values[:, left : left + width], values[:, right : right + width], out=pair)
            np.multiply(pair, np.uint16(weights[offset]), out=pair)
            np.add(across, pair, out=across)
    # then up and down, where 32 bits are needed
    tall = across.astype(np.uint32)
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
    """A Gaussian's weights in 256ths, of the middle and then outwards: `kernel // 2 + 1` of them.

    Rounded from the outside inwards, each step's rounding error handed on to the next and the
    middle taking what is left, so that middle + 2 x the others = 256 exactly.
    """
    half = kernel // 2
    exact = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(half + 1)]
    whole = exact[0] + 2 * sum(exact[1:])
    weights = [0] * (half + 1)
    error = 0.0
    for offset in range(half, 0, -1):
        wanted = exact[offset] / whole * 256 + error
        weights[offset] = round(wanted)
        error = wanted - weights[offset]
    weights[0] = 256 - 2 * sum(weights)
    return tuple(weights)


def solarise(pixels: Pixels, *, threshold: int) -> Pixels:
    """Turn every value of `threshold` or more into its complement to 255. Of any shape."""
    # 255 - x is x with all bits turned
    return pixels ^ np.where(pixels >= threshold, np.uint8(255), np.uint8(0))
