"""Whether all processes see the same images: they share the work by positions in a list."""

from __future__ import annotations

import zlib

import torch
import torch.distributed as dist

from anyregion.errors import InputError
from anyregion.r2o.label_store.store import LabelStore


def check_same_images(store: LabelStore, device: torch.device) -> None:
    """Hold the usable images of all processes against each other; with one process nothing.

    Raises:
        InputError: they differ (in all processes, so that none waits for another).
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    names = zlib.crc32(store.images.name_bytes, zlib.crc32(store.usable.tobytes()))
    own = torch.tensor([len(store.usable), names], dtype=torch.int64, device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    if any(not torch.equal(each, own) for each in found):
        counts = ", ".join(f"{int(each[0]):,}" for each in found)
        raise InputError(
            f"the processes see different images ({counts} usable ones): a file server may lag, or "
            "files are changed just now. Start again when it has settled"
        )
