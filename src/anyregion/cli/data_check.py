"""The command `anyregion data check`: what is wrong with annotations and their image files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.data.check import ClassCount, DataReport

_ENDS = 5  # classes listed at either end of the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "annotations",
        type=Path,
        metavar="ANNOTATIONS",
        help="COCO-format JSON (also LVIS, Objects365, V3Det, ODinW), OpenImages' CSV of boxes, "
        "a Pascal VOC folder or list of images, YOLO's data.yaml or folder, LabelMe's files, Label "
        "Studio's JSON, CVAT's XML, a CSV of boxes, or a folder of crops",
    )
    parser.add_argument("images", type=Path, metavar="IMAGES", help="the folder of the images")
    shared.add_layout_argument(parser, "--layout", "the annotations")
    parser.add_argument(
        "--fast",
        action="store_true",
        help="read the images' headers only: truncated files are not found",
    )
    parser.add_argument("--masks", action="store_true", help="check the masks too")
    parser.add_argument(
        "--limit", type=shared.positive, metavar="N", help="no more than the first N image files"
    )
    parser.add_argument(
        "--examples",
        type=shared.positive,
        default=3,
        metavar="N",
        help="print so many of each kind of fault (default: 3; at most 100 are kept)",
    )
    parser.add_argument("--per-class", action="store_true", help="print every class")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print the report."""
    from anyregion.cli import terminal
    from anyregion.data.annotations.reading import read_annotations
    from anyregion.data.check import check_data

    annotations = read_annotations(
        args.annotations, layout=args.layout, masks=args.masks, images=args.images
    )
    with terminal.progress() as track:
        report = check_data(
            annotations,
            args.images,
            limit=args.limit,
            decode=not args.fast,
            progress=track("reading images", "images"),
        )
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        _print(report, args.examples, args.per_class)
    return SET_ASIDE if report.wrong else FINE


def _print(report: DataReport, examples: int, per_class: bool) -> None:
    from anyregion.cli import terminal

    used = [c for c in report.classes if c.regions]
    sizes = ", ".join(f"{count:,} {name}" for name, count in report.by_size.items())
    how = "decoded" if report.decoded else "headers only"
    terminal.fields(
        [
            ("images", f"{report.images:,} ({report.files_checked:,} files checked, {how})"),
            ("regions", f"{report.regions:,} ({sizes}), and {report.crowd:,} of crowds"),
            ("classes", f"{len(report.classes):,}, {len(used):,} of them with regions"),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
    print()
    shown = used if per_class else _head_and_tail(used)
    rows = [(c.name, f"{c.regions:,}", f"{c.images:,}") if c else ("...", "", "") for c in shown]
    terminal.table(("class", "regions", "images"), rows, numbers=(1, 2))
    for wrong, title in ((True, "wrong"), (False, "worth knowing")):
        findings = [f for f in report.findings if f.wrong is wrong]
        if not findings:
            continue
        print()
        terminal.table(
            (title, "number", "what to do"),
            [(f.what, f"{f.count:,}", f.advice) for f in findings],
            numbers=(1,),
        )
        for finding in findings:
            print(f"\n{finding.what}:")
            for example in finding.examples[:examples]:
                # a file's name need not be text that can be printed
                print(f"  {str(example).encode(errors='backslashreplace').decode()}")
            if (others := finding.count - min(examples, len(finding.examples))) > 0:
                print(f"  ... and {others:,} more")
    print()
    print(f"{report.wrong:,} wrong" if report.wrong else "nothing wrong")


def _head_and_tail(classes: list[ClassCount]) -> list[ClassCount | None]:
    """The first and last few; None stands for those between."""
    if len(classes) <= 2 * _ENDS + 1:
        return list(classes)
    return [*classes[:_ENDS], None, *classes[-_ENDS:]]
