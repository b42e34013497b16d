"""`anyregion stats`: what an index holds, by a vocabulary."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyregion.cli import arguments as shared
from anyregion.cli.exit_codes import FINE
from anyregion.cli.name import add_index_arguments, name_regions

# rows of each table
SHOWN = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_index_arguments(parser)
    parser.add_argument(
        "--min-score",
        type=shared.share,
        default=0.0,
        metavar="S",
        help="regions whose best name scores less do not count (default: 0)",
    )
    parser.add_argument(
        "--top",
        type=shared.positive,
        default=100,
        metavar="N",
        help="pairs of names and doubtful regions (default: 100)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write stats.json, names.csv, doubtful.jsonl and near_duplicates.jsonl there",
    )


def run(args: argparse.Namespace) -> int:
    """Name what is not named yet, count, and show the counts."""
    from anyregion.cli import terminal
    from anyregion.index import index_stats, write_stats

    with terminal.progress() as track:
        named = name_regions(args, track)
        stats = index_stats(named.labeler, min_score=args.min_score, top=args.top, track=track)
    if args.out is not None:
        write_stats(stats, args.out)
    terminal.table(
        ("name", "regions", "images", "mean score"),
        ((n.name, n.regions, n.images, f"{n.mean_score:.2f}") for n in stats.names[:SHOWN]),
        numbers=(1, 2, 3),
    )
    if len(stats.names) > SHOWN:
        print(f"... and {len(stats.names) - SHOWN} more names")
    print()
    terminal.table(
        ("together", "", "images", "lift"),
        ((p.first, p.second, p.images, f"{p.lift:.1f}") for p in stats.pairs[:SHOWN]),
        numbers=(2, 3),
    )
    print()
    terminal.table(
        ("doubtful: image", "region", "name", "score", "doubt"),
        (
            (d.image, d.id, d.label, f"{d.score:.2f}", f"{d.doubt:.2f}")
            for d in stats.doubtful[:SHOWN]
        ),
        numbers=(3, 4),
    )
    print()
    terminal.fields(
        [
            ("images", stats.images),
            ("regions", stats.regions),
            ("merged into better ones", stats.duplicates),
            ("below the least score", stats.below),
            ("pairs of near duplicates", len(stats.near_duplicates)),
            ("labels", named.labeler.folder),
            *([] if args.out is None else [("written to", args.out)]),
        ]
    )
    return FINE
