"""The features of a backbone on a grid, for whatever takes dense features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anyregion.backbones.encoder import Encoder, normalize
from anyregion.backbones.loading import load_encoder
from anyregion.baselines.embedder import DenseMap
from anyregion.errors import CheckpointError, InputError
from anyregion.images import Pixels, size_of
from anyregion.torch_utils.devices import check_device
from anyregion.torch_utils.weights import fingerprint

# Side of the squares that images are squashed to: a multiple of 14, 16 and 32, for every patch and
# stride. What a backbone was trained on (128 to 224 pixels) leaves too few cells for regions
SIDE = 448


class BackboneFeatures:
    """The intermediate map of a backbone (stride 16 of a ResNet), of whole images.

    Args:
        encoder: the backbone; it is put into evaluation mode and moved to `device`.
        size: images are squashed to squares of this side, in pixels.
        name: what people call it; None for the encoder's own name.
        device: `cpu`, `cuda`, ...
    """

    def __init__(
        self, encoder: Encoder, *, size: int = SIDE, name: str | None = None, device: str = "cpu"
    ) -> None:
        self.device = check_device(device)
        self.encoder, self.size = encoder.eval().to(self.device), size
        self.name = name or encoder.name
        content = fingerprint(encoder.body.state_dict().items())
        self.fingerprint = f"{encoder.name} {content} {size} {encoder.mean} {encoder.std}"

    def dense_features(self, images: Sequence[Pixels]) -> list[DenseMap]:
        """`(h, w, C)` of each image; the grid covers the image exactly.

        Raises:
            CheckpointError: features that are not finite numbers.
        """
        maps = []
        for pixels in images:
            square = np.array(
                Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BICUBIC)
            )
            encoder = self.encoder
            batch = normalize([square], self.device, mean=encoder.mean, std=encoder.std)
            with torch.inference_mode():
                features = encoder.intermediate(batch)[0].float().permute(1, 2, 0)  # (h, w, C)
            if not bool(torch.isfinite(features).all()):
                raise CheckpointError(f"{self.name}: its features are not finite numbers")
            maps.append(DenseMap(features.cpu().numpy(), size_of(pixels)))
        return maps


def load_backbone_features(where: str, *, device: str = "cpu") -> BackboneFeatures:
    """The features of a backbone; see `load_weighted_encoder` and `BackboneFeatures`."""
    return BackboneFeatures(load_weighted_encoder(where), name=where, device=device)


def load_weighted_encoder(where: str) -> Encoder:
    """A backbone with weights, by its name in a command, for images of `SIDE` pixels.

    Args:
        where: a run or a folder that holds a backbone; or `LIBRARY/NAME@WEIGHTS`, where WEIGHTS are
            `random` (seed 0), `pretrained` (a download) or a file.

    Raises:
        InputError: a name without weights, or as `load_encoder`.
        CheckpointError: as `load_encoder`.
    """
    name, _, weights = where.partition("@")
    if not weights and not Path(where).expanduser().is_dir():
        raise InputError(
            f"{where}: there is no such folder; of a backbone by name say which weights: "
            f"{where}@pretrained, @FILE or @random"
        )
    # drawn from a fixed seed, and the caller's generators left as they are
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return load_encoder(name if weights else where, size=SIDE, weights=weights or None)
