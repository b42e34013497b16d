"""The folder of one training: its settings, where it ran, and what came of it.

```
config.yaml       every setting, resolved
environment.json  Python, packages, devices, threads, command
git.json          commit, and whether files differed from it; where there is a repository
log.jsonl         losses, learning rate, gradient norm, images a second; validation
curves.png        the same as curves
tensorboard/      the same as events
checkpoints/      last.safetensors
samples/          pictures, where the task draws any
best/             what was learned at the best validation, ready for use
model/            what was learned at the end, ready for use
data/             annotations and features of `--from my.vocab`
README.md         the card
```
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
import yaml

import anyregion
from anyregion.errors import AnyRegionError, InputError, package_version
from anyregion.files import read_text, write_json, write_text, writing
from anyregion.training.config import MAY_CHANGE, LoopConfig
from anyregion.yaml_text import parse_yaml

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
PREPARED = "data"
"""What a command made in a run's folder before its training: annotations and features."""
# what `overwrite` removes; anything else in the folder is someone's own
_WRITTEN = (
    *("checkpoints", "tensorboard", "samples", "best", "model"),
    *("log.jsonl", "curves.png", "README.md"),
)
_PACKAGES = ("torch", "torchvision", "lightning-fabric", "transformers", "numpy", "safetensors")

Settings = dict[str, Any]


class RunFolder:
    """Opened by the process that writes; holds a lock while it lives.

    Args:
        path: made if it is missing.
        settings: plain values, as they go into `config.yaml`.
        overwrite: drop what an earlier run left.
        may_change: settings of the task that may differ when a run goes on, as `task.name`.
        upgrade: brings the settings of a run of an older version to today's names.

    Attributes:
        previous: the settings of an earlier run there, upgraded; None where there is none.

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
        upgrade: Callable[[Settings], Settings] = dict,
    ) -> None:
        self.path = path
        self.previous: Settings | None = None
        self._lock: IO[bytes] | None = None
        with writing(path):
            if (earlier := _earlier_settings(path, overwrite)) is not None:
                self.previous = upgrade(earlier)
                refuse_changes(path, settings, self.previous, may_change)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
            if overwrite:  # only now: another process may train there
                _clear(path)
            for partial in (path / "checkpoints").glob(".last-*"):
                partial.unlink()  # a process was killed while it wrote
            text = yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True)
            write_text(path / CONFIG, text)
            write_json(path / ENVIRONMENT, _environment(), indent=2)
            if commits := _commits():
                write_json(path / "git.json", commits, indent=2)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()


def last_checkpoint(path: Path) -> Path:
    """Where the checkpoint of a run lies, or will."""
    return path / "checkpoints" / "last.safetensors"


def read_settings(path: Path) -> Settings | None:
    """The settings in `config.yaml` of a run; None where there is none, or it is no mapping."""
    if not (path / CONFIG).is_file():
        return None
    try:
        settings = parse_yaml(read_text(path / CONFIG), str(path / CONFIG))
    except InputError:
        return None
    return settings if isinstance(settings, dict) else None


def refuse_changes(
    path: Path,
    settings: Mapping[str, Any],
    previous: Mapping[str, Any],
    may_change: Collection[str] = (),
) -> None:
    """Raise `InputError` where the run in `path` has other settings; names them."""
    if changed := changed_settings(settings, previous, may_change):
        raise InputError(
            f"{path}: was trained with other settings ({'; '.join(changed)}). Give another folder, "
            "or --overwrite to start anew there"
        )


def changed_settings(
    settings: Mapping[str, Any], previous: Mapping[str, Any], may_change: Collection[str] = ()
) -> list[str]:
    """The settings that differ, as `key: old -> new`, but for those that may.

    A setting of the loop that an older run does not know came later: the run had its default.
    """
    # plain: what YAML gives back has no tuples and no paths
    new, old = flat(plain(settings)), flat(plain(previous))
    defaults = flat(plain(asdict(LoopConfig())))
    old = {key: value for key, value in defaults.items() if key in new} | old
    return [
        f"{key}: {old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key)
        and not {key, _without_positions(key)} & {*MAY_CHANGE, *may_change}
    ]


def plain(value: Any) -> Any:
    """Paths as text and tuples as lists, all the way down: what YAML and JSON give back."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(settings: Mapping[str, Any], prefix: str = "", *, lists: bool = True) -> Settings:
    """Settings within settings as `outer.inner`; those of a list of them as `outer.0.inner`."""
    flattened: Settings = {}
    for key, value in settings.items():
        if lists and isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            value = {str(position): v for position, v in enumerate(value)}
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{prefix}{key}.", lists=lists)
        else:
            flattened[f"{prefix}{key}"] = value
    return flattened


def _without_positions(key: str) -> str:
    # `compact.data.0.terms` may change as `compact.data.terms`
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _earlier_settings(path: Path, overwrite: bool) -> Settings | None:
    """The settings of the run that is to go on there; None where one begins."""
    if not path.exists():
        return None
    if not path.is_dir():
        raise InputError(f"{path}: a file, not a folder")
    if not (path / CONFIG).is_file():
        if any(e.name != PREPARED and not e.name.startswith(".") for e in path.iterdir()):
            raise InputError(f"{path}: holds something else than a training; give another folder")
        return None
    if overwrite:
        if not (path / ENVIRONMENT).is_file():
            raise InputError(
                f"{path}: its {CONFIG} is of something else than a training: nothing was removed; "
                "give another folder"
            )
        return None
    if (settings := read_settings(path)) is None:
        raise InputError(
            f"{path / CONFIG}: not the settings of a training; --overwrite starts anew"
        )
    return settings


def _clear(path: Path) -> None:
    for name in _WRITTEN:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def _lock(path: Path) -> IO[bytes] | None:
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


def _environment() -> dict[str, Any]:
    """Python, packages, processor, GPUs, threads, processes, and the command."""
    return {
        "anyregion": anyregion.__version__,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cards": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": list(sys.argv),
    }


def _commits() -> dict[str, Any]:
    """Commit, and whether files differ from it: of the package and of the working folder."""
    commits = {}
    for name, folder in {"package": Path(anyregion.__file__).parent, "here": Path.cwd()}.items():
        commit = _git(folder, "rev-parse", "HEAD")
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
        if commit is not None and status is not None:
            commits[name] = {"commit": commit, "dirty": bool(status)}
    return commits


def _git(folder: Path, *words: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
