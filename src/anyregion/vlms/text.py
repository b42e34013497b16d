"""Text side of a vision-language model: tokenizers, prompt templates, batched encoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyregion.torch_utils.weights import fingerprint
from anyregion.vlms.protocol import VlmOptions
from anyregion.vocabulary import Floats

# texts tokenized at once: their ids, padded to 77, are 10 MB
_TOKENIZED_AT_ONCE = 16_384

# the 80 templates that OpenAI published for CLIP on ImageNet
# fmt: off
IMAGENET_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.", "a bad photo of a {}.", "a photo of many {}.", "a sculpture of a {}.",
    "a photo of the hard to see {}.", "a low resolution photo of the {}.", "a rendering of a {}.",
    "graffiti of a {}.", "a bad photo of the {}.", "a cropped photo of the {}.",
    "a tattoo of a {}.", "the embroidered {}.", "a photo of a hard to see {}.",
    "a bright photo of a {}.", "a photo of a clean {}.", "a photo of a dirty {}.",
    "a dark photo of the {}.", "a drawing of a {}.", "a photo of my {}.", "the plastic {}.",
    "a photo of the cool {}.", "a close-up photo of a {}.", "a black and white photo of the {}.",
    "a painting of the {}.", "a painting of a {}.", "a pixelated photo of the {}.",
    "a sculpture of the {}.", "a bright photo of the {}.", "a cropped photo of a {}.",
    "a plastic {}.", "a photo of the dirty {}.", "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.", "a photo of the {}.", "a good photo of the {}.",
    "a rendering of the {}.", "a {} in a video game.", "a photo of one {}.", "a doodle of a {}.",
    "a close-up photo of the {}.", "the origami {}.", "the {} in a video game.",
    "a sketch of a {}.", "a doodle of the {}.", "a origami {}.", "a low resolution photo of a {}.",
    "the toy {}.", "a rendition of the {}.", "a photo of the clean {}.", "a photo of a large {}.",
    "a rendition of a {}.", "a photo of a nice {}.", "a photo of a weird {}.",
    "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.", "a sketch of the {}.",
    "a embroidered {}.", "a pixelated photo of a {}.", "itap of the {}.",
    "a jpeg corrupted photo of the {}.", "a good photo of a {}.", "a plushie {}.",
    "a photo of the nice {}.", "a photo of the small {}.", "a photo of the weird {}.",
    "the cartoon {}.", "art of the {}.", "a drawing of the {}.", "a photo of the large {}.",
    "a black and white photo of a {}.", "the plushie {}.", "a dark photo of a {}.", "itap of a {}.",
    "graffiti of the {}.", "a toy {}.", "itap of my {}.", "a photo of a cool {}.",
    "a photo of a small {}.", "a tattoo of the {}.",
)
# fmt: on

# the bare name and then the 80: what RegionSpot averages over
CLIP_TEMPLATES: tuple[str, ...] = ("{}.", *IMAGENET_TEMPLATES)

# the one template that SigLIP's authors give for zero-shot use
SIGLIP_TEMPLATES: tuple[str, ...] = ("This is a photo of {}.",)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """The tokenizer of a text model, whatever the library.

    Attributes:
        encode: texts to ids `(n, L)`, padded to the model's full context; longer texts are cut, the
            end-of-text token kept.
        describe: what it does with texts, for fingerprints; computed when they are.
        unknown: the id of the unknown piece; None if it can spell everything.
        to_json: the same, padding and cutting included, as a file of the library `tokenizers`;
            None where there is no such thing.
    """

    encode: Callable[[list[str]], Tensor]
    describe: Callable[[], str]
    unknown: int | None = None
    to_json: Callable[[], str] | None = None


class BatchedTextEncoder:
    """The text side of a model: a `TextEncoder`.

    A causal text model reads its answer at the end-of-text position and nothing after it counts,
    so a mini-batch is cut to its longest prompt: the same embeddings, some five times sooner.
    Texts are sorted by length for that, and the order is restored. Models that look both ways
    (SigLIP) were trained on padded texts and get them whole.

    Args:
        forward: ids `(b, l)`, on the device, to embeddings `(b, E)`; `l < L` where texts are cut.
        end_of: ids to the position `(n,)` of the token that is read, for causal models; None for
            models that need every position.
        weights: the tensors that the embeddings depend on, by name; read only for `fingerprint`.
        describe: what model and tokenizer compute beside the weights; read only for `fingerprint`.
        templates: the prompt templates the model is used with.
        embed_width: `E`.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        forward: Callable[[Tensor], Tensor],
        end_of: Callable[[Tensor], Tensor] | None,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        describe: Callable[[], str],
        templates: tuple[str, ...],
        embed_width: int,
        options: VlmOptions,
    ) -> None:
        self.templates = templates
        self.tokenizer = tokenizer
        self.tokenize = tokenizer.encode
        self.forward = forward
        self._end_of = end_of
        self._weights = weights
        self._describe = describe
        self._embed_width = embed_width
        self._options = options

    @cached_property
    def fingerprint(self) -> str:
        """Hash of text weights, configuration, tokenizer and precision; computed on first use."""
        return fingerprint(self._weights(), self._describe(), self._options.dtype)

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Embed each text, `(len(texts), E)` float32, not normalised."""
        unique = list(dict.fromkeys(texts))  # a vocabulary repeats words across names
        row = {text: i for i, text in enumerate(unique)}
        embeddings = np.empty((len(unique), self._embed_width), np.float32)
        for start in range(0, len(unique), _TOKENIZED_AT_ONCE):
            part = unique[start : start + _TOKENIZED_AT_ONCE]
            embeddings[start : start + len(part)] = self._encode_ids(self.tokenize(part))
        return embeddings[[row[text] for text in texts]]

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold pieces that the tokenizer does not know; byte-level ones know all."""
        piece = self.tokenizer.unknown
        if piece is None or not texts:
            return [False] * len(texts)
        unknown: list[bool] = (self.tokenize(list(texts)) == piece).any(dim=1).tolist()
        return unknown

    def _encode_ids(self, ids: Tensor) -> Floats:
        context = ids.shape[1]
        if self._end_of is None:
            lengths = np.full(len(ids), context)
        else:
            lengths = self._end_of(ids).numpy() + 1
        order = np.argsort(lengths, kind="stable")
        embeddings = np.empty((len(ids), self._embed_width), np.float32)
        # batches of even size: a last one of two or three texts would run other matrix kernels
        for rows in np.array_split(order, -(-len(order) // self._options.text_batch_size)):
            longest = int(lengths[rows[-1]])
            # A multiple of 8, at least 16: full vector registers in the attention. The numbers
            # then equal those of 77 tokens to the last bit on AVX-512, where an odd length moves
            # them by 2e-6 of the largest; it costs a tenth of the time that cutting saves.
            length = min(context, max(16, -(-longest // 8) * 8))
            batch = ids[torch.from_numpy(rows), :length].to(self._options.device)  # (b, l)
            with torch.inference_mode(), self._options.autocast():
                embeddings[rows] = self.forward(batch).float().cpu().numpy()
        return embeddings


def first_of(end: int) -> Callable[[Tensor], Tensor]:
    """Where a text ends: at the first token with this id."""
    return lambda ids: (ids == end).int().argmax(dim=1)


def largest(ids: Tensor) -> Tensor:
    """Where a text ends: at the token with the largest id, as OpenAI's CLIP has it."""
    return ids.argmax(dim=1)


def pad_to_context(tokenizer: Any, context: int, *, lower: bool = False) -> Tokenizer:
    """A tokenizer of `transformers` that pads and cuts to `context` ids, as models were trained."""

    def encode(texts: list[str]) -> Tensor:
        if not texts:
            return torch.zeros((0, context), dtype=torch.long)
        ids: Tensor = tokenizer(
            [text.lower() for text in texts] if lower else texts,
            padding="max_length",
            padding_side="right",  # some tokenizers pad left by default; no model learned so
            truncation=True,
            max_length=context,
            return_tensors="pt",
        )["input_ids"]
        return ids

    def to_json() -> str:
        encode([""])  # which sets padding and cutting
        text: str = tokenizer.backend_tokenizer.to_str()
        return text

    # a text in lower case is made so outside of the tokenizer, which its file would not tell
    exact = hasattr(tokenizer, "backend_tokenizer") and not lower
    return Tokenizer(
        encode,
        lambda: tokenizer_hash(tokenizer),
        unknown_piece(tokenizer),
        to_json if exact else None,
    )


def unknown_piece(tokenizer: Any) -> int | None:
    """The id of the unknown piece; None where it stands for something else too, as CLIP's does."""
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    # an id that texts hold anyway says nothing of unknown pieces
    special = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
    return None if unknown in special else unknown


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of how a tokenizer of `transformers` turns texts into ids."""
    digest = hashlib.sha256(json.dumps(tokenizer.special_tokens_map, sort_keys=True).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = getattr(tokenizer, "sp_model", None)
    if backend is not None:
        # padding and cutting are set by every call, so they would tell of earlier texts
        state = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
        digest.update(json.dumps(state).encode())
    elif pieces is not None:
        digest.update(pieces.serialized_model_proto())
    else:
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return f"{type(tokenizer).__name__} {digest.hexdigest()}"
