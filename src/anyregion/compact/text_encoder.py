"""The text encoder of the built-in model: all-MiniLM-L6-v2 in integers on ONNX Runtime."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import (
    CONSE,
    TEXT_ENCODER,
    TOKENIZER,
    read_asset,
    read_manifest,
    start_session,
)
from anyregion.compact.calibration import (
    ANCHOR,
    HUBNESS,
    NEW,
    NEWNESS,
    REST,
    SYNONYM,
    Calibration,
)
from anyregion.compact.conse import WIDTH, load_conse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]

MAX_PIECES = 256  # what the model was tuned on
# of a batch: 2 texts of the longest kind, some 85 names; larger ones leave the caches
_PIECES_AT_ONCE = 512
# there is a piece for every such character, and a word of up to 100 is split into them if need be
_PLAIN = re.compile("[A-Za-z0-9 ,.'&()/-]{1,100}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CompactTextEncoder:
    """A `TextEncoder` whose embeddings lie in ConSE's centred space.

    The graph and the tokeniser are loaded when the first text comes: a vocabulary from the cache
    needs neither.

    Args:
        calibration: of a region head, to embed what new names gain too; None for texts alone.
        threads, device: see `start_session`.

    Raises:
        CheckpointError: an asset is missing or altered; for graph and tokeniser at first use.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        *,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._calibration = calibration
        self._threads = threads
        self._device = device
        self.templates: tuple[str, ...] = ("a {}",)
        manifest = read_manifest()
        files = (TEXT_ENCODER, TOKENIZER, CONSE)
        digest = hashlib.sha256("".join(manifest[name]["sha256"] for name in files).encode())
        self.fingerprint = f"compact-{digest.hexdigest()[:16]}"
        if calibration is not None:
            # what a name gains is part of its embedding: another vocabulary in the cache
            rule = (NEW, SYNONYM, ANCHOR, NEWNESS, REST, HUBNESS)
            content = repr([self.fingerprint, *rule]).encode()
            digest = hashlib.sha256(content + calibration.to_bytes())
            self.fingerprint = f"compact-{digest.hexdigest()[:16]}"

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, float32 of length 1.

        Texts longer than 256 pieces are cut. What a text gets does not depend on the others.

        Returns:
            `(len(texts), 384)`, centred.
        """
        return load_conse().whiten(self.sentence_embeddings(texts))

    def adapt_vocabulary(self, matrix: Floats) -> Floats:
        """See `TextEncoder`. With a calibration `(C, 388)` (see its `stack_names`)."""
        return matrix if self._calibration is None else self._calibration.stack_names(matrix)

    def sentence_embeddings(self, texts: Sequence[str]) -> Floats:
        """all-MiniLM-L6-v2's own embedding of each text, `(len(texts), 384)` float32, length 1."""
        embeddings = np.zeros((len(texts), WIDTH), dtype=np.float32)
        pieces = self._tokenize(texts)
        # batches of equal length need neither padding nor a mask
        by_length: dict[int, list[int]] = {}
        for i, ids in enumerate(pieces):
            by_length.setdefault(len(ids), []).append(i)
        for length, members in by_length.items():
            step = max(1, _PIECES_AT_ONCE // length)
            for start in range(0, len(members), step):
                rows = members[start : start + step]
                batch = np.array([pieces[i] for i in rows], dtype=np.int64)  # (B, length)
                (embeddings[rows],) = self._session.run(["embedding"], {"pieces": batch})
        norms: Floats = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings / norms

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold a word that is no sequence of known pieces, or nothing to read."""
        # nearly every name: a tenth of the time that its pieces take
        answers = [_PLAIN.fullmatch(text) is None or text.isspace() for text in texts]
        doubtful = [i for i, answer in enumerate(answers) if answer]
        unknown = self._tokenizer.token_to_id("[UNK]") if doubtful else None
        for i, ids in zip(doubtful, self._tokenize([texts[i] for i in doubtful]), strict=True):
            # two pieces mark the start and the end
            answers[i] = len(ids) <= 2 or unknown in ids or _SURROGATE.search(texts[i]) is not None
        return answers

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's pieces, between the marks of its start and end."""
        if not texts:
            return []
        # half a character (from a wrongly decoded file name) is no text at all to the tokeniser
        valid = [_SURROGATE.sub("\ufffd", text) for text in texts]
        return [list(encoding.ids) for encoding in self._tokenizer.encode_batch(valid)]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(read_asset(TOKENIZER).decode("utf-8"))
        tokenizer.enable_truncation(MAX_PIECES)
        return tokenizer

    @cached_property
    def _session(self) -> Any:
        graph = read_asset(TEXT_ENCODER)
        return start_session(graph, threads=self._threads, device=self._device)
