"""The forward pass of R2O: regions from the target network, then the loss of two views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import roi_align

from anyregion.errors import InputError
from anyregion.r2o.adapting import AdaptConfig, anchor_losses, hold_norms
from anyregion.r2o.collectives import summed
from anyregion.r2o.model import Networks
from anyregion.r2o.refinement import RegionMasks, Scope, mask_pool, refine


@dataclass(frozen=True)
class MethodConfig:
    """Options of the forward pass.

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
    """Embeddings and losses of two views. `R` masks are compared, each in both views.

    Attributes:
        image: `(R,)` position of each mask's image in the batch.
        projected: `(2, R, D)` online projections of the masks in view 1 and view 2.
        predicted: `(2, R, D)` what the online network predicts from them.
        targets: `(2, R, D)` target projections of the same masks in view 2 and view 1.
        losses: `(R,)` mean of both directions.
        weights: `(R,)` of the losses; to be divided by their sum.
        areas: `(2, B, K)` of all masks in view 1 and view 2, in cells.
        features: `(2 B, C, h, w)` of the online encoder, view 1 of all images, then view 2.
    """

    image: Tensor
    projected: Tensor
    predicted: Tensor
    targets: Tensor
    losses: Tensor
    weights: Tensor
    areas: Tensor
    features: Tensor


