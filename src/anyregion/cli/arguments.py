"""Arguments that several commands share: the model, the vocabulary, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyregion.errors import InputError

if TYPE_CHECKING:
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.exemplars import ExemplarVocabulary
    from anyregion.recognizer import Recognizer
    from anyregion.region_trees.proposer import TreeOptions
    from anyregion.runs.pipeline import ProposedRegions
    from anyregion.vocabulary import EncodedVocabulary, Vocabulary

# of `ProposalOptions`, which is not imported for a help text; a test compares them
_MOST, _LOWEST = 50, 0.35
# how proposers with merge trees begin: `factory.TREES` and `JOINT`
_TREES, _JOINT = "r2o:", "compact+r2o:"


def positive(text: str) -> int:
    """A whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


# of `Layout`, whose module is not imported for a help text; a test compares them
LAYOUTS = (
    "auto", "coco", "voc", "openimages", "yolo", "labelme", "label-studio", "cvat", "csv", "crops",
)  # fmt: skip


def add_layout_argument(parser: argparse._ActionsContainer, name: str, of: str) -> None:
    """The layout of a file of annotations, where its content does not tell."""
    parser.add_argument(
        name,
        choices=LAYOUTS,
        default="auto",
        help=f"of {of} (default: auto, by its content)",
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def add_proposer_arguments(parser: argparse._ActionsContainer) -> None:
    """Which regions `--regions auto` finds, and which of them stay."""
    parser.add_argument(
        "--proposer",
        type=proposer_name,
        metavar="NAME",
        help="what finds the regions of --regions auto: compact (built in), sam (automatic masks "
        "of --localizer), own (of RegionSpot its localizer, else compact; the default), "
        "r2o:WHERE, or compact+r2o:WHERE",
    )
    add_proposal_limits(parser)
    parser.add_argument(
        "--merge",
        action=argparse.BooleanOptionalAction,
        help="of regions of one name that overlap, or lie in each other, keep the best (default: "
        "of found regions, not of those that were given)",
    )
    # its name before there was --merge
    parser.add_argument(
        "--keep-duplicates", dest="merge", action="store_false", help=argparse.SUPPRESS
    )
    parser.set_defaults(merge=None)


def proposer_name(text: str) -> str:
    """A proposer, as `load_proposer` takes it."""
    if text in ("own", "compact", "sam") or text.startswith((_TREES, _JOINT)):
        return text
    listed = f"own, compact, sam, {_TREES}WHERE, {_JOINT}WHERE"
    raise argparse.ArgumentTypeError(f"{text!r} is none of {listed}")


def finds_regions(source: object) -> bool:
    """Whether `--regions` names what finds regions, not a file of them."""
    return isinstance(source, str) and (source == "auto" or source.startswith((_TREES, _JOINT)))


def add_proposal_limits(parser: argparse._ActionsContainer) -> None:
    """How many of the found regions are kept; `proposal_options` reads it."""
    parser.add_argument(
        "--most",
        type=positive,
        metavar="N",
        help=f"found regions of an image or a tile, at most (compact's default: {_MOST})",
    )
    parser.add_argument(
        "--min-objectness",
        type=share,
        metavar="S",
        help=f"lowest objectness of a found region (compact's default: {_LOWEST})",
    )


def proposal_options(
    args: argparse.Namespace, proposer: str
) -> ProposalOptions | TreeOptions | None:
    """What `--most` and `--min-objectness` say; None where they say nothing."""
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.region_trees.proposer import TreeOptions

    stated = {"limit": args.most, "min_score": args.min_objectness}
    changes = {name: value for name, value in stated.items() if value is not None}
    if not changes:
        return None
    return TreeOptions(**changes) if proposer.startswith(_TREES) else ProposalOptions(**changes)


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
    group.add_argument(
        "--tiles",
        type=int,
        metavar="N",
        help="see small regions of images over 768 pixels in up to N tiles an image; 0: the whole "
        "image alone (default: 128 for compact, 0 for other models, whose tiles begin at the size "
        "of their input)",
    )
    group.add_argument(
        "--fast",
        action="store_true",
        help="compact: images are seen at 640 instead of 768 pixels, for 0.8 of the time; of a "
        "hundred small regions four less are named rightly",
    )
    add_device_arguments(group)
    group.add_argument(
        "--score",
        choices=["softmax", "sigmoid", "probability"],
        help="softmax: shared among all names, so one name alone always scores 1; sigmoid: each "
        "name on its own; probability: how often such an answer is right, of compact's trained "
        "module, whose default it is (else: softmax)",
    )
    group.add_argument(
        "--batch-size", type=positive, default=4, metavar="N", help="images at once (default: 4)"
    )


def recognizer_loader(args: argparse.Namespace) -> partial[Recognizer]:
    """What loads the recogniser that `add_model_arguments` let choose."""
    from anyregion import factory

    localizer = args.localizer
    # the proposer's, where the recogniser has no use for it, and would refuse it
    if getattr(args, "proposer", None) == "sam":
        localizer = localizer if factory.uses_localizer(args.model, args.method) else None
    return partial(
        factory.load_recognizer,
        model=args.model,
        method=args.method,
        localizer=localizer,
        vlm=args.vlm,
        antialias=False if args.no_antialias else None,
        device=args.device,
        dtype=args.dtype,
        tiles=args.tiles,
        fast=args.fast,
    )


def add_device_arguments(group: argparse._ActionsContainer) -> None:
    """Where frozen models run, and how exactly."""
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    group.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "auto"],
        default="float32",
        help="precision of the products in frozen torch encoders; auto: bfloat16 where the device "
        "has instructions for it (default: float32)",
    )


