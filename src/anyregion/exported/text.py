"""The text side of an exported model: a tokenizer of the library `tokenizers`, and a graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anyregion.compact.assets import start_session
from anyregion.errors import InputError
from anyregion.exported.folder import TEXT, TOKENIZER, ExportedModel
from anyregion.files import read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS_AT_ONCE = 64


class ExportedText:
    """A `TextEncoder` of a folder; its graph is loaded when the first text comes.

    Raises:
        InputError: at the first text, where the folder holds no text side.
    """

    def __init__(self, folder: Path, model: ExportedModel, *, device: str = "cpu") -> None:
        self.folder, self.model, self.device = folder, model, device
        self.templates = model.templates
        self.fingerprint = model.text_fingerprint

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed each text, `(len(texts), E)` float32, not normalised."""
        unique = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(unique)}
        embeddings = np.empty((len(unique), self.model.embed_width), np.float32)
        if not unique:
            return embeddings
        encodings = self._tokenizer.encode_batch(unique)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)  # (n, L)
        # the model is causal: the padding after the mark of the end counts for nothing
        lengths = np.array([sum(encoding.attention_mask) for encoding in encodings])
        order = np.argsort(lengths, kind="stable")
        for rows in np.array_split(order, -(-len(order) // _TEXTS_AT_ONCE)):
            longest = int(lengths[rows].max())
            (embeddings[rows],) = self._session.run(None, {"ids": ids[rows, :longest]})
        return embeddings[[row[text] for text in texts]]

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold pieces that the tokenizer does not know; byte-level ones know all."""
        unknown = self.model.unknown_piece
        if unknown is None or not texts:
            return [False] * len(texts)
        return [unknown in e.ids for e in self._tokenizer.encode_batch(list(texts))]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if not self.model.has_text:
            raise InputError(
                f"{self.folder} was exported without its text side: give a vocabulary that the "
                "original model encoded"
            )
        from tokenizers import Tokenizer

        return Tokenizer.from_str(read_text(self.folder / TOKENIZER))

    @cached_property
    def _session(self) -> Any:
        return start_session((self.folder / TEXT).read_bytes(), threads=None, device=self.device)
