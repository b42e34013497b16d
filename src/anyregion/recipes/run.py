"""`train` and `pretrain` as plain functions: a configuration in, the folder of a run out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.errors import InputError, require

# the package's face names these functions, so that this module must load without the extra
if TYPE_CHECKING:
    from anyregion.compact.training.corrections import CorrectionsData
    from anyregion.recipes.loading import Training
    from anyregion.training.loop import Callbacks
    from anyregion.training.report import TrainingReport
    from anyregion.training.task import Task

# the recipes where none is named: of the packaged ones they need the least machine
PRETRAINING = "r2o-small"
SEGMENTATION, DETECTION = "semseg-small", "detection-small"


def train(
    config: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    settings: Mapping[str, Any] | Sequence[str] = (),
    corrections: str | Path | None = None,
    images: str | Path | None = None,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> TrainingReport:
    """Train, or go on where the same call was ended.

    Args:
        config: a YAML file, the name of a packaged recipe, or the settings themselves.
        out: the run's folder; what was learned is in its `model`.
        settings: in place of the configuration's: `{"optimizer.lr": 1e-4, "compact.batch": 16}`, or
            as words of a command line.
        corrections: of `compact`, a taught vocabulary whose corrections are the data; annotations
            and features are made in the run's folder.
        images: the folder of their images; None for those that it was taught from.
        overwrite: begin anew where a run lies.

    Raises:
        InputError: settings or data that cannot be used, or other settings than the run had.
        CheckpointError: a checkpoint is broken.
        AnyRegionError: a loss that is not finite, or a full disk.
        MissingExtraError: without `anyregion[train]`.
    """
    require("train", "torch", "torchvision", "transformers", "jsonargparse", "lightning_fabric")
    from anyregion.recipes.loading import as_words, read_training, task_name

    words = as_words(settings)
    if corrections is None:
        if images is not None:
            raise InputError("images are of corrections: give both")
        training = read_training(config, words)
        return _run(training, Path(out), overwrite=overwrite, callbacks=callbacks)
    from anyregion.compact.training.corrections import corrections_data

    if (task := task_name(config)) != "compact":
        raise InputError(f"{corrections}: corrections train compact, not {task}")
    data = corrections_data(corrections, out, images)
    training = read_training(config, [*as_words(data.settings), *words])
    return _run(training, Path(out), overwrite=overwrite, callbacks=callbacks, data=data)


def pretrain(
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    config: str | Path | Mapping[str, Any] = PRETRAINING,
    settings: Mapping[str, Any] | Sequence[str] = (),
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> TrainingReport:
    """Pretrain a backbone with R2O on images without labels, or go on where the call was ended.

    Args:
        images: a folder, or several; searched through.
        out: the run's folder; the backbone is in its `model`. Label maps are computed once, into
            `priors` beside it unless `r2o.cache` says otherwise.
        config, settings, overwrite, callbacks: see `train`.

    Raises:
        InputError: no images, too many broken ones, or what `train` raises.
    """
    require("train", "torch", "torchvision", "jsonargparse", "lightning_fabric", "skimage", "timm")
    from anyregion.recipes.loading import as_words, read_training
    from anyregion.training.run_folder import read_settings

    out = Path(out)
    folders = [images] if isinstance(images, str | Path) else list(images)
    if not folders:
        raise InputError("give a folder of images")
    words = as_words(settings)
    # absolute, for a run to go on with the same images wherever its command is given
    data = [{"images": str(Path(folder).expanduser().absolute())} for folder in folders]
    previous = None if overwrite else read_settings(out)
    epoch_images = ((previous or {}).get("r2o") or {}).get("epoch_images")
    # what an epoch was when the run began: as many steps, though an image was lost since
    begun = {} if epoch_images is None else {"r2o.epoch_images": epoch_images}
    words = [*as_words({"r2o.data": data, **begun}), *words]
    training = read_training(config, words, task="r2o")
    if training.settings.cache is None:
        cache = str(out.absolute().parent / "priors")
        training = replace(training, settings=replace(training.settings, cache=cache))

    # as many images as can be used now are an epoch of this run, also when one is lost later
    def record(task: Task) -> dict[str, Any]:
        if previous is not None:
            return training.task_settings()
        counted = replace(training.settings, epoch_images=task.epoch_images)  # type: ignore[attr-defined]
        return replace(training, settings=counted).task_settings()

    return _run(training, out, overwrite=overwrite, callbacks=callbacks, record=record)


def transfer_semseg(
    backbone: str | Path | None,
    out: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    probe: bool = False,
    config: str | Path | Mapping[str, Any] = SEGMENTATION,
    settings: Mapping[str, Any] | Sequence[str] = (),
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> TrainingReport:
    """Fine-tune a backbone for semantic segmentation, or fit a linear probe on it.

    Args:
        backbone: a name, a saved backbone's folder, or a run of `pretrain`; None for what the
            configuration says, as also of `weights`, `data` and `validation`.
        out: the run's folder; the network is in its `model`.
        data, validation: fields of `SemanticSource`. Without `validation` it is the part of `data`
            that is judged on, where the layout has one.
        weights: of a name: `random`, `pretrained` or a file.
        probe: the backbone stays frozen, and one linear layer learns.
        config, settings, overwrite, callbacks: see `train`.

    Raises:
        InputError, CheckpointError, AnyRegionError, MissingExtraError: see `train`.
    """
    training = transfer_training(
        "semseg", backbone, data=data, validation=validation, weights=weights, probe=probe,
        config=config, settings=settings,
    )  # fmt: skip
    return _run(training, Path(out), overwrite=overwrite, callbacks=callbacks)


def transfer_detection(
    backbone: str | Path | None,
    out: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    config: str | Path | Mapping[str, Any] = DETECTION,
    settings: Mapping[str, Any] | Sequence[str] = (),
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> TrainingReport:
    """Fine-tune a backbone for detection and instance segmentation, by Mask R-CNN.

    Args:
        data, validation: fields of `DetectionSource`.
        backbone, out, weights, config, settings, overwrite, callbacks: see `transfer_semseg`.

    Raises:
        InputError, CheckpointError, AnyRegionError, MissingExtraError: see `train`.
    """
    training = transfer_training(
        "detection", backbone, data=data, validation=validation, weights=weights, config=config,
        settings=settings,
    )  # fmt: skip
    return _run(training, Path(out), overwrite=overwrite, callbacks=callbacks)


def transfer_training(
    task: str,
    backbone: str | Path | None,
    *,
    data: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    probe: bool = False,
    config: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | Sequence[str] = (),
) -> Training:
    """The configuration of a transfer, checked: see `transfer_semseg`."""
    require("train", "torch", "torchvision", "jsonargparse", "lightning_fabric", "timm", "scipy")
    from anyregion.data.semantic.layouts import has_parts
    from anyregion.recipes.loading import as_words, read_training

    values: dict[str, Any] = {}
    if backbone is not None:
        # absolute, for a run to go on wherever its command is given
        folder = Path(backbone).expanduser()
        values["backbone"] = str(folder.absolute()) if folder.is_dir() else str(backbone)
    if weights is not None:
        values["weights"] = str(weights)
    if probe:
        values |= {"freeze": True, "head": "linear", "auxiliary": 0}
    words = as_words({task: values}) if values else []
    if data is not None:
        own = read_training(config, task=task).settings
        # what is not stated stays as the configuration has it: a split, say
        data = {**_options_of(own.data[0] if own.data else None), **_absolute(data)}
        if validation is None and "root" in data and has_parts(Path(data["root"])):
            validation = {**_options_of(own.validation), "root": data["root"]}
        words += as_words({f"{task}.data": [data]})
    if data is not None or validation is not None:
        text = json.dumps(None if validation is None else _absolute(validation))
        words.append(f"--{task}.validation={text}")
    return read_training(config, [*words, *as_words(settings)], task=task)


def _options_of(source: Any) -> dict[str, Any]:
    """The fields of a configuration's data set that do not say where it lies, or whose it is."""
    places = ("root", "annotations", "images", "terms", "limit")
    fields = {} if source is None else asdict(source)
    return {name: value for name, value in fields.items() if name not in places}


