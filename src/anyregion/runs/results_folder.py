"""The folder of a run: its settings, journal and pictures, what was set aside, and the exports."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyregion.drawing.options import PictureOptions
from anyregion.errors import AnyRegionError, InputError, SetAside
from anyregion.files import atomic_path, to_line, write_csv, writing
from anyregion.images import Pixels
from anyregion.masks import segmentation_to_rle
from anyregion.predictions import Predictions, csv_columns, record_to_coco, record_to_csv
from anyregion.runs.run_file import EXPORTS, changes_of, read_run
from anyregion.vocabulary import Vocabulary

try:
    import fcntl
except ImportError:
    # Windows: two runs into one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Entry:
    """What of a finished image stays in memory.

    Attributes:
        offset: where its line starts, in bytes.
        regions: how many rows it has.
        line: the line without its regions: `image`, `height` and `width`; and, where there are any,
            `image_id` (of the region file), `picture` (inside the folder), `set_aside` (regions
            that could not be used: `[{"item", "reason"}, ...]`) and `file` (size and time of
            change of the image's file, a cheap sign that it was overwritten).
        refused: how many of its rows scored less than the run's `min_score`.
    """

    offset: int
    regions: int
    line: dict[str, Any]
    refused: int = 0


class Journal:
    """Finished images by name: one line of JSON each, whole or absent whatever interrupts writing.

    Opening it drops a last line that was cut short.

    `file` is open and locked: once it is closed, another run may continue.

    Raises:
        InputError: a line before the last is malformed: the file is not a journal, or was edited.
        AnyRegionError: another run is writing it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: a line is on its way to the disk before the image counts as finished
            self.file = path.open("a+b", buffering=0)
        try:
            try:
                if fcntl is not None:
                    fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AnyRegionError(
                    f"{path.parent}: another run is writing there; wait for it, or give another "
                    "folder"
                ) from None
            except OSError:
                pass  # a network disk without locks: the run goes on without one
            end = 0
            with path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    try:
                        if not raw.endswith(b"\n"):
                            raise ValueError("cut short")
                        line = json.loads(raw)
                        _check_line(line)
                        rows = line.pop("regions")
                        refused = sum(row.get("refused", False) for row in rows)
                        self.entries[line["image"]] = Entry(end, len(rows), line, refused)
                    except (
                        ValueError,
                        KeyError,
                        TypeError,
                        AttributeError,
                        OverflowError,
                        RecursionError,
                    ):
                        # only the last line can be torn; any other was edited
                        if file.read(1):
                            raise InputError(
                                f"{path}: line {number} is malformed; repair it, or start anew "
                                "with --overwrite or in another folder"
                            ) from None
                        break
                    end += len(raw)
            with writing(path):
                self.file.truncate(end)
        except BaseException:
            self.file.close()
            raise

    def append(self, line: dict[str, Any]) -> None:
        """Add the line of one finished image; after an error the file is as it was before."""
        with writing(self.path):
            start = _append_whole(self.file, to_line(line))
        rows = line.pop("regions")
        refused = sum(row.get("refused", False) for row in rows)
        self.entries[line["image"]] = Entry(start, len(rows), line, refused)

    def without(self, names: Collection[str]) -> Journal:
        """Take out the lines of some images; the others keep their bytes. This one is closed."""
        remaining = [entry for name, entry in self.entries.items() if name not in names]
        with writing(self.path), atomic_path(self.path) as temporary:
            with self.path.open("rb") as old, temporary.open("wb") as new:
                for entry in sorted(remaining, key=lambda entry: entry.offset):
                    old.seek(entry.offset)
                    new.write(old.readline())
            # some systems replace no file that is open
            self.file.close()
        return Journal(self.path)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line, in the order of the images' names: the same however often a run stopped."""
        with self.path.open("rb") as file:
            for name in sorted(self.entries):
                file.seek(self.entries[name].offset)
                yield json.loads(file.readline())


def _check_line(line: Any) -> None:
    """ValueError, KeyError or TypeError where a line does not hold what the exports are made of.

    Only of what can be seen without the image: whether names and numbers were edited, cannot.
    """
    kinds = {"image": str, "height": int, "width": int, "regions": list}
    kinds |= {"image_id": int, "picture": str, "file": dict, "set_aside": list}
    optional = {"image_id", "picture", "file", "set_aside"} - line.keys()
    if wrong := [key for key in kinds.keys() - optional if type(line[key]) is not kinds[key]]:
        raise ValueError(f"{wrong[0]} is {line[wrong[0]]!r:.60}")
    for note in line.get("set_aside", ()):
        if not (isinstance(note["item"], str) and isinstance(note["reason"], str)):
            raise ValueError("what was set aside is no text")
    for row in line["regions"]:
        numbers = (*row["box"], row["score"])
        if len(numbers) != 5 or not all(type(v) in (int, float) for v in numbers):
            raise ValueError("a box or a score is no number")
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a box or a score is not finite")
        if not isinstance(row["label"], str) or type(row["id"]) not in (int, str):
            raise ValueError("a label or an id is no text")
        if not isinstance(row.get("refused", False), bool):
            raise ValueError("refused is neither true nor false")
        if row.get("mask") is not None:
            segmentation_to_rle(row["mask"], line["height"], line["width"])


def _append_whole(file: FileIO, content: bytes) -> int:
    """Add lines to an unbuffered file, all or none; returns where they start."""
    start = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        # a torn line would be cut off when the run is continued, but none is better
        with suppress(OSError):
            file.truncate(start)
        raise
    return start


class ResultsFolder:
    """A folder that one run writes and a later run with the same settings continues.

    `run.json` states the settings; `predictions.jsonl` is the journal, a line for each finished
    image; `pictures/` holds a picture for each; `skipped.jsonl` lists what was set aside.
    `predictions.json` and `predictions.csv` are there only once a run has come to its end.

    Args:
        path: the folder; made if it is missing.
        settings: whatever changes the results; a run with other settings may not continue here.
        root: the folder that the images' names start from.
        overwrite: remove an earlier run's files first (only those that a run writes).
        version: of the package, for `run.json`; it may change between runs.

    Raises:
        InputError: the folder holds a run with other settings, or broken files.
        AnyRegionError: it cannot be written, or another run is writing there.
    """

    def __init__(
        self,
        path: Path,
        *,
        settings: Mapping[str, Any],
        root: Path,
        version: str,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: not a folder")
        earlier = {} if overwrite else read_run(path)
        lines = path / "predictions.jsonl"
        try:
            self.journal = Journal(lines)
        except InputError:
            if not overwrite:
                raise
            # not readable as a journal: its pictures are not known, and stay
            with writing(lines):
                lines.unlink()
            self.journal = Journal(lines)
        self._skipped = path / "skipped.jsonl"
        self._pictures = {p for e in self.journal.entries.values() if (p := e.line.get("picture"))}
        self._run = {
            "anyregion": version,
            "root": str(root),
            "settings": dict(settings),
            "models": earlier.get("models", {}),
        }
        # what finished nothing (a wrong model's name, say) binds nobody
        if not overwrite and self.journal.entries and (changes := changes_of(earlier, self._run)):
            self.journal.file.close()
            raise InputError(
                f"{path}: holds a run with other settings ({'; '.join(changes)}); "
                "use --overwrite to start anew there, or another --out"
            )
        self.renew(stale=list(self.journal.entries) if overwrite else None)

    def renew(
        self, models: Mapping[str, str] | None = None, *, stale: Collection[str] | None = None
    ) -> None:
        """Write the settings; note the weights about to be used; forget answers that are stale.

        Args:
            models: fingerprints by the part of the model. Results of others may not be mixed with
                theirs.
            stale: finished images that are to be named again. They bind nobody, and are dropped
                once the weights are accepted, not before; so is what an earlier run exported, which
                is about to be out of date. None where nothing is.

        Raises:
            InputError: other finished images were named with other weights.
        """
        before, entries = self._run["models"], self.journal.entries
        models = models or before
        changes = [
            f"{k} was {before[k]}, now {v}" for k, v in models.items() if before.get(k, v) != v
        ]
        if changes and not entries.keys() <= set(stale or ()):
            raise InputError(
                f"{self.path}: finished images were named by other weights ({'; '.join(changes)}); "
                "use --overwrite or another --out"
            )
        for name in EXPORTS if stale is not None else ():
            (self.path / name).unlink(missing_ok=True)
        if stale:
            pictures = {p for name in stale if (p := entries[name].line.get("picture"))}
            self.journal = self.journal.without(stale)
            for picture in pictures:
                file = (self.path / picture).resolve()
                # a journal that was edited may not lead outside the folder
                if file.is_relative_to((self.path / "pictures").resolve()):
                    with writing(file):
                        file.unlink(missing_ok=True)
            self._pictures -= pictures
        # only now, when the old answers are gone: a kill in between mixes nothing
        self._run["models"] = dict(models)
        run = self.path / "run.json"
        with writing(run), atomic_path(run) as temporary:
            # ASCII: a folder's name need not be UTF-8
            temporary.write_text(json.dumps(self._run, indent=2) + "\n")
        # whatever else was set aside is tried again, so its list starts anew
        lines = [
            to_line({"image": name, **item})
            for name, entry in sorted(self.journal.entries.items())
            for item in entry.line.get("set_aside", ())
        ]
        with writing(self._skipped), atomic_path(self._skipped) as temporary:
            temporary.write_bytes(b"".join(lines))

    def skip(self, set_aside: Iterable[SetAside], *, image: str | None = None) -> None:
        """Note in `skipped.jsonl` what was left out, and why."""
        lines = [to_line({"image": image, "item": a.item, "reason": a.reason}) for a in set_aside]
        if lines:
            with writing(self._skipped), self._skipped.open("ab", buffering=0) as file:
                _append_whole(file, b"".join(lines))

    def finish(
        self,
        name: str,
        predictions: Predictions,
        *,
        image_id: int | None = None,
        file: Mapping[str, int] | None = None,
        set_aside: Collection[SetAside] = (),
        pixels: Pixels | None = None,
        min_score: float = 0.0,
        picture: PictureOptions | None = None,
        draw_refused: bool = False,
        drawn: bytes | None = None,
    ) -> None:
        """Write all that belongs to one image; the journal's line comes last and makes it count.

        Args:
            name, predictions: the image and its regions' names.
            image_id: its id in COCO's format, if it has one.
            file: size and time of change of its file, which tell whether it was overwritten.
            set_aside: regions of the image that cannot be used.
            pixels: the image, to draw a picture; None for no picture.
            min_score: rows whose best name scores less are marked as refused.
            picture: what the picture looks like.
            draw_refused: rows under `min_score` are drawn too, in grey, as those that a taught
                vocabulary refused always are.
            drawn: what `encoded_picture` made already, in place of `pixels`.
        """
        # the order of the keys is that of the format: files are compared byte by byte
        height, width = predictions.size
        line: dict[str, Any] = {
            "image": name,
            "height": int(height),
            "width": int(width),
            "regions": _marked_records(predictions, min_score),
        }
        if image_id is not None:
            line["image_id"] = image_id
        if pixels is not None:
            drawn = encoded_picture(
                name,
                pixels,
                predictions,
                min_score=min_score,
                picture=picture,
                draw_refused=draw_refused,
            )
        if drawn is not None:
            line["picture"] = self._write_picture(name, drawn)
        if file is not None:
            line["file"] = dict(file)
        if set_aside:
            line["set_aside"] = [{"item": a.item, "reason": a.reason} for a in set_aside]
            self.skip(set_aside, image=name)
        self.journal.append(line)

    def write_coco(self, vocabulary: Vocabulary, *, refused: bool = False) -> None:
        """Write `predictions.json`: info, licenses, images, annotations (with `score`), categories.

        It is streamed from the journal. Images and annotations follow the order of the images'
        names, so the file is the same however often the run was interrupted. Ids of images are the
        region file's where it gave every image one, else 1, 2, ...; `region_id` of an annotation is
        the caller's id of the region. Refused rows are left out, or with `refused` marked.
        """
        entries = self.journal.entries
        names = sorted(entries)
        ids = {name: i for i, name in enumerate(names, start=1)}
        stated = {
            name: i for name in names if (i := entries[name].line.get("image_id")) is not None
        }
        if len(set(stated.values())) == len(names):
            ids = stated
        category_ids = dict(zip(vocabulary.names, vocabulary.ids, strict=True))
        # generators: the regions of a large run would not fit into memory together
        records = (
            (line["image"], record)
            for line in self.journal.lines()
            for record in line["regions"]
            if refused or not record.get("refused")
        )
        sections: dict[str, Iterable[dict[str, Any]]] = {
            "images": (
                {
                    "id": ids[name],
                    "file_name": name,
                    "height": int(entries[name].line["height"]),
                    "width": int(entries[name].line["width"]),
                }
                for name in names
            ),
            "categories": (
                {"id": i, "name": name, "supercategory": ""} for name, i in category_ids.items()
            ),
            "annotations": (
                {
                    **record_to_coco(
                        record,
                        ids[name],
                        number,
                        self._category(category_ids, name, record["label"]),
                    ),
                    **({"refused": True} if record.get("refused") else {}),
                }
                for number, (name, record) in enumerate(records, start=1)
            ),
        }
        path = self.path / "predictions.json"
        with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            info = {"description": "regions named by anyregion"}
            file.write(b'{"info": ' + to_line(info).rstrip() + b',\n"licenses": []')
            for section, items in sections.items():
                file.write(f',\n"{section}": [\n'.encode())
                for position, item in enumerate(items):
                    file.write((b",\n" if position else b"") + to_line(item).rstrip(b"\n"))
                file.write(b"\n]")
            file.write(b"}\n")

    def _category(self, ids: Mapping[str, int], name: str, label: str) -> int:
        if label not in ids:
            raise InputError(
                f"{self.journal.path}: {name}: {label!r:.60} is no name of this run's vocabulary: "
                "the file was edited; start anew with --overwrite or in another folder"
            )
        return ids[label]

    def write_csv(self) -> None:
        """Write `predictions.csv`: one row a region, of `csv_columns`; boxes are xyxy in pixels.

        A run that refused regions, or had a least score, has one more column, `refused`.
        """
        settings = self._run["settings"]
        with_refused = bool(settings.get("min_score")) or any(
            entry.refused for entry in self.journal.entries.values()
        )
        # fewer where the vocabulary is smaller
        kept = (len(r["labels"]) for line in self.journal.lines() for r in line["regions"])
        names = max(next(kept, 1), 1)
        columns = csv_columns(names)
        path = self.path / "predictions.csv"

        def rows() -> Iterator[Sequence[Any]]:
            for line in self.journal.lines():
                for record in line["regions"]:
                    values = record_to_csv(record, line["image"], names)
                    refused = "true" if record.get("refused") else "false"
                    yield [*values, refused] if with_refused else values

        with writing(path):
            write_csv(path, (*columns, "refused") if with_refused else columns, rows())

    def _write_picture(self, name: str, picture: bytes) -> str:
        """Write below `pictures/`; folders are kept, so equal file names do not collide."""
        relative = _picture_path(name)
        # `z.webp` and `z.webp.jpg` are both drawn as .jpg
        while str(relative) in self._pictures:
            relative = relative.with_name(f"{relative.stem}-2{relative.suffix}")
        self._pictures.add(str(relative))
        target = self.path / relative
        with writing(target), atomic_path(target) as temporary:
            temporary.write_bytes(picture)
        return str(relative)


def encoded_picture(
    name: str,
    pixels: Pixels,
    predictions: Predictions,
    *,
    min_score: float = 0.0,
    picture: PictureOptions | None = None,
    draw_refused: bool = False,
) -> bytes:
    """The picture of an image as a file of the kind that its name asks for.

    Args:
        name, pixels: of the image.
        predictions: the names of its regions.
        min_score, picture, draw_refused: see `ResultsFolder.finish`.
    """
    from anyregion.drawing.palette import Colours
    from anyregion.drawing.picture import draw

    low, none_of_these = predictions.scores[:, 0] < min_score, predictions.refused  # (M,)
    shown = ~low if none_of_these is None else ~low | none_of_these
    rows = np.flatnonzero(shown | draw_refused)
    # of several candidate masks the first: they come ranked
    rows = rows[np.unique(predictions.rows[rows], return_index=True)[1]]
    records = _marked_records(predictions, min_score)
    colours = Colours(predictions.vocabulary.names)
    image = draw(pixels, [records[row] for row in rows.tolist()], picture, colours=colours)
    buffer = BytesIO()
    if _picture_path(name).suffix.lower() == ".png":
        image.save(buffer, "PNG")
    else:
        # whole colours: of every second pixel alone, thin lines are grey
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _marked_records(predictions: Predictions, min_score: float) -> list[dict[str, Any]]:
    """The rows as a journal has them, those that are refused marked."""
    # float32, as `Predictions.above` compares them: what is written is rounded
    refused: NDArray[np.bool_] = predictions.scores[:, 0] < min_score  # (M,)
    if predictions.refused is not None:
        refused = refused | predictions.refused
    records = predictions.to_records()
    for record, is_refused in zip(records, refused.tolist(), strict=True):
        if is_refused:
            record["refused"] = True
    return records


def _picture_path(name: str) -> PurePosixPath:
    relative = PurePosixPath("pictures") / name
    if relative.suffix.lower() not in _PICTURE_SUFFIXES:
        relative = relative.with_name(relative.name + ".jpg")
    return relative
