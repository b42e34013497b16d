"""Arguments that several commands share, and how boxes and points are written on a line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyregion.errors import InputError
from anyregion.exemplars import ExemplarVocabulary
from anyregion.regions import Regions
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

ONE_NAME = "warning: one name always scores 1 under softmax: use --score sigmoid"
PointGroup = tuple[list[list[float]], list[int]]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The choice of a model, as `load_recognizer` takes it."""
    group = parser.add_argument_group("model (`anyregion models` lists what there is)")
    group.add_argument(
        "--model",
        default="compact",
        metavar="NAME",
        help="a model's name, or a folder of RegionSpot weights (default: compact, the built-in)",
    )
    group.add_argument(
        "--method",
        "--recognizer",
        choices=["regionspot", "crop", "masked-crop", "dense"],
        help="the method, where the model leaves a choice",
    )
    group.add_argument("--localizer", metavar="NAME", help="SAM's hub name or folder")
    group.add_argument("--vlm", metavar="NAME", help="CLIP's or SigLIP's hub name or folder")
    group.add_argument(
        "--no-antialias",
        action="store_true",
        help="RegionSpot: resize for the VLM as the published predictor does",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    group.add_argument(
        "--score",
        choices=["softmax", "sigmoid"],
        help="softmax: shared among all names, so one name alone always scores 1; sigmoid: each "
        "name on its own (default: sigmoid for compact's trained module, else softmax)",
    )
    group.add_argument(
        "--batch-size", type=positive, default=4, metavar="N", help="images at once (default: 4)"
    )


def model_choice(args: argparse.Namespace) -> dict[str, Any]:
    """What `load_recognizer` is asked for, but for the device: all that changes answers."""
    return {
        "model": args.model,
        "method": args.method,
        "localizer": args.localizer,
        "vlm": args.vlm,
        "antialias": False if args.no_antialias else None,
    }


def one_name_is_certain(args: argparse.Namespace) -> bool:
    """Whether a vocabulary of one name would score 1 whatever is shown: softmax over it alone."""
    from anyregion.factory import default_score

    return (args.score or default_score(args.model, args.method)) == "softmax"


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """How names become the texts that the model reads."""
    group = parser.add_argument_group("names as prompts")
    group.add_argument(
        "--templates",
        action="append",
        metavar="TEMPLATE",
        help="prompt template with one {}, or a file of them; may be repeated "
        "(default: the model's own)",
    )
    group.add_argument(
        "--cleaning",
        choices=["plain", "published"],
        default="plain",
        help="plain: underscores become spaces, -other, -merged and -stuff are dropped; "
        "published: underscores stay, as in RegionSpot's code (default: plain)",
    )
    group.add_argument(
        "--no-synonyms",
        action="store_true",
        help="leave out the synonyms of --vocabulary, as published results on LVIS do",
    )


def read_vocabulary(args: argparse.Namespace) -> Vocabulary | EncodedVocabulary:
    """`--vocabulary`, with the templates, cleaning and synonyms that were asked for."""
    from anyregion.io.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(
        args.vocabulary, synonyms=not args.no_synonyms, cleaning=args.cleaning
    )
    templates = parse_templates(args.templates)
    if isinstance(vocabulary, EncodedVocabulary):
        if templates or args.cleaning != "plain" or args.no_synonyms:
            raise InputError(
                "--templates, --cleaning, --no-synonyms: this vocabulary is encoded already"
            )
        return vocabulary
    return replace(vocabulary, templates=templates)


def add_exemplar_arguments(parser: argparse.ArgumentParser) -> None:
    """Pictures in place of names, or beside them."""
    group = parser.add_argument_group("names as pictures")
    group.add_argument(
        "--exemplars",
        type=Path,
        metavar="DIR|FILE.json",
        help="regions that show what names mean: a folder with a folder of images for each name, "
        "or COCO annotations. With --vocabulary both count; names in only one of them are kept",
    )
    group.add_argument(
        "--exemplar-images",
        type=Path,
        metavar="DIR",
        help="the folder of the images of FILE.json (default: its own)",
    )
    group.add_argument(
        "--shots",
        type=positive,
        metavar="K",
        help="no more than K examples a name, drawn at random (default: all)",
    )
    group.add_argument(
        "--exemplar-seed", type=int, metavar="N", help="seed of that draw (default: 0)"
    )
    group.add_argument(
        "--exemplar-weight",
        type=float,
        metavar="W",
        help="share of the pictures in a name that has words too, 0 to 1 (default: 0.5)",
    )


def read_names(
    args: argparse.Namespace, *, masks: bool = False
) -> Vocabulary | EncodedVocabulary | ExemplarVocabulary:
    """`--vocabulary`, `--exemplars`, or both.

    Args:
        masks: also use the masks of exemplars, as those of the regions to name.
    """
    details = {
        "--exemplar-images": args.exemplar_images,
        "--shots": args.shots,
        "--exemplar-seed": args.exemplar_seed,
        "--exemplar-weight": args.exemplar_weight,
    }
    if args.exemplars is None:
        if alone := [name for name, value in details.items() if value is not None]:
            raise InputError(f"{', '.join(alone)}: only with --exemplars")
        if args.vocabulary is None:
            raise InputError("no names: give --vocabulary, --exemplars or both")
        return read_vocabulary(args)
    from anyregion.io.exemplars import load_exemplars

    return load_exemplars(
        args.exemplars,
        images=args.exemplar_images,
        shots=args.shots,
        seed=args.exemplar_seed or 0,
        masks=masks,
        words=None if args.vocabulary is None else read_vocabulary(args),
        weight=0.5 if args.exemplar_weight is None else args.exemplar_weight,
    )


def counted(names: int) -> str:
    """`80 names`, `1 name`."""
    return f"{names} name{'' if names == 1 else 's'}"


def origin(spec: str) -> str:
    """Where the names of `--vocabulary` are from, to print behind their number."""
    from anyregion.io.vocabulary import builtin_vocabularies

    name = spec.strip().casefold()
    if name in builtin_vocabularies():
        return f" (built-in {name})"
    with suppress(OSError, ValueError, RuntimeError):  # names need not be possible file names
        if Path(spec).expanduser().is_file():
            return f" (file {spec})"
    return ""


def positive(text: str) -> int:
    """A whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def parse_box(text: str) -> list[float]:
    """`x0,y0,x1,y1` in pixels."""
    values = _numbers(text)
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not x0,y0,x1,y1")
    return values


def parse_points(text: str) -> PointGroup:
    """`x,y`, or several points of one region, each with a label or not: `x,y;x,y,0`."""
    points, labels = [], []
    for part in text.split(";"):
        values = _numbers(part)
        if len(values) not in (2, 3) or (len(values) == 3 and values[2] not in (0, 1)):
            raise argparse.ArgumentTypeError(
                f"{part!r} is neither x,y nor x,y,LABEL with label 1 (inside) or 0 (outside)"
            )
        points.append(values[:2])
        labels.append(int(values[2]) if len(values) == 3 else 1)
    return points, labels


def prompts(boxes: Sequence[list[float]], groups: Sequence[PointGroup]) -> Regions:
    """One region a box, and then one a group of points."""
    empty: list[None] = [None] * len(boxes)
    return Regions.from_prompts(
        boxes=np.array([*boxes, *([[np.nan] * 4] * len(groups))], dtype=np.float64),
        points=[*empty, *(points for points, _ in groups)],
        point_labels=[*empty, *(labels for _, labels in groups)],
    )


def parse_templates(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """Each a template with one `{}`, or a text file of templates, one a line."""
    from anyregion.files import read_text

    if not texts:
        return None
    lines: list[str] = []
    for text in texts:
        lines += [text] if "{}" in text else read_text(Path(text)).splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _numbers(text: str) -> list[float]:
    try:
        return [float(v) for v in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers parted by commas") from None
