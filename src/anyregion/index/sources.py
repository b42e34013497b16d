"""Where the images of an index lie: files, addresses, and the members of tar and Parquet files.

Whatever is no plain file is opened by fsspec, which knows the addresses of object storages.
"""

from __future__ import annotations

import os
import re
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from anyregion.errors import InputError, SetAside
from anyregion.images import SUFFIXES, is_list, read_list
from anyregion.runs.recognize import name_images

Kind: TypeAlias = Literal["file", "address", "tar", "parquet"]

_CONTAINERS = (".tar", ".parquet")
_COMPRESSED_TAR = re.compile(r"\.(tgz|tar\.\w+)$", re.IGNORECASE)
# what a storage that does not answer is asked again after, in seconds
_WAITS = (0.5, 2.0)
# opened tar files and row groups of Parquet files that a process keeps
_KEPT = 4


@dataclass(frozen=True)
class PlannedImage:
    """One image of a plan, not read yet.

    Attributes:
        name: what results call it; of an index no two have one name.
        kind: what `location` leads to.
        location: a path, or an address that fsspec opens; of a tar or Parquet file that holds it.
        offset: where it starts in a tar file, in bytes, or its row in a Parquet file; else 0.
        bytes: its size; -1 where the listing does not say.
        modified_ns: time of change of a plain file; -1 for others.
    """

    name: str
    kind: Kind
    location: str
    offset: int = 0
    bytes: int = -1
    modified_ns: int = -1


def list_images(paths: Sequence[str | Path]) -> tuple[Path, list[PlannedImage], list[SetAside]]:
    """Find all images of `paths`, sorted by their names, without opening any.

    Args:
        paths: image files, folders, globs and tar files; lists (`.txt`, an image's path or address
            a line; paths start from the list's folder); Parquet files with a column of encoded
            images; and addresses (`s3://bucket/photos`) of any of these but lists and globs.

    Returns:
        The folder that names of plain files start from; the images; paths that lead to nothing,
        and images whose name is taken.
    """
    plain: list[str | Path] = []
    images: list[PlannedImage] = []
    set_aside: list[SetAside] = []
    for path in paths:
        text = str(path)
        suffix = PurePosixPath(text).suffix.lower()
        if _COMPRESSED_TAR.search(text):
            reason = (
                "a compressed tar file cannot be read from the middle: unpack it, or tar it plain"
            )
            raise InputError(f"{text}: {reason}")
        if suffix in _CONTAINERS:
            listed = _list_container(text, suffix)
            images += listed
            if not listed:
                set_aside.append(SetAside(text, "no image in it"))
        elif "://" in text:
            listed = _list_address(text)
            images += listed
            if not listed:
                set_aside.append(SetAside(text, "no image there"))
        elif is_list(text):
            for line in read_list(Path(text).expanduser()):
                if isinstance(line, str):
                    images += _list_address(line)
                else:
                    plain.append(line)
        else:
            plain.append(path)
    root = Path.cwd()
    if plain:
        # an index draws no pictures: none are passed over but those of runs
        root, named, missing = name_images(plain, pictures=Path(os.devnull))
        set_aside += missing
        for name, file in named.items():
            try:
                status = file.stat()
            except OSError as error:  # removed since its folder was listed
                set_aside.append(SetAside(str(file), f"not there any more ({error.strerror})"))
                continue
            location = str(file)
            images.append(
                PlannedImage(name, "file", location, 0, status.st_size, status.st_mtime_ns)
            )
    images.sort(key=lambda image: (image.name, image.location, image.offset))
    first: dict[str, PlannedImage] = {}
    for image in images:
        if first.setdefault(image.name, image) is not image:
            reason = f"in {image.location}: its name is taken in {first[image.name].location}"
            set_aside.append(SetAside(image.name, reason))
    return root, list(first.values()), set_aside


