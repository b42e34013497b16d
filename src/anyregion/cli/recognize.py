"""`anyregion recognize`."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FAILED, FINE, INTERRUPTED, SET_ASIDE

WRITES = """\
what is written to DIR:
  predictions.json   COCO: images, annotations (score; RLE with --masks), categories
  predictions.jsonl  one line an image, as it is finished: every region's best names and scores
  predictions.csv    one row a region (with --csv)
  pictures/          the images with their regions named
  skipped.jsonl      images and regions that were set aside, and why
  run.json           the settings
The same command again continues an interrupted run, and names overwritten images anew.
predictions.json is written at its end.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = WRITES + (parser.epilog or "")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="images, folders of images, or globs"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="names with commas between (dog,cat), a built-in list (coco, lvis, ...), or a file; "
        "needed unless --exemplars shows what to name",
    )
    where = parser.add_argument_group("regions (pixels of the upright image; one kind is needed)")
    where.add_argument(
        "--regions",
        metavar="FILE.json|auto",
        help="COCO annotations or results, or a detector's {image: {boxes, scores, labels}}; "
        "scores in it are multiplied with the names' scores. auto: regions are found, and their "
        "objectness counts as their score",
    )
    where.add_argument(
        "--proposer",
        choices=["own", "compact", "sam"],
        help="what finds the regions of --regions auto: compact (built in), sam (automatic masks "
        "of --localizer), own (of RegionSpot its localizer, else compact; the default)",
    )
    where.add_argument(
        "--box",
        action="append",
        default=[],
        type=shared.parse_box,
        metavar="x0,y0,x1,y1",
        help="a region of every image; may be repeated",
    )
    where.add_argument(
        "--point",
        action="append",
        default=[],
        type=shared.parse_points,
        metavar="x,y",
        help="a region of every image by a point in it; may be repeated. Several points of one "
        "region: 'x,y;x,y,0', where the label 0 marks a point outside",
    )
    where.add_argument(
        "--use-masks", action="store_true", help="use the masks of --regions as prompts too"
    )
    where.add_argument(
        "--ignore-scores",
        action="store_true",
        help="do not multiply by the scores of --regions",
    )
    shared.add_prompt_arguments(parser)
    shared.add_exemplar_arguments(parser)
    shared.add_model_arguments(parser)
    parser.add_argument(
        "--top-k",
        type=shared.positive,
        default=5,
        metavar="K",
        help="names kept of each region (default: 5)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="S",
        help="leave out regions whose best name scores less (default: 0)",
    )
    parser.add_argument("--masks", action="store_true", help="also find each region's mask")
    parser.add_argument(
        "--multimask",
        action="store_true",
        help="three candidate masks a region, each named (models with a localizer)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("anyregion-results"),
        metavar="DIR",
        help="where to write (default: anyregion-results)",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew in DIR")
    parser.add_argument("--no-pictures", action="store_true", help="draw no pictures")
    parser.add_argument("--csv", action="store_true", help="also write predictions.csv")


def run(args: argparse.Namespace) -> int:
    """Name the regions and say what was done."""
    from anyregion import __version__, factory
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.exemplars import ExemplarVocabulary
    from anyregion.runs.pipeline import recognize_images
    from anyregion.runs.region_source import found_regions, regions_from_file, same_regions
    from anyregion.vocabulary import Vocabulary

    typed = bool(args.box or args.point)
    if typed == bool(args.regions):
        raise InputError(
            "give either --regions, or --box and --point, not both"
            if typed
            else "no regions: give --regions, --box or --point, or --regions auto to find them"
        )
    if args.use_masks and typed:
        raise InputError("--use-masks needs --regions: boxes and points have no masks")
    if args.ignore_scores and typed:
        raise InputError("--ignore-scores needs --regions: boxes and points have no scores")
    found = args.regions == "auto"
    if args.proposer and not found:
        raise InputError("--proposer needs --regions auto")
    vocabulary = shared.read_names(args, masks=args.use_masks)
    names = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    terminal.warn_list("names left out of the vocabulary", names.set_aside)
    if isinstance(vocabulary, ExemplarVocabulary):
        terminal.warn_list("exemplars left out", vocabulary.set_aside)
    choice = shared.model_choice(args)
    # results folders have called the method "recognizer" from the first: a run may be continued
    settings = {"recognizer" if key == "method" else key: value for key, value in choice.items()}
    settings |= {"use_masks": args.use_masks, "ignore_scores": args.ignore_scores}
    with_masks = {"masks": args.use_masks, "scores": not args.ignore_scores}
    if typed:
        source = same_regions(shared.prompts(args.box, args.point))
    elif not found:
        source = regions_from_file(Path(args.regions), **with_masks)
    else:
        about: factory.Proposer = args.proposer or "own"
        theirs = None
        if about == "sam" and not factory.uses_localizer(args.model, args.method):
            # the recogniser has no use for it
            theirs, choice["localizer"] = choice["localizer"], None
        source = found_regions(
            lambda recognizer: factory.load_proposer(
                about, localizer=theirs, recognizer=recognizer, device=args.device
            ),
            about=about,
            **with_masks,
        )
    if len(names) == 1 and shared.one_name_is_certain(args):
        terminal.note(shared.ONE_NAME)
    with terminal.progress() as track:
        try:
            report = recognize_images(
                args.paths,
                vocabulary,
                source,
                lambda: factory.load_recognizer(**choice, device=args.device),
                out=args.out,
                settings=settings,
                about={"anyregion": __version__},
                overwrite=args.overwrite,
                top_k=args.top_k,
                score=args.score,
                min_score=args.min_score,
                masks=args.masks,
                multimask=args.multimask,
                pictures=not args.no_pictures,
                csv=args.csv,
                batch_size=args.batch_size,
                progress=track("naming regions", "images"),
                encoding=track("reading the vocabulary", "names"),
            )
        except KeyboardInterrupt:
            again = " without --overwrite" if args.overwrite else ""
            terminal.note(
                f"interrupted; finished images are kept in {args.out}. "
                f"The same command{again} continues"
            )
            return INTERRUPTED
    terminal.warn_list("names that the text model has no words for", report.unreadable)
    terminal.warn_list("set aside", report.set_aside, more=f": {args.out / 'skipped.jsonl'}")
    if report.only is not None:
        terminal.table(
            ("region", "name", "score", "box"),
            (
                (r["id"], r["label"], f"{r['score']:.3f}", ", ".join(f"{v:g}" for v in r["box"]))
                for r in report.only["regions"]
            ),
            numbers=(2,),
        )
        print()
    earlier = f" and {report.kept} from an earlier run" if report.kept else ""
    terminal.fields(
        [
            ("images", f"{report.images}{earlier}"),
            ("regions", report.regions),
            ("vocabulary", shared.counted(len(names)) + shared.origin(args.vocabulary or "")),
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
            ("results", args.out),
        ]
    )
    if report.images + report.kept == 0:
        return FAILED
    return SET_ASIDE if report.set_aside else FINE