def _absolute(source: Mapping[str, Any]) -> dict[str, Any]:
    """Paths of a data set as absolute ones: a run goes on wherever its command is given."""
    paths = ("root", "annotations", "images", "sbd", "classes")
    return {
        name: str(Path(value).expanduser().absolute()) if name in paths and value else value
        for name, value in source.items()
    }


def _run(
    training: Training,
    out: Path,
    *,
    overwrite: bool,
    callbacks: Callbacks | None,
    record: Callable[[Task], dict[str, Any]] | None = None,
    data: CorrectionsData | None = None,
) -> TrainingReport:
    """Build the task and fit it.

    Args:
        training, out, overwrite, callbacks: see `train`.
        record: the part of `config.yaml` that building decides.
        data: whose features are computed first.
    """
    from anyregion.recipes.loading import settings_of_run
    from anyregion.training.distributed import is_first
    from anyregion.training.loop import Callbacks, fit
    from anyregion.training.run_folder import read_settings, refuse_changes

    if not overwrite and (previous := read_settings(out)) is not None:
        # before anything is computed; `fit` compares all settings
        settings, previous = training.task_settings(), settings_of_run(previous)
        stated = {key: previous[key] for key in settings if key in previous}
        refuse_changes(out, settings, stated, training.may_change)
    # each process builds its own task; the first one speaks
    if callbacks is None or not is_first():
        callbacks = Callbacks()
    if data is not None:
        for text in data.notes:
            callbacks.note(text)
        if overwrite and is_first():
            data.remove_others()
        data.fill(callbacks.prepare)
    task = training.build(progress=callbacks.prepare)
    for text in task.notes():
        callbacks.note(text)
    report = fit(
        task,
        training.loop,
        out,
        settings=training.task_settings() if record is None else record(task),
        overwrite=overwrite,
        may_change=training.may_change,
        upgrade=settings_of_run,
        callbacks=callbacks,
    )
    for text in task.notes(trained=True):
        callbacks.note(text)
    return report
