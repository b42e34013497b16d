"""Tokenizers of `transformers` as functions, and what they hash to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def padded(tokenizer: Any, context: int, *, lower: bool = False) -> Callable[[list[str]], Tensor]:
    """Tokenize to ids `(n, context)`, padded and cut as the model was trained."""

    def tokenize(texts: list[str]) -> Tensor:
        if not texts:
            return torch.zeros((0, context), dtype=torch.long)
        ids: Tensor = tokenizer(
            [text.lower() for text in texts] if lower else texts,
            padding="max_length",
            padding_side="right",  # some tokenizers say left by default; no model here learned so
            truncation=True,
            max_length=context,
            return_tensors="pt",
        )["input_ids"]
        return ids

    return tokenize


def unknown_piece(tokenizer: Any) -> int | None:
    """The id of the unknown piece; None where it stands for something else too, as CLIP's does."""
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    taken = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
    return None if unknown in taken else unknown


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of how a tokenizer of `transformers` turns texts into ids."""
    digest = hashlib.sha256(json.dumps(tokenizer.special_tokens_map, sort_keys=True).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = getattr(tokenizer, "sp_model", None)
    if backend is not None:
        # padding and cutting are set by every call, so they would tell what was read before
        state = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
        digest.update(json.dumps(state).encode())
    elif pieces is not None:
        digest.update(pieces.serialized_model_proto())
    else:
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return f"{type(tokenizer).__name__} {digest.hexdigest()}"