class R2O(nn.Module):
    """The networks and their forward pass. Fixed superpixels (DetCon-like), one mask per
    image (BYOL), a fixed number of regions and a reversed curriculum are calls of the same.

    BatchNorms of the online network count the views of each step, those of the target its views;
    neither is averaged into the other. The clustering pass uses the whole images' own statistics
    and leaves no trace in them.

    Args:
        synchronised: whether the BatchNorms count over all processes.
        adapt: what of a start is kept.
    """

    def __init__(
        self,
        networks: Networks,
        config: MethodConfig | None = None,
        *,
        synchronised: bool = False,
        adapt: AdaptConfig | None = None,
    ) -> None:
        super().__init__()
        self.networks = networks
        self.config = config or MethodConfig()
        self.synchronised = synchronised
        self.adapt = adapt or AdaptConfig()
        self.train(self.training)

    def train(self, mode: bool = True) -> R2O:
        """Training or evaluation mode; BatchNorms that keep their statistics stay in the latter."""
        super().train(mode)
        for branch in (self.networks.online, self.networks.target):
            hold_norms(branch.encoder, self.adapt)
        if self.networks.start is not None:
            self.networks.start.eval()
        return self

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
        comparison = self.compare(views, regions.masks, boxes, flipped, momentum)
        areas, weights = comparison.areas, comparison.weights
        shared = shared_masks(areas[0], areas[1]).sum(dim=1).float()  # (B,)
        total, count = weights.sum(), shared.new_tensor(float(len(whole)))
        total, count = summed(torch.stack([total, count])).unbind()
        losses = comparison.losses.new_zeros(len(whole))
        if len(comparison.image):
            scale = count / total.clamp(min=torch.finfo(total.dtype).tiny)
            losses = losses.index_add(0, comparison.image, comparison.losses * weights * scale)
        else:
            losses = losses + comparison.losses.sum()
        # standard deviation of unit rows of all processes, times the root of their width: 1 where
        # they point everywhere, 0 where all are alike, or there are none
        unit = F.normalize(comparison.projected.detach().flatten(0, 1).float(), dim=1)  # (2 R, D)
        sums = summed(torch.cat([unit.sum(dim=0), unit.new_tensor([float(len(unit))])]))
        rows = sums[-1].clamp(min=1)
        variance = summed((unit - sums[:-1] / rows).square().sum(dim=0)) / rows  # (D,)
        spread = variance.sqrt().mean() * unit.shape[1] ** 0.5
        figures = {"shared_masks": shared, "spread": spread.expand(len(whole))}
        if (start := self.networks.start) is not None:
            with torch.no_grad():
                kept = start(views)  # (2 B, C, h, w)
            anchor = anchor_losses(comparison.features, kept, on=self.adapt.anchor_on)  # (B,)
            losses = losses + self.adapt.anchor * anchor
            figures["anchor"] = anchor
        return {"loss": losses, **figures}

    @torch.no_grad()
    def find_regions(
        self, whole: Tensor, labels: Tensor, clusters: int | None, seeds: Sequence[int]
    ) -> RegionMasks:
        """The regions of whole images, by the target network as it is. See `forward`."""
        config = self.config
        size = tuple(max(side // config.mask_stride, 1) for side in whole.shape[-2:])  # (H, W)
        if clusters is None:
            features = whole  # only a placeholder: the superpixels themselves are the regions
        else:
            target = self.networks.target.encoder
            with nullcontext() if config.published else batch_statistics(target):
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
        self, views: Tensor, masks: Tensor, boxes: Tensor, flipped: Tensor, momentum: float | None
    ) -> Comparison:
        """Online networks, target's update, target networks, losses. See `forward`."""
        networks, published = self.networks, self.config.published
        features = networks.online.encoder(views)  # (2 B, C, h, w)
        grid = (features.shape[2], features.shape[3])
        aligned = torch.cat(
            [
                align_masks(masks, box, flip, grid, published=published)
                for box, flip in zip(boxes.chunk(2), flipped.chunk(2), strict=True)
            ]
        )
        areas = aligned.sum(dim=2).view(2, *masks.shape[:2])  # (2, B, K)
        # masks that leave a view would enter BatchNorm as rows of zeros (12 to 43 % of them)
        compared = shared_masks(areas[0], areas[1])
        if published:
            compared = torch.ones_like(compared)
        weights = mask_weights(
            areas[0], areas[1], by_area=self.config.weights == "area", shared_only=True
        )[compared]
        if momentum is not None:
            # also where nothing is compared: the targets of all processes stay the same
            networks.update_target(momentum)
        rows = _mask_features(features, aligned, compared)  # (2, R, C)
        # the heads' BatchNorms need rows: in any process, where they are synchronised
        count = areas.new_tensor(float(rows.shape[1]))
        if not bool((summed(count) if self.synchronised else count) > 0):
            return self._empty(areas, features)
        projected = networks.online.projector(rows.flatten(0, 1))
        predicted = networks.predictor(projected)
        with torch.no_grad():
            # view 1 predicts view 2 and the reverse: the halves change places
            swapped = torch.cat(views.chunk(2)[::-1])
            target_rows = _mask_features(
                networks.target.encoder(swapped), torch.cat(aligned.chunk(2)[::-1]), compared
            )
            targets = networks.target.projector(target_rows.flatten(0, 1))  # (2 R, D)
        losses = similarity_losses(predicted, targets).view(2, -1).mean(dim=0)  # (R,)
        return Comparison(
            image=compared.nonzero()[:, 0],
            projected=projected.view(2, -1, projected.shape[1]),
            predicted=predicted.view(2, -1, predicted.shape[1]),
            targets=targets.view(2, -1, targets.shape[1]),
            losses=losses,
            weights=weights,
            areas=areas,
            features=features,
        )

    def _empty(self, areas: Tensor, features: Tensor) -> Comparison:
        """No mask lies in both views: a loss of zero that back-propagates to every parameter."""
        learned = [*self.networks.online.parameters(), *self.networks.predictor.parameters()]
        zero = torch.stack([p.sum() * 0 for p in learned]).sum()
        none = zero.expand(2, 0, self.networks.predictor.output.out_features)
        image = areas.new_zeros(0, dtype=torch.int64)
        return Comparison(
            image, none, none, none.detach(), zero.expand(1), areas.new_zeros(1), areas, features
        )


def align_masks(
    masks: Tensor, boxes: Tensor, flipped: Tensor, grid: tuple[int, int], *, published: bool = False
) -> Tensor:
    """RoIAlign of each view's crop to the encoder's output grid, mirrored where the view is.

    Args:
        masks: `(B, K, H, W)` of the whole images.
        boxes, flipped: `(B, 4)` and `(B,)`, as `R2O.forward` takes them.
        grid: rows and columns of the encoder's output.
        published: leave the half pixel out by which RoIAlign was off at first (`aligned=False`).

    Returns:
        `(B, K, rows * columns)`: how much of each cell a mask covers, 0 to 1.
    """
    height, width = masks.shape[-2:]
    scale = boxes.new_tensor([height, width, height, width])
    corners = (boxes * scale)[:, [1, 0, 3, 2]]  # (B, 4) xyxy, in cells of the masks
    rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None], corners], dim=1)
    aligned: Tensor = roi_align(
        masks, rois.to(masks.dtype), grid, spatial_scale=1.0, sampling_ratio=-1,
        aligned=not published,
    )  # fmt: skip
    # (B, K, h, w); the crop is not mirrored, so its mask is where the view is
    aligned = torch.where(flipped[:, None, None, None], aligned.flip(-1), aligned)
    return aligned.flatten(2)


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorms use the statistics of the batch, and leave their running ones as they are."""
    tracking = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


def _mask_features(features: Tensor, aligned: Tensor, compared: Tensor) -> Tensor:
    """Mean features of the compared masks: `(2 B, C, h, w)` and `(2 B, K, P)` to `(2, R, C)`."""
    # most of the batch's K regions lie in no view of an image: pooled are as many as any image
    # compares, those first and in their order
    most = int(compared.sum(dim=1).max())
    first = compared.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, most)
    both = first.repeat(2, 1)[:, :, None].expand(-1, -1, aligned.shape[2])  # (2 B, most, P)
    with torch.autocast(features.device.type, enabled=False):
        pooled = mask_pool(features.float().flatten(2), aligned.gather(1, both))  # (2 B, most, C)
    return pooled.view(2, len(compared), *pooled.shape[1:])[:, compared.gather(1, first)]


# a mask counts in a view where it covers more than this, summed over the cells (published)
MIN_AREA = 1e-3


def similarity_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """`|p/|p| - t/|t||^2` of each row, 0 to 4 (BYOL's loss). `(R, D)` and `(R, D)` to `(R,)`."""
    difference = F.normalize(predicted.float(), dim=-1) - F.normalize(targets.float(), dim=-1)
    return difference.square().sum(dim=-1)  # equal to 2 - 2 cos


def shared_masks(areas1: Tensor, areas2: Tensor) -> Tensor:
    """Whether a mask lies in both views. `(B, K)` areas of each, in cells, to `(B, K)` bool."""
    return (areas1 > MIN_AREA) & (areas2 > MIN_AREA)


def mask_weights(areas1: Tensor, areas2: Tensor, *, by_area: bool, shared_only: bool) -> Tensor:
    """The weight of each mask's loss, `(B, K)`, to be divided by its sum.

    Args:
        areas1, areas2: `(B, K)` sums of a mask over the cells of each view.
        by_area: a mask weighs as much as its area in the two views together; else all alike.
        shared_only: masks that are not in both views weigh nothing.
    """
    weights = areas1 + areas2 if by_area else areas1.new_ones(areas1.shape)
    return weights * shared_masks(areas1, areas2) if shared_only else weights
