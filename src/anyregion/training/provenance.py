"""Where a training ran: for whoever wants to repeat it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import anyregion

_PACKAGES = ("torch", "torchvision", "lightning-fabric", "transformers", "numpy", "safetensors")


def environment() -> dict[str, Any]:
    """Python, packages, processor, cards, threads, processes, and the command."""
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "anyregion": anyregion.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cards": cards,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": list(sys.argv),
    }


def repositories() -> dict[str, Any]:
    """Commit, and whether files differ from it: of the package's code, and of where one stands."""
    places = {"package": Path(anyregion.__file__).parent, "here": Path.cwd()}
    found = {name: _repository(place) for name, place in places.items()}
    return {name: state for name, state in found.items() if state is not None}


def _repository(place: Path) -> dict[str, Any] | None:
    commit = _git(place, "rev-parse", "HEAD")
    status = _git(place, "status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return None
    return {"commit": commit, "dirty": bool(status)}


def _git(place: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(place), *words], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
