"""`anyregion name`: name the regions of an index in any words, without its images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FAILED, FINE, SET_ASIDE
from anyregion.cli.picture_arguments import add_picture_arguments, picture_flags, picture_options

if TYPE_CHECKING:
    from anyregion.index import NamedIndex
    from anyregion.runs.pipeline import Track

WRITES = """\
what is written to INDEX:
  labels/KEY/        the best names and scores of every region, in Parquet; KEY stands for the names
                     and settings
what is written to DIR:
  what `anyregion recognize` writes, equal to it up to the half precision of stored embeddings

"""


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """The index, and the names that its regions are compared with."""
    parser.add_argument("index", type=Path, metavar="INDEX", help="of `anyregion index`")
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="as for recognize; .vocab (of anyregion teach) needs an index with --features; needed "
        "unless the model knows its names",
    )
    shared.add_vocabulary_arguments(parser)
    group = parser.add_argument_group("how regions are named")
    group.add_argument(
        "--top-k",
        type=shared.positive,
        default=5,
        metavar="K",
        help="names kept of each region (default: 5)",
    )
    group.add_argument(
        "--score",
        choices=["softmax", "sigmoid", "probability"],
        help="as for recognize (default: the model's own)",
    )
    group.add_argument(
        "--precision", type=float, metavar="P", help="of a taught vocabulary, as for recognize"
    )
    group.add_argument(
        "--ignore-scores",
        action="store_true",
        help="do not multiply by the regions' own scores (objectness)",
    )
    group.add_argument(
        "--merge",
        action=argparse.BooleanOptionalAction,
        help="of regions of one name that overlap, or lie in each other, keep the best (default: "
        "of found regions, not of those that were given)",
    )
    group.add_argument(
        "--workers",
        type=shared.positive,
        default=1,
        metavar="N",
        help="processes at once (default: 1)",
    )
    group.add_argument("--device", default="cpu", help="of the text model (default: cpu)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = WRITES + (parser.epilog or "")
    add_index_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write a results folder, too",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="S",
        help="refuse regions whose best name scores less (default: 0), in DIR",
    )
    parser.add_argument("--keep-refused", action="store_true", help="as for recognize")
    parser.add_argument("--masks", action="store_true", help="also write the masks of the index")
    parser.add_argument("--pictures", action="store_true", help="draw pictures: needs the images")
    parser.add_argument("--csv", action="store_true", help="also write predictions.csv")
    add_picture_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="start anew in DIR")


def run(args: argparse.Namespace) -> int:
    """Name the regions and say what was done."""
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.index import write_results
    from anyregion.runs.recognize import OutputOptions

    for_results = ("min_score", "keep_refused", "masks", "pictures", "csv", "overwrite")
    if args.out is None and (alone := [name for name in for_results if getattr(args, name)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in alone)
        raise InputError(f"{flags}: only with --out")
    if not args.pictures and (looks := picture_flags(args)):
        raise InputError(f"{', '.join(looks)}: only with --pictures")
    picture = picture_options(args)
    with terminal.progress() as track:
        named = name_regions(args, track)
        report = None
        if args.out is not None:
            report = write_results(
                named.labeler,
                args.out,
                min_score=args.min_score,
                masks=args.masks,
                output=OutputOptions(
                    pictures=args.pictures,
                    picture=picture,
                    csv=args.csv,
                    overwrite=args.overwrite,
                    keep_refused=args.keep_refused,
                ),
                track=track,
            )
    vocabulary = named.labeler.vocabulary
    terminal.warn_list("names that the text model has no words for", vocabulary.unreadable)
    count = shared.count_names(len(vocabulary.vocabulary.names), args.vocabulary or "")
    lines: list[tuple[str, object]] = [
        ("regions named now", named.regions),
        ("vocabulary", count),
        ("seconds", f"{named.seconds:.1f}"),
        ("labels", named.labeler.folder),
    ]
    if report is not None:
        terminal.warn_list("set aside", report.set_aside, more=f": {args.out / 'skipped.jsonl'}")
        earlier = f" and {report.earlier} from an earlier run" if report.earlier else ""
        lines += [
            ("images", f"{report.images}{earlier}"),
            ("regions", report.regions),
            ("refused", report.refused),
            ("merged into better ones", report.duplicates),
            ("set aside", len(report.set_aside)),
            ("seconds of writing", f"{report.seconds:.1f}"),
            ("results", args.out),
        ]
    terminal.fields(lines)
    if report is None:
        return FINE
    if report.images + report.earlier == 0:
        return FAILED
    return SET_ASIDE if report.set_aside else FINE


def name_regions(args: argparse.Namespace, track: Track) -> NamedIndex:
    """Label the index by what `add_index_arguments` let choose."""
    from anyregion.cli import terminal
    from anyregion.exemplars import ExemplarVocabulary
    from anyregion.index import LabelOptions, RegionIndex, name_index
    from anyregion.vocabulary import Vocabulary

    index = RegionIndex.open(args.index)
    model = index.manifest.model or {}
    # whose names are meant where none are given
    args.model, args.method = model.get("model", "compact"), model.get("method")
    vocabulary = shared.read_vocabulary(args)
    listed = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    terminal.warn_list("names left out of the vocabulary", listed.set_aside)
    if isinstance(vocabulary, ExemplarVocabulary):
        terminal.warn_list("exemplars left out", vocabulary.set_aside)
    if len(listed.names) == 1 and getattr(vocabulary, "classifier", None) is None:
        shared.warn_one_name(args)
    options = LabelOptions(
        top_k=args.top_k,
        score=args.score,
        use_scores=not args.ignore_scores,
        merge=args.merge,
    )
    return name_index(
        index,
        vocabulary,
        recognizer=index.load_recognizer(args.device),
        options=options,
        workers=args.workers,
        track=track,
    )
