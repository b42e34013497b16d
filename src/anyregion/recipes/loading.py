"""Trainings by name, and their settings from YAML: the only place that knows every task.

A configuration is one YAML file. At its top are the settings of every training (`LoopConfig`) and
the task's name; below the task's name, those of the task. The dataclasses are the schema: their
docstrings are the help, and what they do not know is an error.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
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
from anyregion.training.run_folder import Settings, flat, plain
from anyregion.training.task import Task
from anyregion.vocabulary import Progress


@dataclass(frozen=True)
class TaskKind:
    """Where a task is defined, as `module:name`, imported only when it is used.

    Attributes:
        settings: its dataclass.
        build: `build(settings, *, loop: LoopConfig) -> Task`.
        prepares: whether `build` computes something and takes `progress`.
        may_change: its settings that change nothing that is learned: a run goes on with others.
    """

    settings: str
    build: str
    prepares: bool = False
    may_change: tuple[str, ...] = ()


TASKS = {
    "regionspot": TaskKind(
        "anyregion.regionspot.training.config:RegionSpotConfig",
        "anyregion.regionspot.training.build:build",
    ),
    "r2o": TaskKind(
        "anyregion.r2o.training.config:R2OConfig",
        "anyregion.r2o.training.build:build",
        prepares=True,
        may_change=("cache", "workers", "shown", "terms", "checkpoint_epochs", "max_broken"),
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

    def build(self, *, progress: Progress | None = None) -> Task:
        """Make the task: opens the data, loads the models.

        Args:
            progress: told `(done, total)` of what is computed, if anything is.
        """
        options = {"progress": progress} if TASKS[self.task].prepares else {}
        task: Task = _import(TASKS[self.task].build)(self.settings, loop=self.loop, **options)
        return task

    @property
    def may_change(self) -> frozenset[str]:
        """For `training.loop.fit`."""
        names = (*TASKS[self.task].may_change, "data.terms", "validation.terms")
        return frozenset(f"{self.task}.{name}" for name in names)

    def task_settings(self) -> Settings:
        """The task's part of `config.yaml`."""
        return {"task": self.task, self.task: asdict(self.settings)}


def read_training(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    task: str | None = None,
) -> Training:
    """Read a YAML file, a packaged recipe by its name, or settings as they are.

    Args:
        config: path, name or settings.
        overrides: as on a command line: `["--optimizer.lr", "1e-4"]`.
        task: the only one that will do; None for any.

    Raises:
        InputError: no such file or recipe, malformed YAML, unknown keys or values (names them),
            or another task than `task`.
    """
    values, where = _read(config)
    if task not in (None, values["task"]):
        raise InputError(f"{where}: is of the task {values['task']}, not {task}")
    name: str = values.pop("task")
    if others := [key for key in TASKS if key != name and key in values]:
        raise InputError(f"{where}: settings of {others[0]}, but the task is {name}")
    parser = _parser(name)
    try:
        values = _upgrade(name, values)
        # overrides are read together with the file: the result is checked once, as a whole
        parsed = parser.parse_object(values, defaults=True)
        if overrides:
            parsed = parser.parse_args(list(overrides), namespace=parsed)
        objects = parser.instantiate(parsed)
        loop = LoopConfig(**{f.name: objects[f.name] for f in fields(LoopConfig)})
    except ArgumentError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    except TypeError as error:  # `steps:` with nothing behind it is not told apart from unset
        reason = f"a setting is empty, or of the wrong kind ({' '.join(str(error).split())})"
        raise InputError(f"{where}: {reason}") from None
    return Training(name, loop, objects[name])


def as_words(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as words of a command line: `{"optimizer": {"lr": 1e-4}}`, or `optimizer.lr`."""
    if not isinstance(settings, Mapping):
        return list(settings)
    flattened = flat(plain(settings), lists=False)
    # JSON is YAML, and YAML reads its text back as text, whatever is in it
    return [f"--{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flattened.items()]


def explain(config: str | Path) -> str:
    """Every setting that a configuration may have, with its meaning, and its value there."""
    values, _ = _read(config)
    name: str = values.pop("task")
    parser = _parser(name)
    with suppress(KeyError):  # a key that nobody knows is an error when it is read, not here
        parser.set_defaults(flat(_upgrade(name, values), lists=False))
    return str(parser.format_help())


def list_recipes() -> list[str]:
    """The names of the packaged recipes."""
    files = resources.files("anyregion.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_recipe(name: str) -> str:
    """A packaged recipe's YAML.

    Raises:
        InputError: no recipe of that name.
    """
    if name not in list_recipes():
        raise InputError(f"no recipe {name!r}: there are {', '.join(list_recipes())}")
    return (resources.files("anyregion.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def upgrade_settings(settings: Settings) -> Settings:
    """Settings as earlier versions wrote them, in today's names: a run of theirs may go on."""
    name = settings.get("task")
    return _upgrade(name, settings) if name in TASKS else settings


def _upgrade(name: str, values: Settings) -> Settings:
    return values


def _read(config: str | Path | Mapping[str, Any]) -> tuple[Settings, str]:
    """The settings of a configuration, with its `task`; and what messages call it."""
    if isinstance(config, Mapping):
        values, where = plain(config), "the settings"
    else:
        text, where = _text(config)
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" at line {mark.line + 1}"
            raise InputError(f"{where}: malformed YAML{line}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: not a list of settings")
    name = values.get("task")
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(f"{where}: task must be one of {', '.join(TASKS)}, not {name!r}")
    return values, where


def _text(config: str | Path) -> tuple[str, str]:
    path = Path(config)
    if path.is_file():
        return read_text(path), str(path)
    if path.suffix in (".yaml", ".yml") and (
        path.name != str(config) or path.stem not in list_recipes()
    ):
        raise InputError(f"{path}: there is no such file")
    name = str(config).removesuffix(".yaml")
    return read_recipe(name), f"recipe {name}"


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(prog="anyregion train CONFIG", exit_on_error=False)
    parser.add_class_arguments(LoopConfig)
    parser.add_class_arguments(_import(TASKS[name].settings), name)
    return parser


def _import(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
