"""The folder of a run: settings, journal, pictures, and what was set aside."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from anyregion.errors import InputError, SetAside
from anyregion.files import atomic_path, read_json, writing
from anyregion.predictions import Predictions
from anyregion.runs.journal import Journal, append_whole, to_line

ASSEMBLED = ("predictions.json", "predictions.csv")
_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")
_ABSENT = "(not set)"


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
        about: what else `run.json` should state; it may change between runs.

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
        overwrite: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: not a folder")
        if not overwrite:
            known = _known(path)
            self.journal = Journal(path / "predictions.jsonl")
            # a run that finished nothing binds nobody
            changes = _changes(known, settings, root) if self.journal.entries else []
            if changes:
                self.journal.close()
                raise InputError(
                    f"{path}: holds a run with other settings ({'; '.join(changes)}); "
                    "use --overwrite to start anew there, or another --out"
                )
        else:
            self.journal = _emptied(path)
            known = {}
        self._run = {
            **(about or {}),
            "root": str(root),
            "settings": dict(settings),
            "models": known.get("models", {}),
        }
        self._write_run()
        self._pictures = {e.picture for e in self.journal.entries.values() if e.picture}
        self._skipped = path / "skipped.jsonl"
        self._write_skipped()

    def __enter__(self) -> ResultsFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def drop(self, names: Iterable[str]) -> None:
        """Forget the answers of some finished images: they are to be named again."""
        gone = list(names)
        if not gone:
            return
        self.begin()
        pictures = {p for name in gone if (p := self.journal.entries[name].picture)}
        self.journal.drop(gone)
        for picture in pictures:
            _remove_picture(self.path, picture)
        self._pictures -= pictures
        self._write_skipped()

    def pin(self, models: Mapping[str, str], *, stale: Collection[str] = ()) -> None:
        """Note the weights in use; results of other weights may not be mixed with them.

        Args:
            models: fingerprints by the part of the model.
            stale: finished images that are to be named again. They bind nobody, and are dropped
                (see `drop`) once the weights are accepted, not before.

        Raises:
            InputError: other finished images were named with other weights.
        """
        known = self._run["models"]
        changed = [
            f"{k} was {known[k]}, now {v}" for k, v in models.items() if known.get(k, v) != v
        ]
        if changed and not self.journal.entries.keys() <= set(stale):
            raise InputError(
                f"{self.path}: finished images were named by other weights ({'; '.join(changed)}); "
                "use --overwrite or another --out"
            )
        self.drop(stale)  # before the weights are noted: a kill in between mixes nothing
        self._run["models"] = dict(models)
        self._write_run()

    def begin(self) -> None:
        """Remove what an earlier run assembled: it is about to be out of date."""
        for name in ASSEMBLED:
            (self.path / name).unlink(missing_ok=True)

    def skip(self, aside: Iterable[SetAside], *, image: str | None = None) -> None:
        """Note in `skipped.jsonl` what was left out, and why."""
        lines = [to_line({"image": image, "item": a.item, "reason": a.reason}) for a in aside]
        if lines:
            with writing(self._skipped), self._skipped.open("ab", buffering=0) as file:
                append_whole(file, b"".join(lines))

    def finish(
        self,
        name: str,
        predictions: Predictions,
        *,
        image_id: int | None = None,
        file: Mapping[str, int] | None = None,
        set_aside: Iterable[SetAside] = (),
        picture: Image.Image | None = None,
    ) -> None:
        """Write all that belongs to one image; the journal's line comes last and makes it count."""
        aside = list(set_aside)
        height, width = predictions.size
        line: dict[str, Any] = {
            "image": name,
            "height": int(height),
            "width": int(width),
            "regions": predictions.to_records(),
        }
        if image_id is not None:
            line["image_id"] = image_id
        if picture is not None:
            line["picture"] = self._write_picture(name, picture)
        if file is not None:
            line["file"] = dict(file)
        if aside:
            line["set_aside"] = [{"item": a.item, "reason": a.reason} for a in aside]
        self.skip(aside, image=name)
        self.journal.append(line)

    def _write_run(self) -> None:
        run = self.path / "run.json"
        with writing(run), atomic_path(run) as temporary:
            # ASCII: a folder's name need not be UTF-8
            temporary.write_text(json.dumps(self._run, indent=2) + "\n")

    def _write_skipped(self) -> None:
        # what was set aside is tried again, so the list starts anew, but for finished images
        lines = [
            to_line({"image": name, **aside})
            for name, entry in sorted(self.journal.entries.items())
            for aside in entry.set_aside
        ]
        with writing(self._skipped), atomic_path(self._skipped) as temporary:
            temporary.write_bytes(b"".join(lines))

    def _write_picture(self, name: str, picture: Image.Image) -> str:
        relative = picture_name(name)
        while relative in self._pictures:
            pure = PurePosixPath(relative)
            relative = str(pure.with_name(f"{pure.stem}-2{pure.suffix}"))
        self._pictures.add(relative)
        target = self.path / relative
        options: dict[str, Any] = {} if target.suffix.lower() == ".png" else {"quality": 92}
        with writing(target), atomic_path(target) as temporary:
            picture.save(temporary, **options)
        return relative


