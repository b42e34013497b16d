"""`anyregion dataset`: photographs to a set that a detector can be trained on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, INTERRUPTED, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.runs.dataset import DatasetOptions, DatasetReport

WRITES = """\
what is written to DIR:
  run/           the run of `recognize`; the same command again continues it
  set/           images, labels, data.yaml (yolo) or annotations/instances_*.json (coco)
  set/review.csv, set/review.json
                 doubtful regions, the least sure first: correct the JSON in a tool, and teach
  set/dataset.json
                 settings and counts
Labels are the model's, in val too: look at val before you measure on it.

"""
# rows of the table
SHOWN = 40
# from which score on names are sure: of the regions of a file, and of those that the model finds;
# docs/reference/formats.md says how many are right
GIVEN, FOUND = 0.5, 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = WRITES + (parser.epilog or "")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PHOTOS",
        help="images, folders of images, globs, or lists (.txt, a path a line)",
    )
    parser.add_argument(
        "--vocabulary", metavar="NAMES_OR_FILE", help="the classes, as for recognize"
    )
    parser.add_argument(
        "--to",
        choices=["yolo", "yolo-segment", "coco"],
        default="yolo",
        help="the format of the set (default: yolo)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--split",
        type=shared.share,
        default=0.8,
        metavar="S",
        help="share of the images for training, the others are for validation (default: 0.8)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the split (default: 0)"
    )
    parser.add_argument(
        "--min-score",
        type=shared.share,
        metavar="S",
        help="names that score less are doubtful: left out, and listed for review (default: "
        f"{GIVEN} for a file of regions, {FOUND} for found ones, whose score has their objectness "
        "in it)",
    )
    parser.add_argument(
        "--min-margin",
        type=shared.share,
        default=0.0,
        metavar="M",
        help="so are names that are less ahead of the second best (default: 0)",
    )
    parser.add_argument(
        "--whole-images",
        action="store_true",
        help="leave out every image with a doubtful region, in place of the region alone",
    )
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="keep images without a sure region, as background",
    )
    where = parser.add_argument_group("regions")
    where.add_argument(
        "--regions",
        metavar="FILE|auto",
        default="auto",
        help="a file of regions, as for recognize; auto: the model finds them (default)",
    )
    shared.add_layout_argument(where, "--regions-format", "--regions")
    where.add_argument(
        "--use-masks", action="store_true", help="use the masks of --regions as prompts too"
    )
    shared.add_proposer_arguments(where)
    shared.add_vocabulary_arguments(parser)
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Name the regions, make the set and say what it holds."""
    from anyregion.cli import terminal
    from anyregion.io.regions import load_regions
    from anyregion.runs.dataset import DatasetOptions, make_dataset
    from anyregion.runs.pipeline import RecognizeOptions, RegionSource
    from anyregion.runs.recognize import OutputOptions, recognize_images

    min_score = args.min_score
    if min_score is None:
        min_score = FOUND if args.regions == "auto" else GIVEN
    options = DatasetOptions(
        to=args.to,
        split=args.split,
        min_score=min_score,
        min_margin=args.min_margin,
        whole_images=args.whole_images,
        keep_empty=args.keep_empty,
        seed=args.seed,
    )
    load = shared.recognizer_loader(args)
    source: RegionSource | None = shared.proposed_regions(args)
    vocabulary = shared.read_vocabulary(args, masks=args.use_masks)
    if source is None:
        first = Path(args.paths[0])
        source = load_regions(
            args.regions,
            masks=args.use_masks,
            images=first if first.is_dir() else first.parent,
            layout=args.regions_format,
        )
    with terminal.progress() as track:
        try:
            named = recognize_images(
                args.paths,
                vocabulary,
                source,
                out=args.out / "run",
                recognizer=load,
                options=RecognizeOptions(
                    top_k=2,
                    score=args.score,
                    masks=args.to == "yolo-segment",
                    batch_size=args.batch_size,
                ),
                output=OutputOptions(pictures=False),
                settings={**shared.model_settings(args), "use_masks": args.use_masks},
                track=track,
            )
        except KeyboardInterrupt:
            terminal.note("interrupted; the same command continues")
            return INTERRUPTED
    report = make_dataset(args.out / "run", args.out / "set", options)
    set_aside = [*named.set_aside, *report.set_aside]
    terminal.warn_list("set aside", set_aside)
    _print(args, options, report, len(set_aside))
    return SET_ASIDE if set_aside else FINE


def _print(
    args: argparse.Namespace, options: DatasetOptions, report: DatasetReport, set_aside: int
) -> None:
    from anyregion.cli import terminal

    used = {name: splits for name, splits in report.classes.items() if sum(splits.values())}
    shown = sorted(used.items(), key=lambda item: -sum(item[1].values()))
    terminal.table(
        ("class", "train", "val"),
        ((name, s["train"], s["val"]) for name, s in shown[:SHOWN]),
        numbers=(1, 2),
    )
    if len(shown) > SHOWN:
        print(f"... and {len(shown) - SHOWN} more")
    print()
    lines: list[tuple[str, object]] = [
        ("images", f"{report.images['train']} train, {report.images['val']} val"),
        ("regions", f"{report.regions['train']} train, {report.regions['val']} val"),
        ("classes", f"{len(used)} of {len(report.classes)} have regions"),
        ("doubtful", f"{report.doubtful} regions left out (score below {options.min_score:g})"),
    ]
    if args.whole_images:
        lines.append(
            (
                "left out for them",
                f"{report.doubtful_images} images, {report.sure_left_out} sure regions",
            )
        )
    if not args.keep_empty:
        lines.append(("nothing sure", f"{report.empty} images left out"))
    if report.copies:
        lines.append(("copies", f"{report.copies} images repeat another; in one split with it"))
    lines += [
        ("set aside", set_aside),
        ("results", report.out),
        ("to review", report.out / "review.csv"),
    ]
    terminal.fields(lines)
