"""`anyregion evaluate proposals`: images in, regions out, compared with the annotated things."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation

if TYPE_CHECKING:
    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.evaluation.regions.proposal_quality import ProposalReport
    from anyregion.proposals import RegionProposer
    from anyregion.region_trees.proposer import TreeOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    parser.add_argument(
        "--proposer",
        type=lambda name: name if name == "grid" else shared.proposer_name(name),
        default="compact",
        metavar="NAME",
        help="compact (built in, the default), sam (automatic masks of --localizer), r2o:WHERE "
        "(superpixels joined by features, see `anyregion recognize --help`), compact+r2o:WHERE, or "
        "grid, which looks at nothing",
    )
    parser.add_argument("--localizer", metavar="NAME", help="SAM's hub name or folder, for sam")
    shared.add_proposal_limits(parser)
    parser.add_argument(
        "--tiles",
        type=int,
        default=0,
        metavar="N",
        help="also look in up to N tiles of images over 768 pixels (default: 0, for in that "
        "the number of proposals differs between images)",
    )
    parser.add_argument(
        "--masks", action="store_true", help="also judge masks; each annotated thing needs one"
    )
    shared.add_device_arguments(parser)
    parser.add_argument(
        "--limit", type=shared.positive, metavar="N", help="no more than the first N images"
    )
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.proposal_quality import GridProposer, evaluate_proposals

    load, kept = _loader(args)
    with terminal.progress() as track:
        evaluate = partial(
            evaluate_proposals,
            annotations=args.annotations,
            images=args.images,
            masks=args.masks,
            limit=args.limit,
        )
        report = evaluate(
            load,
            kept=kept.limit if kept else args.most,
            min_score=kept.min_score if kept else args.min_objectness or 0.0,
            track=track,
        )
        # beside it what costs nothing, with as many regions
        regions = max(1, round(report.kept.regions))
        grid = report if args.proposer == "grid" else evaluate(GridProposer(), kept=regions)
    args.model, args.method = None, None
    return evaluation.finish(args, report, lambda: _print(report, grid), grid=grid.to_dict())


def _loader(
    args: argparse.Namespace,
) -> tuple[Callable[[], RegionProposer], ProposalOptions | TreeOptions | None]:
    """What loads the proposer with no limit of its own, and the limits that it has."""
    from anyregion.errors import InputError
    from anyregion.evaluation.regions.proposal_quality import LIMITS, GridProposer
    from anyregion.factory import TREES, load_proposer

    if args.localizer and args.proposer != "sam":
        raise InputError(f"the proposer {args.proposer} uses no localizer")
    if args.proposer == "grid":
        return GridProposer, None
    load = partial(
        load_proposer,
        args.proposer,
        localizer=args.localizer,
        device=args.device,
        dtype=args.dtype,
        tiles=args.tiles,
    )
    if args.proposer == "sam":
        return load, None
    from dataclasses import replace

    from anyregion.compact.proposal_head import ProposalOptions
    from anyregion.region_trees.proposer import TreeOptions

    default = ProposalOptions() if not args.proposer.startswith(TREES) else TreeOptions()
    kept = shared.proposal_options(args, args.proposer) or default
    every = replace(kept, limit=max(LIMITS), min_score=0.0)
    return partial(load, options=every), kept


def _print(report: ProposalReport, grid: ProposalReport) -> None:
    from anyregion.cli import terminal

    reports = [report] if report is grid else [report, grid]

    def row(title: str, figure: Callable[[ProposalReport], str]) -> tuple[str, ...]:
        return title, *(figure(r) for r in reports)

    def decimals(value: float) -> str:
        return f"{value:.3f}"

    rows = [row(f"AR@{n}", lambda r, n=n: decimals(r.ar[n])) for n in report.ar]  # type: ignore[misc]
    rows += [
        row(f"  {name} (of 100)", lambda r, name=name: decimals(r.ar_by_size[name]))  # type: ignore[misc]
        for name in report.ar_by_size
    ]
    rows += [
        row(f"recall at IoU 0.5, of {n}", lambda r, n=n: evaluation.percent(r.recall50[n]))  # type: ignore[misc]
        for n in report.recall50
    ]
    rows += [
        row(f"mask AR@{n}", lambda r, n=n: decimals((r.mask_ar or {})[n]))  # type: ignore[misc]
        for n in report.mask_ar or ()
    ]
    rows += [
        row("AP50, one class", lambda r: evaluation.points(r.ap50)),
        row("AP", lambda r: evaluation.points(r.ap)),
        row("kept an image", lambda r: f"{r.kept.regions:.1f}"),
        row("things met by these", lambda r: evaluation.percent(r.kept.found)),
        row("things with at most one", lambda r: evaluation.percent(r.kept.at_most_one)),
        row("of those with any, with one", lambda r: evaluation.percent(r.kept.once)),
        row("most on one thing", lambda r: str(r.kept.most)),
    ]
    numbers = tuple(range(1, len(reports) + 1))
    terminal.table(("", *(r.proposer for r in reports)), rows, numbers=numbers)
    print()
    terminal.fields(
        [
            ("things", report.things),
            ("images", report.images),
            ("seconds", f"{report.seconds:.1f}"),
        ]
    )
