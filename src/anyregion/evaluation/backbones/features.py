"""A frozen backbone, and its features of many images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anyregion.backbones.encoder import Encoder, normalize
from anyregion.backbones.loading import load_encoder
from anyregion.data.image_files import in_threads
from anyregion.errors import CheckpointError, InputError, SetAside
from anyregion.images import Pixels, read_image, size_of
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import fingerprint
from anyregion.vocabulary import Progress

Layer: TypeAlias = Literal["early", "last"]
Prepared: TypeAlias = "tuple[Pixels, tuple[int, int]]"
"""An image as the encoder takes it, `(size, size, 3)`, and height and width of the original."""

SHORT_SIDE = 256 / 224
"""The short side of an image over the crop's side: ImageNet's evaluations since AlexNet's."""


@dataclass(frozen=True)
class BackboneIdentity:
    """Which backbone it was, so that its figures can be made again.

    Attributes:
        backbone: the name or folder that it was opened by.
        encoder: the encoder's own name.
        weights: `random`, `pretrained`, `saved` (with the backbone's folder), or a file.
        seed: of random weights; None for others.
        size: side of the square images it was shown.
        fingerprint: a hash of every weight and buffer, the one that a saved backbone states.
    """

    backbone: str
    encoder: str
    weights: str
    seed: int | None
    size: int
    fingerprint: str

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" (seed {self.seed})"
        return f"{self.backbone}, weights {self.weights}{seed}, {self.fingerprint}"


@dataclass(frozen=True, eq=False)
class Backbone:
    """An encoder on its device, in evaluation mode, and which one it is."""

    encoder: Encoder
    identity: BackboneIdentity
    device: torch.device


