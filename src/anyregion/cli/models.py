"""`anyregion models`: the well-known weights and the built-in vocabularies."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from anyregion.cli.exit_codes import FINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List models and built-in vocabularies."""
    from anyregion.cli import terminal
    from anyregion.factory import list_models
    from anyregion.io.vocabulary import builtin_vocabularies

    models, vocabularies = list_models(), builtin_vocabularies()
    if args.json:
        print(json.dumps({"models": [asdict(m) for m in models], "vocabularies": vocabularies}))
        return FINE
    terminal.table(
        ("model", "role", "million parameters", "licence", "extra", "here"),
        (
            (m.name, m.role, f"{m.millions:g}", m.licence, m.extra, "yes" if m.here else "no")
            for m in models
        ),
        numbers=(2,),
    )
    print("\nAny other hub name or local folder of the same kinds works too.")
    print()
    terminal.table(("vocabulary", "names"), vocabularies.items(), numbers=(1,))
    return FINE
