"""`run.json`: where a run's names start from, and its settings, read and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyregion.errors import InputError
from anyregion.files import read_json

EXPORTS = ("predictions.json", "predictions.csv")
_ABSENT = "(not set)"


def earlier_root(path: Path) -> Path | None:
    """The folder that the names of finished images start from, if there are any."""
    journal = path / "predictions.jsonl"
    if not (path / "run.json").is_file() or not journal.is_file() or not journal.stat().st_size:
        return None
    content = read_json(path / "run.json")
    root = content.get("root") if isinstance(content, dict) else None
    return Path(root) if isinstance(root, str) else None


def is_results_folder(path: Path) -> bool:
    """Whether a run wrote `run.json` there."""
    try:
        content = read_json(path / "run.json")
    except InputError:
        # none, or somebody else's
        return False
    return isinstance(content, dict) and {"root", "settings"} <= content.keys()


def read_run(path: Path) -> dict[str, Any]:
    """What `run.json` says; a folder with results but without it is refused."""
    run = path / "run.json"
    if not run.exists():
        # an empty journal is what a run leaves that was killed in its first moments
        files = [path / name for name in (*EXPORTS, "predictions.jsonl", "skipped.jsonl")]
        if strange := [file.name for file in files if file.exists() and file.stat().st_size]:
            raise InputError(
                f"{path}: {', '.join(strange)} without run.json: not from a run that can be "
                "continued; use --overwrite or another --out"
            )
        return {}
    content = read_json(run)
    stated: dict[str, Any] = content if isinstance(content, dict) else {}
    # of the first versions some state no models
    parts = (stated.get("settings"), stated.get("models", {}))
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{run}: not written by a run; use --overwrite or another --out")
    return stated


def changes_of(earlier: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """How the settings of finished images differ from those of this run."""
    before, now = earlier.get("settings", {}), run["settings"]
    changes = []
    for key in sorted({*before, *now}):
        old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if old != new:
            texts = (t if len(t := str(v)) <= 40 else t[:39] + "…" for v in (old, new))
            changes.append("{} was {}, now {}".format(key, *texts))
    if earlier.get("root") != run["root"]:
        changes.append(f"the images' folder was {earlier.get('root')}, now {run['root']}")
    return changes