def open_backbone(
    source: str,
    *,
    weights: str | None = None,
    size: int | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Backbone:
    """Load the backbone that is to be judged.

    Args:
        source: `torchvision/resnet18`, `timm/vit_small_patch16_224`, or a saved backbone's folder.
        weights: `random`, `pretrained` or a file; without, a folder's own, else random ones.
        size: side of the square images it will be shown; without, what a folder states, else 224.
        seed: torch's, when random weights are drawn. The caller's generators are left as they are.

    Raises:
        InputError, CheckpointError: see `load_encoder`; or a device, size or seed that cannot be.
    """
    if size is not None and size < 1:
        raise InputError(f"the size must be at least 1 pixel; it is {size}")
    if not 0 <= seed < 2**63:
        raise InputError(f"the seed must be from 0 to 2^63 - 1; it is {seed}")
    device = check_device(device)
    # drawn on the CPU: the same weights on every device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = load_encoder(source, size=size, weights=weights)
    kind = weights or ("saved" if Path(source).expanduser().is_dir() else "random")
    return as_backbone(
        encoder,
        size=size or encoder.size,
        device=device,
        source=source,
        weights=kind,
        seed=seed if kind == "random" else None,
    )


def as_backbone(
    encoder: Encoder,
    *,
    size: int,
    device: str | torch.device = "cpu",
    source: str | None = None,
    weights: str = "given",
    seed: int | None = None,
) -> Backbone:
    """An encoder that is in memory already (a training's, say), to judge it. It is put into
    evaluation mode and moved to `device`."""
    identity = BackboneIdentity(
        backbone=source or encoder.name,
        encoder=encoder.name,
        weights=weights,
        seed=seed,
        size=size,
        # of the body alone, as `backbone.json` states it
        fingerprint=fingerprint(encoder.body.state_dict().items()),
    )
    checked = check_device(device)
    return Backbone(encoder.eval().to(device=checked, dtype=torch.float32), identity, checked)


def pooled_features(
    backbone: Backbone,
    paths: Sequence[Path],
    *,
    batch_size: int,
    progress: Progress | None = None,
    faults: list[SetAside],
) -> tuple[Tensor, NDArray[np.int64]]:
    """The mean of the last feature map of each image's centre.

    Geometry: the short side scaled to `size * 256 / 224`, the central square of `size`; bicubic.

    Returns:
        `(N, C)` float32 on the CPU, and `(N,)` which of `paths` the rows are. Images that cannot be
        read are added to `faults`.
    """
    # pooled batch by batch: the maps of a whole data set would not fit into memory
    rows: list[Tensor] = []
    positions: list[int] = []
    prepare = partial(read_square, side=backbone.identity.size, centre=True)
    for batch in _batches(paths, prepare, batch_size, progress, faults):
        maps = _run(backbone, [pixels for _, (pixels, _) in batch], "last")  # (B, C, h, w)
        rows.append(maps.mean(dim=(2, 3)).cpu())
        positions += [position for position, _ in batch]
    features = torch.cat(rows) if rows else torch.zeros(0, 1)
    return features, np.array(positions, dtype=np.int64)


def feature_maps(
    backbone: Backbone,
    paths: Sequence[Path],
    *,
    layer: Layer,
    batch_size: int,
    progress: Progress | None = None,
    faults: list[SetAside],
) -> Iterator[tuple[int, tuple[int, int], Tensor]]:
    """The feature map of each whole image, squashed to `size` x `size` (bicubic).

    Yields:
        Which of `paths`, the image's height and width, and `(C, h, w)` float32 on the device.
        Images that cannot be read are added to `faults`.
    """
    prepare = partial(read_square, side=backbone.identity.size, centre=False)
    for batch in _batches(paths, prepare, batch_size, progress, faults):
        maps = _run(backbone, [pixels for _, (pixels, _) in batch], layer)
        for (position, (_, size)), features in zip(batch, maps, strict=True):
            yield position, size, features


def read_square(path: Path, *, side: int, centre: bool) -> Prepared:
    """An image as a square: its centre (see `pooled_features`), or all of it squashed.

    Raises:
        InputError: it cannot be read.
    """
    pixels = read_image(path)
    height, width = size_of(pixels)
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if centre:
        # cut and scaled in one step: an image of 1 x 10,000 would grow to 73 x 730,000 otherwise
        extent = min(height, width) / SHORT_SIDE
        x, y = (width - extent) / 2, (height - extent) / 2
        box = (x, y, x + extent, y + extent)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.array(image), (height, width)


def _batches(
    paths: Sequence[Path],
    prepare: Callable[[Path], Prepared],
    batch_size: int,
    progress: Progress | None,
    faults: list[SetAside],
) -> Iterator[list[tuple[int, Prepared]]]:
    """The readable images of each batch, with their positions; threads read ahead."""

    def attempt(path: Path) -> Prepared | InputError:
        try:
            return prepare(path)
        except InputError as error:
            return error

    if batch_size < 1:
        raise InputError(f"the batch must hold at least 1 image; it is {batch_size}")
    if progress is not None:
        progress(0, len(paths))
    batch: list[tuple[int, Prepared]] = []
    for position, image in enumerate(in_threads(attempt, paths)):
        if isinstance(image, InputError):
            faults.append(SetAside(str(paths[position]), str(image)))
        else:
            batch.append((position, image))
        # the last batch may end in images that cannot be read
        if len(batch) == batch_size or (batch and position == len(paths) - 1):
            yield batch
            batch = []
            if progress is not None:
                progress(position + 1, len(paths))


@torch.inference_mode()
def _run(backbone: Backbone, pixels: Sequence[Pixels], layer: Layer) -> Tensor:
    """`B` prepared images to the `(B, C, h, w)` float32 map of a layer, on the device."""
    # mean and deviation are the encoder's own: weights of other libraries have other ones
    encoder = backbone.encoder
    images = normalize(pixels, backbone.device, mean=encoder.mean, std=encoder.std)
    maps = (encoder.intermediate(images) if layer == "early" else encoder(images)).float()
    # checked here, once: a vote or a k-means of NaN would answer something
    if not bool(torch.isfinite(maps).all()):
        raise CheckpointError(
            f"{backbone.identity.backbone}: its features are not finite numbers; the weights are "
            "broken, or a training came apart"
        )
    return maps
