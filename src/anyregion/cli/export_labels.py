"""`anyregion export-labels`: the names of a run in an annotation tool's or trainer's format."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE

# of `WRITERS`, whose modules are not imported for a help text; a test compares them
FORMATS = (
    "coco", "coco-results", "yolo", "yolo-segment", "voc", "labelme", "label-studio", "cvat", "csv",
    "crops",
)  # fmt: skip
EXAMPLE = """\
name what is drawn in a tool, and put the names back where it came from:
  anyregion recognize photos --regions export.json --vocabulary names.txt --out run
  anyregion export-labels run --into export.json --out named
another format:
  anyregion export-labels run --to yolo --copy-images --out set

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN",
        help="the results folder of `recognize`, or a file of annotations in any layout",
    )
    parser.add_argument("--to", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help="the file of RUN's --regions (COCO, Label Studio, CVAT, LabelMe): its shapes get the "
        "names, and all else stays. In place of --to",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder of the images (default: where RUN had them)",
    )
    parser.add_argument(
        "--copy-images", action="store_true", help="put the images beside the labels (yolo, voc)"
    )
    parser.add_argument(
        "--min-score",
        type=shared.share,
        default=0.0,
        metavar="S",
        help="leave out regions whose name scores less (default: 0)",
    )
    parser.add_argument(
        "--shapes",
        choices=["auto", "boxes", "polygons"],
        default="auto",
        help="auto: masks as exactly as the format holds them; boxes: no masks; polygons: masks as "
        "outlines (default: auto)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.5,
        metavar="PIXELS",
        help="how far outlines may lie from the masks' edges (default: 0.5)",
    )
    parser.add_argument(
        "--image-prefix",
        default="/data/local-files/?d=",
        metavar="TEXT",
        help="label-studio: what stands before the images' names (default: /data/local-files/?d=)",
    )
    shared.add_layout_argument(parser, "--layout", "RUN, where it is a file")


def run(args: argparse.Namespace) -> int:
    """Write the labels and say what was done."""
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.io.writers.writing import WriteOptions
    from anyregion.runs.export_labels import export_labels

    if not args.tolerance >= 0:
        raise InputError(f"--tolerance {args.tolerance:g}: 0 pixels or more")
    report = export_labels(
        args.source,
        args.out,
        to=args.to,
        into=args.into,
        layout=args.layout,
        min_score=args.min_score,
        options=WriteOptions(
            shapes=args.shapes,
            tolerance=args.tolerance,
            images=args.images,
            copy_images=args.copy_images,
            image_prefix=args.image_prefix,
        ),
    )
    terminal.warn_list("set aside", report.set_aside)
    terminal.warn_list(
        f"names that {args.into} did not list; a tool may want them in its project before it "
        "takes the file",
        report.new_labels,
    )
    lines: list[tuple[str, object]] = [("images", report.images), ("regions", report.regions)]
    if report.refused:
        lines.append(("refused, left out", report.refused))
    if args.into is not None:
        lines.append(("left as they were", report.left))
    if report.outline_iou is not None:
        mean, lowest, count = report.outline_iou
        lines.append(
            ("masks as outlines", f"{count} (IoU {mean:.3f} in the mean, {lowest:.3f} at least)")
        )
    lines.append(("set aside", len(report.set_aside)))
    lines += [("results", file) for file in report.files[:3]]
    terminal.fields(lines)
    return SET_ASIDE if report.set_aside else FINE
