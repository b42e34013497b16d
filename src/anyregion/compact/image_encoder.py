"""The image encoder of the built-in model: EfficientNet-Lite0 in 8-bit integers on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.images import Pixels

MapName: TypeAlias = Literal["stride8", "stride16", "stride32", "last"]
"""`last` is the last convolution, at stride 32."""

CHANNELS: dict[MapName, int] = {"stride8": 40, "stride16": 112, "stride32": 320, "last": 1280}
ALL_MAPS: tuple[MapName, ...] = tuple(CHANNELS)
STRIDE = 32
# the pixel that is zero to the network
ZERO = 127
# pixels of the longer side. In integers 768 cost what 640 did in float, and name 69.0 instead of
# 67.0 % of COCO's held-out regions; the crops of one object that `CompactEmbedder` embeds need
# fewer
LONG_SIDE = 768
# where time matters more: 0.7 of the encoder's time; 68.5 % of the same regions, of the small ones
# 60.2 instead of 64.3 %
FAST_SIDE = 640


@dataclass(frozen=True, eq=False)
class FeaturePyramid:
    """Feature maps of one image at several strides.

    Attributes:
        maps: `(h, w, channels)` float32 each (see `CHANNELS`).
        span: `(height, width)` in pixels of the image that each map covers, padding included.
        size: `(height, width)` of the image.
        frame: `(H, W, 3)` uint8, what the network saw (see `letterbox`); None where the maps come
            from a store.
    """

    maps: Mapping[MapName, NDArray[np.float32]]
    span: tuple[float, float]
    size: tuple[int, int]
    frame: Pixels | None = None

    def frame_scale(self) -> NDArray[np.float64]:
        """`(4,)`: what takes x0, y0, x1, y1 from pixels of the image to pixels of the frame."""
        rows, columns = self.maps["stride32"].shape[:2]
        height, width = self.span
        return np.array([columns * STRIDE / width, rows * STRIDE / height] * 2)

    def letterbox(self, pixels: Pixels) -> Pixels:
        """The frame that the maps were computed from, made again of the image."""
        height, width = self.size
        # the scale of the longer side alone was not rounded to whole pixels
        scale = self.frame_scale()[0 if width >= height else 1]
        return letterbox(pixels, long_side=round(max(height, width) * scale))[0]


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """The image side: any RGB image, at any size, to feature maps.

    Attributes:
        session: an `onnxruntime.InferenceSession` of `pixels` to the maps: of the built-in graph
            frames `(1, H, W, 3)` uint8 to `(1, h, w, channels)`, of a backbone's
            `network_input` to `(1, channels, h, w)`.
    """

    session: Any

    def encode(
        self,
        pixels: Pixels,
        *,
        outputs: Sequence[MapName] = ALL_MAPS,
        long_side: int = LONG_SIDE,
    ) -> FeaturePyramid:
        """Encode one image, enlarged or shrunk to `long_side`; only `outputs` are computed.

        Args:
            pixels: `(height, width, 3)` RGB uint8, as `read_image` gives it.
            outputs, long_side: the maps to return; pixels of the frame's longer side.
        """
        frame, span = letterbox(pixels, long_side=long_side)
        height, width = pixels.shape[:2]
        return self.encode_frame(frame, span, (height, width), outputs=outputs)

    def encode_frame(
        self,
        frame: Pixels,
        span: tuple[float, float],
        size: tuple[int, int],
        *,
        outputs: Sequence[MapName] = ALL_MAPS,
    ) -> FeaturePyramid:
        """The same of an image that `letterbox` made a frame of, whose `size` it had."""
        # one by one: images differ in size, and a batch gains nothing on a processor
        built_in = self.session.get_inputs()[0].type == "tensor(uint8)"
        feed = {"pixels": frame[None] if built_in else network_input(frame)}
        arrays = self.session.run(list(outputs), feed)
        if not built_in:  # (1, channels, h, w) -> (1, h, w, channels)
            arrays = [np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in arrays]
        maps = {name: array[0] for name, array in zip(outputs, arrays, strict=True)}
        return FeaturePyramid(maps, span, size, frame)


def letterbox(pixels: Pixels, *, long_side: int) -> tuple[Pixels, tuple[float, float]]:
    """The frame `(H, W, 3)` that is encoded and the `(height, width)` in pixels that it covers.

    The image is resized with antialiasing, both sides by the same factor but for rounding to
    whole pixels, and padded right and below to multiples of 32. The padding is 127, which is zero
    to the network, like the padding inside it.
    """
    height, width = pixels.shape[:2]
    # one factor, but each side is rounded to whole pixels: `span` says what each covers in the end
    factor = long_side / max(height, width)
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    if (new_height, new_width) != (height, width):
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
    full_height, full_width = (-(-side // STRIDE) * STRIDE for side in (new_height, new_width))
    frame = pixels
    if (full_height, full_width) != (new_height, new_width):
        frame = np.full((full_height, full_width, 3), ZERO, dtype=np.uint8)
        frame[:new_height, :new_width] = pixels
    return frame, (full_height * height / new_height, full_width * width / new_width)


def network_input(frame: Pixels) -> NDArray[np.float32]:
    """A frame as networks in float take it: `(1, 3, H, W)`, `(x - 127) / 128`."""
    batch = np.empty((1, 3, *frame.shape[:2]), dtype=np.float32)
    np.subtract(frame.transpose(2, 0, 1), np.float32(ZERO), out=batch[0])
    batch *= np.float32(1 / 128)
    return batch
