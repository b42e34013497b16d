"""The calibration of `compact`'s region head: what new names gain, and how sure an answer is.

Training pulls regions towards the names it was shown, so that a name it never saw would drown under
them. As in calibrated stacking (Chao et al., ECCV 2016), names that were not trained therefore gain
something in cosine: the more, the less a region is like anything that was trained. How much follows
from the vocabulary: as much as a stated share of held-out regions of trained classes can stand
without being called by a new name. A few new names gain much, hundreds of them nothing.

What a name gains and how doubtful a region is are further numbers at the end of their embeddings,
so that scoring stays a plain product.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anyregion.compact.assets import CALIBRATION
from anyregion.compact.confidence import Confidence, answer_features
from anyregion.compact.conse import WIDTH
from anyregion.errors import CheckpointError

Floats = NDArray[np.float32]

# cosine to the nearest trained name: below, a name is new; above, it is a trained one in other
# words. Of COCO's 80 names the nearest other one is at 0.35 in the median, 0.51 at most of 19 in
# 20; "sofa" is at 0.78 of "couch", "television" at 0.97 of "tv".
NEW, SYNONYM = 0.5, 0.8

# cosine of a region to the nearest trained name: above, it is one of those; below, it may be
# anything. Half of COCO's held-out regions of trained classes are above 0.5, a tenth of the others.
DOUBTFUL, SURE = 0.45, 0.65

# what follows the 384 numbers of a text or a region. A region has its doubt times ANCHOR, and what
# brings that to the length ANCHOR: small, so that it does not make all regions alike where they are
# compared with each other (exemplars). A name has what it gains over ANCHOR, how new it is times
# NEWNESS, and what brings all that to the length REST. The products of the others are 0.
ANCHOR, NEWNESS, REST = 0.5, 0.1, 0.65
GAIN_COLUMN, REGION_COLUMN, NEWNESS_COLUMN = WIDTH, WIDTH + 1, WIDTH + 2
STACKED_WIDTH = WIDTH + 4
# of a region, of a name before it is brought to length 1, and of both together: what cosines of the
# longer embeddings are to be multiplied by
REGION_LENGTH, NAME_LENGTH = float(np.hypot(1, ANCHOR)), float(np.hypot(1, REST))
STACKED_LENGTH = REGION_LENGTH * NAME_LENGTH
HIGHEST_GAIN = 0.3
# a name near the mean training-free answer is near every region: it gains less by so much of that
# cosine. Of 0 to 1.2 the best on splits of COCO's classes (docs/results/compact.md)
HUBNESS = 1.2
# of the shares of names that are not the best: of 10, 15, 20 and 30 the one that gives the right
# name the highest probability on each of eight data sets (those of docs/results/compact.md)
SOFTMAX_SHARPNESS = 10.0
_NAMES_AT_ONCE = 512  # with a thousand known regions a matrix of 2 MB, which stays in the caches


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the region head needs beside its graph.

    Attributes:
        trained: `(K, 384)` text embeddings of the names it was trained on, of length 1.
        names: those names.
        gamma: what a name unlike all of them gains at most, in cosine, with a region of no trained
            class; without `known` it gains just that.
        scale, bias: from a cosine to a logit whose sigmoid is the probability that the best of the
            trained names is right, fitted on photographs not trained on.
        known: `(B, 384)` embeddings of held-out regions of trained classes, which are named rightly
            among the trained names; `B` may be 0.
        typical: `(384,)`, the mean training-free answer to held-out regions.
        cost: share of `known` that may be called by a new name.
        confidence: from an answer to the probability that it is right; None: the sigmoid alone.
        shown: the same, of names that exemplars show; None: as of words.
    """

    trained: Floats
    names: tuple[str, ...]
    gamma: float
    scale: float
    bias: float
    known: Floats = field(default_factory=lambda: np.zeros((0, WIDTH), dtype=np.float32))
    typical: Floats = field(default_factory=lambda: np.zeros(WIDTH, dtype=np.float32))
    cost: float = 0.0
    confidence: Confidence | None = None
    shown: Confidence | None = None

    def newness(self, names: Floats) -> Floats:
        """How unlike all trained names each of `(n, 384)` is, `(n,)` from 0 to 1."""
        # without any trained name all are new
        nearest = (names @ self.trained.T).max(axis=1, initial=-1.0)
        new: Floats = 1 - np.clip((nearest - NEW) / (SYNONYM - NEW), 0, 1).astype(np.float32)
        return new

    def doubt(self, regions: Floats) -> Floats:
        """How unlike all trained names each region of `(n, 384)` is, `(n,)` from 0 to 1."""
        nearest = (regions @ self.trained.T).max(axis=1, initial=-1.0)
        sure = np.clip((nearest - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1).astype(np.float32)
        doubt: Floats = np.float32(1) - sure
        return doubt

    def outside(self, regions: Floats, best: Floats, cosines: Floats) -> Floats:
        """By how much a trained name unlike the best one is nearer to each region, `(n,)` from 0.

        Above 0 where a vocabulary lacks what a region probably shows. Trained names that mean much
        the same as the best one do not count.

        Args:
            regions: `(n, 384)`, length 1.
            best: `(n, 384)`, the best name of each region, length 1.
            cosines: `(n,)` of both, with what the name gains.
        """
        likeness = np.clip((best @ self.trained.T - NEW) / (SYNONYM - NEW), 0, 1)  # (n, K)
        ahead = (1 - likeness) * (regions @ self.trained.T - cosines[:, None])
        outside: Floats = ahead.max(axis=1, initial=0.0).astype(np.float32)
        return outside

    def gains(self, names: Floats, *, newness: Floats | None = None) -> Floats:
        """What each name of a vocabulary `(C, 384)` gains in cosine, `(C,)`, from 0 to `gamma`.

        All names together: the largest gain with which no more than `cost` of the known regions
        change to a new name, less for names that are near every region.

        Args:
            names: `(C, 384)`.
            newness: `(C,)` of these, where it is known already.
        """
        new = self.newness(names) if newness is None else newness
        rows = np.flatnonzero(new > 0)
        if not len(rows) or not len(self.known):
            return new * np.float32(self.gamma)
        hubness = HUBNESS * (names @ self.typical)  # (C,)
        cosines = (self.known @ self.trained.T).max(axis=1)  # (B,)
        doubt = self.doubt(self.known)
        # (B,): a region keeps its name up to this gain; one without doubt keeps it whatever it is
        limits = np.full(len(self.known), np.inf)
        for start in range(0, len(rows), _NAMES_AT_ONCE):
            part = rows[start : start + _NAMES_AT_ONCE]
            ahead = cosines[:, None] - self.known @ names[part].T  # (B, n)
            with np.errstate(divide="ignore"):
                allowed = ahead / (new[part] * doubt[:, None]) + hubness[part]
            # of names and regions that are ahead or behind by nothing that a gain would change
            allowed[doubt == 0] = np.inf
            limits = np.minimum(limits, allowed.min(axis=1))
        gain = np.sort(limits)[int(self.cost * len(limits))]
        gains: Floats = new * np.clip(gain - hubness, 0, self.gamma).astype(np.float32)
        return gains

    def stack_names(self, names: Floats) -> Floats:
        """All names of a vocabulary `(C, 384)` of length 1, with what they gain, `(C, 388)`."""
        newness = self.newness(names)
        gain, new = self.gains(names, newness=newness) / np.float32(ANCHOR), newness * NEWNESS
        rest = np.sqrt(np.maximum(REST**2 - gain**2 - new**2, 0))
        ends = np.stack([gain, np.zeros_like(gain), new, rest], axis=1)  # (C, 4)
        stacked = np.concatenate([names, ends], axis=1) / np.float32(NAME_LENGTH)
        return stacked.astype(np.float32)

    def stack_regions(self, regions: Floats) -> Floats:
        """Regions `(n, 384)` of length 1 to `(n, 388)` of length `REGION_LENGTH`, with doubt."""
        doubt = self.doubt(regions)
        zeros = np.zeros_like(doubt)
        ends = [ANCHOR * doubt, ANCHOR * np.sqrt(1 - doubt**2), zeros, zeros]
        stacked = np.concatenate([regions, np.stack(ends, axis=1)], axis=1)
        return stacked.astype(np.float32)

    def is_shown(self, names: Floats) -> NDArray[np.bool_]:
        """Which rows `(n, 388)` of a vocabulary exemplars have a part in, `(n,)`.

        The numbers behind the embedding have one length for all words (`stack_names`), and regions
        have one that words lack.
        """
        ends = names[:, WIDTH:] * np.float32(NAME_LENGTH)
        words = np.abs(np.linalg.norm(ends, axis=1) - REST) < 1e-3
        shown: NDArray[np.bool_] = ~(words & (ends[:, REGION_COLUMN - WIDTH] == 0))
        return shown

    def to_bytes(self) -> bytes:
        """As the content of a safetensors file."""
        metadata = {
            "names": self.names,
            "novelty": self.gamma,  # the file format's name of it
            "scale": self.scale,
            "bias": self.bias,
            "cost": self.cost,
            "confidence": None if self.confidence is None else asdict(self.confidence),
            "shown": None if self.shown is None else asdict(self.shown),
        }
        arrays = {"trained": self.trained, "known": self.known, "typical": self.typical}
        halves = {name: values.astype(np.float16) for name, values in arrays.items()}
        return save(halves, {"about": json.dumps(metadata)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Calibration:
        """Read what `to_bytes` wrote, now or before there were `known` regions and a `confidence`.

        Raises:
            CheckpointError: damaged, or another kind of file.
        """
        try:
            arrays = {name: a.astype(np.float32) for name, a in load(content).items()}
            # the numpy reader of safetensors does not return the metadata
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            metadata = json.loads(header["__metadata__"]["about"])
            names = tuple(str(name) for name in metadata["names"])
            gamma, scale, bias = (float(metadata[key]) for key in ("novelty", "scale", "bias"))
            confidence, shown = metadata.get("confidence"), metadata.get("shown")
            made = cls(
                arrays["trained"],
                names,
                gamma,
                scale,
                bias,
                known=arrays.get("known", np.zeros((0, WIDTH), dtype=np.float32)),
                typical=arrays.get("typical", np.zeros(WIDTH, dtype=np.float32)),
                cost=float(metadata.get("cost", 0.0)),
                confidence=None if confidence is None else Confidence(**confidence),
                shown=None if shown is None else Confidence(**shown),
            )
            shapes = [made.trained.shape, made.known.shape[1:], made.typical.shape]
            if shapes != [(len(names), WIDTH), (WIDTH,), (WIDTH,)]:
                raise ValueError(f"{len(names)} names and arrays of {shapes}")
            if not all(np.isfinite(values).all() for values in arrays.values()):
                raise ValueError("numbers that are not finite")
            if made.confidence is not None and made.shown is not None:
                # of words and of exemplars one margin is made
                margins = [(c.sharpness, c.none) for c in (made.confidence, made.shown)]
                if margins[0] != margins[1]:
                    raise ValueError(f"confidences of two margins {margins}")
            # of a gain above, a name's length would be no number
            numbers = (gamma, scale, bias, made.cost)
            if not np.isfinite(numbers).all() or not (
                0 <= gamma <= HIGHEST_GAIN and 0 <= made.cost < 1
            ):
                raise ValueError(f"novelty, scale, bias and cost {numbers}")
            return made
        except (SafetensorError, LookupError, ValueError, TypeError, OverflowError,
                AttributeError, RecursionError) as error:  # fmt: skip
            raise CheckpointError(f"{CALIBRATION}: damaged ({error})") from None


class CompactAnswers:
    """`compact`'s `AnswerModel`: what it needs of regions and names is in their embeddings.

    Args:
        calibration: of the region head.
        confidence: of that calibration.
    """

    softmax_scale = SOFTMAX_SHARPNESS * STACKED_LENGTH

    def __init__(self, calibration: Calibration, confidence: Confidence) -> None:
        self.calibration, self.confidence = calibration, confidence
        self.scale = confidence.sharpness * STACKED_LENGTH

    def probabilities(
        self,
        logits: NDArray[np.float32],
        exponentials: NDArray[np.float64],
        *,
        embeddings: NDArray[np.float32],
        matrix: NDArray[np.float32],
        columns: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """See `AnswerModel`."""
        newness = matrix[:, NEWNESS_COLUMN] * np.float32(NAME_LENGTH / NEWNESS)  # (C,)
        best = columns[:, 0]  # (M,)
        sharpness = self.confidence.sharpness
        cosines = logits / np.float32(sharpness)
        features = answer_features(
            cosines,
            exponentials,
            sharpness=sharpness,
            none=self.confidence.none,
            names=len(matrix),
            new_names=float(newness.mean()),
            new=newness[best],
            doubt=embeddings[:, GAIN_COLUMN] / np.float32(ANCHOR),
            outside=self.calibration.outside(
                embeddings[:, :WIDTH], matrix[best, :WIDTH] * np.float32(NAME_LENGTH), cosines[:, 0]
            ),
        )
        probabilities = self.confidence.probabilities(features)
        if self.calibration.shown is not None:
            shown = self.calibration.is_shown(matrix[best])
            probabilities[shown] = self.calibration.shown.probabilities(features[shown])
        return probabilities
