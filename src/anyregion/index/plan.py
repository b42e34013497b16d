"""The plan of an index: all its images in order, and what is to be named in each, made once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyregion.errors import InputError
from anyregion.files import atomic_path, writing
from anyregion.index.sources import PlannedImage
from anyregion.io.regions import RegionFile
from anyregion.regions import Regions
from anyregion.runs.pipeline import RegionSource, Sample, file_samples

_IMAGE = [field.name for field in fields(PlannedImage)]


@dataclass(frozen=True, eq=False)
class PlannedSample:
    """One image and its regions.

    Attributes:
        image: where it is.
        regions: what is to be embedded; None where a proposer is to find them.
        key, size: as of `Sample`.
        reason: why it cannot be used, where that is known already.
    """

    image: PlannedImage
    regions: Regions | None = None
    key: str | None = None
    size: tuple[int, int] | None = None
    reason: str | None = None


def plan_samples(
    images: Sequence[PlannedImage], source: RegionSource, root: Path
) -> list[PlannedSample]:
    """Each image with its regions.

    Args:
        images: in the order of the index.
        source: of the regions.
        root: the folder that names start from.
    """
    # a file of regions knows images by their names alone, wherever they lie
    paths = {i.name: Path(i.location) if i.kind == "file" else root / i.name for i in images}
    samples: Mapping[str, Sample | str]
    if isinstance(source, RegionFile):
        samples = file_samples(source, paths, root)
    else:
        samples = source.samples(paths)
    planned = []
    for image in images:
        sample = samples[image.name]
        if isinstance(sample, str):
            planned.append(PlannedSample(image, reason=sample))
        else:
            planned.append(PlannedSample(image, sample.regions, sample.key, sample.size))
    return planned


def write_plan(path: Path, samples: Sequence[PlannedSample], shard_images: int) -> None:
    """Write a plan, a row group for each shard of so many images.

    Raises:
        AnyRegionError: it cannot be written.
    """
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("kind", pa.string()),
            ("location", pa.string()),
            ("offset", pa.int64()),
            ("bytes", pa.int64()),
            ("modified_ns", pa.int64()),
            ("sample", pa.string()),
        ]
    )
    with (
        writing(path),
        atomic_path(path, durable=True) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(samples), shard_images):
            part = samples[start : start + shard_images]
            # names of files need not be valid Unicode, and a Parquet file's texts have to be
            columns: dict[str, list[Any]] = {
                name: [encode_name(getattr(s.image, name)) for s in part] for name in _IMAGE
            }
            columns["sample"] = [_to_json(s) for s in part]
            writer.write_table(pa.table(columns, schema=schema))


def read_plan(path: Path, shard: int) -> list[PlannedSample]:
    """The images of one shard.

    Raises:
        InputError: no plan, or a damaged one.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read_row_group(shard).to_pylist()
        samples = []
        for row in rows:
            sample = json.loads(row.pop("sample"))
            image = PlannedImage(**{name: decode_name(value) for name, value in row.items()})
            regions = sample.pop("regions")
            size = sample.pop("size")
            samples.append(
                PlannedSample(
                    image,
                    None if regions is None else _read_regions(regions),
                    size=None if size is None else (size[0], size[1]),
                    **sample,
                )
            )
        return samples
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: damaged, or no plan of an index ({error})") from None


def encode_name(value: Any) -> Any:
    """A text that UTF-8 can write: bytes of a file's name that are none as `\\udcxx`, escaped."""
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return "json:" + json.dumps(value)
    # a name that looks like an escaped one is escaped, too
    return "json:" + json.dumps(value) if value.startswith("json:") else value


def decode_name(value: Any) -> Any:
    """What `encode_name` was given."""
    escaped = isinstance(value, str) and value.startswith("json:")
    return json.loads(value.removeprefix("json:")) if escaped else value


def _to_json(sample: PlannedSample) -> str:
    regions: dict[str, Any] | None = None
    if sample.regions is not None:
        r = sample.regions
        # what has no box has NaN in its place, which is no JSON
        boxes = [None if np.isnan(box).any() else box for box in r.boxes]
        regions = {
            "boxes": [None if box is None else box.tolist() for box in boxes],
            "ids": list(r.ids),
            "scores": None if r.scores is None else r.scores.tolist(),
            "masks": list(r.masks) if any(m is not None for m in r.masks) else None,
            "points": [p.tolist() or None for p in r.points],
            "point_labels": [p.tolist() or None for p in r.point_labels],
        }
    content = {
        "regions": regions, "key": sample.key, "size": sample.size, "reason": sample.reason,
    }  # fmt: skip
    return json.dumps(content)


def _read_regions(content: dict[str, Any]) -> Regions:
    boxes = [[np.nan] * 4 if box is None else box for box in content.pop("boxes")]
    return Regions.from_prompts(boxes=np.reshape(boxes, (-1, 4)), **content)
