"""Arithmetic that does not depend on how the caller trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32: a label must not depend on how the caller trains."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _full_products():
        yield


@contextmanager
def _full_products() -> Iterator[None]:
    if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    # by library, which can be read and put back whichever way the caller set it
    mkldnn: Any = torch.backends.mkldnn
    libraries = (torch.backends.cuda.matmul, mkldnn.matmul)
    held = [library.fp32_precision for library in libraries]
    try:
        for library in libraries:
            library.fp32_precision = "ieee"
        yield
    finally:
        for library, precision in zip(libraries, held, strict=True):
            library.fp32_precision = precision
