"""`anyregion evaluate classification`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from anyregion.cli import arguments as shared
from anyregion.cli.evaluate import arguments as evaluation
from anyregion.cli.exit_codes import FINE, SET_ASIDE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    evaluation.add_data_arguments(parser)
    evaluation.add_vocabulary_argument(parser)
    parser.add_argument(
        "--use-masks", action="store_true", help="give the annotations' masks as prompts too"
    )
    evaluation.add_unseen_argument(parser)
    shared.add_exemplar_arguments(parser)
    shared.add_prompt_arguments(parser)
    shared.add_model_arguments(parser)
    evaluation.add_limit_argument(parser)
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    evaluation.add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the report."""
    from anyregion import factory
    from anyregion.cli import terminal
    from anyregion.evaluation.regions.classification import Accuracy, evaluate_classification

    if args.vocabulary or args.exemplars:
        names = shared.read_names(args, masks=args.use_masks)
        options: dict[str, Any] = {"vocabulary": names}
        names_from = shared.origin(args.vocabulary or str(args.exemplars))
    else:
        templates = shared.parse_templates(args.templates)
        options = {"templates": templates, "cleaning": args.cleaning}
        names_from = " (the annotations' categories)"
    with terminal.progress() as track:
        report = evaluate_classification(
            lambda: factory.load_recognizer(**shared.model_choice(args), device=args.device),
            args.annotations,
            args.images,
            **options,
            use_masks=args.use_masks,
            score=args.score,
            unseen=args.unseen,
            limit=args.limit,
            batch_size=args.batch_size,
            progress=track("naming regions", "images"),
            encoding=track("reading the vocabulary", "names"),
        )
    if report.names == 1 and shared.one_name_is_certain(args):
        terminal.note(shared.ONE_NAME)
    terminal.warn_list("set aside", report.set_aside)
    if args.json:
        print(json.dumps({"model": args.model, "recognizer": args.method, **report.to_dict()}))
    else:
        whole = Accuracy(report.regions, report.top1, report.top5)
        by_class = report.by_class if args.per_class else {}
        parts: dict[str, Accuracy] = {}
        split = report.split
        if split is not None:
            either = {"seen classes": split.seen, "unseen classes": split.unseen}
            parts = {name: part for name, part in either.items() if part is not None}
        groups = {"all": whole, **parts, **report.by_size, **by_class}
        terminal.table(
            ("", "regions", "top-1", "top-5"),
            ((name, a.regions, f"{a.top1:.1%}", f"{a.top5:.1%}") for name, a in groups.items()),
            numbers=(1, 2, 3),
        )
        print()
        terminal.fields(
            [
                ("class-averaged", f"{report.mean_class_accuracy:.1%} ({len(report.by_class)})"),
                *([] if split is None else evaluation.split_lines(split)),
                ("mean score", f"{report.mean_score:.3f}"),
                ("vocabulary", shared.counted(report.names) + names_from),
                ("images", report.images),
                ("outside vocabulary", report.outside_vocabulary),
                ("seconds", f"{report.seconds:.1f}"),
            ]
        )
    return SET_ASIDE if report.set_aside else FINE
