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

from jsonargparse import ArgumentError, ArgumentParser

from anyregion.errors import InputError
from anyregion.files import read_text
from anyregion.training.config import LoopConfig
from anyregion.training.run_folder import Settings, flat, plain
from anyregion.training.task import Task
from anyregion.vocabulary import Progress
from anyregion.yaml_text import parse_yaml

# settings whose words are taken as they are, and those that may also be lists or mappings
_TEXTS = {
    *("annotations", "names", "store", "terms", "validation_images", "vocabulary"),
    *("root", "split", "sbd", "classes"),
}
_SOURCES = {"data", "images", "stores", "validation"}


@dataclass(frozen=True)
class TaskKind:
    """Where a task is defined, as `module:name`, imported only when it is used.

    Attributes:
        settings: its dataclass.
        build: `build(settings, *, loop: LoopConfig) -> Task`.
        source: what a data set that is given as one word is: `store`, `images`, ...
        prepares: whether `build` computes something and takes `progress`.
        may_change: its settings that change nothing that is learned: a run goes on with others.
        renamed: settings by their earlier names, and `terms` of all data, as `_upgrade` reads them.
    """

    settings: str
    build: str
    source: str = "store"
    prepares: bool = False
    may_change: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()


# modules by name: importing all of them takes seconds, and a run needs one
TASKS = {
    "regionspot": TaskKind(
        "anyregion.regionspot.training.config:RegionSpotConfig",
        "anyregion.regionspot.training.build:build",
        renamed=("terms",),
    ),
    "r2o": TaskKind(
        "anyregion.r2o.training.config:R2OConfig",
        "anyregion.r2o.training.build:build",
        source="images",
        prepares=True,
        may_change=("cache", "workers", "shown", "checkpoint_epochs", "max_broken"),
        renamed=("images", "terms"),
    ),
    "compact": TaskKind(
        "anyregion.compact.training.region_config:RegionTaskConfig",
        "anyregion.compact.training.keeping_task:build",
        renamed=("stores", "terms"),
    ),
    "compact_masks": TaskKind(
        "anyregion.compact.training.mask_task:MaskTaskConfig",
        "anyregion.compact.training.mask_task:build",
        renamed=("store", "images", "validation_images", "task", "terms"),
    ),
    "compact_finder": TaskKind(
        "anyregion.compact.training.proposal_task:ProposalTaskConfig",
        "anyregion.compact.training.proposal_task:build",
        renamed=("store", "task", "terms"),
    ),
    "semseg": TaskKind(
        "anyregion.transfer.config:SegmentationConfig",
        "anyregion.transfer.segmentation_task:build",
        source="root",
        renamed=("terms",),
    ),
    "detection": TaskKind(
        "anyregion.transfer.detection_config:DetectionConfig",
        "anyregion.transfer.detection_task:build",
        source="annotations",
        renamed=("terms",),
    ),
}


@dataclass(frozen=True)
class Training:
    """A configuration, read and checked: the task's name, the loop's settings, the task's own."""

    task: str
    loop: LoopConfig
    settings: Any

    def build(self, *, progress: Progress | None = None) -> Task:
        """Make the task: opens the data, loads the models; `progress` follows what is computed."""
        options = {"progress": progress} if TASKS[self.task].prepares else {}
        task: Task = _import(TASKS[self.task].build)(self.settings, loop=self.loop, **options)
        return task

    @property
    def may_change(self) -> frozenset[str]:
        """For `training.loop.fit`."""
        names = (*TASKS[self.task].may_change, "data.terms", "validation.terms", "licence")
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
    overrides = _take_renamed(name, values, overrides)
    parser = _parser(name)
    try:
        values = _upgrade(name, values)  # words first, for they may be of either names
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


def task_name(config: str | Path | Mapping[str, Any]) -> str:
    """The task of a configuration; `InputError` where it is none."""
    return str(_read(config)[0]["task"])


def as_words(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as words of a command line: `{"optimizer": {"lr": 1e-4}}`, or `optimizer.lr`."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [
        # JSON is YAML, and YAML reads the text in it back as text, whatever it is
        f"--{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in flat(plain(settings), lists=False).items()
    ]


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


def settings_of_run(settings: Settings) -> Settings:
    """A run's settings in today's names, with the defaults of what came since it began."""
    values = upgrade_settings(settings)
    name = values.get("task")
    if not isinstance(name, str) or name not in TASKS or TASKS[name].source != "store":
        return values
    of_task = values.get(name)
    if not isinstance(of_task, Mapping):
        return values
    later = dict(of_task)
    if name == "regionspot":
        later.setdefault("unseen", "")
    later["data"] = [{"share": 1.0, **each} for each in later.get("data") or ()]
    if later.get("validation"):
        later["validation"] = {"share": 1.0, **later["validation"]}
    return {**values, name: later}


