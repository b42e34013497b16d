"""`index.json`: what an index holds, and by which model and settings it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from anyregion.errors import InputError
from anyregion.files import atomic_path, read_json, to_line, writing
from anyregion.index.shards import ShardLayout, ShardPaths

FORMAT = "anyregion.index/2"
MANIFEST, PLAN, QUARANTINE = "index.json", "plan.parquet", "quarantine.jsonl"
SHARDS, LABELS, LOCK = "shards", "labels", "index.lock"


def shard_paths(folder: Path, number: int) -> ShardPaths:
    """The files of one shard of the index in `folder`."""
    return ShardPaths(folder / SHARDS, number)


@dataclass(frozen=True)
class IndexManifest:
    """What `index.json` states.

    Attributes:
        version: of the package that planned the index; another may go on.
        root: the folder that the names of plain files start from.
        settings: whatever changes what is stored; an index with others is not continued.
        model: the arguments of `load_recognizer` that make the model again; None where a program
            made it by itself.
        models: fingerprints by the part of the model.
        layout: the columns.
        images, shards: how many there are.
        bytes: of all images whose size the listing says.
        plan: hash of the plan.
    """

    version: str
    root: str
    settings: Mapping[str, Any]
    model: Mapping[str, Any] | None
    models: Mapping[str, str]
    layout: ShardLayout
    images: int
    shards: int
    bytes: int
    plan: str
    format: str = field(default=FORMAT)

    @cached_property
    def fingerprint(self) -> str:
        """Stated by every shard: changes whenever its content may."""
        layout = (self.layout.width, self.layout.features, self.layout.masks)
        content = (self.format, dict(self.settings), dict(self.models), layout, self.plan)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write it into the folder of the index.

        Raises:
            AnyRegionError: it cannot be written.
        """
        content = {
            "format": self.format,
            "anyregion": self.version,
            "root": self.root,
            "settings": dict(self.settings),
            "model": None if self.model is None else dict(self.model),
            "models": dict(self.models),
            "width": self.layout.width,
            "features": [list(feature) for feature in self.layout.features],
            "masks": self.layout.masks,
            "images": self.images,
            "shards": self.shards,
            "bytes": self.bytes,
            "plan": self.plan,
            "fingerprint": self.fingerprint,
        }
        path = folder / MANIFEST
        with writing(path), atomic_path(path, durable=True) as temporary:
            temporary.write_bytes(to_line(content, indent=2))

    @classmethod
    def load(cls, folder: Path) -> IndexManifest:
        """Read it.

        Raises:
            InputError: no index there, a damaged one, or one of another format.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise InputError(
                f"{folder}: not an index: it has no {MANIFEST} "
                "(`anyregion index PHOTOS --out INDEX` makes one)"
            )
        content = read_json(path)
        try:
            if content["format"] != FORMAT:
                raise InputError(f"{path}: of the format {content['format']}, not {FORMAT}")
            manifest = cls(
                version=str(content["anyregion"]),
                root=str(content["root"]),
                settings=dict(content["settings"]),
                model=None if content["model"] is None else dict(content["model"]),
                models={str(k): str(v) for k, v in content["models"].items()},
                layout=ShardLayout(
                    int(content["width"]),
                    tuple((str(name), int(width)) for name, width in content["features"]),
                    bool(content["masks"]),
                ),
                images=int(content["images"]),
                shards=int(content["shards"]),
                bytes=int(content["bytes"]),
                plan=str(content["plan"]),
            )
            if manifest.fingerprint != content["fingerprint"]:
                raise ValueError("its fingerprint is another's")
            return manifest
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: damaged ({error}); index anew") from None
