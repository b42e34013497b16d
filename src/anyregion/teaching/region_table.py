"""`RegionTable`: the regions of many images as a model sees them, whatever they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anyregion.files import atomic_path, writing
from anyregion.region_encoder import RegionEmbeddings, RegionEncoder
from anyregion.regions import Boxes, Regions
from anyregion.teaching.classifier import word_probabilities
from anyregion.teaching.corrections import CorrectedImage
from anyregion.teaching.features import feature_rows
from anyregion.teaching.teacher import Teacher
from anyregion.vocabulary import EncodedVocabulary

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Labels = NDArray[np.int64]

SAME_PIXELS = 0.05
"""How near two boxes of one region are: one that comes back from a file was rounded."""
_KEY = "anyregion_regions"
_FEATURE = "feature "
# rows that are turned into single precision together
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class RegionTable:
    """Regions of many images, with all that teaching and naming need of them; no pixels.

    Attributes:
        embeddings: `(N, E)` float16, in the space of the words.
        features: `{name: (N, F)}` float16; empty where these are the embeddings alone.
        boxes: `(N, 4)`, xyxy in pixels.
        categories: `(N,)`, the category that a file states; -1 where it states none.
        ids: the callers' ids of the regions.
        images: the images.
        image_of: `(N,)`, positions in `images`.
    """

    embeddings: Halves
    features: Mapping[str, Halves]
    boxes: Boxes
    categories: Labels
    ids: tuple[int | str, ...]
    images: tuple[CorrectedImage, ...]
    image_of: Labels = field(repr=False)

    def __len__(self) -> int:
        return len(self.image_of)

    @classmethod
    def from_images(
        cls, parts: Sequence[tuple[CorrectedImage, Regions, RegionEmbeddings]]
    ) -> RegionTable:
        """From each image's regions and what the encoder made of them, one row a region."""
        names = list(parts[0][2].features or {}) if parts else []
        columns: dict[str, NDArray[np.float16]] = {}
        for name in names:
            values = [(e.features or {})[name].astype(np.float16) for _, _, e in parts]
            columns[name] = np.concatenate(values)
        return cls(
            embeddings=np.concatenate([e.embeddings.astype(np.float16) for _, _, e in parts]),
            features=columns,
            boxes=np.concatenate([e.boxes for _, _, e in parts]),
            categories=np.concatenate(
                [np.full(len(r), -1) if r.categories is None else r.categories for _, r, _ in parts]
            ),
            ids=tuple(i for _, r, _ in parts for i in r.ids),
            images=tuple(image for image, _, _ in parts),
            image_of=np.repeat(np.arange(len(parts)), [len(r) for _, r, _ in parts]),
        )

    def select(self, rows: NDArray[np.integer[Any]]) -> RegionTable:
        """Some rows; the images stay."""
        return replace(
            self,
            embeddings=self.embeddings[rows],
            features={name: values[rows] for name, values in self.features.items()},
            boxes=self.boxes[rows],
            categories=self.categories[rows],
            ids=tuple(self.ids[i] for i in rows),
            image_of=self.image_of[rows],
        )

    def find(self, digest: str, boxes: Boxes) -> Labels:
        """The rows of an image's regions with these boxes, `(M,)`; -1 where there is none.

        Args:
            digest: of the image.
            boxes: `(M, 4)`; nothing has the box NaN of a point.
        """
        rows = self._rows_of.get(digest, np.zeros(0, dtype=np.int64))
        if not len(rows) or not len(boxes):
            return np.full(len(boxes), -1)
        apart = np.abs(self.boxes[rows][None] - boxes[:, None]).max(axis=2)  # (M, n)
        apart = np.nan_to_num(apart, nan=np.inf)
        return np.where(apart.min(axis=1) <= SAME_PIXELS, rows[apart.argmin(axis=1)], -1)

    @cached_property
    def _rows_of(self) -> Mapping[str, Labels]:
        """The rows of each image, by its digest."""
        digests = np.array([image.digest for image in self.images])[self.image_of]
        order = np.argsort(digests, kind="stable")
        names, starts = np.unique(digests[order], return_index=True)
        return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))

    def embedded(self, rows: NDArray[np.integer[Any]]) -> RegionEmbeddings:
        """Some rows as an encoder gives them, in single precision."""
        features = {name: values[rows].astype(np.float32) for name, values in self.features.items()}
        embeddings = self.embeddings[rows].astype(np.float32)
        return RegionEmbeddings(embeddings, self.boxes[rows], features=features or None)

    def rows(self) -> Floats:
        """The rows of features that classifiers learn from, `(N, F)`; see `feature_rows`."""
        parts = [(at, feature_rows(self.embedded(at), size).rows) for at, size in self._by_size()]
        rows = np.empty((len(self), parts[0][1].shape[1] if parts else 0), dtype=np.float32)
        for at, part in parts:
            # what corrections hold, too
            rows[at] = part.astype(np.float16)
        return rows

    def probabilities(
        self, encoder: RegionEncoder, vocabulary: EncodedVocabulary
    ) -> NDArray[np.float64]:
        """Of each name, and last of "none of these", `(N, C + 1)`; of words, if it is not taught.

        Args:
            encoder: what embedded the regions.
            vocabulary: taught or not.
        """
        probabilities = np.zeros((len(self), len(vocabulary.matrix) + 1))
        for at, size in self._by_size():
            embedded, matrix = self.embedded(at), vocabulary.matrix
            if vocabulary.classifier is None:
                probabilities[at] = word_probabilities(encoder, embedded.embeddings, matrix)
                continue
            answers = vocabulary.classifier.answer(encoder, embedded, matrix, size, None)
            probabilities[at, :-1] = answers.probabilities
            probabilities[at, -1] = answers.none
        return probabilities

    def teach(
        self,
        teacher: Teacher,
        rows: NDArray[np.integer[Any]],
        labels: Sequence[str | None],
    ) -> None:
        """Tell a teacher what some regions are, image by image.

        Args:
            teacher: of the recogniser that embedded them.
            rows: regions that it was not told of; of an image no two with the same box.
            labels: the right name of each; None for none of the names.
        """
        for image in dict.fromkeys(self.image_of[rows].tolist()):
            at = np.flatnonzero(self.image_of[rows] == image)
            of_image = rows[at]
            prompts = Regions.from_boxes(
                self.boxes[of_image], ids=[self.ids[i] for i in of_image.tolist()]
            )
            teacher.add_embedded(
                self.images[image],
                prompts,
                self.embedded(of_image),
                [labels[i] for i in at.tolist()],
            )

    def save(self, path: Path, source: str) -> None:
        """Write one safetensors file.

        Args:
            path: where to.
            source: whatever the content follows from; `load` gives it only to who states the same.

        Raises:
            AnyRegionError: it cannot be written.
        """
        metadata = {
            "source": source,
            "ids": self.ids,
            "images": [astuple(image) for image in self.images],
            # the file sorts its tensors, and rows of features are made in this order
            "features": list(self.features),
        }
        tensors: dict[str, NDArray[Any]] = {
            "embeddings": self.embeddings,
            "boxes": self.boxes,
            "categories": self.categories,
            "image_of": self.image_of,
            **{f"{_FEATURE}{name}": values for name, values in self.features.items()},
        }
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        with writing(path), atomic_path(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={_KEY: json.dumps(metadata)}))

    @classmethod
    def load(cls, path: Path, source: str) -> RegionTable | None:
        """What `save` wrote; None where there is nothing, or something of another source."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})[_KEY])
                if metadata["source"] != source:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                embeddings=tensors["embeddings"],
                features={name: tensors[f"{_FEATURE}{name}"] for name in metadata["features"]},
                boxes=tensors["boxes"],
                categories=tensors["categories"],
                ids=tuple(metadata["ids"]),
                images=tuple(
                    CorrectedImage(name, digest, (int(size[0]), int(size[1])))
                    for name, digest, size in metadata["images"]
                ),
                image_of=tensors["image_of"],
            )
        except (SafetensorError, OSError, LookupError, TypeError, ValueError):
            # nothing is lost: it is computed again
            return None

    def _by_size(self) -> Iterator[tuple[Labels, tuple[int, int]]]:
        """Rows of images of one size, few enough to be handled at once; and that size."""
        sizes = np.array([image.size for image in self.images]).reshape(-1, 2)[self.image_of]
        for size in np.unique(sizes, axis=0):
            rows = np.flatnonzero((sizes == size).all(axis=1))
            for start in range(0, len(rows), _AT_ONCE):
                yield rows[start : start + _AT_ONCE], (int(size[0]), int(size[1]))
