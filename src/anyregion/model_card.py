"""The card of a saved model: licence, terms, origin, versions, and the hashes of its weights.

A model's folder holds it as `card.json`. Weights that differ from their hash are refused, be they
in the folder or, as a RegionSpot's frozen models may be, elsewhere on the machine. A folder without
a card (made before there were any) is opened without this check.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyregion.errors import CheckpointError, package_version
from anyregion.files import read_json, write_json, write_text, writing
from anyregion.vocabulary import Vocabulary

CARD = "card.json"
VOCABULARY = "vocabulary.json"
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
        sha256: by the path of a file or folder, the hash of its content; relative ones are in the
            model's folder.
        fingerprint: a hash of all those.
    """

    licence: str = "not stated"
    terms: str = "not stated"
    origin: str = "not stated"
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    def check(self, folder: Path, name: str) -> None:
        """Refuse a file or folder whose content is not the one that the model was saved with.

        Args:
            folder: the model's.
            name: a path as in `sha256`; what is not listed there is not checked.

        Raises:
            CheckpointError: it is missing, or its hash is another.
        """
        if name not in self.sha256:
            return
        try:
            digest = hash_path(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})") from None
        if digest != self.sha256[name]:
            raise CheckpointError(
                f"{folder / name}: damaged or replaced: its SHA-256 is {digest[:12]}..., not that "
                f"of {CARD}"
            )


def write_card(
    folder: Path,
    card: ModelCard,
    *,
    weights: Sequence[str],
    vocabulary: Vocabulary | None,
    readme: str,
) -> None:
    """Write what tells of a model beside its weights: `card.json`, names, and a README.

    Args:
        folder: the model's; its weights are written already.
        card: licence, terms and origin; versions and hashes are added.
        weights: the paths of its files and folders of weights, see `ModelCard.sha256`.
        vocabulary: the names that the model knows (`vocabulary.json`), or None.
        readme: the README's text, to which the card's lines are added.

    Raises:
        AnyRegionError: something cannot be written.
    """
    with writing(folder):
        # an absolute name stands for itself: Path("a") / "/b" is "/b"
        sha256 = {name: hash_path(folder / name) for name in weights}
        digest = hashlib.sha256(repr(sorted(sha256.values())).encode()).hexdigest()
        card = replace(card, versions=package_versions(), sha256=sha256, fingerprint=digest[:32])
        if vocabulary is not None:
            vocabulary.save(folder / VOCABULARY)
        write_json(folder / CARD, {"format": FORMAT, **asdict(card)}, indent=2)
        versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
        lines = (
            f"Origin: {card.origin}. Licence of the weights: {card.licence}. Terms of the data: "
            f"{card.terms}. Written with {versions}. Fingerprint: `{card.fingerprint}`."
        )
        write_text(folder / "README.md", f"{readme}\n{lines}\n")


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
    # fields of later versions are ignored, those that are missing have their defaults
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
    if not path.is_dir():
        status = path.stat()
        return _hash_file(path, status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path)
        # hidden ones are caches and locks of other tools
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()} {hash_path(file)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _hash_file(path: Path, size: int, changed: int) -> str:
    # a training saves its best module again and again: gigabytes that did not change are read once
    del size, changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """Of Python and of the packages that answers depend on, those that are installed."""
    versions = {"python": platform.python_version()}
    packages = {name: package_version(name) for name in _PACKAGES}
    return versions | {name: version for name, version in packages.items() if version}
