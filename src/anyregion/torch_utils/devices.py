"""The device and the precision that torch models run in, checked before anything is loaded.

Needs torch.
"""

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


def resolve_dtype(name: str, device: str | torch.device) -> torch.dtype:
    """The precision of a name on a device.

    Args:
        name: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device computes in it
            itself, else float32.
        device: as `check_device` takes it.

    Raises:
        InputError: an unknown name, or a device that is not here.
    """
    checked = check_device(device)
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(checked) else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise InputError(f"dtype {name!r}: there are auto, {', '.join(dtypes)}")
    return dtypes[name]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 have instructions of their own there: emulated ones are slow."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False  # MPS: never measured
    # older versions of torch do not say what a processor has
    read = getattr(torch.cpu, "get_capabilities", None)
    capabilities: dict[str, object] = read() if read is not None else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
