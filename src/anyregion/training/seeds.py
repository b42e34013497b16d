"""Random generators without state: every draw follows from the seed and from what it is for.

Nothing has to be saved for a run to go on, and it does not matter which process or thread draws.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator of its own for what `keys` name: `generator(seed, "flip", step, position)`."""
    # crc32, not hash(): the same in every process
    words = [
        zlib.crc32(key.encode(errors="surrogatepass")) if isinstance(key, str) else key
        for key in keys
    ]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def seed_torch(seed: int, *keys: int | str) -> None:
    """Set torch's generators, on every device: dropout draws from them."""
    sequence = generator(seed, *keys).bit_generator.seed_seq
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