def picture_name(name: str) -> str:
    """Where the picture of an image goes: folders are kept, so equal file names do not collide."""
    relative = PurePosixPath("pictures") / name
    if relative.suffix.lower() not in _KEPT_SUFFIXES:
        relative = relative.with_name(relative.name + ".jpg")
    return str(relative)


def _known(path: Path) -> dict[str, Any]:
    """What `run.json` says; a folder with results but without it is refused."""
    run = path / "run.json"
    if not run.exists():
        # an empty journal is what a run leaves that was killed in its first moments
        names = (*ASSEMBLED, "predictions.jsonl", "skipped.jsonl")
        strange = [n for n in names if (path / n).exists() and (path / n).stat().st_size]
        if strange:
            raise InputError(
                f"{path}: {', '.join(strange)} without run.json: not from a run that can be "
                "continued; use --overwrite or another --out"
            )
        return {}
    content = read_json(run)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise InputError(f"{run}: not written by a run; use --overwrite or another --out")
    return content


def _changes(known: dict[str, Any], settings: Mapping[str, Any], root: Path) -> list[str]:
    """How the settings of finished images differ from those of this run."""
    before = known.get("settings", {})
    changes = [
        f"{key} was {_short(before.get(key, _ABSENT))}, now {_short(settings.get(key, _ABSENT))}"
        for key in sorted({*before, *settings})
        if before.get(key, _ABSENT) != settings.get(key, _ABSENT)
    ]
    if known.get("root") != str(root):
        changes.append(f"the images' folder was {known.get('root')}, now {root}")
    return changes


def known_root(path: Path) -> Path | None:
    """The folder that the names of finished images start from, if there are any."""
    run, journal = path / "run.json", path / "predictions.jsonl"
    if not run.is_file() or not journal.is_file() or journal.stat().st_size == 0:
        return None
    content = read_json(run)
    root = content.get("root") if isinstance(content, dict) else None
    return Path(root) if isinstance(root, str) else None


def is_results_folder(path: Path) -> bool:
    """Whether a run wrote `run.json` there."""
    run = path / "run.json"
    try:
        content = read_json(run) if run.is_file() else None
    except InputError:
        return False  # somebody else's
    return isinstance(content, dict) and {"root", "settings"} <= content.keys()


def _remove_picture(path: Path, picture: str) -> None:
    """Remove a picture; a journal that was edited may not lead outside the folder."""
    file = (path / picture).resolve()
    if file.is_relative_to((path / "pictures").resolve()):
        with writing(file):
            file.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _emptied(path: Path) -> Journal:
    """Remove an earlier run's files, and nothing else that may lie in the folder."""
    file = path / "predictions.jsonl"
    try:
        journal = Journal(file)
    except InputError:
        # not readable as a journal: its pictures are not known, and are left
        with writing(file):
            file.unlink()
        return _emptied(path)
    for entry in journal.entries.values():
        if entry.picture:
            _remove_picture(path, entry.picture)
    for name in ASSEMBLED:
        (path / name).unlink(missing_ok=True)
    journal.close()
    with writing(file):
        file.write_bytes(b"")
    return Journal(file)
