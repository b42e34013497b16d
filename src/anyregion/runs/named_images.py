"""The images of a run and their names: paths from the folder that holds them all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from glob import has_magic
from pathlib import Path

from anyregion.errors import InputError, SetAside
from anyregion.images import find_images
from anyregion.runs.results_folder import is_results_folder


def name_images(
    paths: Sequence[str | Path], *, drawn: Path, earlier: Path | None = None
) -> tuple[Path, dict[str, Path], list[SetAside]]:
    """Find the images of `paths`, and name each by its path from one folder, with `/` between.

    That folder is the deepest that holds everything given: a folder itself, the parent of a file,
    the fixed part of a glob. So `photos` names `photos/a/x.jpg` as `a/x.jpg`.

    Args:
        paths: files, folders and globs, as for `find_images`.
        drawn: a folder of the run's own pictures, which are no input. Nor are the pictures that
            another run drew, but for a file named outright.
        earlier: the folder that an earlier run's names start from; kept if it holds the images.

    Returns:
        The folder; `{name: absolute path}`, each image once; paths that lead to nothing.
    """
    found, aside = find_images(paths)
    pictures = drawn.resolve()
    outright = {p for given in paths if (p := Path(given).expanduser()).is_file()}
    is_drawn = _drawn_by_a_run()
    files = [
        _absolute(p)
        for p in found
        if not p.resolve().is_relative_to(pictures) and (p in outright or not is_drawn(p))
    ]
    if found and not files:
        aside.append(SetAside("the images", "pictures that a run of anyregion drew"))
    starts = [_absolute(_start(Path(p).expanduser())) for p in paths]
    try:
        root = Path(os.path.commonpath(starts)) if starts else Path.cwd()
    except ValueError:
        raise InputError("the images lie on several drives: give them in several runs") from None
    if earlier is not None and all(p.is_relative_to(earlier) for p in files):
        root = earlier
    return root, {p.relative_to(root).as_posix(): p for p in files}, aside


def _drawn_by_a_run() -> Callable[[Path], bool]:
    """Whether a file lies in the `pictures` of a results folder; each folder is looked at once."""
    is_results = cache(is_results_folder)
    return lambda path: any(
        folder.name == "pictures" and is_results(folder.parent) for folder in path.resolve().parents
    )


def _start(path: Path) -> Path:
    """The folder that a given path leads into: itself, a file's, or a glob's fixed part."""
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent  # whatever its name: a file may be called [1].jpg
    parts = path.parent.parts
    fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
    return Path(*parts[:fixed])


def _absolute(path: Path) -> Path:
    # not resolve(): a link keeps the name that it was given under
    return Path(os.path.abspath(path))  # noqa: PTH100