def _upgrade(name: str, values: Settings) -> Settings:
    """A data set that is given as one word, and settings by their earlier names, as they are today.

    | task | before | now |
    | --- | --- | --- |
    | `compact` | `stores: [a]`, `terms` | `data: [{store: a, terms: ...}]` |
    | | `validation: b` | `validation: {store: b}` |
    | `compact_masks` | `store`, `images`, `terms` | `data: [{store, images, terms}]` |
    | | `validation`, `validation_images` | `validation: {store, images}` |
    | | `task: {images, regions, ...}` | `batch`, `max_regions`, ... |
    | `compact_finder` | `store`, `terms`, `task: {images, head}` | `data`, `batch`, `head` |
    | `r2o` | `images: [a]`, `terms` | `data: [{images: a, terms: ...}]` |
    """
    if not isinstance(values.get(name), Mapping):
        return values
    settings, kind = dict(values[name]), TASKS[name]  # a copy: recipes are read once, used often
    earlier = {key: settings.pop(key) for key in kind.renamed if key in settings}
    # what is one word today as it was before: a store, or for R2O a folder
    data = _data_sets(settings.get("data"), kind.source)
    validation = settings.get("validation")
    if isinstance(validation, str):
        validation = {kind.source: validation}
    sources = earlier.get("stores", earlier.get("store"))
    if kind.source == "images":
        sources = earlier.get("images")
    if sources is not None:
        # a recipe's terms are of its own data; the folder of images was a setting by itself
        images = {key: each[key] for each in data[:1] for key in ("images",) if key in each}
        data = [{**images, **each} for each in _data_sets(sources, kind.source)]
    if kind.source == "store" and "images" in earlier:
        data = [{**each, "images": earlier["images"]} for each in data]
    if earlier.get("validation_images") is not None and isinstance(validation, Mapping):
        validation = {**validation, "images": earlier["validation_images"]}
    if "terms" in earlier:
        data = [{**each, "terms": earlier["terms"]} for each in data]
    if isinstance(earlier.get("task"), Mapping):
        names = {"images": "batch", "regions": "max_regions"}
        for key, value in earlier["task"].items():
            inner = settings.get(key) if isinstance(value, Mapping) else None
            settings[names.get(key, key)] = {**inner, **value} if inner else value
    if data:
        settings["data"] = data
    if validation is not None:
        settings["validation"] = validation
    return {**values, name: settings}


def _data_sets(data: Any, source: str) -> list[Any]:
    """A list of data sets, of which each may be the one word that names its source."""
    data = [data] if isinstance(data, str | Mapping) else list(data or ())
    return [{source: each} if isinstance(each, str) else each for each in data]


def _take_renamed(name: str, values: Settings, words: Sequence[str]) -> list[str]:
    """Move words of data sets and of settings by earlier names into `values`; returns the rest."""
    # jsonargparse takes a data set as a whole or not at all, and knows no earlier names
    kind, others, queue, prefix = TASKS[name], [], list(words), f"--{name}."
    if not isinstance(values.get(name) or {}, Mapping):
        return list(words)  # the parser says what is wrong
    settings = values[name] = dict(values.get(name) or {})
    if isinstance(settings.get("validation"), str):
        settings["validation"] = {kind.source: settings["validation"]}
    while queue:
        word = queue.pop(0)
        option, has_value, text = word.partition("=")
        path = option.removeprefix(prefix).split(".") if option.startswith(prefix) else [""]
        if path != ["data"] and path[0] not in ("validation", *kind.renamed):
            others.append(word)
            continue
        if not has_value:
            text = queue.pop(0) if queue else ""
        try:
            is_text = path[-1] in _TEXTS and text != "null"
            value = text if is_text else parse_yaml(text, option)
        except InputError:
            raise InputError(f"{option}: not a value that YAML can read: {text!r:.80}") from None
        if path[-1] in _SOURCES and path[0] != "task" and isinstance(value, int | float):
            value = text  # a folder may be called 2017 or yes
        place = settings
        for key in path[:-1]:
            place[key] = dict(place.get(key) or {})
            place = place[key]
        place[path[-1]] = value
    return others


def _read(config: str | Path | Mapping[str, Any]) -> tuple[Settings, str]:
    """The settings of a configuration, with its `task`; and what messages call it."""
    if isinstance(config, Mapping):
        values, where = plain(config), "the settings"
    else:
        text, where = _text(config)
        values = parse_yaml(text, where)
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
