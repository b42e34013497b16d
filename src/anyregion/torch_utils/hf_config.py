"""What a model computes beside its weights: its configuration, in words that can be compared."""

from __future__ import annotations

import json
from typing import Any

_BOOKKEEPING = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
"""What a configuration says of its file and the library; names with an underscore do so too."""


def config_json(config: Any) -> str:
    """A `transformers` configuration as sorted JSON, without paths, versions and precision.

    Two with the same weights may still differ here in activation, heads, the norms' eps: those
    are other models. Copies of one model in two folders are equal.
    """
    return json.dumps(_plain(config.to_dict()), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {str(k): v for k, v in value.items()}
        return {
            k: _plain(v) for k, v in kept.items() if k not in _BOOKKEEPING and not k.startswith("_")
        }
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
