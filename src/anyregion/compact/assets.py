"""The files of the built-in model inside the package, checked against their manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from anyregion.errors import CheckpointError

MANIFEST = "manifest.json"


def assets_folder() -> Traversable:
    """Where the installed package keeps the model's files."""
    return files("anyregion.compact") / "assets"


def read_manifest(folder: Traversable | None = None) -> dict[str, Mapping[str, Any]]:
    """Per file its `sha256`, `bytes`, origin and licence.

    Raises:
        CheckpointError: there is no manifest, or it is damaged.
    """
    path = (folder or assets_folder()) / MANIFEST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): dict(entry) for name, entry in entries.items()}
    except OSError:
        raise CheckpointError(f"{path}: missing; install anyregion again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); install anyregion again") from None


def read_asset(name: str, folder: Traversable | None = None) -> bytes:
    """The content of one file, once its SHA-256 is the manifest's.

    What is checked is what is used: callers build from these bytes and read no file again.

    Raises:
        CheckpointError: the file is missing, unknown to the manifest, or of another content.
    """
    folder = folder or assets_folder()
    entry = read_manifest(folder).get(name)
    if entry is None:
        raise CheckpointError(f"{folder / MANIFEST}: says nothing of {name}")
    path = folder / name
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
