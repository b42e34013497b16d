"""`TaughtVocabulary`: names with words, corrections and what was learnt from them, in one file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anyregion.errors import InputError
from anyregion.files import atomic_path, writing
from anyregion.model_card import ModelCard, package_versions
from anyregion.teaching.classifier import LeftOut, TaughtClassifier
from anyregion.teaching.corrections import CorrectedImage, Corrections
from anyregion.teaching.familiarity import Familiarity
from anyregion.teaching.mixing import Mixing
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

FORMAT = "anyregion.taught/1"
_KEY = "anyregion_taught"


@dataclass(frozen=True, eq=False)
class TaughtVocabulary(EncodedVocabulary):
    """An encoded vocabulary that was taught by corrections (`Teacher` makes it).

    It goes wherever a vocabulary goes. Without any correction it is its words.

    Attributes:
        corrections: the corrected regions, with their features.
        left_out: what is said of each by a fit that has not seen its image; None without any.
        card: origin, licence and terms, and the versions that wrote it.
        folders: where the images lay that it was taught from, for a training that needs them again.
    """

    corrections: Corrections | None = None
    left_out: LeftOut | None = None
    card: ModelCard = field(default_factory=ModelCard)
    folders: tuple[str, ...] = ()

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many examples each name has, `(C,)`."""
        labels = np.zeros(0, np.int64) if self.corrections is None else self.corrections.labels
        return np.bincount(labels[labels >= 0], minlength=len(self.vocabulary.names))

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(n,)`, positions of the corrections' names; the number of names: none of these."""
        labels = np.zeros(0, np.int64) if self.corrections is None else self.corrections.labels
        return np.where(labels < 0, len(self.vocabulary.names), labels)

    def at_precision(self, precision: float) -> TaughtVocabulary:
        """The same, refusing answers so that of each name's others this share is right.

        Raises:
            InputError: a precision that is no share, or no corrections to tell it by.
        """
        if not isinstance(self.classifier, TaughtClassifier) or self.left_out is None:
            raise InputError("a precision is told by corrections, and this vocabulary has none")
        classifier = self.classifier.at_precision(self.left_out, self.labels, precision)
        return replace(self, classifier=classifier)

    def save(self, path: str | Path, *, private: bool = False) -> None:
        """Write one safetensors file, from which `load` and `Teacher` go on without any image.

        Raises:
            AnyRegionError: it cannot be written.
        """
        names = self.vocabulary
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "names": names.names,
            "synonyms": names.synonyms,
            "templates": names.templates,
            "ids": names.ids,
            "cleaning": names.cleaning,
            "unreadable": self.unreadable,
            "model": self.model,
            "regions": self.regions,
            "counts": self.counts.tolist(),
            "folders": self.folders,
            "card": asdict(replace(self.card, versions=package_versions())),
        }
        tensors: dict[str, NDArray[Any]] = {"matrix": self.matrix}
        corrections, classifier = self.corrections, self.classifier
        if corrections is not None and isinstance(classifier, TaughtClassifier):
            assert self.left_out is not None  # every classifier comes with its answers
            metadata |= {
                "layout": corrections.layout,
                "images": [astuple(image) for image in corrections.images],
                "ids_of_regions": corrections.ids,
                "keys_of_regions": corrections.keys,
                "familiarity": [classifier.familiarity.threshold, classifier.familiarity.unit],
                "mixing": asdict(classifier.mixing),
            }
            tensors |= {
                "rows": corrections.rows,
                "embeddings": corrections.embeddings,
                "labels": corrections.labels,
                "image_of": corrections.image_of,
                "boxes": corrections.boxes,
                "weights": classifier.weights,
                "shown": classifier.shown,
                # rows of the corrections, which need not be there twice
                "landmarks": classifier.landmark_rows,
                "left_out": self.left_out.probabilities,
            }
            if classifier.familiarity.direction is not None:
                tensors["familiar"] = classifier.familiarity.direction
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        text = json.dumps(metadata | {"sha256": _digest(metadata, tensors)})
        with writing(Path(path)), atomic_path(Path(path), private=private) as temporary:
            temporary.write_bytes(save(tensors, metadata={_KEY: text}))

    @classmethod
    def load(cls, path: str | Path, *, hash_required: bool = True) -> TaughtVocabulary:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, not a taught vocabulary, or one that was damaged.
        """
        del hash_required  # there always is one
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path}: of another format than {FORMAT}; teach it again")
            if metadata.pop("sha256") != _digest(metadata, tensors):
                raise InputError(f"{path}: damaged or changed: its content has another hash")
            return cls._from_parts(metadata, tensors)
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
        except (SafetensorError, LookupError, TypeError, AttributeError, ValueError,
                RecursionError, OSError) as error:  # fmt: skip
            if isinstance(error, (SafetensorError, OSError)):
                reason = str(error)
            elif is_taught(path):
                reason = f"malformed, or of another version; teach it again: {error}"
            else:
                reason = "safetensors, but not of `anyregion teach`"
            raise InputError(f"{path}: not a taught vocabulary ({reason})") from None

    @classmethod
    def _from_parts(
        cls, metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> TaughtVocabulary:
        _check_parts(metadata, tensors)
        templates = metadata["templates"]
        vocabulary = Vocabulary(
            names=tuple(metadata["names"]),
            synonyms=tuple(tuple(words) for words in metadata["synonyms"]),
            templates=None if templates is None else tuple(templates),
            ids=tuple(metadata["ids"]),
            cleaning=metadata["cleaning"],
        )
        taught = cls(
            vocabulary,
            tensors["matrix"],
            str(metadata["model"]),
            tuple(metadata["unreadable"]),
            metadata["regions"],
            card=ModelCard(**metadata["card"]),
            folders=tuple(map(str, metadata.get("folders", ()))),
        )
        if "layout" not in metadata:
            return taught
        corrections = Corrections(
            layout=tuple((str(name), int(width)) for name, width in metadata["layout"]),
            rows=tensors["rows"],
            embeddings=tensors["embeddings"],
            labels=tensors["labels"],
            images=tuple(
                CorrectedImage(name, digest, (int(size[0]), int(size[1])))
                for name, digest, size in metadata["images"]
            ),
            image_of=tensors["image_of"],
            boxes=tensors["boxes"],
            ids=tuple(metadata["ids_of_regions"]),
            keys=tuple(metadata["keys_of_regions"]),
        )
        threshold, unit = map(float, metadata["familiarity"])
        familiarity = Familiarity(threshold, unit, tensors.get("familiar"))
        classifier = TaughtClassifier(
            layout=corrections.layout,
            weights=tensors["weights"],
            shown=tensors["shown"],
            counts=np.array(metadata["counts"], dtype=np.int64),
            landmark_rows=tensors["landmarks"],
            landmarks=corrections.rows[tensors["landmarks"]].astype(np.float32),
            familiarity=familiarity,
            mixing=Mixing(**metadata["mixing"]),
        )
        return replace(
            taught,
            classifier=classifier,
            corrections=corrections,
            left_out=LeftOut(tensors["left_out"]),
        )


def is_taught(path: str | Path) -> bool:
    """Whether a safetensors file holds a taught vocabulary."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _check_parts(metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
    """Refuse parts that do not fit each other, or are not finite, though their hash is right."""
    names = len(metadata["names"])
    # per tensor its kind, its shape (-1: any), and from where to where whole numbers may go
    parts: dict[str, tuple[str, tuple[int, ...], tuple[int, int] | None]]
    parts = {"matrix": ("f", (names, -1), None)}
    if "layout" in metadata:
        count, features = len(metadata["ids_of_regions"]), sum(w for _, w in metadata["layout"])
        shown, images = tensors["shown"].size, len(metadata["images"])
        if (len(metadata["keys_of_regions"]), len(metadata["counts"])) != (count, names):
            raise InputError("keys or counts of another number of regions or names")
        parts |= {
            "rows": ("f", (count, features), None),
            "embeddings": ("f", (count, -1), None),
            "labels": ("i", (count,), (-1, names - 1)),
            "image_of": ("i", (count,), (0, images - 1)),
            "weights": ("f", (features, shown), None),
            "shown": ("i", (shown,), (0, names)),
            "landmarks": ("i", (-1,), (0, count - 1)),
            "left_out": ("f", (count, names + 1), None),
        }
        parts |= {"familiar": ("f", (features,), None)} if "familiar" in tensors else {}
        if tensors["boxes"].shape != (count, 4):  # NaN where a region has no box
            raise InputError(f"boxes of shape {tensors['boxes'].shape} for {count} regions")
    for name, (kind, shape, bounds) in parts.items():
        values = tensors[name]
        fits = values.ndim == len(shape) and all(
            s in (-1, v) for s, v in zip(shape, values.shape, strict=True)
        )
        if values.dtype.kind != kind or not fits:
            raise InputError(f"{name} is {values.dtype} of shape {values.shape}, not {shape}")
        if bounds is None and not np.isfinite(values).all():
            raise InputError(f"{name} has numbers that are not finite")
        if bounds and values.size and not bounds[0] <= values.min() <= values.max() <= bounds[1]:
            raise InputError(f"{name} lies outside {bounds[0]} to {bounds[1]}")


def _digest(metadata: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of all that is in the file."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        digest.update(repr((name, values.dtype.str, values.shape)).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
