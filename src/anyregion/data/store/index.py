"""The index of a store of features: its statement (`store.json`) and its annotations."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from anyregion.data.annotations.annotations import Annotations, Categories
from anyregion.data.store.shards import Columns, hash_array, short_hash
from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, read_json, write_json, writing

FORMAT = "anyregion.store/1"
INFO = "store.json"
INDEX = "index.safetensors"
# safetensors' names of the types that `to_columns` writes
_TYPES = {"F64": np.float64, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}
# what `store.json` calls `StoreInfo.notes`
_NOTES = "made_with"

# numeric columns of `Annotations` and their types on disk
_NUMERIC: dict[str, type[np.generic]] = {
    "sizes": np.int64,
    "starts": np.int64,
    "boxes": np.float64,
    "labels": np.int64,
    "crowd": np.bool_,
    "areas": np.float64,
    "region_ids": np.int64,
}
_LISTS = ("negatives", "not_exhaustive")
SEGMENTATIONS = "segmentations"


# of each entry of `store.json`
_KINDS = {
    "fingerprint": str, "mirrored": bool, "images_per_shard": int, "images": int, "regions": int,
    "extractor": dict, "columns": dict, "notes": dict,
}  # fmt: skip


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
        notes: the caller's own: where the images lie, how to load the models again.
    """

    fingerprint: str
    extractor: Mapping[str, str]
    mirrored: bool
    images_per_shard: int
    images: int
    regions: int
    columns: Mapping[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What every shard repeats: it belongs to these annotations, this extractor."""
        # as text of a tuple since the first version: another form would orphan every shard
        parts = (self.fingerprint, self.mirrored, self.images_per_shard, _compared(self.columns))
        return short_hash(repr(parts).encode()).hex()


def differences(stored: StoreInfo, new: StoreInfo) -> list[str]:
    """What keeps `new` from going on in the store of `stored`, each in words; none if nothing."""
    reasons = []
    if stored.fingerprint != new.fingerprint:
        reasons += other_models(stored.extractor, new.extractor)
    if stored.mirrored != new.mirrored:
        with_, without = ("there", "here") if stored.mirrored else ("here", "there")
        reasons.append(f"mirror images: {with_}, not {without}")
    if stored.images_per_shard != new.images_per_shard:
        reasons.append(
            f"images a shard: {stored.images_per_shard} there, {new.images_per_shard} here"
        )
    if stored.images != new.images or stored.regions != new.regions:
        reasons.append(
            f"annotations: {stored.images} images with {stored.regions} regions there, "
            f"{new.images} with {new.regions} here"
        )
    unequal = set(_compared(stored.columns)) ^ set(_compared(new.columns))
    if columns := sorted({name.split(".")[0] for name, _ in unequal}):
        reasons.append(f"annotations of other {', '.join(columns)}")
    # a store may hold masks that were not read this time, but not other ones
    masks = [name for name in new.columns if name.startswith(SEGMENTATIONS)]
    if any(stored.columns.get(name) != new.columns[name] for name in masks):
        reasons.append("masks: other ones there, or none")
    return reasons


def other_models(stored: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The parts of two extractors that differ, in words."""
    return [
        f"{part}: {stored.get(part, 'none')} there, {new.get(part, 'none')} here"
        for part in dict.fromkeys([*stored, *new])
        if stored.get(part) != new.get(part)
    ] or ["models: the same by name, but not in their numbers"]


def write_index(folder: Path, info: StoreInfo, columns: Columns, categories: Categories) -> None:
    """Write both files; `store.json` last, for what it states must be there."""
    with writing(folder / INDEX), atomic_path(folder / INDEX) as temporary:
        # the library keeps metadata in no order; without, equal annotations are equal files
        # written here, not by the library, whose errors do not tell a full disk from others
        temporary.write_bytes(save(dict(columns)))
    if not (folder / INFO).is_file():
        stated = asdict(info)
        stated[_NOTES] = stated.pop("notes")
        content = {"format": FORMAT, **stated, "categories": _categories_to_json(categories)}
        with writing(folder / INFO):
            write_json(folder / INFO, content, indent=1)


def read_info(folder: Path) -> tuple[StoreInfo, Any]:
    """`store.json`, and the categories as they stand in it.

    Raises:
        InputError: no store there, or one of another format.
    """
    path = folder / INFO
    if not path.is_file():
        raise InputError(f"{folder}: no {INFO}: not a store of features (`anyregion cache`)")
    content = read_json(path)
    try:
        stated = dict(content)
        if (version := stated.pop("format")) != FORMAT:
            raise InputError(f"{path}: format {version!r}, expected {FORMAT!r}")
        categories = stated.pop("categories")
        notes = stated.pop(_NOTES, {})
        info = StoreInfo(**stated, notes=notes)
        for name, kind in _KINDS.items():
            # `type`, for True is a whole number too
            if type(value := getattr(info, name)) is not kind:
                raise ValueError(f"{name} is {value!r:.60}")
        texts = [*info.extractor.values(), *info.columns.values()]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("parts of the extractor, and hashes of columns, are texts")
        if info.images_per_shard < 1 or info.images < 0:
            raise ValueError("sizes below 1")
        return info, categories
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
    info, stated_categories = read_info(folder)
    path = folder / INDEX
    try:
        categories = _categories_from_json(stated_categories)
        columns = _map_safetensors(path)
        hashes = hash_columns(columns, categories)
        if wrong := sorted(n for n, v in info.columns.items() if hashes.get(n) != v):
            raise ValueError(f"{wrong[0]} is not what {INFO} states")
        annotations = _from_columns(columns, categories, masks=masks)
        _check_columns(info, annotations)
        return info, annotations
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path}: missing or damaged ({reason}); `anyregion cache` with the same annotations "
            f"writes it anew"
        ) from None


