"""Looks at what is learned while it is learned: figures of collapse, pictures of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyregion.backbones.encoder import eval_mode, normalize
from anyregion.images import Pixels
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.losses import MIN_AREA
from anyregion.r2o.method import R2O
from anyregion.r2o.refinement import cluster_segments, segment_features
from anyregion.r2o.segments import cell_shares, count_segments, pool
from anyregion.r2o.training.collapse import advice, cluster_entropy, effective_rank, spread
from anyregion.r2o.training.config import R2OConfig
from anyregion.r2o.training.inputs import read_again
from anyregion.r2o.training.pictures import region_picture
from anyregion.training.seeds import generator
from anyregion.training.task import Metric

LOOKED_AT = 256
"""Images that the figures are of: always the same, drawn from the training's."""
_AT_ONCE = 64
METRICS = {
    "feature_spread": Metric("how far apart the images' pooled features point, 0 to 1"),
    "feature_rank": Metric("how many dimensions they fill"),
    "projection_spread": Metric("how far apart the superpixels' projections point, 0 to 1"),
    "projection_rank": Metric("how many dimensions they fill"),
    "clusters": Metric("regions that the curriculum asks for", higher_is_better=False),
    "cluster_entropy": Metric("how evenly the superpixels share the clusters, 0 to 1"),
}


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the networks make of some images: pooled features `(n, C)` of the online encoder,
    projections `(R, D)` of superpixels, unit features `(n, N, C)` of the target's superpixels."""

    features: Tensor
    projections: Tensor
    segments: Tensor


class Looks:
    """Looks at a few images of the training, always the same.

    Args:
        store: images and label maps.
        config: see there.
        seed: draws the images, and starts k-means.
    """

    def __init__(self, store: LabelStore, config: R2OConfig, *, seed: int) -> None:
        order = generator(seed, "looks").permutation(len(store.usable))[:LOOKED_AT]
        self.store, self.images = store, store.usable[order]
        self.config, self.seed = config, seed

    @torch.no_grad()
    def figures(self, module: R2O, clusters: int | None) -> dict[str, float]:
        """Spread and rank of features and of projections, and how evenly clusters are filled."""
        parts = [
            self._see(module, self.images[i : i + _AT_ONCE])
            for i in range(0, len(self.images), _AT_ONCE)
        ]
        features = torch.cat([p.features for p in parts])
        projections = torch.cat([p.projections for p in parts])
        found = {
            "feature_spread": spread(features),
            "feature_rank": effective_rank(features),
            "projection_spread": spread(projections),
            "projection_rank": effective_rank(projections),
        }
        if clusters is None:
            return found
        # of one part: segments are clustered by the batch, and a few thousand tell enough
        ids = self._cluster(parts[0].segments, clusters)
        return {**found, "clusters": clusters, "cluster_entropy": cluster_entropy(ids, clusters)}

    def advise(self, figures: Mapping[str, float]) -> Sequence[str]:
        """What the collapse watch has to say."""
        return advice(figures, rows=len(self.images)) if figures else []

    @torch.no_grad()
    def pictures(self, module: R2O, clusters: int | None) -> dict[str, Pixels]:
        """One picture: a row an image, with its superpixels and the regions that became of them."""
        if not self.config.shown:
            return {}
        chosen = self.images[: self.config.shown]
        labels = self._labels(chosen)
        ids = labels
        if clusters is not None:
            found = self._cluster(self._see(module, chosen).segments, clusters).cpu()
            ids = found.gather(1, labels.flatten(1)).view_as(labels)
        wholes = [self._whole(i) for i in chosen]
        rows = zip(wholes, labels.numpy(), ids.numpy(), strict=True)
        title = "regions: the superpixels" if clusters is None else f"regions, K = {clusters}"
        return {"regions": region_picture(list(rows), title)}

    def _see(self, module: R2O, images: NDArray[np.int64]) -> _Seen:
        networks = module.networks
        device = next(module.parameters()).device
        whole = normalize(
            [self._whole(i) for i in images],
            device,
            mean=networks.online.encoder.mean,
            std=networks.online.encoder.std,
            channels_last=self.config.channels_last,
        )
        labels = self._labels(images).to(device)
        with eval_mode(module):
            last = networks.online.encoder(whole).float()
            # regions, as the heads' BatchNorms have counted them; whole images are another kind
            projections = networks.online.projector(_segment_rows(last, labels))
            early = networks.target.encoder.intermediate(whole)
        return _Seen(last.mean(dim=(2, 3)), projections, segment_features(early, labels))

    def _cluster(self, segments: Tensor, clusters: int) -> Tensor:
        """Here every process is on its own: scope `image` asks none of the others."""
        draw = [generator(self.seed, "looks", "clusters")]
        if self.config.method.scope == "image":
            draw = [generator(self.seed, "looks", "clusters", i) for i in range(len(segments))]
            return cluster_segments(segments, clusters, draw, scope="image")
        flat = segments.reshape(1, -1, segments.shape[2])
        return cluster_segments(flat, clusters, draw, scope="image").view(segments.shape[:2])

    def _labels(self, images: Sequence[int] | NDArray[np.int64]) -> Tensor:
        maps = [self.store.read(int(i)).astype(np.int64) for i in images]
        return torch.from_numpy(np.stack(maps))

    def _whole(self, image: int) -> Pixels:
        return spanning_view(read_again(self.store, int(image)), self.config.views.size)


def _segment_rows(features: Tensor, labels: Tensor) -> Tensor:
    """Mean features of the segments that are there: `(n, C, h, w)`, `(n, S, S)` to `(R, C)`."""
    shares = cell_shares(labels, count_segments(labels), (features.shape[2], features.shape[3]))
    masks = shares.flatten(2)
    return pool(features.flatten(2), masks)[masks.sum(dim=2) > MIN_AREA]
