"""Eyes of the built-in model: EfficientNet-Lite0 on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion.compact.onnx_session import load_graph
from anyregion.images import Pixels

MapName: TypeAlias = Literal["stride8", "stride16", "stride32", "last"]
"""`last` is the last convolution, at stride 32."""

CHANNELS: dict[MapName, int] = {"stride8": 40, "stride16": 112, "stride32": 320, "last": 1280}
LONG_SIDE = 640
STRIDE = 32


@dataclass(frozen=True, eq=False)
class FeaturePyramid:
    """What the eyes see of one image.

    Attributes:
        maps: the maps that were asked for, `(h, w, channels)` float32 (see `CHANNELS`).
        span: `(height, width)` in pixels of the image that each map covers, padding included.
    """

    maps: Mapping[MapName, NDArray[np.float32]]
    span: tuple[float, float]


class ImageEncoder:
    """The image side: any RGB image, at any size, to feature maps.

    Args:
        threads: for one operator; None leaves it to ONNX Runtime (all cores).
        device: see `load_graph`.

    Raises:
        InputError: ONNX Runtime cannot use the device.
        CheckpointError: the graph is missing or altered.
    """

    def __init__(self, *, threads: int | None = None, device: str = "cpu") -> None:
        self._session = load_graph("eyes.onnx", threads=threads, device=device)

    def encode(
        self,
        pixels: Pixels,
        *,
        outputs: Sequence[MapName] = ("last",),
        long_side: int = LONG_SIDE,
    ) -> FeaturePyramid:
        """See one image, enlarged or shrunk to `long_side`; only `outputs` are computed.

        Args:
            pixels: `(height, width, 3)` RGB uint8, as `read_image` gives it.
            outputs: which maps to return.
            long_side: pixels of the longer side that the network sees. 640 names small regions
                best for its time; an image of one object needs fewer.
        """
        batch, span = prepare(pixels, long_side=long_side)
        found = self._session.run(list(outputs), {"pixels": batch})
        maps = {
            name: np.ascontiguousarray(array[0].transpose(1, 2, 0))
            for name, array in zip(outputs, found, strict=True)
        }
        return FeaturePyramid(maps, span)


def prepare(pixels: Pixels, *, long_side: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The network's input `(1, 3, H, W)` and the `(height, width)` in pixels that it covers.

    The image is resized with antialiasing, both sides by the same factor but for rounding to
    whole pixels, and padded right and below to multiples of 32. The padding is zero after
    `(x - 127) / 128`, like the padding inside the network.
    """
    height, width = pixels.shape[:2]
    factor = long_side / max(height, width)
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    if (new_height, new_width) != (height, width):
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
    full_height, full_width = (-(-side // STRIDE) * STRIDE for side in (new_height, new_width))
    batch = np.zeros((1, 3, full_height, full_width), dtype=np.float32)
    inner = batch[0, :, :new_height, :new_width]
    np.subtract(pixels.transpose(2, 0, 1), np.float32(127), out=inner)
    inner *= np.float32(1 / 128)
    return batch, (full_height * height / new_height, full_width * width / new_width)
