"""From settings to R2O's task: images, label maps, networks."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from anyregion.backbones.encoder import Encoder
from anyregion.backbones.loading import build_encoder
from anyregion.errors import InputError
from anyregion.r2o.adapting import freeze_stages, hold_norms
from anyregion.r2o.label_store.image_list import list_images
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.method import R2O, batch_statistics
from anyregion.r2o.model import Networks
from anyregion.r2o.training.config import R2OConfig
from anyregion.r2o.training.task import ONE_VALUE, R2OTask
from anyregion.torch_utils.devices import check_device
from anyregion.training.config import LoopConfig
from anyregion.training.distributed import own_device
from anyregion.training.seeds import seed_torch
from anyregion.training.sync_batchnorm import convert_sync_batchnorm
from anyregion.vocabulary import Progress


def build(settings: R2OConfig, *, loop: LoopConfig, progress: Progress | None = None) -> R2OTask:
    """Build the task of a pretraining: check settings, build networks, open the label maps.

    Label maps that are not in the cache are computed, which may take hours; everything that can be
    checked without them is checked before.

    Args:
        progress: called with `(images done, images in all)` while label maps are computed.

    Raises:
        InputError: settings that cannot be used, no images, or too many broken ones.
    """
    check_device(own_device(loop.device))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    _check(settings, loop, world)
    images = list_images([data.images for data in settings.data])
    seed_torch(loop.seed, "weights")
    encoder = build_encoder(settings.backbone, size=settings.views.size, weights=settings.start)
    width = encoder.grid(settings.views.size).channels
    freeze_stages(encoder, settings.adapt)
    hold_norms(encoder, settings.adapt)
    _check_rows(encoder, settings, loop, world)
    networks = Networks(
        encoder,
        width=width,
        hidden=settings.heads.hidden,
        out=settings.heads.out,
        anchored=settings.adapt.anchor > 0,
    )
    _freeze_idle(networks)
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    store = LabelStore.open_or_fill(
        Path(settings.cache or "priors"),
        images,
        settings.views.size,
        settings.prior,
        workers=settings.workers or max(1, (os.cpu_count() or 1) // local_processes),
        progress=progress,
    )
    _check_broken(store, settings.max_broken)
    together = settings.sync_norm and world > 1
    if together:
        networks = convert_sync_batchnorm(networks, own_device(loop.device).partition(":")[0])
    module = R2O(networks, settings.method, synchronised=together, adapt=settings.adapt)
    if settings.channels_last:
        module = module.to(memory_format=torch.channels_last)
    return R2OTask(module, store, settings, loop=loop)


def _check(settings: R2OConfig, loop: LoopConfig, world: int) -> None:
    if not settings.data:
        raise InputError("r2o.data: give a folder of images")
    if settings.batch % world:
        raise InputError(
            f"r2o.batch: {settings.batch} images cannot be shared evenly by {world} processes"
        )
    own = settings.batch // world
    if loop.micro_batch is not None and own % loop.micro_batch:
        raise InputError(
            f"micro_batch: {own} images of a process cannot be taken {loop.micro_batch} at a time"
        )
    if loop.ema_decay is not None:
        raise InputError("ema_decay: R2O has a running mean of its own, the target; leave it unset")
    if loop.best is not None:
        raise InputError("best: R2O's figures while it trains judge no backbone; leave it unset")


def _check_rows(encoder: Encoder, settings: R2OConfig, loop: LoopConfig, world: int) -> None:
    """One image at a time will do, unless a BatchNorm that clustering goes through sees one value
    of it per channel. The views are two an image, and so are the rows of the heads."""
    own = loop.micro_batch or settings.batch // world
    if own * (world if settings.sync_norm else 1) > 1:
        return
    blank = torch.zeros(1, 3, settings.views.size, settings.views.size)
    try:
        with torch.no_grad(), batch_statistics(encoder):
            encoder.intermediate(blank)
    except ValueError as error:
        if ONE_VALUE not in str(error):
            raise
        raise InputError(
            f"r2o.batch: one image at a time, of {settings.views.size} pixels, gives the "
            f"BatchNorms of {settings.backbone} a single value per channel. Take two or more at a "
            "time (r2o.batch, micro_batch), or larger views (r2o.views.size)"
        ) from None


def _freeze_idle(networks: Networks) -> None:
    """Biases whose gradient is zero but for rounding: a BatchNorm takes them out again, the
    projector's last one in the predictor. AdamW would make steps of full length of the rounding,
    which two processes do not share with one, and which move all targets together."""
    projector, predictor = networks.online.projector, networks.predictor
    for linear in (projector.hidden, projector.output, predictor.hidden):
        linear.bias.requires_grad_(False)


def _check_broken(store: LabelStore, most: float) -> None:
    total = len(store.usable) + len(store.set_aside)
    if not len(store.usable):
        raise InputError(f"none of {total:,} images can be used: {store.set_aside[0]}")
    share = len(store.set_aside) / total
    if share > most:
        examples = "; ".join(map(str, store.set_aside[:3]))
        raise InputError(
            f"{len(store.set_aside):,} of {total:,} images are unusable ({share:.1%}), more than "
            f"max_broken allows ({most:.1%}): {examples}"
        )
