"""Models of `transformers`, from a hub name or a local folder, with errors that say what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from anyregion.errors import CheckpointError, InputError, MissingExtraError

_HUB_HELP = (
    "Check the name and the connection, or give a local folder that holds config.json, the "
    "weights and the tokenizer's files"
)


def load_config(name: str) -> Any:
    """The `transformers` configuration.

    Raises:
        InputError: no such folder or hub model, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{name}: the folder has no config.json")
    elif _is_path(name):
        raise InputError(f"{name}: there is no such file or folder")
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {_first_line(error)}. {_HUB_HELP}") from None


def load_model(name: str) -> Any:
    """The model in float32 with sdpa attention, every weight accounted for.

    Raises:
        InputError: the weights are not there.
        CheckpointError: broken weights, of other sizes, or not all of them.
    """
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(
            name, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: weights that cannot be used ({_first_line(error)})"
        ) from None
    except OSError as error:
        raise InputError(f"{name}: {_first_line(error)}. {_HUB_HELP}") from None
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{name}: {len(missing)} weights are missing, {missing[0]} first")
    return model.requires_grad_(False).eval()


def load_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        InputError: its files are not there.
        MissingExtraError: it needs a package that is not installed.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except ImportError as error:
        raise MissingExtraError(f"{name}: its tokenizer needs more: {_first_line(error)}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{name}: no usable tokenizer ({_first_line(error)}). {_HUB_HELP}"
        ) from None


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


def _is_path(name: str) -> bool:
    """Whether the hub would be asked in vain: its names are OWNER/MODEL."""
    path = Path(name)
    return (
        path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
