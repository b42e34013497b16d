"""One step of R2O: regions from the target network, then both views of each are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anyregion.errors import InputError
from anyregion.r2o.collectives import summed
from anyregion.r2o.losses import mask_weights, shared_masks, similarity_losses
from anyregion.r2o.masks import align_masks
from anyregion.r2o.model import Networks
from anyregion.r2o.refinement import RegionMasks, Scope, refine
from anyregion.r2o.segments import pool


@dataclass(frozen=True)
class MethodConfig:
    """How a step goes.

    Attributes:
        scope: segments are clustered over the whole `batch` (published) or in each `image`.
        weights: masks count `equal`, or by their `area` in the two views.
        mask_stride: pixels of the input to one of the masks' (published: 224 / 56).
        published: the published code's behaviour where it departs from the paper: absent segments
            enter k-means as zero rows, label maps are mixed and truncated, RoIAlign is half a
            cell off, empty masks enter the heads' BatchNorm, and the clustering pass enters the
            target's. Only for comparison with published numbers.
    """

    scope: Scope = "batch"
    weights: Literal["equal", "area"] = "equal"
    mask_stride: int = 4
    published: bool = False

    def __post_init__(self) -> None:
        if self.scope not in ("batch", "image"):
            raise InputError(f"method.scope: {self.scope!r} is not batch or image")
        if self.weights not in ("equal", "area"):
            raise InputError(f"method.weights: {self.weights!r} is not equal or area")
        if self.mask_stride < 1:
            raise InputError(f"method.mask_stride must be at least 1, not {self.mask_stride}")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came of two views. `R` masks are compared, each in both views.

    Attributes:
        image: `(R,)` position of each mask's image in the batch.
        projected: `(2, R, D)` online projections of the masks in view 1 and view 2.
        predicted: `(2, R, D)` what the online network predicts from them.
        wanted: `(2, R, D)` target projections of the same masks in view 2 and view 1.
        losses: `(R,)` mean of both directions.
        weights: `(R,)` what each counts; to be divided by their sum.
        areas: `(2, B, K)` of all masks in view 1 and view 2, in cells.
    """

    image: Tensor
    projected: Tensor
    predicted: Tensor
    wanted: Tensor
    losses: Tensor
    weights: Tensor
    areas: Tensor


