"""The table of ready recognisers: the only place that knows every model's name."""

from __future__ import annotations

from anyregion.recognizer import Recognizer


def load_recognizer(
    model: str = "compact", *, recognizer: str | None = None, device: str = "cpu"
) -> Recognizer:
    """Placeholder signature; see below."""
    from anyregion.compact.encoder import CompactEncoder

    return Recognizer(CompactEncoder())
