"""`anyregion pretrain`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.cli import training_command as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError, require

if TYPE_CHECKING:  # it needs the extra [train]
    from anyregion.r2o.training.task import R2OTask

DEFAULT = "r2o-small"
USAGE = """\
examples:
  anyregion pretrain photos --out runs/photos
  anyregion pretrain photos more/photos --out runs/both --r2o.epochs 100 --device cuda
  anyregion pretrain imagenet/train --out runs/in --config r2o-resnet50-imagenet300.yaml
  anyregion pretrain photos --config r2o-small --help     every setting, with its meaning
  torchrun --nproc-per-node=8 -m anyregion pretrain photos --out runs/photos --device cuda

Folders are searched through; their structure means nothing. Superpixels are computed once, into a
folder beside the run. The same command again goes on where it was ended, by whatever means.
What lies in the run's folder: config.yaml, log.jsonl, checkpoints/, README.md (the card),
samples/ (regions as they grow), model/ (the backbone, for `anyregion export` and `evaluate knn`).

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = USAGE + (parser.epilog or "")
    shared.add_own_arguments(parser)
    parser.add_argument(
        "--config", metavar="CONFIG", help=f"a YAML file or a packaged recipe (default {DEFAULT})"
    )
    parser.add_argument(
        "images", nargs="?", metavar="IMAGES", help="a folder of images; more may follow"
    )
    shared.add_settings_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and say what came of it."""
    require("train", "torch", "torchvision", "jsonargparse", "lightning_fabric", "skimage", "timm")
    from anyregion.recipes import loading as trainings
    from anyregion.training.run_folder import read_settings

    more = _leading(args.settings)
    rest = args.settings[len(more) :]
    later, overrides = shared.parse_behind(rest, ("--config", {}))
    if shared.print_recipes(args, later):
        return FINE
    config = args.config or later.config or DEFAULT
    if later.help:
        print(trainings.explain(config))
        return FINE
    if args.images is None:
        raise InputError("give a folder of images")
    out, overwrite = shared.run_folder(args, later)
    # JSON, for YAML to read it back as text, whatever is in it; absolute, for a run to go on with
    # the same images wherever its command is given
    folders = [str(Path(folder).expanduser().absolute()) for folder in (args.images, *more)]
    given = [f"--r2o.images={json.dumps(folders, ensure_ascii=False)}", *overrides]
    earlier = None if overwrite else read_settings(out)
    begun = ((earlier or {}).get("r2o") or {}).get("epoch_images")
    if begun is not None and not _is_set("epoch_images", overrides):
        given.append(f"--r2o.epoch_images={begun}")
    training = trainings.read_training(config, given, task="r2o")
    if training.settings.cache is None:
        beside = dataclasses.replace(training.settings, cache=str(out.absolute().parent / "priors"))
        training = dataclasses.replace(training, settings=beside)

    def own_settings(task: R2OTask) -> dict[str, Any]:
        if earlier is not None:
            return training.own_settings()
        settled = dataclasses.replace(training.settings, epoch_images=task.epoch_images)
        return dataclasses.replace(training, settings=settled).own_settings()

    return shared.carry_out(
        training,
        out,
        overwrite=overwrite,
        preparing="superpixels",
        own_settings=own_settings,
        opening=_opening,
        closing=_closing,
    )


def _opening(task: R2OTask) -> None:
    from anyregion.cli import terminal

    if aside := task.store.set_aside:
        terminal.note(f"{len(aside):,} of {len(task.store):,} images are set aside: {aside[0]}")
    if task.epoch_images != len(task.usable):
        terminal.note(
            f"an epoch counts {task.epoch_images:,} images, as when the run began, of "
            f"{len(task.usable):,} that can be used now"
        )
    if len(task.usable) < (batch := task.config.batch):
        terminal.note(
            f"a step takes {batch:,} images and there are {len(task.usable):,}: "
            f"{task.config.epochs:g} epochs of them are {task.steps:,} steps. A smaller r2o.batch, "
            "or more epochs, trains longer"
        )


def _closing(task: R2OTask, out: Path) -> int:
    from anyregion.cli import terminal

    store = task.store
    terminal.warn_list("images set aside", store.set_aside)
    if store.recomputed:
        terminal.note(
            f"warning: {store.recomputed:,} damaged label maps were computed again. Without "
            f"{store.folder} the next run makes all of them anew"
        )
    where = shlex.quote(str(out))
    terminal.note("what next:")
    for words in (
        f"evaluate knn CLASS_FOLDERS --backbone {where}",
        f"evaluate discovery ANNOTATIONS IMAGES --backbone {where}",
        f"export {where} --to timm --out backbone.safetensors",
    ):
        print(f"  anyregion {words}", file=sys.stderr)
    # torchrun would take any other code than 0 for a failure
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return SET_ASIDE if store.set_aside and alone else FINE


def _is_set(name: str, overrides: list[str]) -> bool:
    return any(word.partition("=")[0] == f"--r2o.{name}" for word in overrides)


def _leading(words: list[str]) -> list[str]:
    """The words before the first option: further folders."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first]
