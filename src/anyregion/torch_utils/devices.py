"""The device that torch models run on, checked before anything is loaded. Needs torch."""

from __future__ import annotations

import torch

from anyregion.errors import InputError


def available_devices() -> list[str]:
    """What torch can compute on here: `cpu`, `cuda:0`, ..., `mps`."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*devices, "mps"] if torch.backends.mps.is_available() else devices


def check_device(device: str | torch.device) -> torch.device:
    """The device, once it has taken a tensor.

    Raises:
        InputError: torch cannot compute on it here; says on what it can.
    """
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
        # the meta device takes anything, and computes nothing
        if checked.type != "meta":
            return checked
    # an unknown name, no such card, a driver that is missing, a torch built without it
    except (RuntimeError, AssertionError, TypeError):
        pass
    offered = ", ".join(available_devices())
    raise InputError(f"device {str(device)!r} cannot be used: torch offers {offered} here")
