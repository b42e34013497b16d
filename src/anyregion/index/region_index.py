"""`RegionIndex`: an index that is whole, opened to be named, searched and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from anyregion import factory
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.index.manifest import IndexManifest, shard_paths
from anyregion.index.shards import IndexedImage, ShardPaths, read_blocks, read_images
from anyregion.index.sources import ImageReader
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEncoder
from anyregion.scoring import AnswerModel, Score


@dataclass(eq=False)
class StoredRules:
    """`ScoringRules` of an encoder without the encoder: what processes that score are given."""

    name: str
    logit_scale: float
    logit_bias: float
    default_score: Score
    answers: AnswerModel | None

    @classmethod
    def of(cls, encoder: RegionEncoder) -> StoredRules:
        """The rules of an encoder."""
        return cls(
            encoder.name,
            encoder.logit_scale,
            encoder.logit_bias,
            encoder.default_score,
            getattr(encoder, "answers", None),
        )


@dataclass(frozen=True, eq=False)
class RegionIndex:
    """An index whose shards are all there.

    Attributes:
        folder: where it lies.
        manifest: what it states.
    """

    folder: Path
    manifest: IndexManifest

    @classmethod
    def open(cls, folder: str | Path) -> RegionIndex:
        """Open an index.

        Raises:
            InputError: no index, a damaged one, or one that is not finished.
        """
        folder = Path(folder)
        manifest = IndexManifest.load(folder)
        fingerprint = manifest.fingerprint
        missing = sum(
            not shard_paths(folder, n).is_whole(fingerprint) for n in range(manifest.shards)
        )
        if missing:
            raise InputError(
                f"{folder}: {missing} of {manifest.shards} shards are not there yet: the same "
                "`anyregion index` command goes on"
            )
        return cls(folder, manifest)

    def __len__(self) -> int:
        """How many shards there are."""
        return self.manifest.shards

    @property
    def proposed(self) -> bool:
        """Whether its regions were found, not stated."""
        return "proposer" in self.manifest.models

    def paths(self, number: int) -> ShardPaths:
        """The files of one shard."""
        return shard_paths(self.folder, number)

    def images(self, number: int) -> list[IndexedImage]:
        """The images of one shard, those in quarantine too."""
        return read_images(self.paths(number))

    def blocks(self, number: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of one shard's regions; see `read_blocks`."""
        return read_blocks(self.paths(number), columns)

    def load_recognizer(self, device: str = "cpu") -> Recognizer:
        """The model that made the index; it reads names, and no image of the index.

        Raises:
            InputError: a program made the index with a model of its own, or the weights are others.
        """
        arguments = self.manifest.model
        if arguments is None:
            raise InputError(
                f"{self.folder}: made by a program with a model of its own: give that model"
            )
        recognizer = factory.load_recognizer(**arguments, device=device)
        self.check(recognizer)
        return recognizer

    def require_features(self) -> None:
        """Refuse an index without what taught vocabularies need.

        Raises:
            InputError: it has none.
        """
        if not self.manifest.settings["features"]:
            raise InputError(
                f"{self.folder}: a taught vocabulary needs more of each region than its "
                "embedding: index with --features"
            )

    def check(self, recognizer: Recognizer) -> None:
        """Refuse another model than the index's.

        Raises:
            InputError: it is another one.
        """
        encoder, stated = recognizer.encoder, self.manifest.models
        models = {"words": encoder.text.fingerprint, "encoder": encoder.fingerprint}
        changes = [f"{k} {stated[k]}, here {v}" for k, v in models.items() if stated[k] != v]
        if changes:
            raise InputError(
                f"{self.folder}: its regions were seen by other weights ({'; '.join(changes)}); "
                "index anew"
            )

    def pixels(self, image: IndexedImage) -> Pixels:
        """Read one of its images.

        Raises:
            InputError: it is not there any more, or has changed.
        """
        return read_image(_reader().read(image.image))


@lru_cache(maxsize=1)
def _reader() -> ImageReader:
    """One for all: containers stay open."""
    return ImageReader()


def row_starts(images: Sequence[IndexedImage]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the regions of each image of a shard start among its rows, and where the last end."""
    return np.cumsum([0, *(image.regions for image in images)], dtype=np.int64)