def _map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, mapped: nothing is read until it is looked at."""
    # what a caller changes in an array stays its own: copy on write
    # by hand: the library copies what it reads, while several processes that train on one store
    # share the pages of a mapped file (62 MB for a million regions)
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


def to_columns(annotations: Annotations) -> dict[str, NDArray[Any]]:
    """Every column but the categories as one or two arrays; texts as UTF-8 and where each ends."""
    columns = {
        name: np.ascontiguousarray(getattr(annotations, name), dtype=dtype)
        for name, dtype in _NUMERIC.items()
    }
    columns |= _pack("image_ids", annotations.image_ids)
    columns |= _pack("file_names", annotations.file_names)
    for name in _LISTS:
        if lists := getattr(annotations, name):
            ends = np.cumsum([len(values) for values in lists], dtype=np.int64)
            columns |= {f"{name}.values": np.concatenate(lists).astype(np.int64)}
            columns |= {f"{name}.ends": ends}
    if annotations.segmentations is not None:
        texts = ("" if s is None else json.dumps(s) for s in annotations.segmentations)
        columns |= _pack(SEGMENTATIONS, texts)
    columns |= _pack("set_aside.item", (a.item for a in annotations.set_aside))
    columns |= _pack("set_aside.reason", (a.reason for a in annotations.set_aside))
    return columns


def _from_columns(columns: Columns, categories: Categories, *, masks: bool) -> Annotations:
    # the reverse of `to_columns`; numeric columns stay the same arrays, not copies
    segmentations: tuple[Any, ...] | None = None
    if masks and f"{SEGMENTATIONS}.ends" in columns:
        texts = _unpack(SEGMENTATIONS, columns)
        segmentations = tuple(json.loads(text) if text else None for text in texts)
    numeric: dict[str, Any] = {name: columns[name] for name in _NUMERIC}
    lists: dict[str, Any] = {name: _unpack_lists(name, columns) for name in _LISTS}
    items = _unpack("set_aside.item", columns)
    reasons = _unpack("set_aside.reason", columns)
    return Annotations(
        categories=categories,
        image_ids=_unpack("image_ids", columns),
        file_names=_unpack("file_names", columns),
        **numeric,
        **lists,
        segmentations=segmentations,
        set_aside=tuple(SetAside(*pair) for pair in zip(items, reasons, strict=True)),
    )


def _check_columns(info: StoreInfo, annotations: Annotations) -> None:
    """ValueError where columns do not fit each other: a row would be another image's, or none's."""
    images, regions, classes = info.images, info.regions, len(annotations.categories)
    of_images = {"image_ids": annotations.image_ids, "file_names": annotations.file_names}
    of_images |= {name: getattr(annotations, name) for name in _LISTS}
    lengths = {name: len(values) for name, values in of_images.items() if name not in _LISTS}
    lengths |= {
        name: len(values) for name, values in of_images.items() if name in _LISTS and values
    }
    if wrong := [name for name, length in lengths.items() if length != images]:
        raise ValueError(f"{wrong[0]} is of {lengths[wrong[0]]} images, not of {images}")
    shapes = {
        "sizes": (images, 2), "starts": (images + 1,), "boxes": (regions, 4), "labels": (regions,),
        "crowd": (regions,), "areas": (regions,), "region_ids": (regions,),
    }  # fmt: skip
    for name, shape in shapes.items():
        column = getattr(annotations, name)
        if column.shape != shape or column.dtype != np.dtype(_NUMERIC[name]):
            raise ValueError(f"{name} is {column.shape} of {column.dtype}, not {shape}")
    masks = annotations.segmentations
    if masks is not None and len(masks) != regions:
        raise ValueError(f"masks of {len(masks)} regions, not of {regions}")
    starts = annotations.starts
    if starts[0] != 0 or starts[-1] != regions or (np.diff(starts) < 0).any():
        raise ValueError("starts are no rows of regions")
    for name, labels in (
        ("labels", [annotations.labels]), *((name, getattr(annotations, name)) for name in _LISTS)
    ):  # fmt: skip
        if any(len(row) and not (row.min() >= 0 and row.max() < classes) for row in labels):
            raise ValueError(f"{name} are not of the {classes} categories")
    # NaN is no box either
    if not (annotations.boxes[:, :2] < annotations.boxes[:, 2:]).all():
        raise ValueError("a box is empty or inverted")
    if not np.isfinite(annotations.boxes).all():
        raise ValueError("a box is not finite")
    columns = annotations.categories
    if (
        len({len(columns.ids), len(columns.names), len(columns.synonyms), len(columns.frequency)})
        > 1
    ):
        raise ValueError("categories: ids, names, synonyms and frequency differ in number")
    texts = (*columns.names, *columns.frequency, *(n for names in columns.synonyms for n in names))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("categories: a name is no text")


def _categories_to_json(categories: Categories) -> dict[str, Any]:
    return {
        "ids": categories.ids.tolist(),
        "names": list(categories.names),
        "synonyms": [list(names) for names in categories.synonyms],
        "frequency": list(categories.frequency),
    }


def _categories_from_json(content: Any) -> Categories:
    return Categories(
        ids=np.array(content["ids"], dtype=np.int64),
        names=tuple(content["names"]),
        synonyms=tuple(tuple(names) for names in content["synonyms"]),
        frequency=tuple(content["frequency"]),
    )


def hash_columns(columns: Columns, categories: Categories) -> dict[str, str]:
    """Per column a hash of its type, shape and every number; the categories are one more."""
    hashes = {name: hash_array(array).hex() for name, array in columns.items()}
    text = json.dumps(_categories_to_json(categories), ensure_ascii=True)
    return {**hashes, "categories": short_hash(text.encode()).hex()}


def _pack(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    # surrogatepass: a file's name need not be UTF-8, and JSON can write what is no character
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)
    content = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {f"{name}.bytes": content, f"{name}.ends": ends}


def _unpack(name: str, columns: Columns) -> tuple[str, ...]:
    content, ends = columns[f"{name}.bytes"].tobytes(), columns[f"{name}.ends"].tolist()
    # bytes and characters are then counted alike, and one decoding serves all (100,000 names)
    if content.isascii():
        text = content.decode("ascii")
        return tuple(text[a:b] for a, b in pairwise([0, *ends]))
    return tuple(content[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise([0, *ends]))


def _unpack_lists(name: str, columns: Columns) -> tuple[NDArray[np.int64], ...]:
    if f"{name}.ends" not in columns:
        return ()
    values, ends = columns[f"{name}.values"], columns[f"{name}.ends"].tolist()
    return tuple(values[a:b] for a, b in pairwise([0, *ends]))
