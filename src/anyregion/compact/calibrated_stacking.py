"""Words among which some were trained: names unlike all of those get a handicap in return.

Training pulls regions towards the names it was shown, so that a name it never saw would drown
under them. New names therefore gain: the more, the less a region is like anything that was trained.
What a name gains and how doubtful a region is are carried by two more numbers at the end of their
embeddings, so that scoring stays a plain product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.text_encoder import CompactTextEncoder

Floats = NDArray[np.float32]

# cosine to the nearest trained name: below, a name is new; above, it is a trained one in other
# words. Of COCO's 80 names the nearest other one is at 0.35 in the median, 0.51 at most of 19 in
# 20; "sofa" is at 0.78 of "couch", "television" at 0.97 of "tv".
NEW, KNOWN = 0.5, 0.8

# cosine of a region to the nearest trained name: above, it is one of those; below, it may be
# anything. Half of COCO's held-out regions of trained classes are above 0.5, a tenth of the others.
DOUBTFUL, SURE = 0.45, 0.65

ANCHOR = 0.5
"""Length of what is added to a region. Small, so that it does not make all regions alike where they
are compared with each other (exemplars); large enough for its product with what names gain."""

LENGTH = float(np.hypot(1, ANCHOR))
"""Of an stack_regions region: cosines with names are those of the first 384 numbers, over this."""


@dataclass(frozen=True, eq=False)
class CalibratedTextEncoder:
    """A `TextEncoder` over `CompactTextEncoder` that knows which names were trained.

    Attributes:
        words: the text model, in the centred space.
        trained: `(K, 384)` embeddings of the trained names, of length 1.
        novelty: what a wholly new name gains, in cosine, with a region of no trained class.
    """

    words: CompactTextEncoder
    trained: Floats
    novelty: float

    @property
    def templates(self) -> tuple[str, ...]:
        """As `CompactTextEncoder`."""
        return self.words.templates

    @cached_property
    def fingerprint(self) -> str:
        """Of the text model, the trained names and the handicap."""
        content = [self.words.fingerprint, self.novelty, NEW, KNOWN]
        digest = hashlib.sha256(repr(content).encode() + self.trained.tobytes())
        return f"compact-{digest.hexdigest()[:16]}"

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, `(len(texts), 386)` float32, length 1; see `stack_names`."""
        return stack_names(self.words.encode_text(texts), self.trained, self.novelty)

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """As `CompactTextEncoder`."""
        return self.words.unreadable(texts)


def stack_names(embeddings: Floats, trained: Floats, novelty: float) -> Floats:
    """Names `(n, 384)` of length 1 to `(n, 386)` of length 1: with what new ones gain."""
    new = 1 - _ramp(embeddings, trained, NEW, KNOWN)
    gain = (novelty / ANCHOR * new)[:, None]
    out: Floats = np.concatenate(
        [embeddings * np.sqrt(1 - gain**2), gain, np.zeros_like(gain)], axis=1
    )
    return out


def stack_regions(embeddings: Floats, trained: Floats) -> Floats:
    """Regions `(n, 384)` of length 1 to `(n, 386)` of length `LENGTH`: how doubtful they are."""
    doubt = 1 - _ramp(embeddings, trained, DOUBTFUL, SURE)[:, None]
    # the second number is there for the length alone: that of names is 0
    ends = ANCHOR * np.concatenate([doubt, np.sqrt(1 - doubt**2)], axis=1)
    out: Floats = np.concatenate([embeddings, ends], axis=1)
    return out


def _ramp(embeddings: Floats, trained: Floats, low: float, high: float) -> Floats:
    """Cosine to the nearest trained name, `(n,)`: 0 up to `low`, 1 from `high` on."""
    nearest = (embeddings @ trained.T).max(axis=1, initial=-1.0)
    ramp: Floats = np.clip((nearest - low) / (high - low), 0, 1).astype(np.float32)
    return ramp
