"""Words of the built-in model: all-MiniLM-L6-v2 with int8 weights on ONNX Runtime."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import read_asset, read_manifest
from anyregion.compact.conse import NUMBERS, Conse
from anyregion.compact.onnx_session import load_graph

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]

MAX_PIECES = 256  # what the model was tuned on
WIDTH = 384
_PIECES_AT_ONCE = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")


class CompactTextEncoder:
    """The text side: a `TextEncoder` whose embeddings lie in the bridge's centred space.

    The graph and the tokeniser are loaded when the first text comes: a vocabulary from the cache
    needs neither.

    Args:
        bridge: holds the centre of the space.
        threads: for one operator; None leaves it to ONNX Runtime (all cores).
        device: see `load_graph`.

    Raises:
        CheckpointError: an asset is missing or altered; for graph and tokeniser at first use.
    """

    def __init__(self, bridge: Conse, *, threads: int | None = None, device: str = "cpu") -> None:
        self._bridge = bridge
        self._threads = threads
        self._device = device
        manifest = read_manifest()
        hashes = [manifest[name]["sha256"] for name in ("words.onnx", "tokenizer.json", NUMBERS)]
        self.fingerprint = f"compact-{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]}"
        self.templates: tuple[str, ...] = ("a {}",)

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, `(len(texts), 384)` float32, centred, length 1.

        Texts longer than 256 pieces are cut. What a text gets does not depend on the others.
        """
        return self._bridge.centre(self.sentence_embeddings(texts))

    def sentence_embeddings(self, texts: Sequence[str]) -> Floats:
        """What all-MiniLM-L6-v2 says of each text, `(len(texts), 384)` float32, length 1."""
        out = np.zeros((len(texts), WIDTH), dtype=np.float32)
        # batches of equal length need neither padding nor a mask
        groups: dict[int, list[int]] = {}
        pieces = self._pieces(texts)
        for i, found in enumerate(pieces):
            groups.setdefault(len(found), []).append(i)
        for length, members in groups.items():
            step = max(1, _PIECES_AT_ONCE // length)
            for start in range(0, len(members), step):
                rows = members[start : start + step]
                batch = np.array([pieces[i] for i in rows], dtype=np.int64)
                (out[rows],) = self._session.run(["embedding"], {"pieces": batch})
        lengths: Floats = np.linalg.norm(out, axis=1, keepdims=True)
        return out / lengths

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold a word that is no sequence of known pieces, or nothing to read."""
        unknown = self._tokenizer.token_to_id("[UNK]")
        return [
            len(found) <= 2 or unknown in found or _SURROGATE.search(text) is not None
            for text, found in zip(texts, self._pieces(texts), strict=True)
        ]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's pieces, between the marks of its start and end."""
        # half a character (from a wrongly decoded file name) is no text at all to the tokeniser
        whole = [_SURROGATE.sub("\ufffd", text) for text in texts]
        return [list(found.ids) for found in self._tokenizer.encode_batch(whole)]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(read_asset("tokenizer.json").decode("utf-8"))
        tokenizer.enable_truncation(MAX_PIECES)
        return tokenizer

    @cached_property
    def _session(self) -> Any:
        return load_graph("words.onnx", threads=self._threads, device=self._device)
