"""Shards of an index: a Parquet file of regions and one of their images, both whole or absent.

The bytes of both follow from what is written alone: no times, no names of machines, rows cut into
groups by their number. Whichever process writes a shard, and however often, its files are equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anyregion.errors import AnyRegionError, InputError, SetAside
from anyregion.files import atomic_path, writing
from anyregion.index.plan import decode_name, encode_name
from anyregion.index.sources import PlannedImage
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions

Halves = NDArray[np.float16]

ROWS_OF_GROUP = 4096
"""Regions that are written and read together: 3 MB of `compact`'s embeddings."""
_STATEMENT = b"anyregion_index"
FEATURE = "feature_"
# what is stored of each region beside arrays of half precision
_REGION = (
    ("image", pa.string()), ("image_row", pa.int32()), ("id", pa.string()),
    ("x0", pa.float64()), ("y0", pa.float64()), ("x1", pa.float64()), ("y1", pa.float64()),
    ("objectness", pa.float64()), ("own_mask", pa.string()),
)  # fmt: skip
_IMAGE = pa.schema(
    [
        ("name", pa.string()), ("kind", pa.string()), ("location", pa.string()),
        ("offset", pa.int64()), ("bytes", pa.int64()), ("modified_ns", pa.int64()),
        ("height", pa.int32()), ("width", pa.int32()), ("regions", pa.int32()),
        ("key", pa.string()), ("set_aside", pa.string()), ("hash", pa.uint64()),
        ("digest", pa.string()), ("quarantined", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class ShardLayout:
    """The columns of an index's regions.

    Attributes:
        width: numbers of an embedding.
        features: of what taught vocabularies need, the name and width of each; empty without.
        masks: whether each region has a mask.
    """

    width: int
    features: tuple[tuple[str, int], ...] = ()
    masks: bool = False

    @classmethod
    def of(cls, embedded: RegionEmbeddings, *, masks: bool) -> ShardLayout:
        """The layout of what an encoder gives."""
        features = (embedded.features or {}).items()
        widths = tuple((name, values.shape[1]) for name, values in features)
        return cls(embedded.embeddings.shape[1], widths, masks)

    def schema(self) -> pa.Schema:
        """Of the Parquet file. Arrays are bytes of little-endian halves, read at disk speed."""
        columns = [*_REGION, ("embedding", pa.binary(2 * self.width))]
        if self.masks:
            columns += [("mask", pa.string()), ("mask_score", pa.float32())]
        columns += [(FEATURE + name, pa.binary(2 * width)) for name, width in self.features]
        return pa.schema(columns)


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """One image of a shard.

    Attributes:
        image: where it is.
        size: `(height, width)`; `(0, 0)` of one that could not be used.
        regions: how many it has in the shard.
        key: its id in the file of regions, or None.
        set_aside: its regions that could not be used, and why.
        hash: of its pixels, alike for images that look alike (`duplicates.image_hash`).
        digest: SHA-256 of its file, as corrections know it.
        quarantined: why it could not be used, or None.
    """

    image: PlannedImage
    size: tuple[int, int] = (0, 0)
    regions: int = 0
    key: str | None = None
    set_aside: tuple[SetAside, ...] = ()
    hash: int = 0
    digest: str = ""
    quarantined: str | None = None


@dataclass(frozen=True)
class ShardPaths:
    """The files of one shard; it is whole once the one of its regions is there."""

    folder: Path
    number: int

    @property
    def regions(self) -> Path:
        """The regions, one a row."""
        return self.folder / f"{self.number:05}.regions.parquet"

    @property
    def images(self) -> Path:
        """The images, one a row; there before the regions are."""
        return self.folder / f"{self.number:05}.images.parquet"

    @property
    def lock(self) -> Path:
        """There while somebody computes the shard."""
        return self.folder / f"{self.number:05}.lock"

    def is_whole(self, fingerprint: str) -> bool:
        """Whether both files are there, of this index and this shard. Reads their ends alone."""
        return all(
            states(path, _STATEMENT, self.number) == fingerprint
            for path in (self.regions, self.images)
        )

    def remove_leftovers(self) -> None:
        """Remove what killed processes began; for who has the lock alone."""
        for path in (self.regions, self.images):
            for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
                leftover.unlink(missing_ok=True)


@dataclass
class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes one shard, region by region; `finish` makes it whole.

    Attributes:
        paths: its files.
        fingerprint: of the index.
        images: those that were added.
    """

    paths: ShardPaths
    fingerprint: str
    layout: ShardLayout
    images: list[IndexedImage] = field(default_factory=list)
    regions: int = 0
    _pending: list[pa.Table] = field(default_factory=list)

    def __enter__(self) -> ShardWriter:
        self._statement = {_STATEMENT: statement(self.fingerprint, self.paths.number)}
        self._schema = self.layout.schema().with_metadata(self._statement)
        self._place = atomic_path(self.paths.regions, durable=True)
        self._file = self._place.__enter__()
        self._writer = _parquet_writer(self._file, self._schema)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            with writing(self.paths.regions):
                self._writer.close()
        except AnyRegionError as failed:
            # what was begun goes, whatever else went wrong before
            self._place.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._place.__exit__(*error)

    def quarantine(self, image: PlannedImage, reason: str) -> None:
        """Note an image that cannot be used."""
        self.images.append(IndexedImage(image, quarantined=reason))

    def add(self, image: IndexedImage, regions: Regions, embedded: RegionEmbeddings) -> None:
        """Add an image with its regions.

        Raises:
            InputError: embeddings that half precision cannot hold.
        """
        arrays = {"embedding": embedded.embeddings}
        arrays |= {FEATURE + name: v for name, v in (embedded.features or {}).items()}
        columns: dict[str, Any] = {}
        for name, values in arrays.items():
            columns[name] = _halves_to_arrow(name, values)
        rows = len(regions)
        boxes = embedded.boxes
        columns |= {
            "image": [encode_name(image.image.name)] * rows,
            "image_row": np.full(rows, len(self.images), dtype=np.int32),
            "id": [json.dumps(i) for i in regions.ids],
            **dict(zip(("x0", "y0", "x1", "y1"), boxes.T, strict=True)),
            "objectness": [None] * rows if regions.scores is None else regions.scores,
            # which of two regions that overlap are one thing is seen at masks that they bring
            "own_mask": [None if mask is None else mask["counts"] for mask in regions.masks],
        }
        if self.layout.masks:
            masks, scores = embedded.masks, embedded.mask_scores
            columns["mask"] = [None] * rows if masks is None else [m["counts"] for m in masks]
            columns["mask_score"] = [None] * rows if scores is None else scores
        table = pa.table({name: columns[name] for name in self._schema.names}, self._schema)
        self.images.append(image)
        self.regions += rows
        self._pending.append(table)
        if sum(part.num_rows for part in self._pending) >= ROWS_OF_GROUP:
            self._flush(ROWS_OF_GROUP)

    def finish(self) -> None:
        """Write what is left; the images' file first, for the regions' makes the shard count."""
        self._flush(1)
        rows = [_image_row(image) for image in self.images]
        schema = _IMAGE.with_metadata(self._statement)
        table = pa.Table.from_pylist(rows, schema=schema)
        with writing(self.paths.images), atomic_path(self.paths.images, durable=True) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def _flush(self, least: int) -> None:
        """Write groups of rows as long as there are `least`."""
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        while table.num_rows >= least:
            group = table.slice(0, ROWS_OF_GROUP).combine_chunks()
            with writing(self.paths.regions):
                self._writer.write_table(group, row_group_size=ROWS_OF_GROUP)
            table = table.slice(ROWS_OF_GROUP)
        # a copy, or what was written would stay in memory with it
        self._pending = [table.combine_chunks()] if table.num_rows else []


def read_images(paths: ShardPaths) -> list[IndexedImage]:
    """The images of a shard.

    Raises:
        InputError: a damaged file.
    """
    images = []
    with _reading(paths.images):
        table = pq.read_table(paths.images, page_checksum_verification=True)
        # pages have a checksum, the names and types of columns at the file's end have none
        if not table.schema.equals(_IMAGE):
            raise ValueError("it has other columns")
        for row in table.to_pylist():
            place = {
                name: decode_name(row[name])
                for name in ("name", "kind", "location", "offset", "bytes", "modified_ns")
            }
            images.append(
                IndexedImage(
                    PlannedImage(**place),
                    (row["height"], row["width"]),
                    row["regions"],
                    row["key"],
                    tuple(SetAside(*pair) for pair in json.loads(row["set_aside"])),
                    row["hash"],
                    row["digest"],
                    decode_name(row["quarantined"]),
                )
            )
    return images


def read_blocks(
    paths: ShardPaths, columns: Sequence[str], *, groups: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """Some columns of a shard's regions, `ROWS_OF_GROUP` rows at a time.

    Args:
        paths: the shard.
        columns: their names.
        groups: which groups of rows; None for all.

    Raises:
        InputError: a damaged file, or a column that this index has not.
    """
    with (
        _reading(paths.regions),
        pq.ParquetFile(paths.regions, memory_map=True, page_checksum_verification=True) as file,
    ):
        schema, metadata = file.schema_arrow, file.metadata
        if missing := set(columns) - set(schema.names):
            raise InputError(f"{paths.regions}: has no {', '.join(sorted(missing))}")
        # pages have a checksum, what the file's end says of them has none
        if any(schema.field(name).type != kind for name, kind in _REGION if name in columns):
            raise ValueError("it has columns of other types")
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if sum(rows) != metadata.num_rows:
            raise ValueError(f"{sum(rows)} rows, and not the {metadata.num_rows} it states")
        for group in range(len(rows)) if groups is None else groups:
            yield file.read_row_group(group, columns=list(columns), use_threads=False)


def halves_of(table: pa.Table, column: str) -> Halves:
    """An array `(M, F)` of a block; a view of it where that is possible."""
    values = table.column(column).combine_chunks()
    width = values.type.byte_width // 2
    # a chunked array of no or several chunks
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    arrays = [
        np.frombuffer(c.buffers()[1], "<f2", len(c) * width, c.offset * width * 2)
        for c in chunks
        if len(c)
    ]
    joined = np.concatenate(arrays) if len(arrays) != 1 else arrays[0]
    return joined.reshape(-1, width).astype(np.float16, copy=False)


def boxes_of(table: pa.Table) -> NDArray[np.float64]:
    """Boxes `(M, 4)`, xyxy in pixels, of a block."""
    return np.stack([table.column(name).to_numpy() for name in ("x0", "y0", "x1", "y1")], axis=1)


def statement(fingerprint: str, number: int) -> bytes:
    """What a Parquet file's metadata say of whose it is, and of which shard."""
    return json.dumps({"fingerprint": fingerprint, "shard": number}).encode()


def states(path: Path, key: bytes, number: int) -> str | None:
    """The fingerprint in a Parquet file's metadata under a key.

    None where there is none, or the file is another shard's, copied to this one's place.
    """
    try:
        metadata = pq.read_schema(path, memory_map=True).metadata or {}
        stated = json.loads(metadata[key])
        # files of before 0.3 do not say which shard's they are
        return str(stated["fingerprint"]) if stated.get("shard", number) == number else None
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError):
        return None


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # arrays do not get smaller, and texts do
    compression = {n: "none" if pa.types.is_fixed_size_binary(t) else "zstd"
                   for n, t in zip(schema.names, schema.types, strict=True)}  # fmt: skip
    dictionary = [name for name in ("image", "id", "label") if name in schema.names]
    return pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        use_dictionary=dictionary,
        write_statistics=dictionary,
        write_page_checksum=True,
    )


def _halves_to_arrow(name: str, values: NDArray[Any]) -> pa.FixedSizeBinaryArray:
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(values, dtype="<f2")
    if not np.isfinite(halves).all():
        raise InputError(f"{name}: numbers that are not finite in half precision")
    kind = pa.binary(2 * values.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(halves)])


def _image_row(image: IndexedImage) -> Mapping[str, Any]:
    place = image.image
    return {
        "name": encode_name(place.name),
        "kind": place.kind,
        "location": encode_name(place.location),
        "offset": place.offset,
        "bytes": place.bytes,
        "modified_ns": place.modified_ns,
        "height": image.size[0],
        "width": image.size[1],
        "regions": image.regions,
        "key": image.key,
        "set_aside": json.dumps([[a.item, a.reason] for a in image.set_aside]),
        "hash": image.hash,
        "digest": image.digest,
        "quarantined": encode_name(image.quarantined),
    }


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a missing or damaged file into an error that names the cure."""
    try:
        yield
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: missing or damaged ({error}): `anyregion index` with the same arguments "
            "computes it again once the file is gone"
        ) from None
