"""Models of `transformers` from a folder or a hub, with errors that say what to do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from anyregion.errors import CheckpointError, InputError

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HELP = (
    "Check the name and the connection, or copy the model to this machine as a local folder "
    "(config.json, the weights, the tokenizer's files if it reads text) and give its path"
)


def is_hub_name(name: str) -> bool:
    """Whether `name` is OWNER/MODEL and no file of weights: all else is a path, and stays here."""
    return bool(_HUB_NAME.fullmatch(name)) and not name.endswith(WEIGHT_SUFFIXES)


def warn_of_fetch(source: str | Path, name: str) -> None:
    """Say which model a file asks for, before it is fetched: the user named the file alone."""
    text = f"{source} names {name}, which is not on this machine: it is fetched from the hub"
    warnings.warn(text, UserWarning, stacklevel=3)


def load_config(name: str, *, role: str, kinds: Collection[str]) -> Any:
    """The `transformers` configuration of a local folder or, by its name, of a model on the hub.

    Args:
        role: what the model is loaded as, for the errors.
        kinds: the model types that can be that.

    Raises:
        InputError: no such folder, another kind of model, or the hub did not give it.
    """
    from transformers import AutoConfig

    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{name}: no config.json: not a folder that save_pretrained wrote")
    elif not is_hub_name(name):
        raise InputError(
            f"{name}: there is no such file or folder, and models on the hub are OWNER/MODEL"
        )
    # every error about the kind of model ends with what it could have been
    choices = f"known are {', '.join(kinds)}"
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise InputError(f"{name}: {first_line(error)}. {_HELP}") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"{name}: not a {role} ({first_line(error)}); {choices}") from None
    if config.model_type not in kinds:
        raise InputError(f"{name}: {config.model_type!r} is not a {role}; {choices}")
    return config


def load_model(model_class: Any, name: str, **options: Any) -> Any:
    """A model of `transformers` in float32, every weight accounted for; `options` are its loader's.

    Raises:
        InputError: there are no weights.
        CheckpointError: broken weights, of other sizes, or not all of them.
    """
    try:
        model, info = model_class.from_pretrained(
            name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # it then lists them, and they are refused below
            **options,
        )
    except OSError as error:
        raise InputError(f"{name}: {first_line(error)}. {_HELP}") from None
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{name}: weights that cannot be used ({first_line(error)})"
        ) from None
    # transformers would fill these with random numbers and go on
    wrong = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if wrong:
        raise CheckpointError(
            f"{name}: {len(wrong)} weights are missing or of another size: "
            f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}"
        )
    return model


def first_line(error: BaseException) -> str:
    """An error of another library in one line, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
