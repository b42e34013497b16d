"""`store.json` and `index.safetensors`: what a store of features was made of, and for what."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.store.columns import (
    SEGMENTATIONS,
    categories_from_json,
    categories_to_json,
    from_columns,
    hash_array,
    hash_columns,
    to_columns,
)
from anyregion.data.store.load_sample import short_hash
from anyregion.errors import InputError
from anyregion.files import atomic_path, read_json, write_json, writing

FORMAT = "anyregion.store/1"
ABOUT = "store.json"
INDEX = "index.safetensors"
_TYPES = {"F64": np.float64, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}


@dataclass(frozen=True)
class StoreInfo:
    """What `store.json` states beside the categories.

    Attributes:
        fingerprint: of the extractor.
        extractor: its parts in words.
        mirrored: whether every image's mirror image is there too.
        images_per_shard: image `i` lies in shard `i // images_per_shard`.
        images, regions: how many; crowds are counted, although nothing is stored for them.
        columns: per column of the annotations its hash.
        made_with: the caller's own notes: where the images lie, how to load the models again.
    """

    fingerprint: str
    extractor: Mapping[str, str]
    mirrored: bool
    images_per_shard: int
    images: int
    regions: int
    columns: Mapping[str, str]
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.images // self.images_per_shard)

    @property
    def identity(self) -> str:
        """What every shard repeats: it belongs to these annotations, this extractor."""
        parts = (self.fingerprint, self.mirrored, self.images_per_shard, _compared(self.columns))
        return short_hash(repr(parts).encode()).hex()


def differences(ours: StoreInfo, theirs: StoreInfo) -> list[str]:
    """What keeps `theirs` from going on in a store of `ours`, each in words; none if nothing."""
    found = []
    if ours.fingerprint != theirs.fingerprint:
        found += other_models(ours.extractor, theirs.extractor)
    if ours.mirrored != theirs.mirrored:
        with_, without = ("there", "here") if ours.mirrored else ("here", "there")
        found.append(f"mirror images: {with_}, not {without}")
    if ours.images_per_shard != theirs.images_per_shard:
        found.append(
            f"images a shard: {ours.images_per_shard} there, {theirs.images_per_shard} here"
        )
    if ours.images != theirs.images or ours.regions != theirs.regions:
        found.append(
            f"annotations: {ours.images} images with {ours.regions} regions there, "
            f"{theirs.images} with {theirs.regions} here"
        )
    mine, yours = dict(_compared(ours.columns)), dict(_compared(theirs.columns))
    if columns := sorted({n.split(".")[0] for n, _ in set(mine.items()) ^ set(yours.items())}):
        found.append(f"annotations of other {', '.join(columns)}")
    masks = [n for n in theirs.columns if n.startswith(SEGMENTATIONS)]
    if any(ours.columns.get(name) != theirs.columns[name] for name in masks):
        found.append("masks: other ones there, or none")
    return found


def other_models(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The parts of two extractors that differ, in words."""
    return [
        f"{part}: {ours.get(part, 'none')} there, {theirs.get(part, 'none')} here"
        for part in dict.fromkeys([*ours, *theirs])
        if ours.get(part) != theirs.get(part)
    ] or ["models: the same by name, but not in their numbers"]


def make_index(
    annotations: Annotations,
    *,
    fingerprint: str,
    extractor: Mapping[str, str],
    mirrored: bool,
    images_per_shard: int,
    made_with: Mapping[str, Any],
) -> tuple[StoreInfo, dict[str, NDArray[Any]]]:
    """What would be written for these annotations: the statement, and the columns."""
    columns = to_columns(annotations)
    about = StoreInfo(
        fingerprint=fingerprint,
        extractor=dict(extractor),
        mirrored=mirrored,
        images_per_shard=images_per_shard,
        images=len(annotations),
        regions=len(annotations.boxes),
        columns=hash_columns(columns, annotations.categories),
        made_with=dict(made_with),
    )
    return about, columns


def write_index(
    folder: Path, about: StoreInfo, columns: Mapping[str, NDArray[Any]], annotations: Annotations
) -> None:
    """Write both files; `store.json` last, for what it states must be there."""
    with writing(folder / INDEX), atomic_path(folder / INDEX) as temporary:
        # the library keeps metadata in no order; without, equal annotations are equal files
        save_file(dict(columns), temporary)
    if not (folder / ABOUT).is_file():
        content = {"format": FORMAT, **asdict(about)}
        content["categories"] = categories_to_json(annotations.categories)
        with writing(folder / ABOUT):
            write_json(folder / ABOUT, content, indent=1)


def read_info(folder: Path) -> tuple[StoreInfo, Any]:
    """`store.json`, and the categories as they stand in it.

    Raises:
        InputError: no store there, or one of another format.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{folder}: no {ABOUT}: not a store of features (`anyregion cache`)")
    content = read_json(path)
    try:
        fields = dict(content)
        if (found := fields.pop("format")) != FORMAT:
            raise InputError(f"{path}: format {found!r}, expected {FORMAT!r}")
        categories = fields.pop("categories")
        about = StoreInfo(**fields)
        if about.images_per_shard < 1 or about.images < 0:
            raise ValueError("sizes below 1")
        return about, categories
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: malformed ({error})") from None


def read_index(folder: Path, *, masks: bool) -> tuple[StoreInfo, Annotations]:
    """The statement and the annotations; the numbers stay in the file, mapped into memory.

    Every column is held against its hash: a wrong label would be learned from without a word.

    Raises:
        InputError: a file that is missing, damaged, or not of this store.
    """
    about, stated = read_info(folder)
    path = folder / INDEX
    try:
        categories = categories_from_json(stated)
        columns = map_safetensors(path)
        found = {name: hash_array(array).hex() for name, array in columns.items()}
        found["categories"] = hash_columns({}, categories)["categories"]
        if wrong := sorted(n for n, v in about.columns.items() if found.get(n) != v):
            raise ValueError(f"{wrong[0]} is not what {ABOUT} states")
        return about, from_columns(columns, categories, masks=masks)
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path}: missing or damaged ({reason}); `anyregion cache` with the same annotations "
            f"writes it anew"
        ) from None


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped: nothing is read until it is looked at.

    The library copies what it reads. Here several processes share one copy of the file's pages;
    what a caller changes in an array stays its own.

    Raises:
        OSError, ValueError, KeyError: no such file, or not of this format.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(content[:8], "little")
    if start > len(content):
        raise ValueError("its header is cut off")
    header = json.loads(content[8:start])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        dtype = np.dtype(_TYPES[entry["dtype"]])
        count = (last - first) // dtype.itemsize
        array: NDArray[Any] = np.frombuffer(content, dtype, count, start + first)
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def _compared(columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Columns that features depend on, or that tell data sets apart; masks are an addition."""
    left_out = ("set_aside", SEGMENTATIONS)
    return tuple(sorted(pair for pair in columns.items() if not pair[0].startswith(left_out)))
