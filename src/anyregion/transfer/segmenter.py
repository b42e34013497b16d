"""The segmentation network: a backbone and torchvision's FCN head; saved, loaded, and run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.fcn import FCNHead

from anyregion.backbones.encoder import Encoder, normalize
from anyregion.backbones.stages import dilate_last_stage, intermediate_module, maps_along
from anyregion.errors import CheckpointError
from anyregion.images import Pixels, size_of
from anyregion.torch_utils.weights import (
    compare_shapes,
)
from anyregion.transfer.config import WindowConfig
from anyregion.transfer.crops import resize_image, scaled_size
from anyregion.transfer.folder import find_folder, read_parts, save_folder

HEAD, DESCRIPTION = "head.safetensors", "segmenter.json"
FORMAT = "anyregion.segmenter/1"


@dataclass(frozen=True)
class SegmenterInfo:
    """What a segmentation network is, and how it is shown an image.

    Attributes:
        classes: what it tells apart.
        head, dilate: see `SegmentationConfig`.
        crop: height and width of the windows of `slide`.
        short_side: that an image is scaled to first; None for its own size.
    """

    classes: tuple[str, ...]
    head: Literal["fcn", "linear"]
    dilate: bool
    crop: tuple[int, int]
    short_side: int | None


class Segmenter(nn.Module):
    """A backbone with a head for every pixel, and an auxiliary head for its training.

    Args:
        encoder: becomes part of it; its last stage is dilated in place where `info` says so.
        frozen: the encoder stays in evaluation mode and asks for no gradient.
        auxiliary: with the second head.
    """

    def __init__(
        self,
        encoder: Encoder,
        info: SegmenterInfo,
        *,
        frozen: bool = False,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if info.dilate:
            dilate_last_stage(encoder)
        self.encoder, self.info, self.frozen = encoder, info, frozen
        size, classes = encoder.size, len(info.classes)
        channels = encoder.grid(size).channels
        self.head: nn.Module
        if info.head == "fcn":
            self.head = FCNHead(channels, classes)
        else:
            # as linear probes of dense features do: channels of any scale, at once comparable
            norm = nn.BatchNorm2d(channels, affine=False)
            self.head = nn.Sequential(norm, nn.Conv2d(channels, classes, 1))
        self.auxiliary: nn.Module | None = None
        self._intermediate: str | None = None
        if auxiliary:
            self._intermediate = intermediate_module(encoder)
            width = encoder.grid(size, intermediate=True).channels
            self.auxiliary = FCNHead(width, classes)
        if frozen:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Segmenter:
        """As `nn.Module`'s; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """`(B, 3, H, W)` normalised images to logits `(B, C, H, W)`, and the auxiliary head's.

        The latter are None in evaluation.
        """
        size = images.shape[-2:]
        if self.auxiliary is None or not self.training:
            return _enlarge(self.head(self.encoder(images)), size), None
        if self._intermediate is None:  # a ViT hands on tokens, not maps
            last, middle = self.encoder(images), self.encoder.intermediate(images)
        else:
            last, (middle,) = maps_along(self.encoder, images, [self._intermediate])
        return _enlarge(self.head(last), size), _enlarge(self.auxiliary(middle), size)

    @torch.no_grad()
    def logits(self, pixels: Pixels, test: WindowConfig) -> Tensor:
        """`(C, H, W)` float32 logits of a whole image, at its own size. In evaluation mode only."""
        size = scaled_size(size_of(pixels), self.info.short_side)
        shown = resize_image(pixels, size)
        device = next(self.parameters()).device
        batch = normalize([shown], device, mean=self.encoder.mean, std=self.encoder.std)
        if test.mode == "whole":
            logits: Tensor = self(batch)[0].float()
        else:
            logits = self._slide(batch, test.stride)
        return _enlarge(logits, size_of(pixels))[0]

    def predict(self, pixels: Pixels, test: WindowConfig | None = None) -> Tensor:
        """`(H, W)` int64 the best class of each pixel, on the CPU."""
        return self.logits(pixels, test or WindowConfig()).argmax(dim=0).cpu()

    def _slide(self, image: Tensor, stride: float) -> Tensor:
        """Logits `(1, C, H, W)` of windows, averaged where they overlap."""
        height, width = image.shape[-2:]
        crop = self.info.crop
        # 0 is the mean colour: what a training's crop is filled with
        padded = F.pad(image, (0, max(0, crop[1] - width), 0, max(0, crop[0] - height)))
        total = padded.new_zeros(1, len(self.info.classes), *padded.shape[-2:])
        count = padded.new_zeros(1, 1, *padded.shape[-2:])
        for top in window_starts(padded.shape[2], crop[0], stride):
            for left in window_starts(padded.shape[3], crop[1], stride):
                place = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
                total[place] += self(padded[place])[0].float()
                count[place] += 1
        return (total / count)[..., :height, :width]


def window_starts(length: int, window: int, stride: float) -> list[int]:
    """Where windows begin, so that they cover `length` with steps of at most `stride` of a window.

    The last one ends with the image. `length` is at least `window`.
    """
    step = max(1, int(window * stride))
    count = math.ceil((length - window) / step) + 1
    return [min(i * step, length - window) for i in range(count)]


def save_segmenter(segmenter: Segmenter, folder: Path, **about: Any) -> None:
    """Write the backbone as a folder of its own, the head, and what both are.

    Raises:
        AnyRegionError: it cannot be written.
    """
    save_folder(
        folder,
        segmenter.encoder,
        segmenter.head.state_dict(),
        {"format": FORMAT, **asdict(segmenter.info), "about": about},
        head=HEAD,
        description=DESCRIPTION,
        transferred_to="semantic segmentation",
    )


def load_segmenter(folder: str | Path) -> Segmenter:
    """A segmentation network as `save_segmenter` wrote it, or a run that holds one as `model/`.

    It is on the CPU, in evaluation mode.

    Raises:
        CheckpointError: files are missing, malformed, or not of one another.
    """
    place, content = find_folder(folder, DESCRIPTION, FORMAT)
    info = _read_info(place / DESCRIPTION, content)
    encoder, state = read_parts(place, content, head=HEAD, description=DESCRIPTION)
    segmenter = Segmenter(encoder, info)
    if problem := compare_shapes(state, segmenter.head.state_dict()):
        raise CheckpointError(f"{place / HEAD}: of another head: {problem}")
    segmenter.head.load_state_dict(state)
    return segmenter.eval()


def _read_info(path: Path, content: dict[str, Any]) -> SegmenterInfo:
    def sides(value: Any) -> Iterator[int]:
        for side in value:
            if type(side) is not int or not 1 <= side <= 2**16:
                raise ValueError(f"{side!r:.20} is no side")
            yield side

    try:
        classes, crop = content["classes"], tuple(sides(content["crop"]))
        short_side = content["short_side"]
        if short_side is not None:
            (short_side,) = sides([short_side])
        texts = isinstance(classes, list) and all(isinstance(c, str) for c in classes)
        if not texts or len(classes) < 2 or len(crop) != 2:
            raise ValueError("classes or crop are none")
        if content["head"] not in ("fcn", "linear") or type(content["dilate"]) is not bool:
            raise ValueError("head or dilate is none")
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: malformed ({error})") from None
    return SegmenterInfo(
        tuple(classes), content["head"], content["dilate"], (crop[0], crop[1]), short_side
    )


def _enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """`(B, C, h, w)` logits at `size`, bilinear as torchvision's networks have it."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
