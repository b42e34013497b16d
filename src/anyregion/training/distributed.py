"""One process, or the several that `torchrun` started, behind Lightning Fabric."""

from __future__ import annotations

import atexit
import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from anyregion.errors import InputError
from anyregion.torch_utils.devices import check_device
from anyregion.training.config import LoopConfig


def start(config: LoopConfig) -> tuple[Fabric, torch.amp.GradScaler | None]:
    """Join the other processes, if there are any; the scaler is that of fp16, else None.

    Raises:
        InputError: the device cannot be used, or not by several processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    device = check_device(config.device)
    if world > 1 and device.type not in ("cpu", "cuda"):
        raise InputError(f"several processes train on cpu or cuda, not on {device.type}")
    # under torchrun Fabric takes the card of the local rank; alone, the one that was named
    if device.type == "cuda":
        devices: Any = local if world > 1 else [device.index or 0]
    else:
        devices = local
    # fp16 alone needs a scaler: bf16 has the exponents of fp32
    scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
    mixed: Any = {"fp16": "16-mixed", "bf16": "bf16-mixed"}.get(config.precision)
    plugins: list[Any] = [MixedPrecision(mixed, device.type, scaler)] if mixed else []
    with warnings.catch_warnings():
        # Lightning advises to use more of the machine than the settings do
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=max(world // max(local, 1), 1),
            strategy="ddp" if world > 1 else "auto",
            plugins=plugins,
        )
        fabric.launch()
    if world > 1:
        # Fabric leaves Gloo's connections open: their threads, alive at the end, sometimes abort
        atexit.register(_leave)
    return fabric, scaler


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def own_device(device: str) -> str:
    """The device of this process's frozen models: under torchrun `cuda` is a card of its own."""
    # not Fabric's business: frozen models are loaded before it starts
    local = os.environ.get("LOCAL_RANK")
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1 and device.partition(":")[0] == "cuda"
    return f"cuda:{local}" if shared and local is not None else device


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0
