"""`anyregion queue`: which regions are best corrected next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE, SET_ASIDE
from anyregion.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyregion.recognizer import Recognizer
    from anyregion.runs.pipeline import Track
    from anyregion.runs.queue import QueueReport
    from anyregion.teaching.region_table import RegionTable
    from anyregion.vocabulary import EncodedVocabulary, Vocabulary

EXAMPLE = """\
anyregion recognize photos --regions boxes.json --vocabulary names.txt --out run
anyregion queue run --vocabulary names.txt --count 50
  correct the categories in run/queue.json, in any tool for COCO
anyregion teach run/queue.json --images photos --vocabulary names.txt --out my.vocab
anyregion queue run --vocabulary my.vocab
  and so on: what was corrected is not asked again

"""
# rows of the table
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "regions",
        type=Path,
        metavar="RUN",
        help="the results folder of `recognize`, a file of regions, as for --regions there, or an "
        "index (of anyregion index --features), whose most doubtful regions are compared",
    )
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="NAMES_OR_FILE",
        help="the names, as for recognize; once taught, my.vocab. Regions that it was taught by "
        "are not asked again",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder of the images (default: where RUN had them). Read once: the regions' "
        "features are kept in features.safetensors",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write queue.json, queue.csv and what is kept (default: RUN)",
    )
    parser.add_argument(
        "--count",
        type=shared.positive,
        default=50,
        metavar="N",
        help="how many regions to ask about (default: 50). They are chosen together: teach and ask "
        "anew rather than asking for many at once",
    )
    parser.add_argument(
        "--crops", action="store_true", help="also write sheets that show the regions: queue_sheets"
    )
    parser.add_argument(
        "--use-masks", action="store_true", help="use the masks of a file of regions as prompts too"
    )
    shared.add_vocabulary_arguments(parser, exemplars=False)
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the queue, and show its beginning."""
    from anyregion.cli import terminal
    from anyregion.runs.queue import queue_regions

    names = shared.read_words(args)
    regions: Path | RegionTable = args.regions
    load: Recognizer | Callable[[], Recognizer] = shared.recognizer_loader(args)
    with terminal.progress() as track:
        if (args.regions / "index.json").is_file():
            load, regions = _open_index(args, names, track)
        report = queue_regions(
            regions,
            names,
            recognizer=load,
            images=args.images,
            out=args.out,
            count=args.count,
            crops=args.crops,
            use_masks=args.use_masks,
            batch_size=args.batch_size,
            track=track,
        )
    terminal.warn_list("set aside", report.set_aside)
    _print(report)
    return SET_ASIDE if report.set_aside else FINE


def _open_index(
    args: argparse.Namespace, names: Vocabulary | EncodedVocabulary, track: Track
) -> tuple[Recognizer, RegionTable]:
    """The model of the index, and its most doubtful regions, by labels that are kept beside it."""
    from anyregion.index import RegionIndex, name_index, table_of_doubtful

    if args.out is None or args.use_masks:
        raise InputError("of an index: say where to write the queue (--out), and no --use-masks")
    index = RegionIndex.open(args.regions)
    index.require_features()
    recognizer = index.load_recognizer(args.device)
    named = name_index(index, names, recognizer=recognizer, track=track)
    root = Path(index.manifest.root)
    if args.images is None and root.is_dir():
        args.images = root
    return recognizer, table_of_doubtful(named.labeler)


def _print(report: QueueReport) -> None:
    from anyregion.cli import terminal

    items = report.items
    terminal.table(
        ("image", "region", "name", "probability", "why"),
        (
            (item.image, item.id, item.labels[0], f"{item.probabilities[0]:.2f}", item.why)
            for item in items[:SHOWN]
        ),
        numbers=(3,),
    )
    if len(items) > SHOWN:
        print(f"... and {len(items) - SHOWN} more")
    print()
    terminal.fields(
        [
            ("asked", f"{len(items)}, in {len({item.image for item in items})} images"),
            ("not corrected", report.regions),
            ("corrected", report.corrected),
            ("features", "kept by an earlier call" if report.kept else "seen now, and kept"),
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
            ("results", report.out / "queue.json"),
        ]
    )
