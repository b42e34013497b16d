"""`anyregion recognize`: name the regions of many images into a results folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FAILED, FINE, INTERRUPTED, SET_ASIDE
from anyregion.cli.picture_arguments import add_picture_arguments, picture_flags, picture_options

if TYPE_CHECKING:
    from anyregion.regions import Regions
    from anyregion.runs.pipeline import RegionSource

PointGroup = tuple[list[list[float]], list[int]]

# rows of the table that is printed for one image
SHOWN = 100
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
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders of images, globs, or lists (.txt, a path a line)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="NAMES_OR_FILE",
        help="names with commas between (dog,cat), a built-in list (coco, lvis, ...), - for "
        "standard input, or a file: .txt (a name a line; '0 cat' a line; names in one line with "
        "commas), .json ([names], {names|classes|categories: [...]}, {id: name}, id2label, "
        "{name: [synonyms]}, COCO), .csv, .yaml (YOLO's data.yaml), .safetensors, .vocab "
        "(of anyregion teach); needed unless "
        "--exemplars shows what to name, or --model is a folder that knows its names",
    )
    where = parser.add_argument_group("regions (pixels of the upright image; one kind is needed)")
    where.add_argument(
        "--regions",
        metavar="FILE|auto|[compact+]r2o:WHERE",
        help="COCO annotations (also LVIS) or results, a detector's {image: {boxes, scores, "
        "labels}}, YOLO's data.yaml or folder, Label Studio's JSON, CVAT's XML, LabelMe, a Pascal "
        "VOC folder or list, OpenImages' CSV, a CSV of boxes; scores in it are multiplied with the "
        "names' scores. auto: regions are found, and their objectness counts as score. "
        "r2o:WHERE: superpixels joined by the features of WHERE, without labels: compact (built "
        "in), colour, a run of anyregion pretrain, or timm/NAME@WEIGHTS; with compact+ before it "
        "beside compact's own, in one ranking",
    )
    shared.add_layout_argument(where, "--regions-format", "--regions")
    where.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE.json",
        help="where --regions are COCO results, the COCO file that lists their images",
    )
    shared.add_proposer_arguments(where)
    where.add_argument(
        "--box",
        action="append",
        default=[],
        type=parse_box,
        metavar="x0,y0,x1,y1",
        help="a region of every image; may be repeated",
    )
    where.add_argument(
        "--point",
        action="append",
        default=[],
        type=parse_points,
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
    shared.add_vocabulary_arguments(parser)
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
        help="refuse regions whose best name scores less (default: 0): they are marked in "
        "predictions.jsonl and .csv, and left out of the pictures and of predictions.json; what a "
        "taught vocabulary refuses is drawn in grey",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="of a taught vocabulary: refuse so that of each name's answers the share P is right, "
        "by what was said of its corrections before their images were seen",
    )
    parser.add_argument(
        "--keep-refused",
        action="store_true",
        help='refused regions are in predictions.json too, with "refused": true, and drawn in grey',
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
    parser.add_argument(
        "--workers",
        type=shared.positive,
        default=1,
        metavar="N",
        help="processes that name images at once, each with a model of its own (default: 1); "
        "changes no answer",
    )
    parser.add_argument("--csv", action="store_true", help="also write predictions.csv")
    add_picture_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Name the regions and say what was done."""
    # imported here, so that `--help` is quick
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.exemplars import ExemplarVocabulary
    from anyregion.io.regions import load_regions
    from anyregion.runs.pipeline import RecognizeOptions, SameRegions
    from anyregion.runs.recognize import OutputOptions, recognize_images
    from anyregion.vocabulary import Vocabulary

    # what makes no sense together is refused before anything slow is loaded
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
    if args.regions_format != "auto" and (typed or shared.finds_regions(args.regions)):
        raise InputError("--regions-format needs a file as --regions")
    if args.annotations and (typed or shared.finds_regions(args.regions)):
        raise InputError("--annotations needs COCO results as --regions: it names their images")
    picture = picture_options(args)
    if args.no_pictures and (flags := picture_flags(args)):
        raise InputError(f"{', '.join(flags)}: not with --no-pictures")
    load, scores = shared.recognizer_loader(args), not args.ignore_scores
    source: RegionSource | None = shared.proposed_regions(args, scores=scores)
    vocabulary = shared.read_vocabulary(args, masks=args.use_masks)
    listed = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary.vocabulary
    count = len(listed.names)
    terminal.warn_list("names left out of the vocabulary", listed.set_aside)
    if isinstance(vocabulary, ExemplarVocabulary):
        terminal.warn_list("exemplars left out", vocabulary.set_aside)
    if typed:
        source = SameRegions(prompts(args.box, args.point))
    elif source is None:
        first = Path(args.paths[0])
        source = load_regions(
            args.regions,
            masks=args.use_masks,
            scores=scores,
            annotations=args.annotations,
            images=first if first.is_dir() else first.parent,
            layout=args.regions_format,
        )
    if count == 1 and getattr(vocabulary, "classifier", None) is None:
        shared.warn_one_name(args)
    settings = {
        **shared.model_settings(args),
        "use_masks": args.use_masks,
        "ignore_scores": args.ignore_scores,
    }
    with terminal.progress() as track:
        try:
            report = recognize_images(
                args.paths,
                vocabulary,
                source,
                out=args.out,
                recognizer=load,
                options=RecognizeOptions(
                    top_k=args.top_k,
                    score=args.score,
                    min_score=args.min_score,
                    masks=args.masks,
                    multimask=args.multimask,
                    batch_size=args.batch_size,
                    merge=bool(args.merge),
                ),
                output=OutputOptions(
                    pictures=not args.no_pictures,
                    picture=picture,
                    csv=args.csv,
                    overwrite=args.overwrite,
                    keep_refused=args.keep_refused,
                ),
                settings=settings,
                workers=args.workers,
                track=track,
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
        records = report.only["regions"]
        terminal.table(
            ("region", "name", "score", "box"),
            (
                (
                    r["id"],
                    f"{r['label']} (refused)" if r.get("refused") else r["label"],
                    f"{r['score']:.3f}",
                    ", ".join(f"{v:g}" for v in r["box"]),
                )
                for r in records[:SHOWN]
            ),
            numbers=(2,),
        )
        if len(records) > SHOWN:
            print(f"... and {len(records) - SHOWN:,} more in {args.out / 'predictions.jsonl'}")
        print()
    earlier = f" and {report.earlier} from an earlier run" if report.earlier else ""
    merging = args.merge or (args.merge is None and shared.finds_regions(args.regions))
    terminal.fields(
        [
            ("images", f"{report.images}{earlier}"),
            ("regions", report.regions),
            *([("refused", report.refused)] if args.min_score or report.refused else []),
            *([("merged into better ones", report.duplicates)] if merging else []),
            # without --vocabulary the names are those of the exemplars
            ("vocabulary", shared.count_names(count, args.vocabulary or "")),
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
            ("results", args.out),
        ]
    )
    if report.images + report.earlier == 0:
        return FAILED
    return SET_ASIDE if report.set_aside else FINE


def parse_box(text: str) -> list[float]:
    """`x0,y0,x1,y1` in pixels."""
    values = _numbers(text)
    if len(values) != 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not x0,y0,x1,y1 (four numbers with commas and no spaces between)"
        )
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
    from anyregion.regions import Regions

    no_points: list[None] = [None] * len(boxes)
    no_box = [float("nan")] * 4
    regions = Regions.from_prompts(
        boxes=[*boxes, *([no_box] * len(groups))],
        points=[*no_points, *(points for points, _ in groups)],
        point_labels=[*no_points, *(labels for _, labels in groups)],
    )
    regions.refuse_fractions()
    return regions


def _numbers(text: str) -> list[float]:
    try:
        return [float(v) for v in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers parted by commas") from None
