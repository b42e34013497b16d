"""Images read ahead in a thread, while the batch before them is recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anyregion.errors import InputError
from anyregion.images import Pixels, read_image


def read_ahead(
    paths: Sequence[Path], *, batch_size: int
) -> Iterator[list[tuple[Path, Pixels | InputError]]]:
    """Yield batches of images in order; an image that cannot be read is its error.

    One batch is read while the caller works on the one before it: at most two are in memory.
    """
    batches = [paths[i : i + batch_size] for i in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(1, thread_name_prefix="anyregion-read") as pool:
        upcoming = pool.submit(_read, batches[0]) if batches else None
        for following in [*batches[1:], None]:
            if upcoming is None:
                return
            batch = upcoming.result()
            upcoming = None if following is None else pool.submit(_read, following)
            yield batch


def _read(paths: Sequence[Path]) -> list[tuple[Path, Pixels | InputError]]:
    return [(path, _try_read(path)) for path in paths]


def _try_read(path: Path) -> Pixels | InputError:
    try:
        return read_image(path)
    except InputError as error:
        return error
