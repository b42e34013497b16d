"""The training task of R2O: the images of every step, their views, the losses."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.backbones.encoder import normalize
from anyregion.backbones.loading import save_encoder
from anyregion.data.samplers import EpochSampler
from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.r2o.adapting import rate_scales
from anyregion.r2o.augmentations import View, make_views, spanning_view
from anyregion.r2o.curriculum import clusters_at, rate_scale, target_momentum
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.method import R2O
from anyregion.r2o.training.config import R2OConfig
from anyregion.r2o.training.monitor import METRICS, Monitor, reread_image
from anyregion.training.config import LoopConfig
from anyregion.training.seeds import generator
from anyregion.training.task import Task

# what torch says where a BatchNorm has no batch: an image alone, of one cell
ONE_VALUE = "more than 1 value per channel"
# steps: running statistics then forget the first step's to 0.9^50, half a percent
_SETTLED = 50


@dataclass(frozen=True)
class R2OItem:
    """One image of a step: its position in the label store, and its number in the whole run."""

    image: int
    # among all images drawn: the seed of its views
    draw: int


@dataclass(frozen=True, eq=False)
class R2OExample:
    """The two views, the spanning view and the superpixels `(S, S)` of an `R2OItem`."""

    views: tuple[View, View]
    whole: Pixels
    labels: NDArray[np.unsignedinteger]
    draw: int


class R2OTask(Task):
    """Pretrains an encoder. See `training.task.Task`.

    `loop` are the loop's settings as they were given; `on_fit_start` completes them.
    """

    metrics = METRICS

    def __init__(
        self, module: R2O, store: LabelStore, config: R2OConfig, *, loop: LoopConfig
    ) -> None:
        self.module: nn.Module = module
        self.r2o, self.store, self.config, self.seed = module, store, config, loop.seed
        self.usable = np.asarray(store.usable)
        self.epoch_images = config.epoch_images or len(self.usable)
        self._agreed = False
        self._sampler = EpochSampler(np.ones(len(self.usable)), loop.seed)
        self.steps = self.on_fit_start(loop).steps
        self._step = self._part = 0
        self.monitor = Monitor(store, config, seed=loop.seed)
        self.set_aside = (*store.set_aside, *store.images.passed_over)

    def notes(self, *, trained: bool = False) -> Sequence[str]:
        """See `Task`."""
        notes, store, batch = [], self.store, self.config.batch
        if trained:
            warning = (
                f"warning: {store.recomputed:,} damaged label maps were computed again. "
                f"Without {store.folder} the next run makes all of them anew"
            )
            return [warning] if store.recomputed else []
        if self.set_aside:
            total = len(store) + len(store.images.passed_over)
            notes.append(
                f"{len(self.set_aside):,} of {total:,} images are set aside: {self.set_aside[0]}"
            )
        if self.epoch_images != len(self.usable):
            notes.append(
                f"an epoch counts {self.epoch_images:,} images, as when the run began, of "
                f"{len(self.usable):,} that can be used now"
            )
        if len(self.usable) < batch:
            notes.append(
                f"a step takes {batch:,} images and there are {len(self.usable):,}: "
                f"{self.config.epochs:g} epochs of them are {self.steps:,} steps. A smaller "
                "r2o.batch, or more epochs, trains longer"
            )
        return notes

    def on_fit_start(self, config: LoopConfig) -> LoopConfig:
        """See `Task`: what counts in epochs becomes steps."""
        own = self.config
        epoch = self.epoch_images / own.batch

        def steps(epochs: float) -> int:
            return max(1, int(epochs * epoch))

        lr = config.optimizer.lr
        if own.base_batch is not None:
            lr *= own.batch / own.base_batch
        monitor_steps = steps(own.look_epochs)
        return replace(
            config,
            steps=steps(own.epochs),
            checkpoint_every=steps(own.checkpoint_epochs),
            validate_every=monitor_steps,
            samples_every=monitor_steps if own.shown else 0,
            optimizer=replace(config.optimizer, lr=lr),
            schedule=replace(config.schedule, warmup_steps=int(own.warmup_epochs * epoch)),
        )

    def clusters(self, step: int) -> int | None:
        """Number of regions at `step`; None for the superpixels themselves."""
        epoch = step * self.config.batch / self.epoch_images
        if self.config.method.published:  # whole epochs only
            epoch = int(epoch)
        return clusters_at(self.config.curriculum, epoch, epochs=self.config.epochs)

    def on_step_start(self, step: int) -> float:
        """See `Task`."""
        if not self._agreed:
            check_same_images(self.store, next(self.module.parameters()).device)
            self._agreed = True
        self._step, self._part = step, 0
        return rate_scale(self.clusters(step), per=self.config.rate_per)

    def rate_scales(self) -> Mapping[str, float]:
        """See `Task`: those of the backbone; the heads learn at the whole rate."""
        scales = rate_scales(self.r2o.networks.online.encoder, self.config.adapt)
        return {f"networks.online.encoder.{name}": scale for name, scale in scales.items()}

    def plan(self, step: int) -> list[R2OItem]:
        """See `Task`."""
        batch = self.config.batch
        positions = self._sampler.draw(step * batch, batch)
        return [
            R2OItem(int(self.usable[position]), step * batch + place)
            for place, position in enumerate(positions)
        ]

    def load(self, item: R2OItem) -> R2OExample:
        """See `Task`."""
        pixels = reread_image(self.store, item.image)
        views = make_views(pixels, self.config.views, generator(self.seed, "views", item.draw))
        whole = spanning_view(pixels, self.config.views.size)
        return R2OExample(views, whole, self.store.read(item.image), item.draw)

    def losses(self, module: nn.Module, examples: Sequence[R2OExample]) -> dict[str, Tensor]:
        """See `Task`. `shared_masks` are the masks that lie in both views; `spread`, how far
        apart projections are, of the whole part."""
        device = next(self.module.parameters()).device
        views = [e.views[side] for side in (0, 1) for e in examples]
        encoder = self.r2o.networks.online.encoder
        view_pixels, whole_pixels = (
            normalize(
                pixels,
                device,
                mean=encoder.mean,
                std=encoder.std,
                channels_last=self.config.channels_last,
            )
            for pixels in ([v.pixels for v in views], [e.whole for e in examples])
        )
        first, self._part = self._part == 0, self._part + 1
        # k-means starts from the image's own draw, or from the step's and its part's (from 1)
        keys = (
            [(e.draw,) for e in examples]
            if self.config.method.scope == "image"
            else [(self._step, self._part)]
        )
        seeds = [int(generator(self.seed, "clusters", *k).integers(2**63)) for k in keys]
        labels = torch.from_numpy(np.stack([e.labels for e in examples]).astype(np.int64))
        try:
            losses: dict[str, Tensor] = module(
                view_pixels,
                whole_pixels,
                labels.to(device),
                torch.from_numpy(np.stack([v.box for v in views])).to(device),
                torch.tensor([v.flipped for v in views], device=device),
                clusters=self.clusters(self._step),
                seeds=seeds,
                momentum=(
                    target_momentum(self._step, self.steps, self.config.momentum) if first else None
                ),
            )
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            # `build` has seen to it that steps can be taken
            raise InputError(
                f"step {self._step}: the gradient is not finite, and of which image cannot be "
                f"told, since views of {self.config.views.size} pixels are too small to run one "
                "alone. Larger views (r2o.views.size), precision fp32, or a lower learning rate"
            ) from None
        return losses

    def describe(self, item: R2OItem) -> str:
        """See `Task`."""
        return self.store.images.name(item.image)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Collapse metrics; see `Task`. They judge no backbone: for that there is
        `anyregion evaluate`."""
        return self.monitor.metrics(self.r2o, self.clusters(self._step))

    def advise(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """See `Task`. Nothing before the BatchNorms have counted enough."""
        return self.monitor.advise(metrics) if self._step >= _SETTLED else []

    def pictures(self, module: nn.Module) -> Mapping[str, Pixels]:
        """See `Task`."""
        return self.monitor.pictures(self.r2o, self.clusters(self._step))

    def save(self, module: nn.Module, folder: Path) -> None:
        """A folder for `backbones.loading.load_encoder`. See `Task`."""
        networks = self.r2o.networks
        branch = networks.online if self.config.keep == "online" else networks.target
        save_encoder(
            branch.encoder, folder, method="R2O", keep=self.config.keep, size=self.config.views.size
        )

    def card(self) -> Mapping[str, str]:
        """See `Task`."""
        config = self.config
        broken = len(self.store.set_aside)
        return {
            **{f"data: {data.images}": f"terms: {data.terms}" for data in config.data},
            "images": f"{len(self.usable):,} of all data ({broken:,} set aside)",
            "backbone": f"{config.backbone}, from {config.start or 'random weights'}",
            "prior": ", ".join(f"{k} {v}" for k, v in config.prior.describe().items()),
            "epochs": f"{config.epochs}",
        }


def check_same_images(store: LabelStore, device: torch.device) -> None:
    """Check that all processes use the same images: they share the work by positions in a list.

    Raises:
        InputError: they differ (in all processes, so that none waits for another).
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    names = zlib.crc32(store.images.name_bytes, zlib.crc32(store.usable.tobytes()))
    local = torch.tensor([len(store.usable), names], dtype=torch.int64, device=device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    if any(not torch.equal(digest, local) for digest in gathered):
        counts = ", ".join(f"{int(digest[0]):,}" for digest in gathered)
        raise InputError(
            f"the processes see different images ({counts} usable ones): a file server may lag, or "
            "files are changed just now. Start again when it has settled"
        )
