"""Names to trainings, and YAML to their settings: the only place that knows every task.

A configuration is one YAML file. At its top are the settings of every training (`LoopConfig`) and
the task's name; below the task's name, those of the task. The dataclasses are the schema: their
docstrings are the help, and what they do not know is an error.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from anyregion.errors import InputError
from anyregion.files import read_text
from anyregion.training.config import LoopConfig
from anyregion.training.run_folder import flat
from anyregion.training.task import Task


@dataclass(frozen=True)
class TaskKind:
    """Where a task is defined, as `module:name`, loaded only when it is asked for.

    Attributes:
        settings: its dataclass.
        build: `build(settings, *, loop: LoopConfig) -> Task`; may take more, see `Training.build`.
        may_change: its settings that change nothing that is learned: a run goes on with others.
    """

    settings: str
    build: str
    may_change: tuple[str, ...] = ()


TASKS = {
    "regionspot": TaskKind(
        "anyregion.regionspot.training.config:RegionSpotConfig",
        "anyregion.regionspot.training.build:build",
    ),
    "r2o": TaskKind(
        "anyregion.r2o.training.config:R2OConfig",
        "anyregion.r2o.training.build:build",
        ("cache", "workers", "shown", "terms", "checkpoint_epochs", "max_broken"),
    ),
    "compact": TaskKind(
        "anyregion.compact.training.region_task:RegionTaskConfig",
        "anyregion.compact.training.region_task:build",
    ),
    "compact_masks": TaskKind(
        "anyregion.compact.training.mask_task:MaskTrainingConfig",
        "anyregion.compact.training.mask_task:build_mask_task",
    ),
    "compact_finder": TaskKind(
        "anyregion.compact.training.proposal_task:ProposalTrainingConfig",
        "anyregion.compact.training.proposal_task:build_proposal_task",
    ),
}


@dataclass(frozen=True)
class Training:
    """A configuration, read and checked.

    Attributes:
        task: a name of `TASKS`.
        loop: the settings of every training.
        settings: the task's own.
    """

    task: str
    loop: LoopConfig
    settings: Any

    def build(self, **more: Any) -> Task:
        """Make the task: opens the data, loads the models.

        Args:
            more: what else this task's `build` takes, such as `progress`.
        """
        task: Task = _load(TASKS[self.task].build)(self.settings, loop=self.loop, **more)
        return task

    @property
    def may_change(self) -> frozenset[str]:
        """For `training.loop.fit`."""
        return frozenset(f"{self.task}.{name}" for name in TASKS[self.task].may_change)

    def own_settings(self) -> dict[str, Any]:
        """The task's part of `config.yaml`."""
        return {"task": self.task, self.task: asdict(self.settings)}


def read_training(
    config: str | Path, overrides: Sequence[str] = (), *, task: str | None = None
) -> Training:
    """Read a YAML file, or a packaged recipe by its name.

    Args:
        config: path or name.
        overrides: as on a command line: `["--optimizer.lr", "1e-4"]`.
        task: the only one that will do; None for any.

    Raises:
        InputError: no such file or recipe, malformed YAML, unknown keys or values (names them),
            or another task than `task`.
    """
    text, where = _text(config)
    values = _mapping(text, where)
    wanted, task = task, _task(values, where)
    if wanted not in (None, task):
        raise InputError(f"{where}: is of the task {task}, not {wanted}")
    parser = _parser(task)
    given = {key: value for key, value in values.items() if key != "task"}
    others = [k for k in TASKS if k != task and k in given]
    if others:
        raise InputError(f"{where}: settings of {others[0]}, but the task is {task}")
    try:
        # overrides are read together with the file: the result is checked once, as a whole
        parsed = parser.parse_object(given, defaults=True)
        if overrides:
            parsed = parser.parse_args(list(overrides), namespace=parsed)
        made = parser.instantiate(parsed)
        loop = LoopConfig(**{f.name: made[f.name] for f in fields(LoopConfig)})
    except ArgumentError as error:
        raise InputError(f"{where}: {_readable(error)}") from None
    except TypeError as error:  # `steps:` with nothing behind it is not told apart from unset
        reason = f"a setting is empty, or of the wrong kind ({_readable(error)})"
        raise InputError(f"{where}: {reason}") from None
    return Training(task, loop, made[task])


def explain(config: str | Path) -> str:
    """Every setting that a configuration may have, with its meaning, and its value there."""
    text, where = _text(config)
    values = _mapping(text, where)
    parser = _parser(_task(values, where))
    with suppress(KeyError):  # a key that nobody knows is an error when it is read, not here
        parser.set_defaults(flat({k: v for k, v in values.items() if k != "task"}))
    return str(parser.format_help())


def recipes() -> list[str]:
    """The names of the packaged recipes."""
    found = resources.files("anyregion.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in found if f.name.endswith(".yaml"))


def recipe(name: str) -> str:
    """A packaged recipe's YAML.

    Raises:
        InputError: no recipe of that name.
    """
    if name not in recipes():
        raise InputError(f"no recipe {name!r}: there are {', '.join(recipes())}")
    return (resources.files("anyregion.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def _text(config: str | Path) -> tuple[str, str]:
    path = Path(config)
    if path.is_file():
        return read_text(path), str(path)
    if path.suffix in (".yaml", ".yml") and (
        path.name != str(config) or path.stem not in recipes()
    ):
        raise InputError(f"{path}: there is no such file")
    name = str(config).removesuffix(".yaml")
    return recipe(name), f"recipe {name}"


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" at line {mark.line + 1}"
        raise InputError(f"{where}: malformed YAML{line}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: not a list of settings")
    return values


def _task(values: dict[str, Any], where: str) -> str:
    task = values.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"{where}: task must be one of {', '.join(TASKS)}, not {task!r}")
    return task


def _parser(task: str) -> ArgumentParser:
    parser = ArgumentParser(prog="anyregion train CONFIG", exit_on_error=False)
    parser.add_class_arguments(LoopConfig)
    parser.add_class_arguments(_load(TASKS[task].settings), task)
    return parser


def _load(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _readable(error: Exception) -> str:
    return " ".join(str(error).split())
