"""The folder of one training: what was asked, where it ran, what came of it.

```
config.yaml       every setting, resolved
environment.json  Python, packages, devices, threads, command
git.json          commit, and whether files differed from it; where there is a repository
log.jsonl         losses, rate, gradient norm, images a second; validation
tensorboard/      the same as events
checkpoints/      last.safetensors
samples/          pictures, where the task draws any
best/             what was learned at the best validation, ready for use
model/            what was learned at the end, ready for use
README.md         the card
```
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from anyregion.errors import AnyRegionError, InputError
from anyregion.files import atomic_path, write_json, writing
from anyregion.training.config import MAY_CHANGE, LoopConfig
from anyregion.training.provenance import environment, repositories

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_OURS = ("checkpoints", "tensorboard", "samples", "best", "model", "log.jsonl", "README.md")


class RunFolder:
    """Opened by the process that writes; holds a lock while it lives.

    Args:
        path: made if it is missing.
        settings: plain values, as they go into `config.yaml`.
        overwrite: drop what an earlier run left.
        may_change: settings of the task that may differ when a run goes on, as `task.name`.

    Attributes:
        previous: what `config.yaml` of an earlier run there says, or None.

    Raises:
        InputError: another configuration was trained there (names the keys), or files of something
            else lie there.
        AnyRegionError: another process trains there now, or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        may_change: Collection[str] = (),
    ) -> None:
        self.path = path
        self.previous = None if overwrite else read_settings(path)
        self._lock: IO[bytes] | None = None
        with writing(path):
            _check(path, settings, overwrite, may_change)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            if overwrite:
                _clear(path)
            for left in (path / "checkpoints").glob(".last-*"):
                left.unlink()  # a process was killed while it wrote
            with atomic_path(path / CONFIG) as temporary:
                text = yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True)
                temporary.write_text(text, encoding="utf-8")
            write_json(path / ENVIRONMENT, environment(), indent=2)
            if found := repositories():
                write_json(path / "git.json", found, indent=2)

    def close(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()


def last_checkpoint(path: Path) -> Path:
    """Where the checkpoint of a run lies, or will."""
    return path / "checkpoints" / "last.safetensors"


def read_settings(path: Path) -> dict[str, Any] | None:
    """What `config.yaml` of a run says; None where there is none, or it is no mapping."""
    if not (path / CONFIG).is_file():
        return None
    try:
        found = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def refuse_others(
    path: Path,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    may_change: Collection[str] = (),
) -> None:
    """Raise `InputError` where the run in `path` has other settings (names them)."""
    if changed := differing(ours, theirs, may_change):
        raise InputError(
            f"{path}: was trained with other settings ({'; '.join(changed)}). Give another folder, "
            "or --overwrite to start anew there"
        )


def differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], may_change: Collection[str] = ()
) -> list[str]:
    """The settings that differ, as `key: old -> new`, but for those that may.

    A setting of the loop that an old run does not know came later: the run had its default.
    """
    new, old = flat(plain(ours)), flat(plain(theirs))
    usual = flat(plain(asdict(LoopConfig())))
    old = {key: value for key, value in usual.items() if key in new} | old
    return [
        f"{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in sorted(new.keys() | old.keys())
        if key not in MAY_CHANGE and key not in may_change and new.get(key) != old.get(key)
    ]


def plain(value: Any) -> Any:
    """Paths as text and tuples as lists, all the way down: what YAML and JSON give back."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as `outer.inner`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _check(
    path: Path, settings: Mapping[str, Any], overwrite: bool, may_change: Collection[str]
) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: a file, not a folder")
    if not (path / CONFIG).is_file():
        if any(not name.name.startswith(".") for name in path.iterdir()):
            raise InputError(f"{path}: holds something else than a training; give another folder")
        return
    if overwrite:
        if not (path / ENVIRONMENT).is_file():
            raise InputError(
                f"{path}: its {CONFIG} is of something else than a training: nothing was removed; "
                "give another folder"
            )
        return
    if (before := read_settings(path)) is None:
        raise InputError(
            f"{path / CONFIG}: not the settings of a training; --overwrite starts anew"
        )
    refuse_others(path, settings, before, may_change)


def _clear(path: Path) -> None:
    for name in _OURS:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes] | None:
    try:
        import fcntl
    except ImportError:
        return None  # Windows: two runs into one folder are not noticed there
    file = (path / ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AnyRegionError(
            f"{path}: another process trains there; wait for it, or give another folder"
        ) from None
    except OSError:
        pass  # a network disk without locks: the run goes on without one
    file.write(str(os.getpid()).encode())
    file.flush()
    return file
