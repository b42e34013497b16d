"""`anyregion index`: embed the regions of a collection once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FAILED, FINE, INTERRUPTED, SET_ASIDE

if TYPE_CHECKING:
    from anyregion.runs.pipeline import RegionSource

EXAMPLE = """\
anyregion index photos --out photos.index --workers 2
anyregion name photos.index --vocabulary coco --out results
anyregion search photos.index "red bus" --top 50
anyregion stats photos.index --vocabulary coco

what is written to INDEX:
  index.json         the settings, and the fingerprints of the models
  plan.parquet       all images, sorted, with their sizes and stated regions; made once
  shards/            per 512 images a Parquet file of regions, and one of the images
  quarantine.jsonl   images that cannot be used, and why
The same command again goes on where it was stopped. Several of them, also on several machines that
share INDEX, work on it together.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EXAMPLE + (parser.epilog or "")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders, globs; lists of them (.txt, a path or address a line); tar and "
        "Parquet files of images; addresses that fsspec knows (s3://bucket/photos)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="INDEX", help="the folder of the index"
    )
    where = parser.add_argument_group("regions (pixels of the upright image)")
    where.add_argument(
        "--regions",
        default="auto",
        metavar="FILE|auto|r2o:WHERE",
        help="as for recognize; auto: regions are found, with their objectness (default: auto)",
    )
    shared.add_layout_argument(where, "--regions-format", "--regions")
    where.add_argument(
        "--proposer", type=shared.proposer_name, metavar="NAME", help="as for recognize"
    )
    shared.add_proposal_limits(where)
    where.add_argument(
        "--use-masks", action="store_true", help="use the masks of --regions as prompts too"
    )
    what = parser.add_argument_group("what is stored beside embeddings")
    what.add_argument("--masks", action="store_true", help="also find each region's mask")
    what.add_argument(
        "--features",
        action="store_true",
        help="also what taught vocabularies need: ten times the size (compact)",
    )
    work = parser.add_argument_group("where the work is done")
    work.add_argument(
        "--workers",
        type=shared.positive,
        default=1,
        metavar="N",
        help="processes at once, each with a model and one thread (default: 1)",
    )
    work.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="local: processes of this machine; ray: workers of a cluster (default: local)",
    )
    work.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of Ray's cluster, or auto (default: one is started on this machine)",
    )
    work.add_argument(
        "--gpus", type=float, default=0.0, metavar="N", help="of each of Ray's workers (default: 0)"
    )
    work.add_argument(
        "--shard-minutes",
        type=float,
        default=60.0,
        metavar="N",
        help="how long one of Ray's workers may take for a shard, before another is asked "
        "(default: 60)",
    )
    work.add_argument(
        "--shard-images",
        type=shared.positive,
        metavar="N",
        help="images that are saved together, and lost together where a worker is killed (default: "
        "512, or a 64th of a smaller collection, at least 16). Fewer for slow models",
    )
    work.add_argument("--overwrite", action="store_true", help="begin anew in INDEX")
    work.add_argument(
        "--retry", action="store_true", help="try shards with images in quarantine again"
    )
    shared.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embed what is not embedded yet, and say what was done."""
    from anyregion.cli import terminal
    from anyregion.errors import InputError
    from anyregion.index import EngineOptions, IndexOptions, index_images
    from anyregion.io.regions import load_regions

    if args.score is not None:
        raise InputError("--score is for `anyregion name`: an index has no scores yet")
    if args.address is not None and args.engine != "ray":
        raise InputError("--address needs --engine ray")
    # which found regions are duplicates depends on their names
    args.merge = None
    source: RegionSource | None = shared.proposed_regions(args)
    if source is None:
        first = Path(args.paths[0])
        source = load_regions(
            args.regions,
            masks=args.use_masks,
            images=first if first.is_dir() else first.parent,
            layout=args.regions_format,
        )
    elif args.regions_format != "auto":
        raise InputError("--regions-format needs a file as --regions")
    load = shared.recognizer_loader(args)
    # `device` changes no answer, and the next command may run elsewhere
    model = {name: v for name, v in load.keywords.items() if name != "device"}
    with terminal.progress() as track:
        try:
            report = index_images(
                args.paths,
                source,
                out=args.out,
                recognizer=load,
                model=model,
                options=IndexOptions(
                    masks=args.masks,
                    features=args.features,
                    use_masks=args.use_masks,
                    batch_size=args.batch_size,
                    shard_images=args.shard_images,
                ),
                engine=EngineOptions(
                    name=args.engine,
                    workers=args.workers,
                    address=args.address,
                    gpus=args.gpus,
                    minutes=args.shard_minutes,
                ),
                overwrite=args.overwrite,
                retry=args.retry,
                track=track,
            )
        except KeyboardInterrupt:
            again = " without --overwrite" if args.overwrite else ""
            terminal.note(
                f"interrupted; finished shards are kept in {args.out}. "
                f"The same command{again} continues"
            )
            return INTERRUPTED
    for text in report.warnings:
        terminal.note(f"warning: {text}")
    terminal.warn_list("set aside", report.set_aside)
    if report.quarantined:
        terminal.note(f"warning: {report.quarantined} images: {args.out / 'quarantine.jsonl'}")
    terminal.fields(
        [
            ("images", f"{report.images}, {report.computed} of them embedded now"),
            ("regions", report.regions),
            ("in quarantine", report.quarantined),
            ("set aside", len(report.set_aside)),
            ("seconds", f"{report.seconds:.1f}"),
            ("index", args.out),
        ]
    )
    if report.images == 0:
        return FAILED
    return SET_ASIDE if report.quarantined or report.set_aside else FINE