def model_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_model_arguments` let choose, as a run's `run.json` states it."""
    return {
        "model": args.model,
        # the key of the first version, so that its results folders can be continued
        "recognizer": args.method,
        "localizer": args.localizer,
        "vlm": args.vlm,
        "antialias": False if args.no_antialias else None,
        # only where it is so: the settings of earlier runs do not say it
        **({"fast": True} if args.fast else {}),
    }


def proposed_regions(args: argparse.Namespace, *, scores: bool = True) -> ProposedRegions | None:
    """The source of the regions with `--regions auto` or `r2o:WHERE`, else None.

    Args:
        args: with `--regions`, `--use-masks` and those of `add_proposer_arguments`.
        scores: whether the proposals' scores count.
    """
    if not finds_regions(args.regions):
        for flag in ("proposer", "most", "min_objectness"):
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag.replace('_', '-')} needs --regions auto")
        return None
    if args.proposer and args.regions != "auto":
        raise InputError(f"--regions {args.regions} says already what finds them: no --proposer")
    from anyregion import factory
    from anyregion.proposals import DuplicateOptions
    from anyregion.runs.pipeline import ProposedRegions

    proposer = (args.proposer or "own") if args.regions == "auto" else args.regions
    alone = proposer == "sam" and not factory.uses_localizer(args.model, args.method)
    localizer = args.localizer if alone else None  # a RegionSpot's is loaded with it
    return ProposedRegions(
        proposer,
        localizer,
        args.device,
        dtype=args.dtype,
        masks=args.use_masks,
        scores=scores,
        tiles=args.tiles,
        duplicates=None if args.merge is False else DuplicateOptions(),
        options=proposal_options(args, proposer),
    )


def add_vocabulary_arguments(parser: argparse.ArgumentParser, *, exemplars: bool = True) -> None:
    """How names become the texts that the model reads; pictures in their place, or beside them."""
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
    if not exemplars:
        return
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
        help="share of the pictures in a name that has words too, 0 to 1 (default: the larger the "
        "more there are, 0.5 for one, 0.7 for five)",
    )


def read_vocabulary(
    args: argparse.Namespace, *, masks: bool = False
) -> Vocabulary | EncodedVocabulary | ExemplarVocabulary:
    """`--vocabulary`, `--exemplars`, or both.

    Args:
        masks: also use the masks of exemplars, as those of the regions to name.
    """
    from anyregion.cli import terminal
    from anyregion.vocabulary import Vocabulary

    # an argument without effect is a misunderstanding, which is said
    details = ("exemplar_images", "shots", "exemplar_seed", "exemplar_weight")
    alone = [f"--{d.replace('_', '-')}" for d in details if getattr(args, d, None) is not None]
    exemplars = getattr(args, "exemplars", None)  # not every command takes them
    if alone and exemplars is None:
        raise InputError(f"{', '.join(alone)}: only with --exemplars")
    words = None if args.vocabulary is None else read_words(args)
    if exemplars is None:
        if words is None:
            from anyregion.factory import known_names

            words = known_names(args.model)
            if words is not None and (args.templates or args.cleaning != "plain"):
                raise InputError("--templates and --cleaning need --vocabulary")
        if words is None:
            raise InputError("no names: give --vocabulary, --exemplars or both")
        listed = words if isinstance(words, Vocabulary) else words.vocabulary
        terminal.warn_list("read from the vocabulary", listed.notes)
        return words
    from anyregion.io.exemplars import load_exemplars

    shown = load_exemplars(
        exemplars,
        images=args.exemplar_images,
        shots=args.shots,
        seed=args.exemplar_seed or 0,
        masks=masks,
        words=words,
        weight=args.exemplar_weight,
    )
    terminal.warn_list("read from the vocabulary", shown.vocabulary.notes)
    return shown


def read_words(args: argparse.Namespace) -> Vocabulary | EncodedVocabulary:
    """`--vocabulary`, with the arguments that say how its names become prompts."""
    from anyregion.io.vocabulary import load_vocabulary
    from anyregion.teaching.vocabulary import TaughtVocabulary
    from anyregion.vocabulary import Vocabulary

    words = load_vocabulary(args.vocabulary, synonyms=not args.no_synonyms, cleaning=args.cleaning)
    templates = parse_templates(args.templates) if args.templates else None
    if isinstance(words, Vocabulary):
        words = replace(words, templates=templates)
    elif templates or args.cleaning != "plain" or args.no_synonyms:
        raise InputError(
            "--templates, --cleaning, --no-synonyms: this vocabulary is encoded already"
        )
    if isinstance(words, TaughtVocabulary) and args.score not in (None, "probability"):
        # before any image is seen
        raise InputError(f"--score {args.score}: a taught vocabulary scores by probability")
    precision = getattr(args, "precision", None)
    if precision is not None:
        if not isinstance(words, TaughtVocabulary):
            raise InputError("--precision needs a taught vocabulary (anyregion teach)")
        words = words.at_precision(precision)
    return words


def parse_templates(texts: Sequence[str]) -> tuple[str, ...]:
    """Each a template with one `{}`, or a text file of templates, one a line."""
    from anyregion.cli import terminal
    from anyregion.files import read_text, valid_text
    from anyregion.vocabulary import HALVES

    lines: list[str] = []
    for text in texts:
        lines += [text] if "{}" in text else read_text(Path(text)).splitlines()
    templates = [line.strip() for line in lines if line.strip()]
    valid = tuple(map(valid_text, templates))
    # said here: not every command has a vocabulary whose notes it prints
    changed = [t for t, stated in zip(valid, templates, strict=True) if t != stated]
    terminal.warn_list("read from the templates", [f"{t!r}: {HALVES}" for t in changed])
    return valid


def count_names(count: int, spec: str | None = None) -> str:
    """`1 name`, `80 names (built-in coco)`, `2 names (file n.txt)`: what `--vocabulary` gave."""
    text = f"{count} name{'' if count == 1 else 's'}"
    if spec is None:
        return text
    from anyregion.io.vocabulary import BUILT_IN_NAMES

    if (name := spec.strip().casefold()) in BUILT_IN_NAMES:
        return f"{text} (built-in {name})"
    if spec == "-":
        return f"{text} (standard input)"
    # names need not be possible file names
    with suppress(OSError, ValueError, RuntimeError):
        if Path(spec).expanduser().is_file():
            return f"{text} (file {spec})"
    return text


def warn_one_name(args: argparse.Namespace) -> None:
    """Warn where a vocabulary of one name will score 1 whatever is shown: softmax over it."""
    from anyregion.cli import terminal
    from anyregion.factory import default_score

    if (args.score or default_score(args.model, args.method)) == "softmax":
        terminal.note("warning: one name always scores 1 under softmax: use --score sigmoid")