class ImageReader:
    """Reads the bytes of planned images; opened containers are kept for the next ones."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def read(self, image: PlannedImage) -> Path | bytes:
        """The path of a plain file, or the bytes of any other image.

        A storage that fails is asked again, twice.

        Raises:
            InputError: it cannot be had, or is not what was planned any more.
        """
        if image.kind == "file":
            path = Path(image.location)
            try:
                status = path.stat()
            except OSError:
                raise InputError(f"{path}: not there any more") from None
            if (status.st_size, status.st_mtime_ns) != (image.bytes, image.modified_ns):
                raise InputError(f"{path}: changed since the index was planned")
            return path
        for wait in (*_WAITS, None):
            try:
                content = self._read(image)
                break
            except InputError:
                raise
            except Exception as error:  # storages raise errors of their own
                self._opened.clear()
                if wait is None:
                    reason = str(error) or type(error).__name__
                    raise InputError(f"{image.location}: cannot be read ({reason})") from None
                time.sleep(wait)
        if image.bytes not in (-1, len(content)):
            raise InputError(f"{image.location}: changed since the index was planned")
        return content

    def _read(self, image: PlannedImage) -> bytes:
        if image.kind == "address":
            with _open(image.location) as file:
                return bytes(file.read())
        if image.kind == "tar":
            file = self._kept((image.location, 0), lambda: _open(image.location))
            file.seek(image.offset)
            return bytes(file.read(image.bytes))
        return self._read_row(image)

    def _read_row(self, image: PlannedImage) -> bytes:
        file = self._kept((image.location, -1), lambda: pq.ParquetFile(_open(image.location)))
        row, group = image.offset, 0
        while row >= (rows := file.metadata.row_group(group).num_rows):
            row, group = row - rows, group + 1
        column = _image_column(file, image.location)
        # images of a shard are neighbours: a group of rows is read once for all of them
        values = self._kept(
            (image.location, group), lambda: file.read_row_group(group, columns=[column]).column(0)
        )
        value = values[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError(f"{image.location}: row {image.offset} holds no image")
        return content

    def _kept(self, key: tuple[str, int], make: Callable[[], Any]) -> Any:
        value = self._opened.pop(key, None)
        if value is None:
            value = make()
        self._opened[key] = value
        while len(self._opened) > _KEPT:
            _, old = self._opened.popitem(last=False)
            with suppress(Exception):  # a group of rows has nothing to close
                old.close()
        return value


def _open(location: str) -> Any:
    """An open file of bytes that can be read from anywhere."""
    return fsspec.open(location, "rb").open()


def _list_address(address: str) -> list[PlannedImage]:
    """The image at an address, or all below it; named by what follows the address."""
    try:
        storage, start = fsspec.core.url_to_fs(address)
        details: dict[str, Any] = storage.find(start, detail=True)
    except ImportError as error:  # s3:// needs s3fs, which fsspec says
        raise InputError(f"{address}: {error}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{address}: cannot be listed ({error})") from None
    images = []
    for path, detail in details.items():
        below = PurePosixPath(
            path.removeprefix(start.rstrip("/")).lstrip("/") or PurePosixPath(path).name
        )
        hidden = any(part.startswith(".") for part in below.parts)
        if below.suffix.lower() in SUFFIXES and not hidden:
            size = detail.get("size")
            location = storage.unstrip_protocol(path)
            images.append(
                PlannedImage(
                    str(below), "address", location, bytes=-1 if size is None else int(size)
                )
            )
    return images


def _list_container(location: str, suffix: str) -> list[PlannedImage]:
    """The images in a tar or Parquet file; named by its name, and by their own or their row."""
    name = PurePosixPath(location.replace(os.sep, "/")).name
    if "://" not in location:
        location = str(Path(location).expanduser().resolve())
    try:
        with ExitStack() as stack:
            file = stack.enter_context(_open(location))
            members = _tar_members if suffix == ".tar" else _parquet_rows
            return [replace(i, name=f"{name}/{i.name}") for i in members(file, location)]
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{location}: there is no such file") from None
    except Exception as error:  # those of tarfile, pyarrow and storages have no base in common
        raise InputError(f"{location}: no {suffix[1:]} file that can be read ({error})") from None


def _tar_members(file: Any, location: str) -> Iterator[PlannedImage]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        last: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if member.isreg() and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                if any(part.startswith(".") and part != "." for part in parts):
                    continue
                # a file that was added again replaces the one before it
                last["/".join(p for p in parts if p not in (".", "/"))] = member
        for name, member in last.items():
            yield PlannedImage(name, "tar", location, member.offset_data, member.size)


def _parquet_rows(file: Any, location: str) -> Iterator[PlannedImage]:
    table = pq.ParquetFile(file)
    _image_column(table, location)
    rows: int = table.metadata.num_rows
    # with zeros in front: sorted by name they stay in the order of the rows
    digits = len(str(max(rows - 1, 0)))
    for row in range(rows):
        yield PlannedImage(f"{row:0{digits}}", "parquet", location, row)


def _image_column(file: Any, location: str) -> str:
    """The column of encoded images: of bytes, or of `{bytes, path}` as data sets' hubs write it."""
    columns = []
    for column in file.schema_arrow:
        kind = column.type
        if pa.types.is_struct(kind) and (at := kind.get_field_index("bytes")) >= 0:
            kind = kind.field(at).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            columns.append(column.name)
    named = [name for name in columns if name in ("image", "img", "jpg", "bytes")]
    if len(named or columns) != 1:
        have = ", ".join(columns) or "none"
        raise InputError(
            f"{location}: one column of encoded images is needed; of bytes it has {have}"
        )
    return str((named or columns)[0])
