"""Texts to embeddings: each text once, alike lengths together, no work on padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.options import VlmOptions
from anyregion.vocabulary import Floats

_TOKENIZED_AT_ONCE = 16_384


class BatchedTextEncoder:
    """The text side of a model: a `TextEncoder`.

    A causal text model reads its answer at the end-of-text position and nothing after it counts,
    so a mini-batch is cut to its longest prompt: the same embeddings, some five times sooner.
    Texts are sorted by length for that, and the order is restored. Models that look both ways
    (SigLIP) were trained on padded texts and get them whole.

    Args:
        tokenize: texts to ids `(n, L)`, padded to the model's full context; longer texts are cut
            by the tokenizer, which keeps the end-of-text token.
        forward: ids `(b, l)`, on the device, to embeddings `(b, E)`; `l < L` where texts are cut.
        end_of: ids to the position `(n,)` of the token that is read, for causal models; None for
            models that need every position.
        weights: the tensors that the embeddings depend on, by name; read only for `fingerprint`.
        kind: says what tokenizer and model compute beside the weights; read only for `fingerprint`.
        templates: the prompt templates the model is used with.
        embed_width: `E`.
        unknown: the id of the tokenizer's unknown piece; None if it can spell everything.
        options: how the model runs.
    """

    def __init__(
        self,
        *,
        tokenize: Callable[[list[str]], Tensor],
        forward: Callable[[Tensor], Tensor],
        end_of: Callable[[Tensor], Tensor] | None,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        kind: Callable[[], str],
        templates: tuple[str, ...],
        embed_width: int,
        unknown: int | None,
        options: VlmOptions,
    ) -> None:
        self.templates = templates
        self.tokenize = tokenize
        self._forward = forward
        self._end_of = end_of
        self._weights = weights
        self._kind = kind
        self._embed_width = embed_width
        self._unknown = unknown
        self._options = options

    @cached_property
    def fingerprint(self) -> str:
        """Hash of text weights, configuration, tokenizer and precision; computed when asked."""
        return fingerprint(self._weights(), self._kind(), self._options.dtype)

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, `(len(texts), E)` float32, not normalised."""
        unique = list(dict.fromkeys(texts))  # a vocabulary repeats words across names
        row = {text: i for i, text in enumerate(unique)}
        embedded = np.empty((len(unique), self._embed_width), np.float32)
        for start in range(0, len(unique), _TOKENIZED_AT_ONCE):
            part = unique[start : start + _TOKENIZED_AT_ONCE]
            embedded[start : start + len(part)] = self._encode_ids(self.tokenize(part))
        return embedded[[row[text] for text in texts]]

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold pieces that the tokenizer does not know; byte-level ones know all."""
        if self._unknown is None or not texts:
            return [False] * len(texts)
        found: list[bool] = (self.tokenize(list(texts)) == self._unknown).any(dim=1).tolist()
        return found

    def _encode_ids(self, ids: Tensor) -> Floats:
        width = ids.shape[1]
        if self._end_of is None:
            lengths = np.full(len(ids), width)
        else:
            lengths = self._end_of(ids).numpy() + 1
        order = np.argsort(lengths, kind="stable")
        rows = np.empty((len(ids), self._embed_width), np.float32)
        # batches of even size: a last one of two or three texts would run other matrix kernels
        for chosen in np.array_split(order, -(-len(order) // self._options.text_batch_size)):
            longest = min(width, _whole_lanes(int(lengths[chosen[-1]])))
            cut = ids[torch.from_numpy(chosen), :longest].to(self._options.device)
            with torch.inference_mode(), self._options.autocast():
                rows[chosen] = self._forward(cut).float().cpu().numpy()
        return rows


def _whole_lanes(length: int) -> int:
    """Round up to a multiple of 8, at least 16: full vector registers in the attention.

    The numbers then equal those of 77 tokens to the last bit on AVX-512, where an odd length
    moves them by 2e-6 of the largest; it costs a tenth of the time that cutting saves.
    """
    return max(16, -(-length // 8) * 8)


def first_of(end: int) -> Callable[[Tensor], Tensor]:
    """Where a text ends: at the first token with this id."""
    return lambda ids: (ids == end).int().argmax(dim=1)


def largest(ids: Tensor) -> Tensor:
    """Where a text ends: at the token with the largest id, as OpenAI's CLIP has it."""
    return ids.argmax(dim=1)
