"""The files of the built-in model, checked against their manifest, and sessions of its graphs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyregion.errors import CheckpointError, InputError

ASSETS = files("anyregion.compact") / "assets"
MANIFEST = "manifest.json"
# the names are older than the terms: folders of trained heads have them too, so they stay
IMAGE_ENCODER = "eyes.onnx"
TEXT_ENCODER = "words.onnx"
TOKENIZER = "tokenizer.json"
CONSE = "bridge.safetensors"
CLASSES = "classes.json"
REGION_HEAD = "namer.onnx"
CALIBRATION = "namer.safetensors"
PROPOSAL_HEAD = "finder.onnx"
POINT_CHOICE = "point_choice.safetensors"
RANKINGS = "rankings.json"
MASK_HEAD = "mask_head.onnx"
# features of regions that the region head was trained on, for trainings that begin at it
KEPT_REGIONS = "kept_regions.safetensors"

# the environment variable that states the threads of one operator, for processes that share cores
THREADS = "ANYREGION_THREADS"

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
}


def read_manifest() -> dict[str, Mapping[str, Any]]:
    """Per file its `sha256`, `bytes`, origin and licence.

    Raises:
        CheckpointError: there is no manifest, or it is damaged.
    """
    path = ASSETS / MANIFEST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except OSError:
        raise CheckpointError(f"{path}: missing; install anyregion again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); install anyregion again") from None


def read_asset(name: str, folder: Path | None = None) -> bytes:
    """The content of one file, once its SHA-256 is the manifest's.

    What is checked is what is used: callers build from these bytes and read no file again.

    Args:
        name: one of the names above.
        folder: of a trained region head, in place of the built-in one: not in the manifest.

    Raises:
        CheckpointError: the file is missing, unknown to the manifest, or of another content.
    """
    if folder is not None:
        try:
            return (folder / name).read_bytes()
        except OSError:
            raise CheckpointError(
                f"{folder / name}: missing: not a folder made by training compact"
            ) from None
    entry = read_manifest().get(name)
    if entry is None:
        raise CheckpointError(f"{ASSETS / MANIFEST}: says nothing of {name}")
    path = ASSETS / name
    try:
        content = path.read_bytes()
    except OSError:
        raise CheckpointError(f"{path}: missing; install anyregion again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.get("sha256"):
        raise CheckpointError(
            f"{path}: SHA-256 is {digest[:12]}..., not the manifest's; install anyregion again"
        )
    return content


def asset_fingerprint(files: Sequence[str], *parts: object) -> str:
    """Hash of assets, by the manifest's hashes of them, and of whatever else an answer needs."""
    manifest = read_manifest()
    content = repr([*(manifest[name]["sha256"] for name in files), *parts])
    return f"compact-{hashlib.sha256(content.encode()).hexdigest()[:32]}"


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, which sends nothing: the only place of the package that imports it.

    From 1.29 its wheels look up a vendor's event host and write a device id under `~/.cache`,
    unless `ORT_DISABLE_TELEMETRY` is 1 when it is loaded. A user's own value of it stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # here and not above: importing it takes 45 ms, and not every command needs it
    import onnxruntime

    if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        # where the caller's program had imported it before, the variable came too late
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of their own, which share no other base than Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    kinds = vars(states).values()
    own = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


def start_session(graph: bytes, *, threads: int | None, device: str) -> Any:
    """An `onnxruntime.InferenceSession` of a graph.

    Args:
        threads: for one operator; None for what the environment variable `THREADS` says, and else
            leaves it to ONNX Runtime (all cores).
        device: `cpu`, or what the installed ONNX Runtime was built for (`cuda`, `cuda:1`, `mps`).

    Raises:
        InputError: this ONNX Runtime cannot use the device.
        CheckpointError: no graph that ONNX Runtime can run.
    """
    ort = import_onnxruntime()
    kind, _, number = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider not in ort.get_available_providers() or not (number or "0").isdigit():
        raise InputError(
            f"{device!r} is not there: the ONNX Runtime installed here offers "
            f"{', '.join(k for k, p in _PROVIDERS.items() if p in ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    # idle threads that wait in a busy loop take a third more of the processor, and no less time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is None and os.environ.get(THREADS, "").isdigit():
        threads = int(os.environ[THREADS])
    if threads is not None:
        options.intra_op_num_threads = threads
    settings = {"device_id": number} if number else {}
    # the CPU takes the operators that another provider does not have
    providers: Sequence[Any] = [(provider, settings), (_PROVIDERS["cpu"], {})]
    try:
        return ort.InferenceSession(
            graph, options, providers=providers[: 1 if kind == "cpu" else 2]
        )
    except runtime_errors() as error:
        raise CheckpointError(f"not a graph that ONNX Runtime can run ({error})") from None
