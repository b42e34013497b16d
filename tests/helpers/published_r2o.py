"""Networks to and from R2O's published names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from anyregion.backbones.loading import build_encoder
from anyregion.r2o.checkpoint import PublishedCheckpoint, load_networks, published_names
from anyregion.r2o.model import Networks


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of `Networks` under the published names."""
    names = published_names(state)
    return {names[name]: tensor for name, tensor in state.items()}


def networks_of(checkpoint: PublishedCheckpoint, *, size: int) -> Networks:
    """Networks as large as the checkpoint's, with its weights."""
    sizes = checkpoint.sizes
    encoder = build_encoder(f"torchvision/{sizes.backbone}", size=size)
    networks = Networks(encoder, width=sizes.width, hidden=sizes.hidden, out=sizes.out)
    load_networks(networks, checkpoint)
    return networks
