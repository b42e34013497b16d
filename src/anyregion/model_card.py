"""The card of a saved model: licence, terms, origin, versions, and the hashes of its weights.

A model's folder holds it as `card.json`. Weights that differ from their hash are refused, be they
in the folder or, as a RegionSpot's frozen models may be, elsewhere on the machine. A folder without
a card (made before there were any) is opened without this check.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from anyregion.errors import CheckpointError
from anyregion.files import read_json, write_json, writing

CARD = "card.json"
FORMAT = "anyregion.card/1"
_PACKAGES = ("anyregion", "numpy", "onnxruntime", "torch", "torchvision", "transformers")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is to be known of a model's weights.

    Attributes:
        licence: under which they may be used.
        terms: of the data that they were trained on.
        origin: the training, checkpoint or model that they come from.
        versions: of Python and the packages that wrote them.
        sha256: by file or folder, the hash of its content; relative paths are in the model's
            folder, others elsewhere.
        fingerprint: a hash of all those.
    """

    licence: str = "unstated"
    terms: str = "unstated"
    origin: str = "unstated"
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    def check(self, name: str, path: Path) -> None:
        """Raise `CheckpointError` where the weights called `name` are not those of the card."""
        if name in self.sha256 and hash_path(path) != self.sha256[name]:
            raise CheckpointError(
                f"{path}: not the weights that this model was saved with (another SHA-256): "
                "damaged, or replaced"
            )

    def to_markdown(self) -> str:
        """The lines of a README."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"Origin: {self.origin}. Licence of the weights: {self.licence}. Terms of the data: "
            f"{self.terms}.\n\nMade with {versions}. Fingerprint: `{self.fingerprint}`.\n"
        )


def write_card(folder: Path, card: ModelCard, weights: Mapping[str, Path]) -> ModelCard:
    """Write `card.json`: the card with the versions of now and the hashes of the weights.

    Args:
        folder: the model's.
        card: licence, terms and origin.
        weights: files and folders of weights, by the names that the model's folder has for them.

    Raises:
        AnyRegionError: it cannot be written.
    """
    with writing(folder / CARD):
        sha256 = {name: hash_path(path) for name, path in weights.items()}
        card = ModelCard(
            licence=card.licence,
            terms=card.terms,
            origin=card.origin,
            versions=installed_versions(),
            sha256=sha256,
            fingerprint=hashlib.sha256(repr(sorted(sha256.values())).encode()).hexdigest()[:32],
        )
        write_json(folder / CARD, {"format": FORMAT, **asdict(card)}, indent=2)
    return card


def read_card(folder: Path) -> ModelCard | None:
    """The card of a model's folder; None where there is none.

    Raises:
        CheckpointError: damaged, or of another format.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    content: Any = read_json(path)
    names = {f.name for f in fields(ModelCard)}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a model's card ({FORMAT})")
    card = ModelCard(**{name: value for name, value in content.items() if name in names})
    if not isinstance(card.sha256, dict) or not isinstance(card.versions, dict):
        raise CheckpointError(f"{path}: malformed (sha256 and versions must be objects)")
    return card


def hash_path(path: Path) -> str:
    """SHA-256 of a file's content, or of all files of a folder with their names, but hidden ones.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            name = file.relative_to(path)
            if not any(part.startswith(".") for part in name.parts):
                digest.update(f"{name.as_posix()} {hash_path(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def installed_versions() -> dict[str, str]:
    """The versions of Python and of those packages that matter and are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