class R2O(nn.Module):
    """The networks, and what a step does with them. Fixed superpixels (DetCon-like), one mask per
    image (BYOL), a fixed number of regions and a reversed curriculum are calls of the same.

    BatchNorms of the online network count the views of each step, those of the target its views;
    neither is averaged into the other. The clustering pass uses the whole images' own statistics
    and leaves no trace in them.

    Args:
        networks: online, target, predictor.
        config: how.
        synchronised: whether the BatchNorms count over all processes.
    """

    def __init__(
        self,
        networks: Networks,
        config: MethodConfig | None = None,
        *,
        synchronised: bool = False,
    ) -> None:
        super().__init__()
        self.networks = networks
        self.config = config or MethodConfig()
        self.synchronised = synchronised

    def forward(
        self,
        views: Tensor,
        whole: Tensor,
        labels: Tensor,
        boxes: Tensor,
        flipped: Tensor,
        *,
        clusters: int | None,
        seeds: Sequence[int],
        momentum: float | None,
    ) -> dict[str, Tensor]:
        """Losses and figures of each image, `(B,)` each; their mean is the batch's.

        Args:
            views: `(2 B, 3, S, S)` normalised: view 1 of all images, then view 2.
            whole: `(B, 3, S, S)` normalised: the spanning views.
            labels: `(B, S, S)` int64 superpixels of the spanning views, ids from 0.
            boxes: `(2 B, 4)` the views' crops: top, left, bottom, right as fractions.
            flipped: `(2 B,)` bool.
            clusters: how many regions; None for the superpixels themselves.
            seeds: for k-means: one for scope `batch`, one an image for `image`.
            momentum: of the target, which follows before its forward pass; None leaves it as it is
                (the later parts of an accumulated step).
        """
        regions = self.find_regions(whole, labels, clusters, seeds)
        found = self.compare(views, regions.masks, boxes, flipped, momentum)
        return self._per_image(found, len(whole))

    @torch.no_grad()
    def find_regions(
        self, whole: Tensor, labels: Tensor, clusters: int | None, seeds: Sequence[int]
    ) -> RegionMasks:
        """The regions of whole images, by the target network as it is. See `forward`."""
        config = self.config
        size = tuple(max(side // config.mask_stride, 1) for side in whole.shape[-2:])
        if clusters is None:
            features = whole  # not read
        else:
            target = self.networks.target.encoder
            with nullcontext() if config.published else uncounted(target):
                features = target.intermediate(whole)
        with torch.autocast(whole.device.type, enabled=False):
            return refine(
                features,
                labels,
                clusters,
                [np.random.default_rng(seed) for seed in seeds],
                (size[0], size[1]),
                scope=config.scope,
                published=config.published,
            )

    def compare(
        self,
        views: Tensor,
        masks: Tensor,
        boxes: Tensor,
        flipped: Tensor,
        momentum: float | None,
    ) -> Comparison:
        """Online networks, target's update, target networks, losses. See `forward`."""
        networks, published = self.networks, self.config.published
        features = networks.online.encoder(views)
        grid = (features.shape[2], features.shape[3])
        aligned = torch.cat(
            [
                align_masks(masks, box, flip, grid, published=published)
                for box, flip in zip(boxes.chunk(2), flipped.chunk(2), strict=True)
            ]
        )
        areas = aligned.sum(dim=2).view(2, *masks.shape[:2])
        kept = shared_masks(areas[0], areas[1])
        if published:
            kept = torch.ones_like(kept)
        weights = mask_weights(
            areas[0], areas[1], by_area=self.config.weights == "area", shared_only=True
        )[kept]
        if momentum is not None:
            # whatever there is to compare: the targets of all processes stay the same
            networks.follow(momentum)
        rows = _rows(features, aligned, kept)
        if not self._any(rows.shape[1]):
            return self._nothing(kept, areas)
        projected = networks.online.projector(rows.flatten(0, 1))
        predicted = networks.predictor(projected)
        with torch.no_grad():
            swapped = torch.cat(views.chunk(2)[::-1])
            theirs = _rows(
                networks.target.encoder(swapped), torch.cat(aligned.chunk(2)[::-1]), kept
            )
            wanted = networks.target.projector(theirs.flatten(0, 1))
        losses = similarity_losses(predicted, wanted).view(2, -1).mean(dim=0)
        return Comparison(
            image=kept.nonzero()[:, 0],
            projected=projected.view(2, -1, projected.shape[1]),
            predicted=predicted.view(2, -1, predicted.shape[1]),
            wanted=wanted.view(2, -1, wanted.shape[1]),
            losses=losses,
            weights=weights,
            areas=areas,
        )

    def _any(self, rows: int) -> bool:
        """Whether the heads have rows to count: in some process, if they count together."""
        if not self.synchronised:
            return rows > 0
        device = next(self.parameters()).device
        return bool(summed(torch.tensor([float(rows)], device=device)) > 0)

    def _nothing(self, kept: Tensor, areas: Tensor) -> Comparison:
        """No mask in both views: a loss of zero that back-propagates to every parameter."""
        learned = [*self.networks.online.parameters(), *self.networks.predictor.parameters()]
        zero = torch.stack([p.sum() * 0 for p in learned]).sum()
        none = zero.expand(2, 0, self.networks.predictor.output.out_features)
        rows = kept.new_zeros(0, dtype=torch.int64)
        return Comparison(
            rows, none, none, none.detach(), zero.expand(1), areas.new_zeros(1), areas
        )

    def _per_image(self, found: Comparison, images: int) -> dict[str, Tensor]:
        shared = shared_masks(found.areas[0], found.areas[1]).sum(dim=1).float()
        total, count = found.weights.sum(), shared.new_tensor(float(images))
        total, count = summed(torch.stack([total, count])).unbind()
        losses = found.losses.new_zeros(images)
        if len(found.image):
            scale = count / total.clamp(min=torch.finfo(total.dtype).tiny)
            losses = losses.index_add(0, found.image, found.losses * found.weights * scale)
        else:
            losses = losses + found.losses.sum()
        spread = _spread(found.projected.detach().flatten(0, 1))
        return {"loss": losses, "shared_masks": shared, "spread": spread.expand(images)}


@contextmanager
def uncounted(module: nn.Module) -> Iterator[None]:
    """BatchNorms go by the batch's own statistics, and do not count it."""
    counting = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in counting:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in counting:
            norm.track_running_stats = True


def _spread(rows: Tensor) -> Tensor:
    """Standard deviation of unit rows of all processes, times the root of their width: 1 where
    they point everywhere, 0 where all are alike, or there are none. `(R, D)` to a scalar."""
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    totals = summed(torch.cat([unit.sum(dim=0), unit.new_tensor([float(len(unit))])]))
    count = totals[-1].clamp(min=1)
    variance = summed((unit - totals[:-1] / count).square().sum(dim=0)) / count
    spread: Tensor = variance.sqrt().mean() * unit.shape[1] ** 0.5
    return spread


def _rows(features: Tensor, aligned: Tensor, kept: Tensor) -> Tensor:
    """`(2 B, C, h, w)` and `(2 B, K, P)` to the kept masks' mean features `(2, R, C)`."""
    # most of the batch's K regions lie in no view of an image: pooled are as many as any image
    # keeps, the kept ones first and in their order
    most = int(kept.sum(dim=1).max())
    first = kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    both = first.repeat(2, 1)[:, :, None].expand(-1, -1, aligned.shape[2])
    with torch.autocast(features.device.type, enabled=False):
        pooled = pool(features.float().flatten(2), aligned.gather(1, both))
    return pooled.view(2, len(kept), *pooled.shape[1:])[:, kept.gather(1, first)]
