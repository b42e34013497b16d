"""The region head of `compact` on ONNX Runtime, and the numbers that turn embeddings into scores.

Training pulls regions towards the names it was shown, so that a name it never saw would drown under
them. As in calibrated stacking (Chao et al., ECCV 2016), names that were not trained therefore get
a handicap of up to `gamma`: the more, the less a region is like anything that was trained. What a
name gains and how doubtful a region is are two more numbers at the end of their embeddings, so that
scoring stays a plain product.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anyregion.compact.assets import CALIBRATION, REGION_HEAD, read_asset
from anyregion.compact.region_features import RegionFeatures
from anyregion.errors import CheckpointError
from anyregion.files import atomic_path, writing

Floats = NDArray[np.float32]
# what training writes beside the graph and the calibration, to go on from
CONFIG, WEIGHTS = "namer.json", "namer_weights.safetensors"
README = """# A trained region head of compact

Names regions with anyregion's built-in model, whose frozen parts come with the package:

`anyregion recognize PHOTO --model FOLDER --vocabulary "cat, dog" --regions regions.json`
"""
INPUTS = ("pooled", "conse", "boxes", "memory", "cells", "shape")
# regions that attend to the image together: more take more memory, and no less time
AT_ONCE = 256

# cosine to the nearest trained name: below, a name is new; above, it is a trained one in other
# words. Of COCO's 80 names the nearest other one is at 0.35 in the median, 0.51 at most of 19 in
# 20; "sofa" is at 0.78 of "couch", "television" at 0.97 of "tv".
NEW, SYNONYM = 0.5, 0.8

# cosine of a region to the nearest trained name: above, it is one of those; below, it may be
# anything. Half of COCO's held-out regions of trained classes are above 0.5, a tenth of the others.
DOUBTFUL, SURE = 0.45, 0.65

# length of what is added to a region. Small, so that it does not make all regions alike where they
# are compared with each other (exemplars); large enough for its product with what names gain.
ANCHOR = 0.5
# of a region with that: cosines with names are those of the first 384 numbers, over this
STACKED_LENGTH = float(np.hypot(1, ANCHOR))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the region head needs beside its graph.

    Attributes:
        trained: `(K, 384)` text embeddings of the names it was trained on, of length 1.
        names: those names.
        gamma: what a name unlike all of them gains, in cosine, with a region of no trained class.
        scale, bias: from a cosine to a logit whose sigmoid is the probability that the best name
            is right, fitted on photographs not trained on.
    """

    trained: Floats
    names: tuple[str, ...]
    gamma: float
    scale: float
    bias: float

    def stack_names(self, embeddings: Floats) -> Floats:
        """Names `(n, 384)` of length 1 to `(n, 386)` of length 1: with what new ones gain."""
        # (n,) cosines; without any trained name all are new
        nearest = (embeddings @ self.trained.T).max(axis=1, initial=-1.0)
        new = 1 - np.clip((nearest - NEW) / (SYNONYM - NEW), 0, 1).astype(np.float32)
        gain = (self.gamma / ANCHOR * new)[:, None]  # (n, 1)
        # shortened, so that the length stays 1: scoring does not divide names by theirs
        stacked: Floats = np.concatenate(
            [embeddings * np.sqrt(1 - gain**2), gain, np.zeros_like(gain)], axis=1
        )
        return stacked

    def stack_regions(self, embeddings: Floats) -> Floats:
        """Regions `(n, 384)` of length 1 to `(n, 386)` of length `STACKED_LENGTH`, with doubt."""
        nearest = (embeddings @ self.trained.T).max(axis=1, initial=-1.0)  # (n,) cosines
        sure = np.clip((nearest - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1).astype(np.float32)
        doubt = 1 - sure[:, None]  # (n, 1)
        # the second number is for the length alone: that of names is 0
        ends = ANCHOR * np.concatenate([doubt, np.sqrt(1 - doubt**2)], axis=1)
        stacked: Floats = np.concatenate([embeddings, ends], axis=1)
        return stacked

    def to_bytes(self) -> bytes:
        """As the content of a safetensors file."""
        metadata = {
            "names": self.names,
            "novelty": self.gamma,  # the file format's name of it
            "scale": self.scale,
            "bias": self.bias,
        }
        return save({"trained": self.trained.astype(np.float16)}, {"about": json.dumps(metadata)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """Read what `to_bytes` wrote.

        Raises:
            CheckpointError: damaged, or another kind of file.
        """
        try:
            trained = load(content)["trained"].astype(np.float32)
            # the numpy reader of safetensors does not return the metadata
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            metadata = json.loads(header["__metadata__"]["about"])
            return cls(
                trained=trained,
                names=tuple(str(name) for name in metadata["names"]),
                gamma=float(metadata["novelty"]),
                scale=float(metadata["scale"]),
                bias=float(metadata["bias"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{CALIBRATION}: damaged ({error})") from None


@dataclass(frozen=True, eq=False)
class RegionHead:
    """The graph from region features to embeddings.

    Attributes:
        session: an `onnxruntime.InferenceSession` of what `compact.training` exported.
        calibration: what belongs to the graph.
        digest: SHA-256 of both files.
    """

    session: Any
    calibration: Calibration
    digest: str

    def embed(self, features: RegionFeatures) -> Floats:
        """Embeddings of one image's regions, `(N, 384)`, length 1."""
        # memory, cells and shape are the image's, the same for every part
        inputs = {name: getattr(features, name) for name in INPUTS}
        parts = [np.zeros((0, features.conse.shape[1]), dtype=np.float32)]
        for start in range(0, len(features.pooled), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            by_region = {name: inputs[name][rows] for name in ("pooled", "conse", "boxes")}
            (embeddings,) = self.session.run(["embeddings"], {**inputs, **by_region})
            parts.append(embeddings)
        joined = np.concatenate(parts)  # (N, 384)
        unit: Floats = joined / (np.linalg.norm(joined, axis=1, keepdims=True) + np.float32(1e-7))
        return unit


def copy_region_head(source: Path | None, folder: Path) -> list[str]:
    """Copy a head into another folder, with what training goes on from; the names of its files.

    Args:
        source: a folder as training made it; None for the built-in head.
        folder: made if it is missing.

    Raises:
        AnyRegionError: the folder cannot be written.
        CheckpointError: a file is missing.
    """
    names = [REGION_HEAD, CALIBRATION]
    if source is not None:
        names += [name for name in (CONFIG, WEIGHTS) if (source / name).is_file()]
    with writing(folder):
        for name in names:
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(read_asset(name, source))
    return names
