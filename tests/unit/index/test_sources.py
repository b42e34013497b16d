"""Images of an index may be files, lists, addresses, and members of tar and Parquet files."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyregion.errors import InputError
from anyregion.index import RegionIndex, sources
from anyregion.index.shards import halves_of
from anyregion.index.sources import ImageReader, list_images
from tests.helpers.indexes import make_index, pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures(tmp_path / "photos", 5)


def embeddings(folder: Path) -> list[bytes]:
    index = RegionIndex.open(folder)
    blocks = (block for n in range(len(index)) for block in index.blocks(n, ["embedding"]))
    return [halves_of(block, "embedding").tobytes() for block in blocks]


def packed(photos: Path, kind: str) -> str:
    """The photos in another form; names sort as those of the files do."""
    files = sorted(photos.rglob("*.png"))
    target = photos.parent / f"photos.{kind}"
    if kind == "tar":
        with tarfile.open(target, "w") as tar:
            for path in [*reversed(files), files[0]]:  # one of them twice
                tar.add(path, f"./{path.relative_to(photos)}")
            tar.addfile(tarfile.TarInfo("notes.txt"))
    elif kind == "parquet":
        rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}} for path in files]
        pq.write_table(pa.Table.from_pylist(rows), target, row_group_size=2)
    elif kind == "txt":
        target.write_text("".join(f"{path.relative_to(photos.parent)}\n\n" for path in files))
    else:
        storage = fsspec.filesystem("memory")
        for path in files:
            storage.pipe(f"/{photos.parent.name}/{path.relative_to(photos)}", path.read_bytes())
        storage.pipe(f"/{photos.parent.name}/notes.txt", b"no image")
        return f"memory://{photos.parent.name}"
    return str(target)


@pytest.mark.parametrize("kind", ["tar", "parquet", "txt", "memory"])
def test_the_same_images_in_another_form(photos: Path, tmp_path: Path, kind: str) -> None:
    make_index(photos, tmp_path / "files", shard_images=2)
    report = make_index(packed(photos, kind), tmp_path / "packed", shard_images=2)
    assert (report.images, report.set_aside) == (5, ())
    assert embeddings(tmp_path / "packed") == embeddings(tmp_path / "files")


def test_names_of_members(photos: Path) -> None:
    _, images, _ = list_images([packed(photos, "tar"), packed(photos, "parquet")])
    names = [image.name for image in images]
    assert names[:2] == ["photos.parquet/0", "photos.parquet/1"]
    assert names[5:7] == ["photos.tar/0/000.png", "photos.tar/0/003.png"]
    assert all(image.bytes > 0 for image in images[5:])


def test_a_name_is_taken_once(photos: Path) -> None:
    tar = packed(photos, "tar")
    other = photos.parent / "other"
    other.mkdir()
    Path(tar).rename(other / "photos.tar")
    packed(photos, "tar")
    _, images, set_aside = list_images([tar, other / "photos.tar"])
    assert len(images) == 5
    assert len(set_aside) == 5
    assert "its name is taken" in set_aside[0].reason


def test_what_cannot_be_listed(photos: Path, tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.tar.gz", b"", "compressed"),
        ("b.tar", b"x" * 600, "no tar file"),
        ("c.parquet", b"x" * 600, "no parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=reason):
            list_images([tmp_path / name])
    with pytest.raises(InputError, match="there is no such file"):
        list_images([tmp_path / "d.tar"])
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match="one column of encoded images"):
        list_images([tmp_path / "e.parquet"])
    with pytest.raises(InputError, match="nowhere"):
        list_images(["nowhere://bucket/photos"])


def test_what_holds_no_image_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "e.parquet")
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"))
    _, images, set_aside = list_images([photos, tmp_path / "e.parquet", tmp_path / "e.tar"])
    assert len(images) == 5
    assert [Path(a.item).name for a in set_aside] == ["e.parquet", "e.tar"]
    assert set_aside[0].reason == "no image in it"
    # removed between the listing and the look at it
    named = sources.name_images

    def remove_one(*args: Any, **options: Any) -> Any:
        result = named(*args, **options)
        sorted(photos.rglob("*.png"))[0].unlink()
        return result

    monkeypatch.setattr(sources, "name_images", remove_one)
    _, images, set_aside = list_images([photos])
    assert len(images) == 4
    assert "not there any more" in set_aside[0].reason


def test_a_storage_that_fails_is_asked_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, images, _ = list_images([packed(photos, "memory")])
    opened, real = [], fsspec.open

    def fails_once(*args: object, **options: object) -> object:
        opened.append(args)
        if len(opened) == 1:
            raise ConnectionError("away")
        return real(*args, **options)

    monkeypatch.setattr("anyregion.index.sources._WAITS", (0.0, 0.0))
    monkeypatch.setattr(fsspec, "open", fails_once)
    content = ImageReader().read(images[0])
    assert content == (photos / images[0].name).read_bytes()

    def fails(*args: object, **options: object) -> object:
        opened.append(args)
        raise ConnectionError("away")

    monkeypatch.setattr(fsspec, "open", fails)
    opened.clear()
    with pytest.raises(InputError, match=r"cannot be read \(away\)"):
        ImageReader().read(images[0])
    assert len(opened) == 3
