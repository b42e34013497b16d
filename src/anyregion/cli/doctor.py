"""`anyregion doctor`: packages, devices and caches, and whether the built-in model works."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import sys
import time
from importlib.util import find_spec
from typing import Any

import numpy as np

import anyregion
from anyregion import factory
from anyregion.cli import terminal
from anyregion.cli.exit_codes import FAILED, FINE
from anyregion.errors import AnyRegionError, package_version
from anyregion.files import cache_folder
from anyregion.regions import Regions

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([\w,-]+)\])?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what this installation is made of; exit code 1 if the core does not work."""
    report = examine()
    if args.json:
        print(json.dumps(report))
    else:
        terminal.fields(_lines(report))
    return FINE if report["works"] else FAILED


def examine() -> dict[str, Any]:
    """Look at packages, devices and caches, and name one region with the built-in model.

    Returns:
        As JSON: versions of the core's and the extras' `packages` (None where one is missing), by
        extra the packages it still lacks, devices, caches, `model` (`ok` and the seconds it took,
        or what is wrong with it), and whether the core `works`.
    """
    core, extras = _requirements()
    listed = dict.fromkeys([*core, *(p for packages in extras.values() for p in packages)])
    versions = {name: package_version(name) for name in listed}
    complete = all(versions[name] for name in core)
    works, model = _try_model() if complete else (False, "not tried: the core is not complete")
    cache = cache_folder()
    # the cache may not have been made yet
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    return {
        "version": anyregion.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {platform.machine()}",
        "packages": versions,
        "extras": {e: [p for p in extras[e] if versions[p] is None] for e in extras},
        "onnxruntime": _providers(),
        "torch_devices": _torch_devices(),
        "cache": str(cache),
        "cache_bytes": sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()),
        "free_bytes": shutil.disk_usage(existing).free,
        "model": model,
        "works": works,
    }


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """As (name, value) to print."""
    packages: dict[str, str | None] = report["packages"]
    lacks: dict[str, list[str]] = report["extras"]
    return [
        ("anyregion", report["version"]),
        ("python", report["python"]),
        ("system", report["system"]),
        ("built-in model", report["model"]),
        *((name, version or "missing") for name, version in packages.items()),
        *((f"extra [{e}]", f"lacks {', '.join(p)}" if p else "complete") for e, p in lacks.items()),
        ("onnxruntime providers", ", ".join(report["onnxruntime"]) or "none"),
        ("torch devices", ", ".join(report["torch_devices"]) or "none (torch is not installed)"),
        ("cache", f"{report['cache']} ({report['cache_bytes'] / 1e6:,.0f} MB)"),
        ("free disk", f"{report['free_bytes'] / 1e6:,.0f} MB"),
    ]


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Packages of the core, and of each extra (extras within extras resolved)."""
    core: list[str] = []
    extras: dict[str, list[str]] = {}
    within: dict[str, list[str]] = {}
    # lines of the installed distribution: `numpy>=1.26`, `torch>=2.4; extra == "torch"`, and, of
    # extras within extras, `anyregion[torch]; extra == "train"`
    for line in importlib.metadata.requires("anyregion") or []:
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        name, nested = match.groups()
        marker = _EXTRA.search(line)
        if marker is None:
            core.append(name)
        elif name == "anyregion":
            within.setdefault(marker[1], []).extend((nested or "").split(","))
        else:
            extras.setdefault(marker[1], []).append(name)
    direct = {extra: list(packages) for extra, packages in extras.items()}
    for extra, others in within.items():
        nested_packages = (p for other in others for p in direct.get(other, []))
        extras[extra] = [*nested_packages, *direct.get(extra, [])]
    return core, extras


def _try_model() -> tuple[bool, str]:
    """Whether the built-in model names a region, and the seconds it took or what is wrong."""
    # the assets are verified as they are loaded; one prediction shows that the runtime works
    started = time.perf_counter()
    pixels = np.full((64, 64, 3), 127, dtype=np.uint8)
    try:
        recognizer = factory.load_recognizer(cache=None)
        regions = Regions.from_boxes([[8, 8, 56, 56]])
        recognizer.recognize([pixels], [regions], ["dog", "cat"])
    except (AnyRegionError, ImportError, OSError, RuntimeError) as error:
        return False, f"broken: {error}"
    return True, f"ok ({time.perf_counter() - started:.2f} s to load and answer)"


def _providers() -> list[str]:
    if find_spec("onnxruntime") is None:
        return []
    from anyregion.compact.assets import import_onnxruntime

    return [str(name) for name in import_onnxruntime().get_available_providers()]


def _torch_devices() -> list[str]:
    if find_spec("torch") is None:
        return []
    from anyregion.torch_utils.devices import available_devices

    return available_devices()
