"""Randomness without state: every draw follows from the seed and from what it is for.

Nothing has to be saved for a run to go on, and it does not matter which process or thread draws.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def _sequence(seed: int, keys: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in keys]
    return np.random.SeedSequence([seed, *words])


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator of its own for what `keys` name: `generator(seed, "flip", step, position)`."""
    return np.random.default_rng(_sequence(seed, keys))


def seed_torch(seed: int, *keys: int | str) -> None:
    """Set torch's generators, on every device: dropout draws from them."""
    torch.manual_seed(int(_sequence(seed, keys).generate_state(1, np.uint64)[0]))
